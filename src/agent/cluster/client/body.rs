//! Bodies of answers: bounded in size and silence, and what they hold of their connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, RETRY_AFTER};
use kube::core::Status;
use kube::core::response::StatusDetails;
use tokio::time::{Instant, Sleep, sleep};

use super::ClientError;
use super::pool::Stream;

/// Largest answer to a call: a list of 110 pods of etcd's largest object (1.5 MiB).
const CALL_MAX: u64 = 192 << 20;
/// Largest text of a refusal.
const REFUSAL_MAX: usize = 64 << 10;

/// The body of an answer. The stream of its connection is free again when it is dropped.
pub(crate) struct Answer(Kind);

enum Kind {
    Call {
        body: Incoming,
        _stream: Stream,
        left: u64,
        pause: Duration,
        timer: Pin<Box<Sleep>>,
    },
    Watch {
        body: Incoming,
        _stream: Stream,
    },
    /// Read already.
    Refusal(Full<Bytes>),
}

impl Answer {
    pub(super) fn call(body: Incoming, stream: Stream, pause: Duration) -> Self {
        let timer = Box::pin(sleep(pause));
        Self(Kind::Call { body, _stream: stream, left: CALL_MAX, pause, timer })
    }

    /// As long as somebody reads it: who does also finds it silent, and bounds its lines.
    pub(super) fn watch(body: Incoming, stream: Stream) -> Self {
        Self(Kind::Watch { body, _stream: stream })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let cut = |polled: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>| {
            polled.map(|frame| frame.map(|frame| frame.map_err(ClientError::Cut)))
        };
        match &mut self.0 {
            Kind::Watch { body, .. } => cut(Pin::new(body).poll_frame(context)),
            Kind::Refusal(body) => {
                Pin::new(body).poll_frame(context).map_err(|never| match never {})
            }
            Kind::Call { body, left, pause, timer, .. } => {
                let polled = cut(Pin::new(body).poll_frame(context));
                let Poll::Ready(frame) = polled else {
                    let silent = ClientError::Silent(*pause);
                    return timer.as_mut().poll(context).map(|()| Some(Err(silent)));
                };
                timer.as_mut().reset(Instant::now() + *pause);
                if let Some(Ok(frame)) = &frame {
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    let Some(rest) = left.checked_sub(bytes) else {
                        return Poll::Ready(Some(Err(ClientError::TooLarge(CALL_MAX))));
                    };
                    *left = rest;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Call { body, .. } | Kind::Watch { body, .. } => body.is_end_stream(),
            Kind::Refusal(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Call { body, .. } | Kind::Watch { body, .. } => body.size_hint(),
            Kind::Refusal(body) => body.size_hint(),
        }
    }
}

/// Puts a refusal's `Retry-After` into its details, where callers can see it: kube drops the
/// headers, and the server's own 429 is plain text.
pub(super) async fn refusal(answer: Response<Answer>) -> Result<Response<Answer>, ClientError> {
    let code = answer.status();
    let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = asked.and_then(|seconds| seconds.trim().parse::<u32>().ok());
    let Some(seconds) = asked.filter(|_| code.is_client_error() || code.is_server_error()) else {
        return Ok(answer);
    };
    let (mut head, body) = answer.into_parts();
    // Nothing of a body that breaks or is too long: its code is what counts.
    let text = Limited::new(body, REFUSAL_MAX).collect().await;
    let text = text.map(|body| body.to_bytes()).unwrap_or_default();
    let mut status = serde_json::from_slice(&text).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&text);
        let reason = code.canonical_reason().unwrap_or_default();
        Status::failure(text.trim(), reason).with_code(code.as_u16())
    });
    let details = status.details.get_or_insert(StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    });
    if details.retry_after_seconds == 0 {
        details.retry_after_seconds = seconds;
    }
    let text = serde_json::to_vec(&status).unwrap_or_default();
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, Answer(Kind::Refusal(Full::new(text.into())))))
}
