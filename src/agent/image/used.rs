//! What a container attempt was made from, for as long as it is there: what is shown of its image, the
//! hold on it, and where its own Wasm lies.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::store::{Hold, Store, StoreError};
use super::{ImageError, ImageTree, Images, Prepared, blocking};
use crate::image::digest::Digest;

/// The image of one attempt. Another agent reads all but the hold, and takes that again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedImage {
    /// Its name, as a status shows it.
    pub(crate) image: String,
    /// Its id, as a status shows it.
    pub(crate) image_id: String,
    /// The digest of the manifest that is run; none for a file.
    manifest: Option<String>,
    /// The Wasm that runs.
    pub(super) wasm: WasmFile,
    /// Keeps the store from removing it as long as this or a clone lives.
    #[serde(skip)]
    hold: Option<Hold>,
}

/// Where a Wasm file lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WasmFile {
    /// Among an image's files a path of the image, else one of the host.
    pub(super) path: PathBuf,
    /// Its sha256 in hex digits.
    pub(super) digest: String,
}

impl Prepared {
    /// What an attempt that is started from it has of it.
    pub(crate) fn used(&self) -> UsedImage {
        UsedImage {
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            manifest: self.hold.as_ref().map(|hold| hold.manifest().to_string()),
            wasm: self.wasm.clone(),
            hold: self.hold.clone(),
        }
    }

    /// The image's files; `None` for an image that is one Wasm file.
    pub(crate) fn tree(&self) -> Option<ImageTree> {
        Some(ImageTree::new(
            &self.image,
            self.files.clone()?,
            self.config.path(),
            &self.config.working_dir,
        ))
    }
}

impl Images {
    /// Takes the hold on the image of an attempt that an earlier agent has started: before the store
    /// is opened, which may remove what nobody holds. Waits for who removes something just now, which
    /// is short.
    ///
    /// # Errors
    /// [`ImageError::Store`]: the image is gone.
    pub(crate) async fn hold(&self, used: &mut UsedImage) -> Result<(), ImageError> {
        let Some(manifest) = used.manifest.as_deref().and_then(Digest::parse) else {
            return Ok(());
        };
        let store = Store::at(self.store_dir());
        let held = blocking(move || {
            let _presence = store.enter()?;
            store.hold(&manifest)
        });
        used.hold = Some(held.await.map_err(|e: StoreError| ImageError::from(e))?);
        Ok(())
    }
}
