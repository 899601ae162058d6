//! From a pod's spec to one container attempt, all names resolved.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use copepod_pod::quantity::{Quantity, QuantityError};
use copepod_pod::{argv, container_env};
use copepod_wasm::{GuestKind, User};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use thiserror::Error;

use super::Host;
use crate::image::{ImageRequest, Prepared, PullPolicy};
use crate::ledger::Ledger;
use crate::runtime::{Container, TerminationMessage};
use crate::volume::{VolumeError, Volumes, mounts};

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
    /// A mount without its volume.
    #[error("container {container:?}")]
    Mount {
        /// The container.
        container: String,
        /// What is wrong.
        #[source]
        source: VolumeError,
    },
}

/// All that a description is made from.
pub(super) struct Context<'a> {
    pub(super) pod: &'a Pod,
    pub(super) name: &'a str,
    pub(super) attempt: u32,
    pub(super) prepared: Option<&'a Prepared>,
    pub(super) volumes: &'a Volumes,
    pub(super) ledger: &'a Ledger,
    pub(super) host: &'a Host,
}

/// The container of this name, init containers among them.
pub(super) fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerSpec> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    init.iter().chain(&spec.containers).find(|container| container.name == name)
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
    }
}

/// Resolves one container attempt.
///
/// # Errors
/// [`DescribeError`].
pub(super) fn describe(context: &Context<'_>) -> Result<Container, DescribeError> {
    let Context { pod, name, attempt, volumes, ledger, host, .. } = *context;
    let spec = find(pod, name).ok_or_else(|| DescribeError::Unknown(name.into()))?;
    let prepared = context.prepared.ok_or_else(|| DescribeError::NoImage(name.into()))?;
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let log_dir: PathBuf =
        ledger.log_dir(&text(&pod.metadata.namespace), &text(&pod.metadata.name), &uid, name);
    let env = container_env(spec);
    let (command, args) = argv(spec, &env);
    Ok(Container {
        pod_uid: uid,
        name: name.into(),
        attempt,
        log_dir,
        artefact: prepared.artefact.clone(),
        kind: prepared.kind,
        args: arguments(command, args, &prepared.image),
        env,
        preopens: mounts(spec, volumes)
            .map_err(|source| DescribeError::Mount { container: name.into(), source })?,
        mounts: Vec::new(),
        termination_message: TerminationMessage::default(),
        user: host.changes_user.then(|| user(&pod_spec, spec)).flatten(),
        memory_limit_bytes: memory_limit(spec)?,
        listen: listen(prepared.kind, spec, host),
        grace_seconds: pod_spec
            .termination_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(30),
        die_with_agent: host.die_with_agent,
    })
}

/// The guest's own name first: the command's, else the image's file name.
fn arguments(command: Vec<String>, args: Vec<String>, image: &str) -> Vec<String> {
    let mut all = command;
    if all.is_empty() {
        all.push(image.rsplit('/').next().unwrap_or(image).into());
    }
    all.extend(args);
    all
}

/// The container's security context before the pod's; `None` leaves root as it is, which has no
/// capability in a sandbox.
fn user(pod: &PodSpec, container: &ContainerSpec) -> Option<User> {
    let (pod, own) = (pod.security_context.as_ref(), container.security_context.as_ref());
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|id| u32::try_from(id).ok());
    let uid = id(own.and_then(|c| c.run_as_user), pod.and_then(|c| c.run_as_user));
    let gid = id(own.and_then(|c| c.run_as_group), pod.and_then(|c| c.run_as_group));
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or_else(|| pod.and_then(|c| c.run_as_non_root))
        .unwrap_or(false);
    let mut groups: Vec<u32> = pod
        .and_then(|c| c.supplemental_groups.clone())
        .unwrap_or_default()
        .into_iter()
        .chain(pod.and_then(|c| c.fs_group))
        .filter_map(|group| u32::try_from(group).ok())
        .collect();
    groups.dedup();
    let uid = uid.or(non_root.then_some(NON_ROOT));
    if uid.is_none() && gid.is_none() && groups.is_empty() {
        return None;
    }
    Some(User { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), groups })
}

fn memory_limit(container: &ContainerSpec) -> Result<Option<u64>, DescribeError> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let Some(limit) = limits.and_then(|limits| limits.get("memory")) else { return Ok(None) };
    let quantity = Quantity::parse(&limit.0)
        .map_err(|source| DescribeError::Memory { container: container.name.clone(), source })?;
    // Past 16 EiB it is none.
    Ok(u64::try_from(quantity.value()).ok())
}

fn listen(kind: GuestKind, container: &ContainerSpec, host: &Host) -> Vec<SocketAddr> {
    match kind {
        GuestKind::P1Command | GuestKind::P2Command => Vec::new(),
        GuestKind::Http => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let port = ports.first().and_then(|port| u16::try_from(port.container_port).ok());
            let port = port.unwrap_or(DEFAULT_HTTP_PORT);
            host.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
        }
    }
}
