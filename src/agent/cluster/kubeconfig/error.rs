//! What is wrong with a kubeconfig, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

/// Where something stands: the kubeconfig, the field in it, the file that the field names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    path: PathBuf,
    field: String,
    file: Option<PathBuf>,
}

impl Place {
    pub(super) fn new(path: &Path, field: &str) -> Self {
        Self { path: path.to_owned(), field: field.to_owned(), file: None }
    }

    pub(super) fn with_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub(super) fn missing(&self, expected: &str) -> KubeconfigError {
        KubeconfigError::Missing { place: self.clone(), expected: expected.to_owned() }
    }

    pub(super) fn wrong(&self, found: &str, expected: &str) -> KubeconfigError {
        let (found, expected) = (found.to_owned(), expected.to_owned());
        KubeconfigError::Wrong { place: self.clone(), found, expected }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubeconfig {}: {}", self.path.display(), self.field)?;
        match &self.file {
            Some(file) => write!(f, " ({})", file.display()),
            None => Ok(()),
        }
    }
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KubeconfigError {
    /// It cannot be read.
    #[error("cannot read kubeconfig {path}")]
    Read {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It, or a file that it names, has no end.
    #[error("{path} is larger than {max} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most that is read.
        max: u64,
    },
    /// It is no kubeconfig.
    #[error("kubeconfig {path}: {text}")]
    Parse {
        /// The kubeconfig.
        path: PathBuf,
        /// What the parser says.
        text: String,
    },
    /// A field is not there.
    #[error("{place}: missing, expected {expected}")]
    Missing {
        /// Which.
        place: Place,
        /// What should be there.
        expected: String,
    },
    /// A field has something else in it.
    #[error("{place}: {found}, expected {expected}")]
    Wrong {
        /// Which.
        place: Place,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A field that we do not honour, and that changes who we are or how the server is reached.
    #[error("{0}: not supported, expected a client certificate or a token and a direct address")]
    Refused(Place),
    /// A file that a field names cannot be read.
    #[error("{place}: cannot read {file}")]
    File {
        /// The field.
        place: Place,
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificate is somebody else's.
    #[error(
        "{place}: the certificate is of \"{found}\", expected \"CN=system:node:{node}, \
         O=system:nodes\""
    )]
    OtherNode {
        /// The field.
        place: Place,
        /// The certificate's subject.
        found: String,
        /// The node that we are.
        node: String,
    },
    /// The certificate is over.
    #[error("{place}: the certificate ended at {end}, and this host's clock says {now}")]
    Expired {
        /// The field.
        place: Place,
        /// Its last moment.
        end: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// The certificate has not begun.
    #[error("{place}: the certificate begins at {begin}, and this host's clock says {now}")]
    NotYet {
        /// The field.
        place: Place,
        /// Its first moment.
        begin: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// The key is of another certificate.
    #[error("{place}: the key is not that of the client certificate")]
    OtherKey {
        /// The key's field.
        place: Place,
    },
}
