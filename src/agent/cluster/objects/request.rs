//! One request to the API server, bounded in time and size.
//!
//! Answers hold secrets: nothing of them stands in an error or a log line but what the server says
//! of a failure (`kube`'s own requests log what they cannot parse).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response};
use kube::client::Body;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Requests under way at a time, watches aside: a pod that names hundreds of objects does not hold
/// up the lease.
const REQUESTS_MAX: usize = 16;
/// How long one request may take, with its answer. Upstream's server gives up after 60 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an answer with one object: 1.5 MiB in etcd, as JSON with base64 and escapes.
pub(super) const OBJECT_MAX: usize = 16 << 20;
/// Most of an answer with a page of many.
pub(super) const PAGE_MAX: usize = 64 << 20;
/// Most of a failure's text.
const STATUS_MAX: usize = 64 << 10;
/// How long a watch may be silent. Where anything changes a bookmark comes each minute.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// What a watch's buffer keeps once it is empty.
const BUFFER_KEPT: usize = 16 << 10;
/// In the message of a refusal by the node authorizer (upstream `node_authorizer.go`), and by
/// NodeRestriction of a token: neither has heard yet that the pod is ours.
const UNRELATED: [&str; 2] = [
    "no relationship found between node",
    "node requested token bound to a pod scheduled on a different node",
];

/// Why something could not be read from the API server.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// It did not answer in time.
    #[error("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// It refused; its words.
    #[error("{message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// The resource that the refusal is about, if it says so: `pods`.
        kind: String,
        /// What it says.
        message: String,
        /// When to ask again.
        retry_after: Option<Duration>,
    },
    /// The request or its answer did not come through.
    #[error("the API server cannot be reached")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than any such answer has.
    #[error("the API server's answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Not what was asked for.
    #[error("the API server's answer is not understood (line {line}, column {column})")]
    Parse {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A watch that ended as soon as it had begun.
    #[error("the API server closed the watch at once")]
    Closed,
    /// A watch on which nothing came, not even a bookmark.
    #[error("the watch was silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

impl ReadError {
    /// Whether the server does not know of our pod: the node authorizer of none on this node that
    /// names the object, or admission, which has a cache of its own, of none of that name. Just
    /// after a pod was bound that passes in some milliseconds.
    pub(super) fn is_early(&self) -> bool {
        match self {
            Self::Status { code: 403, message, .. } => {
                UNRELATED.iter().any(|text| message.contains(text))
            }
            Self::Status { code: 404, kind, .. } => ["pod", "pods"].contains(&kind.as_str()),
            Self::Status { .. }
            | Self::Timeout
            | Self::Transport(_)
            | Self::TooLarge(_)
            | Self::Parse { .. }
            | Self::Closed
            | Self::Silent => false,
        }
    }

    /// Whether the object is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether the place in time that a watch or list wants to go on from is forgotten.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Status { code: 410, .. })
    }

    /// Whether the same request may soon have another answer.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 429 | 500..) || self.is_early(),
            Self::Timeout | Self::Transport(_) | Self::Closed | Self::Silent => true,
            Self::TooLarge(_) | Self::Parse { .. } => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Timeout
            | Self::Transport(_)
            | Self::TooLarge(_)
            | Self::Parse { .. }
            | Self::Closed
            | Self::Silent => None,
        }
    }

    fn transport(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Transport(error.into())
    }

    fn parse(error: &serde_json::Error) -> Self {
        Self::Parse { line: error.line(), column: error.column() }
    }
}

