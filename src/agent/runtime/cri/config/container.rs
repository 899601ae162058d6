//! One container attempt (upstream `generateContainerConfig`).

use copepod_cri::{
    ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerConfig, Mount,
    MountPropagation, Signal, UserNamespace,
};
use k8s_openapi::api::core::v1::Container;

use super::{ConfigError, PodInput, labels, resources, security, text};
use crate::volume::{Bind, Propagation};

/// What a container attempt is made from, all names resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerInput<'a> {
    /// The pod, and what its containers have in common with it.
    pub(crate) of: PodInput<'a>,
    /// The container, of whatever kind; an ephemeral one as a container with the same fields.
    pub(crate) container: &'a Container,
    /// Which attempt of it this is, from 0.
    pub(crate) attempt: u32,
    /// Its image.
    pub(crate) image: &'a ImageFacts,
    /// Its command with the variables put in; empty for the image's.
    pub(crate) command: &'a [String],
    /// Its arguments with the variables put in.
    pub(crate) args: &'a [String],
    /// Its environment, in order.
    pub(crate) env: &'a [(String, String)],
    /// What it sees of the host's files, each place before those below it.
    pub(crate) binds: &'a [Bind],
    /// The runtime's id of the container whose processes an ephemeral one sees
    /// (`targetContainerName`).
    pub(crate) target: Option<&'a str>,
}

/// What is asked of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// The image to run, as the runtime knows it: the reference that a pull gave.
    pub(crate) reference: String,
    /// The runtime handler that it was pulled for; empty where handlers share images.
    pub(crate) runtime_handler: String,
    /// Whom it runs as.
    pub(crate) user: ImageUser,
}

/// Whom an image runs as if nobody says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageUser {
    /// A number.
    Id(i64),
    /// A name of the image's own files.
    Name(String),
}

impl Default for ImageUser {
    /// An image that says nothing runs as root.
    fn default() -> Self {
        Self::Id(0)
    }
}

impl ImageUser {
    /// As the runtime tells it (upstream `getImageUser`).
    pub(crate) fn of(image: &Image) -> Self {
        match &image.uid {
            Some(uid) => Self::Id(uid.value),
            None if image.username.is_empty() => Self::default(),
            None => Self::Name(image.username.clone()),
        }
    }
}

/// The container's configuration.
///
/// # Errors
/// [`ConfigError`], in upstream's words.
pub(crate) fn container(input: &ContainerInput<'_>) -> Result<ContainerConfig, ConfigError> {
    let (of, spec) = (input.of, input.container);
    let users = security::user_namespace(of)?;
    let env = |(key, value): &(String, String)| KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    };
    let stop_signal = spec.lifecycle.as_ref().and_then(|hooks| hooks.stop_signal.as_deref());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt: input.attempt }),
        image: Some(ImageSpec {
            image: input.image.reference.clone(),
            user_specified_image: text(spec.image.as_ref()),
            runtime_handler: input.image.runtime_handler.clone(),
            ..ImageSpec::default()
        }),
        command: input.command.to_vec(),
        args: input.args.to_vec(),
        working_dir: text(spec.working_dir.as_ref()),
        envs: input.env.iter().map(env).collect(),
        mounts: input.binds.iter().map(|bind| mount(bind, &users)).collect(),
        labels: labels::of(of.pod, spec),
        annotations: labels::annotations(of.pod, spec, input.attempt),
        log_path: log_path(&spec.name, input.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::of_container(of.pod, spec, of.node)),
            security_context: Some(security::of_container(input)?),
        }),
        stop_signal: stop_signal.map_or(Signal::RuntimeDefault, signal).into(),
        ..ContainerConfig::default()
    })
}

/// Where the attempt's log lies in the directory of the pod's (upstream `buildContainerLogsPath`).
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Ids of a user namespace hold in the mounts too, so that files have the owners that they have on
/// the host.
fn mount(bind: &Bind, users: &UserNamespace) -> Mount {
    let propagation = match bind.propagation {
        Propagation::None => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    Mount {
        container_path: bind.container_path.clone(),
        host_path: bind.host_path.to_string_lossy().into_owned(),
        readonly: bind.read_only,
        selinux_relabel: bind.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: users.uids.clone(),
        gid_mappings: users.gids.clone(),
        recursive_read_only: bind.recursive_read_only,
        ..Mount::default()
    }
}

/// The API's name of a signal, such as `SIGRTMIN+1`, in CRI's (`SIGRTMINPLUS1`).
fn signal(name: &str) -> Signal {
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}
