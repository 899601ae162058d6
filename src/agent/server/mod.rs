//! What others may ask of a running agent: the kubelet's paths over HTTP. A `copepod run` serves
//! them on a Unix socket that only its own user can open, a node on a TCP port over TLS
//! ([`Server::start_tls`]) to whom the API server lets in ([`auth`]), and its health alone on
//! another ([`Server::start_health`]).
//!
//! Owns: the paths and their parameters ([`route`]), what is behind them ([`logs`], [`exec`],
//! [`forward`], [`run`]), the streams of clients ([`stream`]), requests that a container runtime
//! answers ([`proxy`]), TLS and the server's certificate ([`tls`]), bounds on connections ([`accept`],
//! [`connection`]). In: [`Pods`], which whoever runs the pods gives, what is counted ([`Metrics`]), and a [`Reviewer`], which asks
//! the API server. Out: answers.
//! Starts one task that accepts for each listener and one per connection. It reads snapshots and
//! opens streams; it changes no pod: a stop is asked of [`Pods`].

mod accept;
mod answer;
mod auth;
mod connection;
mod exec;
mod forward;
mod health;
mod logs;
mod pods;
mod proxy;
mod route;
mod run;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

use self::accept::{Limits, accept};
use self::answer::{Answer, Refusal, json, prometheus};
use self::auth::Auth;
pub(crate) use self::auth::{
    Access, AuthenticationOptions, AuthorizationMode, ReviewError, Reviewer, TokenReviewed, User,
};
use self::connection::{Client, TIMES, Times};
pub(crate) use self::pods::{Pods, Running, Served, URL_PREFIX};
use self::route::{Query, Route, Target};
pub(crate) use self::tls::{ServingCertificate, TlsError, TlsOptions, TlsVersion};
use crate::logs::watch::LogWatch;
use crate::metrics::{Metrics, Page};
use crate::telemetry::chain;

/// Connections to a run's socket: a user has a handful of terminals.
const OF_USER: Limits = Limits { connections: 64, of_peer: 64 };
/// Connections to a node: API servers, which share theirs among requests, and whoever collects
/// metrics. Half of them are always left for others than one peer.
const OF_NODE: Limits = Limits { connections: 512, of_peer: 256 };
/// Connections to a node's health: one at a time is all that is needed.
const OF_HEALTH: Limits = Limits { connections: 64, of_peer: 32 };
/// Streams of a run at a time, which last: some connections are always left for short answers.
const USER_STREAMS: u32 = 48;
/// Streams of a node at a time: all containers of 110 pods, followed more than once.
const NODE_STREAMS: u32 = 512;

/// How long streams of a run may be idle: upstream's default for a node.
const STREAM_IDLE: Duration = Duration::from_secs(4 * 3600);

/// What a node's server is to be.
#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    /// The node's name, by which access is asked for.
    pub(crate) node_name: String,
    /// How it speaks TLS.
    pub(crate) tls: TlsOptions,
    /// How callers are made known.
    pub(crate) authentication: AuthenticationOptions,
    /// What they may do.
    pub(crate) authorization: AuthorizationMode,
    /// Whether logs, exec and the like are served (`enableDebuggingHandlers`).
    pub(crate) debugging_handlers: bool,
    /// How long a client's streams may be idle (`streamingConnectionIdleTimeout`).
    pub(crate) stream_idle: Duration,
}

/// Why a server does not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Changes of logs cannot be seen.
    #[error("cannot watch logs")]
    LogWatch(#[source] io::Error),
    /// TLS cannot be spoken.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
}

