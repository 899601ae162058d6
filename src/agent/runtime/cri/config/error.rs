//! What of a pod no message can be made of.

use copepod_pod::HostnameError;
use thiserror::Error;

/// Why there is no configuration. The words are upstream's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// The sandbox's host name.
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    /// A user namespace, and the runtime has none.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    UserNamespace,
    /// A user namespace, and the pod's handler has none.
    #[error(
        "can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user \
         namespaces"
    )]
    HandlerUserNamespace(String),
    /// A `supplementalGroupsPolicy` that CRI has not.
    #[error("unsupported supplementalGroupsPolicy: {0}")]
    GroupsPolicy(String),
    /// A profile of the node's, without its name.
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    SeccompName,
    /// As [`ConfigError::SeccompName`].
    #[error("missing localhost apparmor profile name")]
    AppArmorName,
    /// No type of the API's.
    #[error("unknown apparmor profile type: {0:?}")]
    AppArmorType(String),
    /// `runAsNonRoot` and `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RootUser {
        /// `NAME_NAMESPACE(UID)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot`, and the image's user is root.
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: \
         {container})"
    )]
    RootImage {
        /// `NAME_NAMESPACE(UID)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot`, and who the image's user is, its files say.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is \
         non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser {
        /// The image's user.
        user: String,
        /// `NAME_NAMESPACE(UID)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot`, and the image's user is none that there is.
    #[error(
        "container has runAsNonRoot and image has an invalid user id ({user}). (Must be \
         1-({max})): must be between 0 and {max}, inclusive (pod: {pod:?}, container: {container})",
        max = i32::MAX
    )]
    InvalidUser {
        /// The image's user.
        user: i64,
        /// `NAME_NAMESPACE(UID)`.
        pod: String,
        /// The container.
        container: String,
    },
}
