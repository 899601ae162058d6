//! The names of images: the layout's `index.json`.

use std::collections::BTreeMap;
use std::io;

use rustix::fs::{FlockOperation, flock};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{INDEX_MAX, Named, Store, StoreError, failed, read};
use crate::image::digest::Digest;

/// The annotation that holds an image's name in a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The layout's index, as far as it is written here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    manifests: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Store {
    /// All images by their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn list(&self) -> Result<Vec<Named>, StoreError> {
        let named = self.index()?.manifests.into_iter().filter_map(|entry| {
            let name = entry.annotations.get(NAME)?.clone();
            Some(Named { name, digest: Digest::parse(&entry.digest)? })
        });
        Ok(named.collect())
    }

    /// The digest that a full reference has here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::image) fn find(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        let found = self.list()?.into_iter().find(|named| named.name == name);
        Ok(found.map(|named| named.digest))
    }

    /// Gives a manifest or index that is here a name, which nothing else has then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::image) fn name(
        &self,
        name: &str,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
            manifests: Option<IgnoredAny>,
        }
        let typed = serde_json::from_slice(bytes);
        let typed = typed.unwrap_or(Typed { media_type: None, manifests: None });
        let media_type = typed.media_type.unwrap_or_else(|| {
            let kind = if typed.manifests.is_some() { "index" } else { "manifest" };
            format!("application/vnd.oci.image.{kind}.v1+json")
        });
        let entry = Entry {
            media_type,
            digest: digest.to_string(),
            size: bytes.len() as u64,
            annotations: [(NAME.to_owned(), name.to_owned())].into(),
        };
        self.change(|index| {
            index.manifests.retain(|old| old.annotations.get(NAME).is_none_or(|n| n != name));
            index.manifests.push(entry);
        })
    }

    /// Takes a name away; gives whether it was there. What nothing names goes with the next
    /// [`Store::collect`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn unname(&self, name: &str) -> Result<bool, StoreError> {
        let mut was = false;
        self.change(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|old| old.annotations.get(NAME).is_none_or(|n| n != name));
            was = index.manifests.len() < before;
        })?;
        Ok(was)
    }

    fn index(&self) -> Result<Index, StoreError> {
        let path = self.dir.join("index.json");
        let bytes = match read(&path, INDEX_MAX) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Index { schema_version: 2, manifests: Vec::new() });
            }
            read => read?,
        };
        serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged { path })
    }

    /// Changes the index, alone.
    pub(super) fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let lock = self.lock_file("index.lock")?;
        // Held by others for the time of one small write.
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", &self.dir)(e.into()))?;
        let mut index = self.index()?;
        change(&mut index);
        let bytes = serde_json::to_vec(&index).unwrap_or_default();
        self.write(&self.dir.join("index.json"), &bytes)
    }
}
