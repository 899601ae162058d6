//! What a manifest says that an image is, before anything else of it is fetched.

#[cfg(test)]
mod tests;

use std::fmt;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use thiserror::Error;

use super::digest::Digest;
use super::registry::shown;

/// Most layers of an image: what an overlay could mount, and more than any builder makes.
const LAYERS_MAX: usize = 127;
/// Most manifests of an index that are looked at.
const MANIFESTS_MAX: usize = 1000;
/// Largest configuration of an image: the history of its build is in there.
const CONFIG_MAX: u64 = 8 << 20;
/// Largest compressed layer.
const LAYER_MAX: u64 = 4 << 30;
/// The Wasm artefact of the CNCF's working group: configuration and layer.
pub(super) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(super) const WASM_LAYER: &str = "application/wasm";
/// The kind of manifest that is written here.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Platforms in the order in which they are wanted: Wasm first, in each way of saying so.
const PLATFORMS: [(&str, &str); 6] = [
    ("wasi", "wasm"),
    ("wasi", "wasm32"),
    ("wasip1", "wasm"),
    ("wasip2", "wasm"),
    ("linux", "wasm"),
    ("linux", "wasm32"),
];

/// Why an image cannot be run, by its manifest alone.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ManifestError {
    /// Not a manifest that anybody writes.
    #[error("its manifest is malformed: {0}")]
    Malformed(String),
    /// A manifest of docker's first form.
    #[error(
        "its manifest has schema version 1, which is not served: push it again with a current tool"
    )]
    Schema1,
    /// An index without a fitting entry.
    #[error("it is made for {0}: expected wasi/wasm, linux/wasm or linux/{arch}", arch = arch())]
    Platform(String),
    /// A Wasm artefact with another number of files than one.
    #[error("a Wasm artefact has one {WASM_LAYER} layer: it has {0}")]
    Layers(String),
    /// Another shape.
    #[error("it is {0}: not served yet")]
    NotServed(String),
    /// More of something than is taken.
    #[error("its {what} has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many it has.
        bytes: u64,
        /// How many are taken.
        max: u64,
    },
    /// Too many of something.
    #[error("it has {count} {what}, more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many it has.
        count: usize,
        /// How many are taken.
        max: usize,
    },
    /// A digest that is none, or of another algorithm than sha256.
    #[error("digest {0:?}, expected sha256: and 64 hex digits")]
    Digest(String),
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Blob {
    /// Its bytes' digest.
    pub(super) digest: Digest,
    /// Its size in bytes.
    pub(super) bytes: u64,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// A bare archive.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One Wasm file, with a configuration that says nothing of how it is run.
    Artefact { config: Blob, wasm: Blob },
    /// A tree of files in layers, with a configuration.
    Image { config: Blob, layers: Vec<(Blob, Compression)> },
}

impl Shape {
    /// All that has to be here before it can be run.
    pub(super) fn blobs(&self) -> Vec<&Blob> {
        match self {
            Self::Artefact { config, wasm } => vec![config, wasm],
            Self::Image { config, layers } => {
                [config].into_iter().chain(layers.iter().map(|(blob, _)| blob)).collect()
            }
        }
    }
}

/// What a tag or digest leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An image.
    Image(Shape),
    /// One manifest of several, for each platform one; this is ours.
    Index(Blob),
}

/// What a manifest says of who runs its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A Wasm artefact.
    Artefact,
    /// An image with this configuration, which says more.
    Image(Blob),
    /// One manifest of several; this is ours.
    Index(Blob),
    /// docker's first form, which no Wasm was ever pushed in.
    Old,
}

/// Looks at a manifest or an index without a word on whether it could be run here: a container
/// runtime takes layers that we do not.
///
/// # Errors
/// [`ManifestError`].
pub(super) fn look(bytes: &[u8], nested: bool) -> Result<Look, ManifestError> {
    #[derive(Deserialize)]
    struct Configured {
        config: Descriptor,
    }
    let ordinary = |configured: &Configured| {
        let kind = configured.config.media_type().to_string();
        [OCI_CONFIG, DOCKER_CONFIG].contains(&kind.as_str())
    };
    if let Ok(configured) = serde_json::from_slice::<Configured>(bytes)
        && ordinary(&configured)
    {
        return Ok(Look::Image(blob(&configured.config, "configuration", CONFIG_MAX)?));
    }
    match read(bytes, nested) {
        Ok(Content::Image(Shape::Artefact { .. })) => Ok(Look::Artefact),
        Ok(Content::Image(Shape::Image { config, .. })) => Ok(Look::Image(config)),
        Ok(Content::Index(chosen)) => Ok(Look::Index(chosen)),
        Err(ManifestError::Schema1) => Ok(Look::Old),
        Err(error) => Err(error),
    }
}

/// What kind of manifest it is, by what it holds: a media type alone can lie.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index, the one only in the place of the other where it may be: an index
/// in an index is refused (`nested`).
///
/// # Errors
/// [`ManifestError`].
pub(super) fn read(bytes: &[u8], nested: bool) -> Result<Content, ManifestError> {
    let malformed = |e: &dyn fmt::Display| ManifestError::Malformed(shown(&e.to_string()));
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
    if outline.schema_version == 1 {
        return Err(ManifestError::Schema1);
    }
    let image = outline.config.is_some() || outline.layers.is_some();
    match (outline.manifests.is_some(), image) {
        (true, true) => Err(malformed(&"both a manifest and an index")),
        (true, false) if nested => Err(malformed(&"an index within an index")),
        (true, false) => {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            Ok(Content::Index(choose(&index)?))
        }
        (false, _) => {
            let manifest: ImageManifest =
                serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            Ok(Content::Image(shape(&manifest)?))
        }
    }
}

