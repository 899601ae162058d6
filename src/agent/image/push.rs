//! A Wasm file made into an image: the artefact of the CNCF's Wasm working group.

use std::path::Path;

use copepod_wasm::GuestKind;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::compiler::Report;
use super::digest::Digest;
use super::input::Input;
use super::job::Job;
use super::manifest::{MANIFEST, WASM_CONFIG, WASM_LAYER};
use super::pulled::registry_reference;
use super::registry::{self, Blob, RegistryError};
use super::{ImageError, Images};

/// An image that its registry has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Its full reference.
    pub(crate) image: String,
    /// The digest of its manifest.
    pub(crate) digest: String,
    /// Bytes of the Wasm file.
    pub(crate) bytes: u64,
}

impl Images {
    /// Pushes the Wasm file at `path` as the image `image`, made at `created`. What is no guest is
    /// refused, by what the jailed job says.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) async fn push(
        &self,
        path: &Path,
        image: &str,
        created: Timestamp,
    ) -> Result<Pushed, ImageError> {
        let reference = registry_reference(image)?;
        let input = Input::open(&path.display().to_string(), path).await?;
        let report = self.job(&input, Job::Inspect).await?;
        let wasm = format!("sha256:{}", input.digest);
        let config = config(&report, &wasm, created).to_string();
        let of_config = Digest::of(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": WASM_LAYER,
            "config": {"mediaType": WASM_CONFIG, "digest": of_config.to_string(), "size": config.len()},
            "layers": [{"mediaType": WASM_LAYER, "digest": wasm, "size": input.bytes}],
        });
        let manifest = manifest.to_string();
        let digest = Digest::of(manifest.as_bytes());
        let failed = |source| ImageError::Push { image: image.to_owned(), source };
        let (registries, repository) = (&self.puller().await?.registries, &reference.repository);
        let wanted = reference.digest.as_ref().filter(|wanted| **wanted != digest);
        if let Some(expected) = wanted {
            let (expected, got) = (expected.clone(), digest);
            return Err(failed(RegistryError::Digest {
                url: reference.to_string(),
                expected,
                got,
            }));
        }
        if let Some(wasm) = Digest::parse(&wasm) {
            let file = Blob::File(path, input.bytes);
            registries.put_blob(repository, &wasm, file).await.map_err(failed)?;
        }
        let blob = Blob::Bytes(config.into());
        registries.put_blob(repository, &of_config, blob).await.map_err(failed)?;
        registries
            .put_manifest(repository, &registry::at(&reference), (MANIFEST, manifest.into()))
            .await
            .map_err(failed)?;
        Ok(Pushed { image: reference.to_string(), digest: digest.to_string(), bytes: input.bytes })
    }
}

/// The configuration: what the file is, and of a component what it imports and exports.
fn config(report: &Report, wasm: &str, created: Timestamp) -> Value {
    let (os, component) = match report.kind {
        GuestKind::P1Command => ("wasip1", None),
        GuestKind::P2Command | GuestKind::Http => ("wasip2", report.world.as_ref()),
    };
    let mut config = json!({
        "created": created.to_string(),
        "architecture": "wasm",
        "os": os,
        "layerDigests": [wasm],
    });
    if let Some(world) = component {
        config["component"] = json!({"exports": world.exports, "imports": world.imports});
    }
    config
}
