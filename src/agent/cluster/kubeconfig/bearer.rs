//! The token that goes with each request.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::time::Instant;

use super::file::User;
use super::{KubeconfigError, Reader, read_file};

/// How old a token from a file may be before the file is read again (client-go has a minute too).
const FRESH: Duration = Duration::from_secs(60);

/// What proves who we are, beside or instead of a certificate.
#[derive(Debug)]
pub(crate) enum Bearer {
    /// The certificate alone.
    None,
    /// A token that stands in the kubeconfig.
    Fixed(HeaderValue),
    /// A token in a file that somebody renews.
    File {
        /// The file.
        path: PathBuf,
        /// What it held, and when.
        last: Mutex<(HeaderValue, Instant)>,
    },
}

impl Bearer {
    /// The `Authorization` header, if there is to be one. A file that cannot be read any more
    /// leaves the token as it was.
    pub(crate) async fn header(&self) -> Option<HeaderValue> {
        let (path, last) = match self {
            Bearer::None => return None,
            Bearer::Fixed(header) => return Some(header.clone()),
            Bearer::File { path, last } => (path, last),
        };
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.1.elapsed() < FRESH {
                return Some(last.0.clone());
            }
            // Others go on with the old one meanwhile.
            last.1 = Instant::now();
        }
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || read_file(&file).ok());
        let header = read.await.ok().flatten().and_then(|bytes| header(&bytes));
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match header {
            Some(header) => last.0 = header,
            None => {
                let path = path.display();
                tracing::warn!(%path, "no token to be read in its file: the old one stays");
            }
        }
        Some(last.0.clone())
    }
}

fn header(token: &[u8]) -> Option<HeaderValue> {
    let token = std::str::from_utf8(token).ok()?.trim();
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    (!token.is_empty()).then_some(header)
}

impl Reader<'_> {
    /// The token: the one in the kubeconfig before that in a file, as client-go has it.
    pub(super) fn bearer(&self, user: &User, at: &str) -> Result<Bearer, KubeconfigError> {
        let expected = "a token in one line";
        if let Some(token) = user.token.as_deref().filter(|token| !token.is_empty()) {
            let place = self.place(at, "token");
            let header = header(token.as_bytes());
            return Ok(Bearer::Fixed(header.ok_or_else(|| place.wrong("no token", expected))?));
        }
        let Some(file) = user.token_file.as_deref().filter(|file| !file.is_empty()) else {
            return Ok(Bearer::None);
        };
        let (place, path) = (self.place(at, "tokenFile"), self.beside(file));
        let bytes = read_file(&path).map_err(|error| error.of_field(&place, &path))?;
        let place = place.with_file(&path);
        let header = header(&bytes).ok_or_else(|| place.wrong("no token", expected))?;
        Ok(Bearer::File { path, last: Mutex::new((header, Instant::now())) })
    }
}
