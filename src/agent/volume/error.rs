//! What may go wrong with a pod's files.

use std::io;
use std::path::PathBuf;

use copepod_pod::{PayloadError, SubPathError};
use thiserror::Error;

/// Why a volume is not there.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    /// A directory or a file of it.
    #[error("MountVolume.SetUp failed for volume {volume:?} : cannot make {path}")]
    Make {
        /// The volume.
        volume: String,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its files.
    #[error("MountVolume.SetUp failed for volume {volume:?} : cannot write its files to {path}")]
    Write {
        /// The volume.
        volume: String,
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What its files come from.
    #[error("MountVolume.SetUp failed for volume {volume:?} ")]
    Payload {
        /// The volume.
        volume: String,
        /// What is wrong, in upstream's words.
        #[source]
        source: PayloadError,
    },
    /// The path of a hostPath volume is not what its type says; upstream's words.
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not {expected}"
    )]
    HostPathType {
        /// The volume.
        volume: String,
        /// Its path.
        path: PathBuf,
        /// What the type asks for.
        expected: &'static str,
    },
    /// A kind of volume, or of hostPath, that no Wasm guest can have.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {what} is not served")]
    Kind {
        /// The volume.
        volume: String,
        /// What it is.
        what: String,
    },
    /// What was left of a pod could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a mount's `recursiveReadOnly` cannot be had; upstream's words (`resolveRecursiveReadOnly`).
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ReadOnlyModeError {
    /// It may be written to.
    #[error("volume {0:?} requested recursive read-only mode, but it is not read-only")]
    Writable(String),
    /// What is mounted below it would be seen elsewhere.
    #[error(
        "volume {volume:?} requested recursive read-only mode, but it is not compatible with \
         propagation {propagation:?}"
    )]
    Propagates {
        /// The volume.
        volume: String,
        /// Its `mountPropagation`.
        propagation: String,
    },
    /// The handler cannot.
    #[error(
        "volume {0:?} requested recursive read-only mode, but it is not supported by the runtime"
    )]
    Unsupported(String),
    /// None of the API's modes.
    #[error("unknown recursive read-only mode {0:?}")]
    Unknown(String),
}

/// Why a container cannot be given its files.
#[derive(Debug, Error)]
pub(crate) enum TreeError {
    /// A part of its tree.
    #[error("cannot make {path}")]
    Make {
        /// Which, on the host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the image.
    #[error("cannot copy the image's {path}")]
    Copy {
        /// Which, on the host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A mount names no volume of the pod; validation refuses that before.
    #[error("volume mount {0:?} has no volume")]
    NoVolume(String),
    /// A subPath or subPathExpr of a mount.
    #[error("volume mount {volume:?}")]
    SubPathName {
        /// The volume.
        volume: String,
        /// What is wrong, in upstream's words.
        #[source]
        source: SubPathError,
    },
    /// A subPath of a volume; upstream's words, and then why.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What a mount says of its propagation; upstream's words.
    #[error("invalid MountPropagation mode: {0:?}")]
    Propagation(String),
    /// What a mount says of mounts below it; upstream's words.
    #[error("failed to resolve recursive read-only mode")]
    ReadOnlyMode(#[source] ReadOnlyModeError),
    /// A mount that covers the whole tree.
    #[error("volume mount {0:?}: mountPath: expected another path than \"/\"")]
    Whole(String),
    /// What only a mount can show, and the agent may not make one.
    #[error(
        "volume mount {volume:?} at {path}: {why}, which takes a mount: expected copepod to run as root"
    )]
    NeedsMount {
        /// The volume.
        volume: String,
        /// Its mountPath.
        path: String,
        /// What makes a mount necessary.
        why: String,
    },
}

impl TreeError {
    /// The container's waiting reason (upstream's `Err...` of the step that fails).
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Make { .. } | Self::Copy { .. } => "CreateContainerError",
            Self::NoVolume(_)
            | Self::SubPathName { .. }
            | Self::SubPath { .. }
            | Self::Propagation(_)
            | Self::ReadOnlyMode(_)
            | Self::Whole(_)
            | Self::NeedsMount { .. } => "CreateContainerConfigError",
        }
    }
}