/// The entry of an index to run: Wasm before this host's own kind. Entries for no platform are
/// attestations.
fn choose(index: &ImageIndex) -> Result<Blob, ManifestError> {
    let count = index.manifests().len();
    if count > MANIFESTS_MAX {
        return Err(ManifestError::TooMany { what: "manifests", count, max: MANIFESTS_MAX });
    }
    let platform = |entry: &Descriptor| {
        let platform = entry.platform().as_ref()?;
        let (os, arch) = (platform.os().to_string(), platform.architecture().to_string());
        Some((os.to_ascii_lowercase(), arch.to_ascii_lowercase()))
    };
    let rank = |entry: &&Descriptor| {
        let (os, arch) = platform(entry)?;
        let listed = PLATFORMS.iter().position(|(o, a)| (*o, *a) == (os.as_str(), arch.as_str()));
        match listed {
            Some(rank) => Some(rank),
            None if arch.starts_with("wasm") => Some(PLATFORMS.len()),
            None if os == "linux" && arch == self::arch() => Some(PLATFORMS.len() + 1),
            None => None,
        }
    };
    let ranked = index.manifests().iter().filter_map(|entry| Some((rank(&entry)?, entry)));
    match ranked.min_by_key(|(rank, _)| *rank) {
        Some((_, entry)) => blob(entry, "manifest", super::registry::MANIFEST_MAX),
        None => {
            let all = index.manifests().iter().filter_map(platform);
            let real =
                all.filter(|(os, _)| os != "unknown").map(|(os, arch)| format!("{os}/{arch}"));
            let named = real.take(8).collect::<Vec<_>>().join(", ");
            let named = if named.is_empty() { "no platform".to_owned() } else { named };
            Err(ManifestError::Platform(shown(&named)))
        }
    }
}

fn shape(manifest: &ImageManifest) -> Result<Shape, ManifestError> {
    let (config, layers) = (manifest.config(), manifest.layers());
    let count = layers.len();
    if count > LAYERS_MAX {
        return Err(ManifestError::TooMany { what: "layers", count, max: LAYERS_MAX });
    }
    let kinds = || layers.iter().map(|layer| layer.media_type().to_string());
    match config.media_type().as_ref() {
        WASM_CONFIG => match layers.as_slice() {
            [wasm] if wasm.media_type().as_ref() == WASM_LAYER => Ok(Shape::Artefact {
                config: blob(config, "configuration", CONFIG_MAX)?,
                wasm: blob(wasm, "Wasm file", super::input::BYTES_MAX)?,
            }),
            [] => Err(ManifestError::Layers("none".into())),
            _ => Err(ManifestError::Layers(named(kinds()))),
        },
        OCI_CONFIG | DOCKER_CONFIG => {
            let each = layers.iter().map(|layer| {
                let Some(compression) = compression(layer.media_type().as_ref()) else {
                    return Err(ManifestError::NotServed(known(
                        "image",
                        &kinds().collect::<Vec<_>>(),
                    )));
                };
                Ok((blob(layer, "layer", LAYER_MAX)?, compression))
            });
            let layers = each.collect::<Result<Vec<_>, _>>()?;
            if layers.is_empty() {
                return Err(ManifestError::NotServed("an image without layers".into()));
            }
            Ok(Shape::Image { config: blob(config, "configuration", CONFIG_MAX)?, layers })
        }
        other => {
            let artefact = manifest.artifact_type().as_ref().map(ToString::to_string);
            let mut all = vec![other.to_owned()];
            all.extend(artefact);
            all.extend(kinds());
            Err(ManifestError::NotServed(known(other, &all)))
        }
    }
}

fn blob(entry: &Descriptor, what: &'static str, max: u64) -> Result<Blob, ManifestError> {
    let (text, bytes) = (entry.digest().to_string(), entry.size());
    if bytes > max {
        return Err(ManifestError::TooLarge { what, bytes, max });
    }
    let digest = Digest::parse(&text).ok_or_else(|| ManifestError::Digest(shown(&text)))?;
    Ok(Blob { digest, bytes })
}

/// How a layer of this media type is read; `None` for what is no archive of files.
fn compression(media_type: &str) -> Option<Compression> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// What an image of these media types is, by the name that people know.
fn known(config: &str, types: &[String]) -> String {
    let has = |part: &str| types.iter().find(|kind| kind.contains(part));
    for (part, name) in [
        ("fermyon.spin", "a Spin application"),
        ("wasm.component.layer", "a component of runwasi's first form"),
        ("wasm.content.layer", "a Wasm image of an older form"),
        ("wasmcloud", "a wasmCloud actor"),
        ("helm", "a Helm chart"),
        ("foreign", "an image with layers that lie elsewhere"),
        ("nondistributable", "an image with layers that lie elsewhere"),
        ("in-toto", "an attestation"),
        ("cosign", "a signature"),
        ("encrypted", "an encrypted image"),
        ("oci.empty", "an artefact of an unnamed kind"),
    ] {
        if let Some(kind) = has(part) {
            return format!("{name} ({})", shown(kind));
        }
    }
    let layers = named(types.iter().filter(|kind| *kind != config).cloned());
    format!("{} with {layers}", shown(config))
}

fn named(kinds: impl Iterator<Item = String>) -> String {
    let mut kinds: Vec<String> = kinds.collect();
    let count = kinds.len();
    kinds.dedup();
    kinds.truncate(4);
    match count {
        0 => "no layer".to_owned(),
        1 => shown(&kinds.join(", ")),
        count => shown(&format!("{count} layers of {}", kinds.join(", "))),
    }
}

/// This host's architecture, as images have it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
