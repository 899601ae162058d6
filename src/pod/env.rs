//! A container's environment, every kind of source resolved.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use thiserror::Error;

use crate::object::{Facts, Objects};

/// Why a container has no environment: the message of its waiting reason
/// `CreateContainerConfigError`, in upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct EnvError(pub(crate) String);

/// The files that `fileKeyRef`s of the container read, as `(volume, path)`: their texts are to be
/// given to [`environment`].
#[must_use]
pub fn env_files(_container: &Container) -> Vec<(String, String)> {
    Vec::new()
}

/// A container's environment in order: `envFrom`, then `env`, each expanded.
///
/// # Errors
/// [`EnvError`].
pub fn environment(
    _pod: &Pod,
    _container: &Container,
    _objects: &Objects,
    _facts: &Facts,
    _files: &BTreeMap<(String, String), String>,
) -> Result<Vec<(String, String)>, EnvError> {
    Ok(Vec::new())
}
