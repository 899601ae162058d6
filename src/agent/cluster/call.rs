//! One request to the API server with an end.

use std::error::Error;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use thiserror::Error;
use tokio::time::timeout;

/// Most bytes of the API server's words that an error keeps: a refused object may be in them.
const WORDS_MAX: usize = 1024;

/// Why a request did not do what it asked for.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The API server answered, and not with what was asked for.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API's word for it (`AlreadyExists`).
        reason: String,
        /// Its sentence.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer in time.
    #[error("no answer from the API server within {0:?}")]
    Late(Duration),
    /// No connection, or one that broke.
    #[error("cannot reach the API server: {0}")]
    Broken(String),
    /// What was to be sent could not be put into words.
    #[error("cannot write a request")]
    Json(#[source] serde_json::Error),
}

impl CallError {
    /// There is no such object.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// There is one of that name.
    pub(super) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == "AlreadyExists")
    }

    /// We may not do it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code: 403, .. })
    }

    /// It has changed since it was read.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. }) && !self.is_already_exists()
    }

    /// Whether the same request may be answered otherwise later: the API server was not reached,
    /// has too much to do, or is in trouble itself.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::Late(_) | Self::Broken(_) => true,
            Self::Json(_) => false,
        }
    }

    /// How long the API server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Late(_) | Self::Broken(_) | Self::Json(_) => None,
        }
    }
}

/// Waits for `request` at most `limit`.
///
/// # Errors
/// [`CallError`].
pub(super) async fn call<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match timeout(limit, request).await {
        Err(_) => Err(CallError::Late(limit)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(of(error)),
    }
}

fn of(error: kube::Error) -> CallError {
    let kube::Error::Api(status) = error else { return CallError::Broken(innermost(&error)) };
    let mut message = status.message;
    message.truncate(message.floor_char_boundary(WORDS_MAX));
    let seconds = status.details.map_or(0, |details| details.retry_after_seconds);
    let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    CallError::Refused { code: status.code, reason: status.reason, message, retry_after }
}

/// The text of the cause at the bottom: what stands above it in kube repeats it, some of it twice.
pub(super) fn innermost(mut error: &dyn Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Now, in the whole seconds that the API keeps: what comes back then equals what was sent.
pub(super) fn now() -> Time {
    whole_seconds(Timestamp::now())
}

/// A time as the API keeps it.
pub(super) fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
