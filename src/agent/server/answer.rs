//! Answers: bodies, and what is said where there is none.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::stream::upgrade::ACCEPTED_PROTOCOLS;

/// The body of an answer.
pub(super) type Answer = UnsyncBoxBody<Bytes, io::Error>;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status code.
    pub(super) code: StatusCode,
    /// One line for people. Whether it ends with a line's end is upstream's.
    pub(super) text: String,
    /// The protocols of streams that would be accepted, where that is what is wrong.
    pub(super) accepted: Vec<&'static str>,
}

impl Refusal {
    /// A refusal of this code and text.
    pub(super) fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), accepted: Vec::new() }
    }

    /// The answer that says so.
    pub(super) fn answer(self) -> Response<Answer> {
        let mut answer = text(full(self.text));
        *answer.status_mut() = self.code;
        for name in self.accepted {
            answer.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        answer
    }
}

/// A body that is there as a whole.
pub(super) fn full(body: impl Into<Bytes>) -> Answer {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of plain text.
pub(super) fn text(body: Answer) -> Response<Answer> {
    of_type("text/plain; charset=utf-8", body)
}

/// An answer of figures, in the format that Prometheus reads.
pub(super) fn prometheus(page: String) -> Response<Answer> {
    of_type("text/plain; version=0.0.4; charset=utf-8", full(page))
}

/// An answer of JSON.
///
/// # Errors
/// A value that is no JSON, which none of ours is.
pub(super) fn json(value: &impl Serialize) -> Result<Response<Answer>, Refusal> {
    let body = serde_json::to_vec(value)
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(of_type("application/json", full(body)))
}

fn of_type(kind: &'static str, body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
