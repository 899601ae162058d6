//! Images of registries: from a reference to what a sandbox needs.

use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::config::{self, ConfigError, Root};
use super::digest::Digest;
use super::gc::{self, Disk, Found, GcStore, StoreFailure};
use super::input::Input;
use super::manifest::{Blob, Compression, Shape};
use super::progress::Progress;
use super::pull::{PullError, Pulled, Puller};
use super::reference::{Reference, Repository, reference};
use super::store::{About, Collected, Hold, Kept, StoreError};
use super::unpack::{self, Layer};
use super::used::WasmFile;
use super::{ImageConfig, ImageError, ImageRequest, Images, Prepared, blocking};

/// Largest configuration that is read, which the manifest has bounded already.
pub(super) const CONFIG_MAX: u64 = 8 << 20;

/// An image that is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its full reference.
    pub(crate) image: String,
    /// The digest of its manifest or index.
    pub(crate) digest: String,
    /// Bytes of all that belongs to it.
    pub(crate) bytes: u64,
    /// Bytes that came over the network just now.
    pub(crate) fetched: u64,
    /// Whether all of it is here.
    pub(crate) whole: bool,
}

/// The files of an image, unpacked.
struct Unpacked {
    root: PathBuf,
    config: ImageConfig,
    wasm: Vec<String>,
}

impl Images {
    /// Makes an image of a registry ready.
    pub(super) async fn pulled(
        &self,
        reference: &Reference,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Prepared, ImageError> {
        let failed = |source| failed(request.image, source);
        let puller = self.puller().await?;
        let (pulled, hold) =
            self.present(puller, reference, request, progress).await.map_err(failed)?;
        let (input, path, files, config) = match &pulled.shape {
            Shape::Artefact { wasm, .. } => {
                let path = puller.store.blob(&wasm.digest);
                let input = Input::open(request.image, &path).await?;
                if input.digest != wasm.digest.hex() {
                    return Err(failed(StoreError::Damaged { path }.into()));
                }
                let config = ImageConfig {
                    entrypoint: vec![last_part(&reference.repository)],
                    ..ImageConfig::default()
                };
                (input, path, None, config)
            }
            Shape::Image { config, layers } => {
                let unpacked = unpacked(puller, &pulled, (config, layers)).await.map_err(failed)?;
                let Unpacked { root, config, wasm } = unpacked;
                let chosen = Root::open(&root)
                    .and_then(|opened| opened.choose(request.command, &config, &wasm));
                let (path, file) = chosen.map_err(|e| failed(e.into()))?;
                let input = Input::take(request.image, &path, file).await?;
                (input, path, Some(root), config)
            }
        };
        let made = self.artefact(&input, progress).await?;
        let Repository { host, name } = &reference.repository;
        Ok(Prepared {
            artefact: made.artefact,
            kind: made.kind,
            image: reference.to_string(),
            image_id: format!("{host}/{name}@{}", pulled.digest),
            bytes: input.bytes,
            cached: made.cached,
            files,
            config,
            wasm: WasmFile { path, digest: input.digest },
            hold: Some(hold),
        })
    }

    /// The image, pulled if that is to be done, and held; what is too old to be kept beside it goes.
    async fn present(
        &self,
        puller: &Puller,
        reference: &Reference,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<(Pulled, Hold), PullError> {
        let store = puller.store.clone();
        let presence = blocking(move || store.enter()).await?;
        let pulled = puller.pull(reference, request, progress).await?;
        let hold = puller.store.hold(&pulled.manifest)?;
        if pulled.fetched > 0 {
            drop(presence);
            let store = puller.store.clone();
            blocking(move || store.collect()).await?;
        }
        Ok((pulled, hold))
    }

    /// Pulls an image, whatever it is: nothing of it is run.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) async fn pull(
        &self,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Listed, ImageError> {
        let reference = registry_reference(request.image)?;
        let puller = self.puller().await?;
        let present = self.present(puller, &reference, request, progress).await;
        let (pulled, _hold) = present.map_err(|source| failed(request.image, source))?;
        let blobs = pulled.shape.blobs();
        Ok(Listed {
            image: reference.to_string(),
            digest: pulled.digest.to_string(),
            bytes: blobs.iter().map(|blob| blob.bytes).sum(),
            fetched: pulled.fetched,
            whole: true,
        })
    }

    /// All images of the store, by name.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let puller = self.puller().await?;
        let mut listed = Vec::new();
        for named in puller.store.list()? {
            // One that is damaged or not whole is listed too, so that it can be removed.
            let here = puller.local(&named.name).ok().flatten();
            let bytes = here
                .as_ref()
                .map_or(0, |here| here.shape.blobs().iter().map(|blob| blob.bytes).sum());
            listed.push(Listed {
                image: named.name,
                digest: named.digest.to_string(),
                bytes,
                fetched: 0,
                whole: here.is_some(),
            });
        }
        listed.sort_by(|a, b| a.image.cmp(&b.image));
        Ok(listed)
    }

    /// Removes an image's name, and what belongs to no other; gives whether there was one.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) async fn remove(&self, image: &str) -> Result<bool, ImageError> {
        let reference = registry_reference(image)?;
        let store = self.puller().await?.store.clone();
        Ok(blocking(move || {
            let was = store.unname(&reference.to_string())?;
            store.collect()?;
            Ok::<_, StoreError>(was)
        })
        .await?)
    }

