//! Why systemd did not do what it was asked for.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::wire::WireError;

/// Why systemd did not do what it was asked for.
#[derive(Debug, Error)]
pub(crate) enum SystemdError {
    /// Its socket could not be connected to: it is not this host's init system, or we are not root.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It did not take us for whom we are.
    #[error("refused at the door: {0:?}")]
    Login(String),
    /// The connection broke.
    #[error("connection lost")]
    Transfer(#[source] io::Error),
    /// It was not done in time.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// Something came that is no message of D-Bus, or not the expected one.
    #[error("cannot read a message")]
    Message(#[source] WireError),
    /// A message is longer than is ever needed.
    #[error("a message of {0} bytes")]
    Long(u64),
    /// It refused.
    #[error("{text} ({name})")]
    Refused {
        /// The name of D-Bus's error.
        name: String,
        /// Its words.
        text: String,
    },
    /// It tried, in vain.
    #[error("its job ended as {0:?}")]
    Job(String),
}

impl SystemdError {
    /// Whether there is such a unit already.
    pub(super) fn is_there(&self) -> bool {
        self.is("org.freedesktop.systemd1.UnitExists")
    }

    /// Whether there is no such unit.
    pub(super) fn is_gone(&self) -> bool {
        self.is("org.freedesktop.systemd1.NoSuchUnit")
    }

    fn is(&self, error: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == error)
    }
}
