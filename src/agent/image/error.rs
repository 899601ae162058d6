//! Why an image cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::input::BYTES_MAX;
use super::job::JobError;
use super::pull::PullError;
use super::reference::NameError;
use super::registry::RegistryError;
use super::store::StoreError;

/// Why an image cannot be had.
#[derive(Debug, Error)]
pub(crate) enum ImageError {
    /// It is neither a path nor a reference (the text is upstream's).
    #[error(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}"
    )]
    Name {
        /// What is meant to be one, its beginning at least.
        image: String,
        /// Why it is none.
        why: NameError,
    },
    /// It is not here, and its registry may not be asked (the text is upstream's).
    #[error("Container image {0:?} is not present with pull policy of Never")]
    Never(String),
    /// It is not to be had from its registry, or cannot be run.
    #[error("failed to pull image {image:?}{}", hint(.image))]
    Pull {
        /// The image.
        image: String,
        /// Why not.
        source: PullError,
    },
    /// Its registry did not take it.
    #[error("failed to push image {image:?}")]
    Push {
        /// The image.
        image: String,
        /// Why not.
        source: RegistryError,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A step with its file failed.
    #[error("image {image}: cannot {verb} {path}", path = path.display())]
    File {
        /// The image.
        image: String,
        /// What was tried.
        verb: &'static str,
        /// The file that it means.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its file is not a regular one.
    #[error("image {image}: {path} is {what}, expected a regular file", path = path.display())]
    NotAFile {
        /// The image.
        image: String,
        /// The file that it means.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Its file is larger than any that is taken.
    #[error("image {image}: larger than {} MiB", BYTES_MAX >> 20)]
    TooLarge {
        /// The image.
        image: String,
    },
    /// Its file was written to meanwhile.
    #[error("image {image}: changed while it was read")]
    Changed {
        /// The image.
        image: String,
    },
    /// It is not a guest: no Wasm, or one that cannot run here.
    #[error("image {image}: {text}")]
    NotAGuest {
        /// The image.
        image: String,
        /// What the compile job found.
        text: String,
    },
    /// It was not compiled.
    #[error("compiling {image}")]
    Compile {
        /// The image.
        image: String,
        /// Why not.
        source: JobError,
    },
    /// A step with the cache of artefacts failed.
    #[error("cache of compiled images: cannot {verb} {path}", path = path.display())]
    Cache {
        /// What was tried.
        verb: &'static str,
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// So much of what is no name is told of it.
const TOLD_MAX: usize = 256;

impl ImageError {
    /// The name `image` is none.
    pub(crate) fn name(image: &str, why: NameError) -> Self {
        Self::Name { image: image.chars().take(TOLD_MAX).collect(), why }
    }

    /// The waiting reason that upstream has for it (`pkg/kubelet/images/types.go`): a name that
    /// cannot be read is `InvalidImageName`, everything that a pull would do is `ErrImagePull`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "InvalidImageName",
            Self::Never(_) => "ErrImageNeverPull",
            Self::Pull { .. }
            | Self::Push { .. }
            | Self::Store(_)
            | Self::File { .. }
            | Self::NotAFile { .. }
            | Self::TooLarge { .. }
            | Self::Changed { .. }
            | Self::NotAGuest { .. }
            | Self::Compile { .. }
            | Self::Cache { .. } => "ErrImagePull",
        }
    }
}

/// A file's name is taken for a reference without anybody having meant one.
fn hint(image: &str) -> &'static str {
    let bare = image.ends_with(".wasm") && !image.contains('/');
    if bare { " (a file of this folder is ./FILE.wasm)" } else { "" }
}
