//! From a reference to an image that is here, whole: asks the registry as the pull policy says,
//! fetches what is missing, names it in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{TryStreamExt, stream};
use thiserror::Error;

use super::blocking;
use super::config::{self, ConfigError};
use super::digest::Digest;
use super::gate::{Gate, TooOften};
use super::manifest::{self, Blob, Content, ManifestError, Shape};
use super::progress::{Progress, Quiet, Shown, Stage};
use super::pulled::CONFIG_MAX;
use super::reference::Reference;
use super::registry::{self, Ask, Registries, RegistryError, RegistryOptions, Tries};
use super::store::{Ingest, Store, StoreError};
use super::unpack::UnpackError;
use super::{ImageRequest, PullPolicy};

/// Blobs of one image that are fetched at a time, as containerd has it.
const AT_ONCE: usize = 3;
/// A cut is not counted after so many bytes: a line that breaks each minute gets there too.
const PROGRESS_MIN: u64 = 1 << 20;

/// Why an image of a registry is not here.
#[derive(Debug, Error)]
pub(crate) enum PullError {
    /// It was not asked for, and is not here.
    #[error("not present")]
    Never,
    /// More were begun than may be.
    #[error(transparent)]
    TooOften(#[from] TooOften),
    /// The registry did not serve.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store could not take or give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not an image that is run here.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its layers cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Its configuration does not say what to run.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulled {
    /// What its name leads to: a manifest or an index.
    pub(super) digest: Digest,
    /// Its manifest.
    pub(super) manifest: Digest,
    /// What it is.
    pub(super) shape: Shape,
    /// Bytes that came over the network.
    pub(super) fetched: u64,
}

/// What pulls the images of one agent.
#[derive(Debug)]
pub(super) struct Puller {
    pub(super) store: Store,
    pub(super) registries: Registries,
    gate: Arc<Gate>,
    /// Ordinary images are refused before any layer of theirs is fetched.
    wasm_only: bool,
}

impl Puller {
    /// Takes the store, opened, and what the user says of registries.
    pub(super) fn new(
        store: Store,
        options: RegistryOptions,
        gate: Arc<Gate>,
        wasm_only: bool,
    ) -> Self {
        Self { store, registries: Registries::new(options), gate, wasm_only }
    }

    /// Sees to it that an image is here. Call it while present in the store.
    ///
    /// # Errors
    /// [`PullError`].
    pub(super) async fn pull(
        &self,
        reference: &Reference,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let name = reference.to_string();
        match (self.local(&name)?, request.policy) {
            (Some(here), PullPolicy::IfNotPresent | PullPolicy::Never) => return Ok(here),
            (None, PullPolicy::Never) => return Err(PullError::Never),
            (_, PullPolicy::Always) | (None, PullPolicy::IfNotPresent) => {}
        }
        let _turn = self.gate.turn(&name).await;
        // Whoever had the turn before may have pulled the same.
        if let Some(here) = self.local(&name)? {
            let same = match request.policy {
                PullPolicy::IfNotPresent | PullPolicy::Never => true,
                PullPolicy::Always => {
                    let digest = self.registries.digest(reference, request.secrets).await?;
                    digest == Some(here.digest.clone())
                }
            };
            if same {
                return Ok(here);
            }
        }
        self.gate.begin()?;
        self.fetch(reference, request, progress).await
    }

    /// The image of this name, if all of it is here.
    pub(super) fn local(&self, name: &str) -> Result<Option<Pulled>, PullError> {
        let Some(digest) = self.store.find(name)? else { return Ok(None) };
        let Some(bytes) = self.store.manifest(&digest)? else { return Ok(None) };
        let (manifest, shape) = match manifest::read(&bytes, false)? {
            Content::Image(shape) => (digest.clone(), shape),
            Content::Index(chosen) => {
                let Some(bytes) = self.store.manifest(&chosen.digest)? else { return Ok(None) };
                (chosen.digest, only_image(&bytes)?)
            }
        };
        let whole = shape.blobs().iter().all(|blob| self.store.has(&blob.digest, blob.bytes));
        Ok(whole.then_some(Pulled { digest, manifest, shape, fetched: 0 }))
    }

