//! Why something could not be done with a control group.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::files::MOUNTINFO;
use crate::linux::systemd::SystemdError;

/// Why something could not be done with a control group.
#[derive(Debug, Error)]
pub(crate) enum CgroupError {
    /// What is mounted is not known.
    #[error("cannot read {MOUNTINFO}")]
    Mounts(#[source] io::Error),
    /// No cgroup file system of either version, or no controller of version 1 that is used.
    #[error("no file system of control groups is mounted")]
    NotMounted,
    /// systemd is to make the groups and cannot be spoken to.
    #[error("cannot speak to systemd")]
    Systemd(#[source] SystemdError),
    /// systemd did not make, limit or stop a unit.
    #[error("systemd cannot change {unit}")]
    Unit {
        /// Its name.
        unit: String,
        /// Why not.
        #[source]
        source: SystemdError,
    },
    /// A group that has to be there is not.
    #[error("there is no control group {0}")]
    Missing(PathBuf),
    /// A uid or container id that names no file, or no unit of systemd.
    #[error("{0:?} cannot be the name of a control group")]
    Name(String),
    /// A group could not be made.
    #[error("cannot make the control group {path}")]
    Make {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set, or a controller be enabled.
    #[error("cannot write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A group could not be looked into.
    #[error("cannot read {path}")]
    Read {
        /// Its directory, or a file of it.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A process that is left in a group could not be ended.
    #[error("cannot end what runs in the control group {path}")]
    Kill {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A group could not be removed.
    #[error("cannot remove the control group {path}")]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
