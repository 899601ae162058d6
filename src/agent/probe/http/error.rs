//! Why a GET has no answer, in the words of Go's HTTP client, which is what people know of probes.

use std::io;
use std::net::SocketAddr;

use copepod_pod::go_quoted;
use thiserror::Error;

use super::super::dial::DialError;
use super::super::text::errno;
use crate::telemetry::chain;

/// Why a GET has no answer.
#[derive(Debug, Error)]
pub(in super::super) enum GetError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// What came is no TLS.
    #[error("tls: first record does not look like a TLS handshake")]
    NotTls,
    /// The server said that it will not speak TLS so.
    #[error("remote error: tls: {alert}")]
    Alert {
        /// What it said.
        alert: String,
    },
    /// TLS did not come about.
    #[error("tls: {why}")]
    Tls {
        /// Why not.
        why: io::Error,
    },
    /// The server speaks no TLS.
    #[error("http: server gave HTTP response to HTTPS client")]
    NoTls,
    /// The head did not come in time.
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Time,
    /// The body did not come in time.
    #[error(
        "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
    )]
    BodyTime,
    /// The server has closed the connection without a word.
    #[error("EOF")]
    Eof,
    /// The server has closed the connection in the middle of its answer's head.
    #[error("net/http: HTTP/1.x transport connection broken: unexpected EOF")]
    Cut,
    /// The same in the middle of its body.
    #[error("unexpected EOF")]
    CutBody,
    /// The connection broke.
    #[error("read tcp {local}->{remote}: read: {}", errno(why))]
    Read {
        /// This end.
        local: SocketAddr,
        /// The other.
        remote: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// What came is no HTTP.
    #[error(
        "net/http: HTTP/1.x transport connection broken: malformed HTTP {what} {}",
        go_quoted(text)
    )]
    Malformed {
        /// What of it: `response`, `version`, `status code`.
        what: &'static str,
        /// As it came.
        text: Vec<u8>,
    },
    /// Anything else that is wrong with an answer.
    #[error("net/http: HTTP/1.x transport connection broken: {why}")]
    Broken {
        /// What.
        why: hyper::Error,
    },
    /// Anything that is wrong with an answer over HTTP/2.
    #[error("http2: {}", chain(why))]
    H2 {
        /// What.
        why: hyper::Error,
    },
    /// The request cannot be written.
    #[error("net/http: invalid header field name {}", go_quoted(name.as_bytes()))]
    HeaderName {
        /// Its header's name.
        name: String,
    },
    /// The request cannot be written.
    #[error("net/http: invalid header field value for {}", go_quoted(name.as_bytes()))]
    HeaderValue {
        /// Its header's name.
        name: String,
    },
    /// The request cannot be written.
    #[error("net/http: invalid request target: {why}")]
    Target {
        /// Why not.
        why: hyper::http::Error,
    },
    /// A redirection that leads to no address.
    #[error("failed to parse Location header {}", go_quoted(location.as_bytes()))]
    Location {
        /// As it was given.
        location: String,
    },
    /// A redirection that leads to what is not HTTP.
    #[error("unsupported protocol scheme {}", go_quoted(scheme.as_bytes()))]
    Scheme {
        /// What it leads to.
        scheme: String,
    },
    /// Too many redirections.
    #[error("stopped after 10 redirects")]
    Redirects,
}