/// A server at work; it ends at the latest with the event loop.
pub(crate) struct Server {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Serves `pods` and `metrics` on `listener` to its owner.
    ///
    /// # Errors
    /// That of watching logs.
    pub(crate) fn start(
        listener: UnixListener,
        pods: impl Pods,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(pods, metrics, USER_STREAMS)?);
        let drained = shared.drained(USER_STREAMS);
        let serve = move |stream, ended| {
            let shared = Arc::clone(&shared);
            connection::plain(stream, ended, move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.answer(Caller::Owner, request).await }
            })
        };
        Ok(Self::spawn(|end| accept(listener, OF_USER, end, drained, serve)))
    }

    /// Serves `pods` and `metrics` over TLS at `address` to whom `reviewer` lets in. Files of certificates are read
    /// now, and again when they have changed.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn start_tls(
        address: SocketAddr,
        pods: impl Pods,
        reviewer: Arc<dyn Reviewer>,
        options: ServerOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let listener = listen(address).await?;
        Self::serve_tls(listener, (pods, metrics), reviewer, options, TIMES)
    }

    fn serve_tls(
        listener: TcpListener,
        (pods, metrics): (impl Pods, Arc<Metrics>),
        reviewer: Arc<dyn Reviewer>,
        options: ServerOptions,
        times: Times,
    ) -> Result<Self, StartError> {
        let ServerOptions {
            node_name,
            tls,
            authentication,
            authorization,
            debugging_handlers,
            stream_idle,
        } = options;
        let acceptor = tls::acceptor(&tls, authentication.client_ca_file.is_some())?;
        let auth = Auth::new(node_name, authentication, authorization, reviewer)?;
        let mut shared = Shared::new(pods, metrics, NODE_STREAMS).map_err(StartError::LogWatch)?;
        shared.debugging = debugging_handlers;
        shared.stream_idle = stream_idle;
        let shared = Arc::new(shared);
        let drained = shared.drained(NODE_STREAMS);
        let node = Arc::new(Node { shared, auth, acceptor });
        let serve = move |stream, ended| {
            let node = Arc::clone(&node);
            connection::tls(stream, node.acceptor.clone(), times, ended, move |client, request| {
                Arc::clone(&node).answer(client, request)
            })
        };
        Ok(Self::spawn(|end| accept(listener, OF_NODE, end, drained, serve)))
    }

    /// Serves the health of what looks after `pods`, and nothing else, over plain HTTP at `address`
    /// to anyone (upstream's `healthzBindAddress` and `healthzPort`).
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub(crate) async fn start_health(
        address: SocketAddr,
        pods: impl Pods,
    ) -> Result<Self, StartError> {
        Ok(Self::serve_health(listen(address).await?, pods))
    }

    fn serve_health(listener: TcpListener, pods: impl Pods) -> Self {
        let pods = Arc::new(pods);
        let serve = move |stream, ended| {
            let pods = Arc::clone(&pods);
            connection::plain(stream, ended, move |request: Request<Incoming>| {
                let answered = match Route::of(request.method(), request.uri()) {
                    Ok(Route::Health { check, query }) => {
                        health::answer(check.as_deref(), &query, pods.sync_loop())
                    }
                    Ok(_) | Err(_) => Err(route::not_found()),
                };
                std::future::ready(answered.unwrap_or_else(Refusal::answer))
            })
        };
        let drained = std::future::ready(());
        Self::spawn(|end| accept(listener, OF_HEALTH, end, drained, serve))
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        accept: impl FnOnce(oneshot::Receiver<()>) -> F,
    ) -> Self {
        let (end, wish) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let accept = accept(wish);
        tokio::spawn(async move {
            accept.await;
            // Nobody waits any more: the agent is gone.
            let _ = done.send(());
        });
        Self { end, ended }
    }

    /// Takes no more requests and waits a moment for the answers that are under way.
    pub(crate) async fn end(self) {
        drop(self.end);
        // Its task ends with the event loop at the latest.
        let _ = self.ended.await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })
}

/// What all connections of a node share.
struct Node<P> {
    shared: Arc<Shared<P>>,
    auth: Auth,
    acceptor: TlsAcceptor,
}

