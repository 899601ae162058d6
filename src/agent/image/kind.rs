//! Of which kind an image is, told before any layer of it is fetched: for pods of a node that runs
//! both.

use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::config::{self, ConfigError};
use super::manifest::{self, Look, Shape};
use super::pull::{PullError, Puller};
use super::pulled::failed;
use super::reference::Reference;
use super::registry::{self, Ask};
use super::{ImageError, ImageRequest, Images, Place, PullPolicy, blocking, resolve};

/// Who runs an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageKind {
    /// A sandbox of ours.
    Wasm,
    /// The container runtime.
    Ordinary,
}

impl Images {
    /// The kind of an image, by its manifest and configuration and the container's command.
    ///
    /// What is here already is asked first, as the pull policy lets us: our store, then `elsewhere`,
    /// which says whether the container runtime has the image, and is asked only then.
    ///
    /// # Errors
    /// [`ImageError`]: its registry does not say, nobody has it and nobody may be asked, or it is
    /// nothing that either of the two runs.
    pub(crate) async fn kind(
        &self,
        request: ImageRequest<'_>,
        elsewhere: impl Future<Output = bool>,
    ) -> Result<ImageKind, ImageError> {
        let reference = match resolve(request.image, request.base)? {
            Place::File(_) => return Ok(ImageKind::Wasm),
            Place::Registry(reference) => reference,
        };
        let failed = |source| failed(request.image, source);
        let puller = self.puller().await?;
        let store = puller.store.clone();
        // Nothing is removed meanwhile.
        let _presence = blocking(move || store.enter()).await?;
        match request.policy {
            PullPolicy::Always => {}
            PullPolicy::IfNotPresent | PullPolicy::Never => {
                if let Some(kind) = puller.local_kind(&reference, request).map_err(failed)? {
                    return Ok(kind);
                }
                if elsewhere.await {
                    return Ok(ImageKind::Ordinary);
                }
                if request.policy == PullPolicy::Never {
                    return Err(failed(PullError::Never));
                }
            }
        }
        puller.look(&reference, request).await.map_err(failed)
    }
}

impl Puller {
    /// The kind of an image that is here, whole.
    fn local_kind(
        &self,
        reference: &Reference,
        request: ImageRequest<'_>,
    ) -> Result<Option<ImageKind>, PullError> {
        let Some(here) = self.local(&reference.to_string())? else { return Ok(None) };
        match here.shape {
            Shape::Artefact { .. } => Ok(Some(ImageKind::Wasm)),
            Shape::Image { config, .. } => {
                let bytes = self.store.read(&config.digest, super::pulled::CONFIG_MAX)?;
                bytes.map(|bytes| of_config(&bytes, request.command)).transpose()
            }
        }
    }

    /// The kind of an image by what its registry says.
    async fn look(
        &self,
        reference: &Reference,
        request: ImageRequest<'_>,
    ) -> Result<ImageKind, PullError> {
        let ask = Ask { repository: &reference.repository, secrets: request.secrets };
        let (mut bytes, _) = self.registries.manifest(ask, &registry::at(reference)).await?;
        let mut nested = false;
        let config = loop {
            match manifest::look(&bytes, nested)? {
                Look::Artefact => return Ok(ImageKind::Wasm),
                Look::Old => return Ok(ImageKind::Ordinary),
                Look::Image(config) => break config,
                Look::Index(chosen) => {
                    nested = true;
                    (bytes, _) = self.registries.manifest(ask, &chosen.digest.to_string()).await?;
                }
            }
        };
        of_config(&self.config(ask, &config, &AtomicU64::new(0)).await?, request.command)
    }
}

fn of_config(bytes: &[u8], command: Option<&str>) -> Result<ImageKind, PullError> {
    match config::may_be_wasm(bytes, command) {
        Ok(()) => Ok(ImageKind::Wasm),
        Err(ConfigError::Ordinary(_)) => Ok(ImageKind::Ordinary),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "kind_test.rs"]
mod tests;