/// The API server.
#[derive(Clone)]
pub(super) struct Server {
    client: kube::Client,
    permits: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, permits: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// What is at `path`, of at most `max` bytes.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        max: usize,
    ) -> Result<T, ReadError> {
        self.call(Request::get(path).body(Body::empty()), max).await
    }

    /// The answer to an object that is made at `path`.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &impl Serialize,
    ) -> Result<T, ReadError> {
        let body = serde_json::to_vec(object).map_err(ReadError::transport)?;
        let request = Request::builder().method(Method::POST).uri(path);
        let request = request.header(CONTENT_TYPE, "application/json").body(Body::from(body));
        self.call(request, OBJECT_MAX).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: Result<Request<Body>, impl Into<Box<dyn std::error::Error + Send + Sync>>>,
        max: usize,
    ) -> Result<T, ReadError> {
        let request = request.map_err(ReadError::transport)?;
        let _permit = self.permits.acquire().await.map_err(ReadError::transport)?;
        let call = async {
            let answer = self.send(request).await?;
            let body = collect(answer.into_body(), max).await?;
            serde_json::from_slice(&body).map_err(|error| ReadError::parse(&error))
        };
        timeout(REQUEST_TIMEOUT, call).await.unwrap_or(Err(ReadError::Timeout))
    }

    /// Opens the watch at `path`.
    pub(super) async fn watch(&self, path: &str) -> Result<Events, ReadError> {
        let request = Request::get(path).body(Body::empty()).map_err(ReadError::transport)?;
        let answer = timeout(REQUEST_TIMEOUT, self.send(request)).await;
        let body = answer.unwrap_or(Err(ReadError::Timeout))?.into_body();
        Ok(Events { body, buffer: Vec::new(), scanned: 0 })
    }

    /// The answer if it is a good one.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, ReadError> {
        let answer = self.client.send(request).await.map_err(bare)?;
        let code = answer.status();
        if code.is_success() {
            return Ok(answer);
        }
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = collect(answer.into_body(), STATUS_MAX).await?;
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| kube::core::Status {
            // Refusals before the API proper are plain text: "Too many requests, ...".
            message: String::from_utf8_lossy(&body).trim().into(),
            ..kube::core::Status::default()
        });
        let mut refusal = refusal(code.as_u16(), status);
        if let (ReadError::Status { retry_after: into, .. }, Some(_)) = (&mut refusal, retry_after)
        {
            *into = retry_after;
        }
        Err(refusal)
    }
}

/// What went wrong with a request, without what `kube` says around it.
fn bare(error: kube::Error) -> ReadError {
    if let kube::Error::Service(why) = error {
        return ReadError::Transport(why);
    }
    ReadError::transport(error)
}

/// A failure that the server describes; `code` if the status has none.
fn refusal(code: u16, status: kube::core::Status) -> ReadError {
    let code = if status.code == 0 { code } else { status.code };
    let (kind, wait) = status
        .details
        .map_or_else(Default::default, |details| (details.kind, details.retry_after_seconds));
    let message = if status.message.is_empty() { status.reason } else { status.message };
    let message = if message.is_empty() { format!("status {code}") } else { message };
    let retry_after = (wait > 0).then(|| Duration::from_secs(wait.into()));
    ReadError::Status { code, kind, message, retry_after }
}

async fn collect(body: Body, max: usize) -> Result<bytes::Bytes, ReadError> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge(max)),
        Err(error) => Err(ReadError::Transport(error)),
    }
}

/// What comes on a watch.
pub(super) struct Events {
    body: Body,
    /// Of the line that is not whole yet.
    buffer: Vec<u8>,
    /// How much of it has no newline.
    scanned: usize,
}

impl Events {
    /// The next event; `None` once the server has ended the watch. An event of kind `ERROR` is an
    /// error.
    pub(super) async fn next<K: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<kube::core::WatchEvent<K>>, ReadError> {
        use kube::core::WatchEvent;
        let Some(line) = self.line().await? else { return Ok(None) };
        let event = serde_json::from_slice::<WatchEvent<K>>(&line);
        match event.map_err(|error| ReadError::parse(&error))? {
            WatchEvent::Error(status) => Err(refusal(500, *status)),
            event @ (WatchEvent::Added(_)
            | WatchEvent::Modified(_)
            | WatchEvent::Deleted(_)
            | WatchEvent::Bookmark(_)) => Ok(Some(event)),
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            let found = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.scanned = 0;
                if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEPT {
                    self.buffer = Vec::new();
                }
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > OBJECT_MAX {
                return Err(ReadError::TooLarge(OBJECT_MAX));
            }
            let frame = timeout(SILENCE_MAX, self.body.frame()).await;
            match frame.map_err(|_| ReadError::Silent)? {
                // A line that is cut off comes again with the next watch.
                None => return Ok(None),
                Some(Err(error)) => return Err(ReadError::transport(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