impl<P: Pods> Node<P> {
    async fn answer(
        self: Arc<Self>,
        client: Client,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let admitted = self.auth.admit(&client.certificates, &method, &path, request.headers());
        match admitted.await {
            Ok(user) => {
                tracing::debug!(user = user.name, %method, path, "a request");
                Arc::clone(&self.shared).answer(Caller::Admitted, request).await
            }
            Err(refusal) => refusal.answer(),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// The user whose pods they are.
    Owner,
    /// Somebody who was let in over the network.
    Admitted,
}

/// What all connections share.
struct Shared<P> {
    pods: P,
    metrics: Arc<Metrics>,
    log_watch: LogWatch,
    streams: Arc<Semaphore>,
    debugging: bool,
    stream_idle: Duration,
}

impl<P: Pods> Shared<P> {
    fn new(pods: P, metrics: Arc<Metrics>, streams: u32) -> io::Result<Self> {
        Ok(Self {
            pods,
            metrics,
            log_watch: LogWatch::start()?,
            streams: Arc::new(Semaphore::new(streams as usize)),
            debugging: true,
            stream_idle: STREAM_IDLE,
        })
    }

    /// Waits for all streams: one that was upgraded has left its connection.
    fn drained(&self, streams: u32) -> impl Future<Output = ()> + use<P> {
        let all = Arc::clone(&self.streams);
        async move {
            let _ = all.acquire_many(streams).await;
        }
    }

    async fn answer(
        self: Arc<Self>,
        caller: Caller,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        if !self.debugging && route::is_debugging(request.uri()) {
            let text = "Debug endpoints are disabled.\n";
            return Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text).answer();
        }
        let answered = match Route::of(request.method(), request.uri()) {
            Ok(Route::Pods) => self.list(),
            Ok(Route::Running) => self.running(),
            Ok(Route::Health { check, query }) => self.health(check.as_deref(), &query),
            Ok(Route::Metrics(page)) => self.figures(page),
            Ok(Route::Logs { target, query }) => self.logs(&target, &query),
            Ok(Route::Exec { target, query }) => self.exec(&target, &query, request).await,
            Ok(Route::Attach { target, query }) => self.attach(&target, &query, request).await,
            Ok(Route::PortForward { target, query }) => {
                self.port_forward(&target, &query, request).await
            }
            Ok(Route::Run { target, query }) => self.run(&target, &query).await,
            Ok(Route::Stop { target, grace }) if caller == Caller::Owner => {
                self.stop(&target, grace).await
            }
            // A node's pods are the API server's to end.
            Ok(Route::Stop { .. }) => Err(route::not_found()),
            Err(refusal) => Err(refusal),
        };
        answered.unwrap_or_else(Refusal::answer)
    }

    fn running(&self) -> Result<Response<Answer>, Refusal> {
        let items = self.pods.running().into_iter().map(Running::into_pod).collect();
        json(&List::<Pod> { items, ..List::default() })
    }

    fn health(&self, check: Option<&str>, query: &Query) -> Result<Response<Answer>, Refusal> {
        health::answer(check, query, self.pods.sync_loop())
    }

    fn figures(&self, page: Page) -> Result<Response<Answer>, Refusal> {
        let written = self
            .metrics
            .page(page)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
        Ok(prometheus(written))
    }

    fn list(&self) -> Result<Response<Answer>, Refusal> {
        let items = self.pods.list().iter().map(with_status).collect();
        json(&List::<Pod> { items, ..List::default() })
    }

    fn find(&self, target: &Target) -> Option<Served> {
        self.pods.list().into_iter().find(|served| target.is(&served.pod))
    }

    /// The right to one more stream, for as long as it lasts.
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        permit.map_err(|_| {
            let text = "too many streams are open: end one of them first";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, text)
        })
    }

    /// Answers with the pod as it ended.
    async fn stop(
        &self,
        target: &Target,
        grace: Option<Duration>,
    ) -> Result<Response<Answer>, Refusal> {
        let Some(mut served) = self.find(target) else { return Err(target.unknown()) };
        let uid = served.pod.metadata.uid.clone().unwrap_or_default();
        let asked = self.pods.stop(&uid, grace);
        asked.map_err(|why| Refusal::new(StatusCode::CONFLICT, why.message))?;
        // Closed: its worker is gone, and it ran to its end.
        let _ = served.snapshot.wait_for(|snapshot| snapshot.terminated).await;
        json(&with_status(&served))
    }
}

/// The pod with its status as of now.
fn with_status(served: &Served) -> Pod {
    let status = Some(served.snapshot.borrow().status.clone());
    Pod { status, ..Pod::clone(&served.pod) }
}
