//! The client of the API server: HTTP/2 over rustls, one connection for calls and others for
//! watches, so that a lease or a status never waits behind a watch.
//!
//! kube's own stack is HTTP/1.1 only: a connection for each watch, and none that finds out by
//! itself that the other side is gone.

mod body;
mod dial;
mod pool;
mod retry;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, Uri};
use kube::client::Body;
use thiserror::Error;
use tokio::time::timeout;
use tower::Service;

use self::body::{Answer, refusal};
use self::dial::{DialError, Endpoint};
use self::pool::{Lane, Stream};
pub(crate) use self::retry::{Backoff, random, retry_after, told};
use super::kubeconfig::{Bearer, Kubeconfig};

/// Streams of one connection: the API server allows 100 (`http2MaxStreamsPerConnection`) and
/// counts one that just ended a little longer than we do.
const STREAMS_MAX: usize = 90;
/// Connections for watches: 1,440 watches, where a full node (110 pods) has some hundreds.
const WATCH_CONNECTIONS_MAX: usize = 16;
/// Connections for calls: what does not fit into one waits a moment.
const CALL_CONNECTIONS_MAX: usize = 1;
/// How often a request is put onto another connection, because its own ended before it was sent.
const RESENDS_MAX: u32 = 2;
/// Until a watch's head must be there: the server sends it at once, or after its cache is filled.
const WATCH_HEAD_TIME: Duration = Duration::from_secs(30);

/// The times of a client. A test shortens them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// For a call's head, and for each pause in its body.
    pub(crate) call_time: Duration,
    /// For a connection to one address, its TLS with it.
    pub(crate) connect_time: Duration,
    /// Between two pings; upstream has 30 s, but its lease is late by then.
    pub(crate) ping_interval: Duration,
    /// For the answer to a ping; after it the connection is dead.
    pub(crate) ping_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_time: Duration::from_secs(10),
            connect_time: Duration::from_secs(5),
            ping_interval: Duration::from_secs(15),
            ping_time: Duration::from_secs(10),
        }
    }
}

/// Why a request has no answer. It comes out of `kube` as the cause of its service error.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// There is no connection.
    #[error("cannot connect to the API server")]
    Dial(#[source] Arc<DialError>),
    /// The head did not come in time.
    #[error("{method} {path}: no answer within {} s", time.as_secs_f32())]
    Time {
        /// Of the request.
        method: Method,
        /// Of the request, without its query.
        path: String,
        /// What was waited.
        time: Duration,
    },
    /// The connection or the stream broke.
    #[error("{method} {path}: no answer")]
    Broken {
        /// Of the request.
        method: Method,
        /// Of the request, without its query.
        path: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// A body was cut off.
    #[error("answer cut off")]
    Cut(#[source] hyper::Error),
    /// Nothing more of a body came in time.
    #[error("no more of the answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// A body is larger than anything that we ask for.
    #[error("answer larger than {0} bytes")]
    TooLarge(u64),
    /// What was asked for has no address.
    #[error("request for an address that is none")]
    Address(#[source] hyper::http::uri::InvalidUriParts),
}

/// A client for the API server of `kubeconfig`. It connects when first used, and again whenever
/// its connection has ended. Must be called within the event loop, which then runs its tasks.
pub(crate) fn connect(kubeconfig: &Kubeconfig, options: Options) -> kube::Client {
    let endpoint = Arc::new(Endpoint::new(kubeconfig, options));
    let transport = Transport {
        authority: kubeconfig.authority.clone(),
        prefix: kubeconfig.prefix.clone(),
        bearer: kubeconfig.bearer.clone(),
        calls: Arc::new(Lane::new(Arc::clone(&endpoint), CALL_CONNECTIONS_MAX)),
        watches: Arc::new(Lane::new(endpoint, WATCH_CONNECTIONS_MAX)),
        options,
    };
    kube::Client::new(transport, "default")
}

/// What the client calls itself (upstream's form), e.g. `copepod/0.1.0 (linux/amd64)`.
fn user_agent() -> HeaderValue {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let text = format!("copepod/{} (linux/{arch})", env!("CARGO_PKG_VERSION"));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("copepod"))
}

/// The service below `kube::Client`.
#[derive(Clone)]
struct Transport {
    authority: Authority,
    /// What stands before each path; empty in nearly all clusters.
    prefix: String,
    bearer: Arc<Bearer>,
    calls: Arc<Lane>,
    watches: Arc<Lane>,
    options: Options,
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Answer>;
    type Error = ClientError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move { transport.exchange(request).await })
    }
}

impl Transport {
    async fn exchange(&self, mut request: Request<Body>) -> Result<Response<Answer>, ClientError> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let is_watch = is_watch(request.uri());
        *request.uri_mut() = self.address(request.uri())?;
        request.headers_mut().insert(USER_AGENT, user_agent());
        if let Some(bearer) = self.bearer.header().await {
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let (lane, time) = match is_watch {
            true => (&self.watches, WATCH_HEAD_TIME.max(self.options.call_time)),
            false => (&self.calls, self.options.call_time),
        };
        let sent = timeout(time, send(lane, request, &method, &path)).await;
        let (response, stream) = sent.map_err(|_| ClientError::Time { method, path, time })??;
        let answer = response.map(|body| match is_watch {
            true => Answer::watch(body, stream),
            false => Answer::call(body, stream, self.options.call_time),
        });
        refusal(answer).await
    }

    /// `uri` at our server.
    fn address(&self, uri: &Uri) -> Result<Uri, ClientError> {
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        if !self.prefix.is_empty() {
            let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
            let whole = PathAndQuery::try_from(format!("{}{path}", self.prefix));
            parts.path_and_query = whole.ok();
        }
        Uri::from_parts(parts).map_err(ClientError::Address)
    }
}

/// Sends a request; one that its connection did not take any more goes onto a new one.
async fn send(
    lane: &Lane,
    mut request: Request<Body>,
    method: &Method,
    path: &str,
) -> Result<(Response<hyper::body::Incoming>, Stream), ClientError> {
    let mut resends = 0;
    loop {
        let (mut sender, stream) = lane.stream().await.map_err(ClientError::Dial)?;
        let mut failed = match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, stream)),
            Err(failed) => failed,
        };
        match failed.take_message() {
            Some(unsent) if resends < RESENDS_MAX => {
                resends += 1;
                request = unsent;
            }
            Some(_) | None => {
                let (method, path) = (method.clone(), path.to_owned());
                return Err(ClientError::Broken { method, path, source: failed.into_error() });
            }
        }
    }
}

/// Whether the answer goes on until somebody ends it.
fn is_watch(uri: &Uri) -> bool {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    pairs.any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

#[cfg(test)]
#[path = "client_test.rs"]
mod tests;