    /// Removes every image that no agent uses.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(crate) async fn prune(&self) -> Result<Collected, ImageError> {
        let store = self.puller().await?.store.clone();
        Ok(blocking(move || store.prune()).await?)
    }
}

/// The store of pulled Wasm images, for the collector of a node.
impl GcStore for Images {
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, StoreFailure>> {
        async {
            let store = self.puller().await?.store.clone();
            let kept = blocking(move || store.kept()).await?;
            let one = |image: Kept| Found {
                id: image.manifest.to_string(),
                names: image.names,
                bytes: image.bytes,
                pinned: false,
                in_use: image.held,
                idle: Some(image.idle),
            };
            Ok(kept.into_iter().map(one).collect())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreFailure>> {
        async move {
            let store = self.puller().await?.store.clone();
            let manifest = Digest::parse(id).ok_or("no digest")?;
            Ok(blocking(move || store.evict(&manifest)).await?)
        }
        .boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Result<Disk, StoreFailure>> {
        async {
            let dir = self.dir.clone();
            Ok(blocking(move || gc::disk_of(&dir)).await?)
        }
        .boxed()
    }
}

/// A name that a registry serves: a path is none.
pub(super) fn registry_reference(image: &str) -> Result<Reference, ImageError> {
    reference(image).map_err(|why| ImageError::name(image, why))
}

pub(super) fn failed(image: &str, source: PullError) -> ImageError {
    let image = image.to_owned();
    if let PullError::Never = source {
        return ImageError::Never(image);
    }
    ImageError::Pull { image, source }
}

fn last_part(repository: &Repository) -> String {
    repository.name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The unpacked files of an image and its configuration; unpacks what is not yet.
async fn unpacked(
    puller: &Puller,
    pulled: &Pulled,
    (config, layers): (&Blob, &[(Blob, Compression)]),
) -> Result<Unpacked, PullError> {
    let store = puller.store.clone();
    let (manifest, config, layers) = (pulled.manifest.clone(), config.clone(), layers.to_vec());
    blocking(move || {
        let bytes = store.read(&config.digest, CONFIG_MAX)?;
        let gone = || StoreError::Damaged { path: store.blob(&config.digest) };
        let (mut config, user, diff_ids) = config::read(&bytes.ok_or_else(gone)?)?;
        if diff_ids.len() != layers.len() {
            let text = format!("{} layers, and digests of {}", layers.len(), diff_ids.len());
            return Err(ConfigError::Malformed(text).into());
        }
        let (root, about) = match store.files(&manifest)? {
            Some(files) => files,
            None => {
                let layers: Vec<Layer> = layers
                    .into_iter()
                    .zip(diff_ids)
                    .map(|((blob, compression), diff_id)| Layer {
                        path: store.blob(&blob.digest),
                        digest: blob.digest,
                        compression,
                        diff_id,
                    })
                    .collect();
                let dir = store.unpacking()?;
                let about: About = unpack::unpack(&layers, &dir.path().join("root"))?;
                store.keep_files(dir, &manifest, &about)?;
                let missing = || StoreError::Damaged { path: store.blob(&manifest) };
                store.files(&manifest)?.ok_or_else(missing)?
            }
        };
        config.user = Root::open(Path::new(&root))?.user(&user)?;
        Ok(Unpacked { root, config, wasm: about.wasm })
    })
    .await
}
