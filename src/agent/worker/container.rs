//! From a pod's spec to one container attempt, all names resolved.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use copepod_pod::quantity::{Quantity, QuantityError};
use copepod_pod::{
    Attempt, EnvError, Facts, Objects, argv, container_named, env_files, environment, hostname,
};
use copepod_wasm::{GuestKind, Stdin, User};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use thiserror::Error;

use super::prepare::PreparedImage;
use super::set_up::Ready;
use super::{Host, ordinary};
use crate::image::{ImageConfig, ImageRequest, Prepared, PullPolicy};
use crate::ledger::Ledger;
use crate::runtime::cri::config::ConfigError;
use crate::runtime::{Container, Launch, TerminationMessage};
use crate::volume::{self, Files, Seen, TreeError};

/// Where a wasi:http guest without a `containerPort` listens.
const DEFAULT_HTTP_PORT: u16 = 8080;
/// Whom a guest runs as under `runAsNonRoot` where neither pod nor image names a user: nobody, by
/// the convention of images without one.
const NON_ROOT: u32 = 65532;

/// Why a container cannot be described.
#[derive(Debug, Error)]
pub(super) enum DescribeError {
    /// The pod has no such container any more.
    #[error("container {0:?} is not in the pod's spec")]
    Unknown(String),
    /// Its image is not prepared: a start was asked for too early.
    #[error("container {0:?}: its image is not prepared")]
    NoImage(String),
    /// `resources.limits.memory` is not a quantity.
    #[error("container {container:?}: resources.limits.memory")]
    Memory {
        /// The container.
        container: String,
        /// What is wrong with it.
        #[source]
        source: QuantityError,
    },
    /// Its environment; upstream's words alone.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A file of variables.
    #[error("container {container:?}: cannot read variables from {path:?} of volume {volume:?}")]
    EnvFile {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
        /// The file in it.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `runAsNonRoot` and `runAsUser: 0`; upstream's words.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    Root {
        /// `NAME_NAMESPACE(UID)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// What it sees of the host's files; its words are upstream's where upstream has any.
    #[error(transparent)]
    Files(#[from] TreeError),
    /// What the container runtime is told of it; upstream's words.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An ephemeral container is to see the processes of one that there is not; upstream's words.
    #[error("unable to find target container {0}")]
    NoTarget(String),
    /// The pod has no sandbox for it: a start was asked for too early.
    #[error("container {0:?}: the pod has no sandbox")]
    NoSandbox(String),
}

impl DescribeError {
    /// The container's waiting reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_)
            | Self::NoImage(_)
            | Self::Memory { .. }
            | Self::Env(_)
            | Self::EnvFile { .. }
            | Self::Config(_)
            | Self::NoTarget(_)
            | Self::NoSandbox(_)
            | Self::Root { .. } => "CreateContainerConfigError",
            Self::Files(error) => error.reason(),
        }
    }
}

/// All that a description is made from.
pub(super) struct Context {
    pub(super) pod: Arc<Pod>,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) prepared: Option<PreparedImage>,
    pub(super) objects: Arc<Objects>,
    pub(super) ready: Arc<Ready>,
    /// The id of the container whose processes an ephemeral one is to see.
    pub(super) target: Option<String>,
}

/// What of a container attempt does not depend on who runs it.
pub(super) struct Common {
    pub(super) uid: String,
    pub(super) log_dir: PathBuf,
    pub(super) log_link: Option<PathBuf>,
    /// The pod's variables, without the image's.
    pub(super) env: Vec<(String, String)>,
    /// `command` and `args`, variables put in.
    pub(super) argv: (Vec<String>, Vec<String>),
    pub(super) facts: Facts,
}

/// What a container asks for as its image, relative paths counted from `base`.
pub(crate) fn image_request<'a>(
    container: Option<&'a ContainerSpec>,
    base: &'a Path,
) -> ImageRequest<'a> {
    let policy = container.and_then(|spec| spec.image_pull_policy.as_deref());
    let command = container.and_then(|spec| spec.command.as_ref()?.first());
    ImageRequest {
        image: container.and_then(|spec| spec.image.as_deref()).unwrap_or_default(),
        base,
        policy: match policy {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            // The rest: the default, and nothing else passes validation.
            Some(_) | None => PullPolicy::IfNotPresent,
        },
        command: command.map(String::as_str),
        secrets: None,
    }
}