    async fn fetch(
        &self,
        reference: &Reference,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let name = &*reference.to_string();
        let ask = Ask { repository: &reference.repository, secrets: request.secrets };
        let (top, digest) = self.registries.manifest(ask, &registry::at(reference)).await?;
        let (manifest, shape) = match manifest::read(&top, false)? {
            Content::Image(shape) => (digest.clone(), shape),
            Content::Index(chosen) => {
                let chosen = chosen.digest;
                let (bytes, _) = self.registries.manifest(ask, &chosen.to_string()).await?;
                let shape = only_image(&bytes)?;
                self.store.add(&chosen, &bytes)?;
                (chosen, shape)
            }
        };
        let (so_far, fetched) = (AtomicU64::new(0), AtomicU64::new(0));
        if let Shape::Image { config, .. } = &shape
            && self.wasm_only
        {
            let bytes = self.config(ask, config, &fetched).await?;
            config::may_be_wasm(&bytes, request.command)?;
        }
        let mut missing = shape.blobs();
        missing.retain(|blob| !self.store.has(&blob.digest, blob.bytes));
        missing.sort();
        missing.dedup();
        let total = missing.iter().map(|blob| blob.bytes).sum();
        let shown = Shown::begin(progress, Stage::Pull, name, total);
        stream::iter(missing.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |blob| {
                self.blob(ask, blob, (&so_far, &fetched), &shown)
            })
            .await?;
        self.store.add(&digest, &top)?;
        self.store.name(name, &digest, &top)?;
        Ok(Pulled { digest, manifest, shape, fetched: fetched.into_inner() })
    }

    /// The configuration of an image, fetched if it is not here.
    ///
    /// # Errors
    /// [`PullError`].
    pub(super) async fn config(
        &self,
        ask: Ask<'_>,
        config: &Blob,
        fetched: &AtomicU64,
    ) -> Result<Vec<u8>, PullError> {
        if !self.store.has(&config.digest, config.bytes) {
            let name = ask.repository.name.as_str();
            let shown = Shown::begin(&Quiet, Stage::Pull, name, config.bytes);
            self.blob(ask, config, (&AtomicU64::new(0), fetched), &shown).await?;
        }
        let (store, digest) = (self.store.clone(), config.digest.clone());
        let bytes = blocking(move || store.read(&digest, CONFIG_MAX)).await?;
        let gone = || StoreError::Damaged { path: self.store.blob(&config.digest) };
        Ok(bytes.ok_or_else(gone)?)
    }

    /// Fetches a blob, going on where an earlier try left it. What that left may be wrong: then
    /// nothing of it is left after the first look, and the second one begins anew.
    async fn blob(
        &self,
        ask: Ask<'_>,
        blob: &Blob,
        counts: (&AtomicU64, &AtomicU64),
        shown: &Shown<'_>,
    ) -> Result<(), PullError> {
        let mut resumed = false;
        match self.blob_once(ask, blob, counts, (shown, &mut resumed)).await {
            Err(PullError::Store(StoreError::Blob { .. })) if resumed => {
                self.blob_once(ask, blob, counts, (shown, &mut resumed)).await
            }
            fetched => fetched,
        }
    }

    async fn blob_once(
        &self,
        ask: Ask<'_>,
        blob: &Blob,
        (so_far, fetched): (&AtomicU64, &AtomicU64),
        (shown, resumed): (&Shown<'_>, &mut bool),
    ) -> Result<(), PullError> {
        let (store, wanted) = (self.store.clone(), blob.clone());
        // What is there already is read and hashed.
        let mut ingest: Ingest =
            blocking(move || store.ingest(&wanted.digest, wanted.bytes)).await?;
        *resumed = ingest.have() > 0;
        let mut counted = 0;
        let mut count = |have: u64| {
            // A registry that begins anew takes some back.
            so_far.fetch_sub(counted, Ordering::Relaxed);
            counted = have;
            shown.at(so_far.fetch_add(have, Ordering::Relaxed) + have);
        };
        let mut tries = Tries::default();
        while !ingest.is_whole() {
            let have = ingest.have();
            let mut body = match self.registries.blob(ask, &blob.digest, have).await {
                // It does not go on there: from the beginning, then.
                Err(RegistryError::Status { .. }) if have > 0 => {
                    self.registries.blob(ask, &blob.digest, 0).await?
                }
                body => body?,
            };
            ingest.go_on_at(body.from)?;
            let began = ingest.have();
            let cut = loop {
                match body.chunk().await {
                    Ok(Some(chunk)) => {
                        fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        ingest.write(&chunk)?;
                        count(ingest.have());
                    }
                    Ok(None) => break None,
                    Err(cut) => break Some(cut),
                }
            };
            let Some(cut) = cut else { break };
            if ingest.have() - began >= PROGRESS_MIN {
                tries = Tries::default();
            }
            let Some(wait) = tries.next(None) else { return Err(cut.into()) };
            tokio::time::sleep(wait).await;
        }
        count(ingest.have());
        Ok(blocking(move || ingest.finish()).await?)
    }
}

/// The image that an index leads to.
fn only_image(bytes: &[u8]) -> Result<Shape, ManifestError> {
    match manifest::read(bytes, true)? {
        Content::Image(shape) => Ok(shape),
        // Refused by `nested`.
        Content::Index(_) => Err(ManifestError::Malformed("an index within an index".into())),
    }
}
