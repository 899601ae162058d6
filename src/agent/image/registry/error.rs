//! Why a registry did not serve.

use std::error::Error;
use std::path::PathBuf;

use thiserror::Error;

use crate::image::credentials::CredentialsError;
use crate::image::digest::Digest;

/// Most characters of a registry's own words that an error shows.
const TEXT_MAX: usize = 512;

/// Why a registry did not serve.
#[derive(Debug, Error)]
pub(crate) enum RegistryError {
    /// The file of `--ca-file` is not one, or this host's own certificates cannot be read.
    #[error("cannot set up TLS{}: {text}", file.as_ref().map_or(String::new(), |file| format!(" with the certificates of {}", file.display())))]
    Tls {
        /// The file that was named.
        file: Option<PathBuf>,
        /// What is wrong.
        text: String,
    },
    /// No connection, or one that broke before an answer.
    #[error("cannot reach {url}: {text}{hint}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The innermost cause.
        text: String,
        /// What may help.
        hint: &'static str,
    },
    /// The connection broke within an answer, too often.
    #[error("{url}: cut off: {text}")]
    Cut {
        /// What was asked for.
        url: String,
        /// The innermost cause.
        text: String,
    },
    /// It wants other credentials, or any.
    #[error("{url}: unauthorized{}: {advice}", colon(.text))]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The registry's words.
        text: String,
        /// What to look at.
        advice: String,
    },
    /// It knows who asks, and refuses.
    #[error("{url}: denied{}", colon(.text))]
    Denied {
        /// What was asked for.
        url: String,
        /// The registry's words.
        text: String,
    },
    /// It has no such thing.
    #[error("{url}: not found{}", colon(.text))]
    NotFound {
        /// What was asked for.
        url: String,
        /// The registry's words.
        text: String,
    },
    /// It wants to be asked later than anybody waits here.
    #[error("{url}: {status}, to be asked again in {seconds} s{}", colon(.text))]
    Later {
        /// What was asked for.
        url: String,
        /// The status line.
        status: String,
        /// For how long it wants to be left alone.
        seconds: u64,
        /// The registry's words.
        text: String,
    },
    /// Any other answer than one of success.
    #[error("{url}: {status}{}", colon(.text))]
    Status {
        /// What was asked for.
        url: String,
        /// The status line, with the number of tries if there were several.
        status: String,
        /// The registry's words.
        text: String,
    },
    /// An answer that no registry gives.
    #[error("{url}: {text}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        text: String,
    },
    /// More than anything of its kind has.
    #[error("{url}: larger than {max} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// How much is taken.
        max: u64,
    },
    /// Other bytes than those that were asked for.
    #[error("{url}: the digest is {got}, expected {expected}")]
    Digest {
        /// What was asked for.
        url: String,
        /// Of what was asked for.
        expected: Digest,
        /// Of what came.
        got: Digest,
    },
    /// The credentials could not be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A file that is to be pushed cannot be read.
    #[error("cannot read {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Foreign words, fit for one line of an error: no control characters, and not too many.
pub(crate) fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(TEXT_MAX).map(clean).collect()
}

/// The innermost cause of an error: the layers above it say only where they stand.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_timeout() { "timed out".to_owned() } else { shown(&inner.to_string()) }
}