/// The id of the container whose processes the ephemeral one of this name is to see: the newest of
/// `attempts`, whether it runs or not (upstream `getTargetID`).
///
/// # Errors
/// [`DescribeError::NoTarget`].
pub(super) fn target(
    pod: &Pod,
    name: &str,
    attempts: &[Attempt],
) -> Result<Option<String>, DescribeError> {
    let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let target = ephemeral
        .filter(|one| one.name == name)
        .find_map(|one| one.target_container_name.as_deref().filter(|target| !target.is_empty()));
    let Some(target) = target else { return Ok(None) };
    let of_target = attempts.iter().filter(|attempt| attempt.container == target);
    let newest = of_target.max_by_key(|attempt| attempt.attempt);
    newest
        .map(|attempt| Some(attempt.id.clone()))
        .ok_or_else(|| DescribeError::NoTarget(target.into()))
}

/// Resolves one container attempt, and makes the files that it sees. Blocks for as long as that
/// takes.
///
/// # Errors
/// [`DescribeError`]; nothing is left behind then.
pub(super) fn describe(
    mut context: Context,
    ledger: &Ledger,
    host: &Host,
) -> Result<Launch, DescribeError> {
    let (pod, name) = (Arc::clone(&context.pod), context.name.clone());
    let spec = container_named(&pod, &name);
    let spec = spec.as_deref().ok_or_else(|| DescribeError::Unknown(name.clone()))?;
    let prepared = context.prepared.take().ok_or_else(|| DescribeError::NoImage(name.clone()))?;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (namespace, pod_name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
    let uid = text(&pod.metadata.uid);
    let facts = Facts { addresses: context.ready.addresses.clone(), ..host.facts() };
    let texts = env_texts(spec, &context.ready.files)?;
    let env = environment(&pod, spec, &context.objects, &facts, &texts)?;
    let common = Common {
        log_dir: ledger.log_dir(&namespace, &pod_name, &uid, &name),
        log_link: ledger.log_link(&namespace, &pod_name, &name),
        argv: argv(spec, &env),
        uid,
        env,
        facts,
    };
    match prepared {
        PreparedImage::Wasm(prepared) => {
            let wasm = wasm(&context, spec, common, prepared, ledger, host)?;
            Ok(Launch::Wasm(Box::new(wasm)))
        }
        PreparedImage::Ordinary(image) => {
            let ordinary = ordinary::describe(&context, spec, common, &image, ledger, host)?;
            Ok(Launch::Ordinary(Box::new(ordinary)))
        }
    }
}

/// The same of a Wasm container.
fn wasm(
    context: &Context,
    spec: &ContainerSpec,
    common: Common,
    prepared: Prepared,
    ledger: &Ledger,
    host: &Host,
) -> Result<Container, DescribeError> {
    let Context { pod, name, attempt, ready, .. } = context;
    let Common { uid, log_dir, log_link, env: own, argv, facts } = common;
    let files = &ready.files;
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let user = user(&pod_spec, spec, &prepared.config).map_err(|Root| DescribeError::Root {
        pod: format!("{}_{}({uid})", text(&pod.metadata.name), text(&pod.metadata.namespace)),
        container: name.clone(),
    })?;
    let memory_limit_bytes = memory_limit(spec)?;
    let args = arguments(argv, &prepared);
    let seen = volume::build(
        &Seen {
            container: spec,
            volumes: &files.volumes,
            env: &own,
            image: prepared.files.as_deref(),
            files: &files.single,
            mounts: host.mounts,
        },
        &ledger.attempt_dir(&uid, name, *attempt).join("root"),
    )?;
    let (dir, file) = seen.message.unwrap_or_default();
    let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let grace = pod_spec.termination_grace_period_seconds;
    Ok(Container {
        log_dir,
        log_link,
        pod_uid: uid,
        attempt: *attempt,
        sandbox: ready.generation(),
        definition: Some(copepod_pod::definition(spec)),
        tree: prepared.tree(),
        artefact: prepared.artefact,
        kind: prepared.kind,
        args,
        env: layered(hostname(pod, &facts), prepared.config.env, own),
        preopens: seen.preopens,
        mounts: seen.mounts,
        termination_message: TerminationMessage { dir, file, fallback_to_logs: fallback },
        // Nobody can be attached to a run's pods.
        stdin: if host.die_with_agent { Stdin::Closed } else { stdin(spec) },
        user: user.filter(|_| host.changes_user),
        cgroup: host.cgroups.as_ref().map(|cgroups| cgroups.leaf(pod, spec)),
        oom_score_adj: host.oom_score_adj(pod, spec),
        network: ready.network.clone(),
        memory_limit_bytes,
        log_limits: host.log_limits,
        listen: listen(prepared.kind, spec, &facts, ready.network.is_some()),
        grace_seconds: grace.and_then(|s| u64::try_from(s).ok()).unwrap_or(30),
        die_with_agent: host.die_with_agent,
        name: name.clone(),
    })
}

/// The texts of the files that the container's variables come from.
fn env_texts(
    spec: &ContainerSpec,
    files: &Files,
) -> Result<BTreeMap<(String, String), String>, DescribeError> {
    let mut texts = BTreeMap::new();
    for (volume, path) in env_files(spec) {
        let read = volume::read(&files.volumes, &volume, &path);
        let text = read.and_then(|bytes| {
            let text = bytes.map(String::from_utf8).transpose();
            text.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        });
        match text {
            Ok(Some(text)) => drop(texts.insert((volume, path), text)),
            Ok(None) => {}
            Err(source) => {
                let container = spec.name.clone();
                return Err(DescribeError::EnvFile { container, volume, path, source });
            }
        }
    }
    Ok(texts)
}

/// The environment: `HOSTNAME`, as container runtimes set it, the image's, the container's own; of
/// two with one name the later value holds, at the earlier place.
fn layered(
    hostname: String,
    image: Vec<(String, String)>,
    own: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let mut all = vec![("HOSTNAME".to_owned(), hostname)];
    let mut places = BTreeMap::from([("HOSTNAME".to_owned(), 0)]);
    for (name, value) in image.into_iter().chain(own) {
        if let Some(&place) = places.get(&name) {
            let variable: &mut (String, String) = &mut all[place];
            variable.1 = value;
        } else {
            places.insert(name.clone(), all.len());
            all.push((name, value));
        }
    }
    all
}

/// `command` replaces the image's `ENTRYPOINT` and `CMD`, `args` its `CMD`. The first argument is
/// the guest's own name: where nobody gives one, the image's file name.
fn arguments((command, args): (Vec<String>, Vec<String>), prepared: &Prepared) -> Vec<String> {
    let ImageConfig { entrypoint, cmd, .. } = &prepared.config;
    let file_name = || prepared.image.rsplit('/').next().unwrap_or(&prepared.image).to_owned();
    let (mut all, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (entrypoint.clone(), args),
        // An image of `CMD` alone names its program there.
        (true, true) if entrypoint.is_empty() => (cmd.clone(), Vec::new()),
        (true, true) => (entrypoint.clone(), cmd.clone()),
    };
    if all.is_empty() {
        all.push(file_name());
    }
    all.extend(rest);
    all
}

/// The container would run as root and must not.
struct Root;

/// The container's security context before the pod's, and that before the image's user; `None`
/// leaves root as it is, which has no capability in a sandbox.
fn user(
    pod: &PodSpec,
    container: &ContainerSpec,
    image: &ImageConfig,
) -> Result<Option<User>, Root> {
    let (pod, own) = (pod.security_context.as_ref(), container.security_context.as_ref());
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|id| u32::try_from(id).ok());
    let uid = id(own.and_then(|c| c.run_as_user), pod.and_then(|c| c.run_as_user));
    let gid = id(own.and_then(|c| c.run_as_group), pod.and_then(|c| c.run_as_group));
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or_else(|| pod.and_then(|c| c.run_as_non_root))
        .unwrap_or(false);
    if non_root && uid == Some(0) {
        return Err(Root);
    }
    // The image's group is that of its user.
    let of_image = image.user.filter(|user| uid.is_none() && !(non_root && user.uid == 0));
    let gid = gid.or(of_image.and_then(|user| user.gid));
    let uid = uid.or(of_image.map(|user| user.uid)).or(non_root.then_some(NON_ROOT));
    let mut groups: Vec<u32> = pod
        .and_then(|c| c.supplemental_groups.clone())
        .unwrap_or_default()
        .into_iter()
        .chain(pod.and_then(|c| c.fs_group))
        .filter_map(|group| u32::try_from(group).ok())
        .collect();
    groups.dedup();
    if uid.is_none() && gid.is_none() && groups.is_empty() {
        return Ok(None);
    }
    Ok(Some(User { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), groups }))
}

