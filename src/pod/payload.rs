//! The files of a volume that comes from objects: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Volume};
use thiserror::Error;

use crate::object::{Facts, Objects};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// The files of a volume by relative path, which has no `..` and does not start with a slash.
pub type Payload = BTreeMap<String, PayloadFile>;

/// Why a volume has no files, in upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct PayloadError(pub(crate) String);

/// The files of a volume; `None` for a kind that does not come from objects.
///
/// # Errors
/// [`PayloadError`].
pub fn payload(
    _pod: &Pod,
    _volume: &Volume,
    _objects: &Objects,
    _facts: &Facts,
) -> Result<Option<Payload>, PayloadError> {
    Ok(None)
}