/// What the guest reads.
fn stdin(container: &ContainerSpec) -> Stdin {
    match (container.stdin, container.stdin_once) {
        (Some(true), Some(true)) => Stdin::Once,
        (Some(true), _) => Stdin::Open,
        _ => Stdin::Closed,
    }
}

/// The container's own memory limit in bytes.
pub(super) fn memory_limit(container: &ContainerSpec) -> Result<Option<u64>, DescribeError> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let Some(limit) = limits.and_then(|limits| limits.get("memory")) else { return Ok(None) };
    let quantity = Quantity::parse(&limit.0)
        .map_err(|source| DescribeError::Memory { container: container.name.clone(), source })?;
    // Past 16 EiB it is none.
    Ok(u64::try_from(quantity.value()).ok())
}

/// Where an http guest listens: everywhere in a network of its pod's own, so that the pod's other
/// containers reach it on `localhost`; else at the host's addresses alone.
fn listen(kind: GuestKind, container: &ContainerSpec, facts: &Facts, own: bool) -> Vec<SocketAddr> {
    let Some(port) = http_port(kind, container) else { return Vec::new() };
    let ips = &facts.addresses.pod_ips;
    if own {
        // The one of version 6 takes both kinds.
        let six = ips.iter().any(IpAddr::is_ipv6);
        let any = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        return vec![SocketAddr::new(any, port)];
    }
    ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// Where a container of this kind answers, if it is an HTTP server: at its first `containerPort`.
pub(crate) fn http_port(kind: GuestKind, container: &ContainerSpec) -> Option<u16> {
    match kind {
        GuestKind::P1Command | GuestKind::P2Command => None,
        GuestKind::Http => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let port = ports.first().and_then(|port| u16::try_from(port.container_port).ok());
            Some(port.unwrap_or(DEFAULT_HTTP_PORT))
        }
    }
}

#[cfg(test)]
mod tests {
    use copepod_pod::AttemptState;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ephemeral_container_sees_the_newest_of_its_target_or_does_not_start() {
        let pod = json!({"spec": {"containers": [{"name": "main"}], "ephemeralContainers": [
            {"name": "plain"}, {"name": "empty", "targetContainerName": ""},
            {"name": "looks", "targetContainerName": "main"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let attempt = |container: &str, attempt: u32| Attempt {
            container: container.into(),
            attempt,
            sandbox: 0,
            id: format!("containerd://{container}-{attempt}"),
            definition: None,
            user: None,
            image: None,
            state: AttemptState::Starting,
        };
        let attempts = [attempt("main", 0), attempt("main", 1), attempt("looks", 2)];
        for name in ["main", "plain", "empty"] {
            assert_eq!(target(&pod, name, &attempts).expect("none"), None, "{name}");
        }
        let found = target(&pod, "looks", &attempts).expect("found");
        assert_eq!(found.as_deref(), Some("containerd://main-1"));
        let error = target(&pod, "looks", &attempts[2..]).expect_err("there is none");
        assert_eq!(error.reason(), "CreateContainerConfigError");
        assert_eq!(error.to_string(), "unable to find target container main");
    }
}
