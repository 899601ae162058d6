//! What others may ask of a running agent: the kubelet's paths over HTTP/1.1, today on a Unix
//! socket that only its own user can open.
//!
//! Owns: the paths and their parameters ([`route`]), the streams behind them ([`logs`],
//! [`exec`]), bounds on
//! connections. In: [`Pods`], which whoever runs the pods gives. Out: answers.
//! Starts one task that accepts ([`Server::start`]) and one per connection. It reads snapshots and
//! opens streams; it changes no pod: a stop is asked of [`Pods`].

mod answer;
pub(crate) mod exec;
mod logs;
mod route;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::Failure;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::answer::{Answer, Refusal, json};
use self::route::{Route, Target};
use crate::logs::watch::LogWatch;
use crate::runtime::{ExecError, ExecExit};
use crate::worker::Snapshot;

/// Connections at a time; more wait in the kernel. A user has a handful of terminals.
const CONNECTIONS: usize = 64;
/// Streams at a time, which last: some connections are always left for short answers.
const STREAMS: u32 = 48;
/// How long nothing is accepted after that has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a request's head: a command of an exec stands in its path.
const HEAD_MAX: usize = 128 << 10;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open answers may go on once the server ends: a stop's answer and the last lines of a
/// log come at once, and a reader that stalls is not waited for.
const DRAIN: Duration = Duration::from_secs(2);

/// An annotation of a served pod for each container that is an HTTP server: this and its name,
/// with the address at which it answers as its value.
pub(crate) const URL_PREFIX: &str = "url.copepod.dev/";

/// A pod that is served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The pod as it is run.
    pub(crate) pod: Arc<Pod>,
    /// What becomes of it.
    pub(crate) snapshot: watch::Receiver<Snapshot>,
}

/// The pods that are served, as whoever runs them knows them.
pub(crate) trait Pods: Send + Sync + 'static {
    /// All pods, in the order in which they are shown.
    fn list(&self) -> Vec<Served>;

    /// The directory of a container's logs.
    fn log_dir(&self, pod: &Pod, container: &str) -> PathBuf;

    /// Asks the pod of this uid to end within `grace`, its own where that is `None`. What becomes
    /// of it is seen in its snapshot.
    ///
    /// # Errors
    /// Why that cannot be asked of it now.
    fn stop(&self, uid: &str, grace: Option<Duration>) -> Result<(), Failure>;

    /// Runs a command beside a container of the pod and waits for its end. Dropped before, the
    /// command is killed.
    ///
    /// # Errors
    /// [`ExecError`]; nothing of it runs then.
    fn exec(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> impl Future<Output = Result<ExecExit, ExecError>> + Send;
}

impl Served {
    /// Whether the pod has a container of this name, init containers among them.
    fn has_container(&self, name: &str) -> bool {
        let Some(spec) = &self.pod.spec else { return false };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        init.iter().chain(&spec.containers).any(|container| container.name == name)
    }
}

/// A server at work; it ends at the latest with the event loop.
pub(crate) struct Server {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Serves `pods` on `listener`.
    ///
    /// # Errors
    /// That of watching logs.
    pub(crate) fn start(listener: UnixListener, pods: impl Pods) -> std::io::Result<Self> {
        let (end, wish) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let shared = Arc::new(Shared {
            pods,
            log_watch: LogWatch::start()?,
            streams: Arc::new(Semaphore::new(STREAMS as usize)),
        });
        tokio::spawn(async move {
            accept(listener, shared, wish).await;
            // Nobody waits any more: the agent is gone.
            let _ = done.send(());
        });
        Ok(Self { end, ended })
    }

    /// Takes no more requests and waits a moment for the answers that are under way.
    pub(crate) async fn end(self) {
        drop(self.end);
        // Its task ends with the event loop at the latest.
        let _ = self.ended.await;
    }
}

/// What all connections share.
struct Shared<P> {
    pods: P,
    log_watch: LogWatch,
    streams: Arc<Semaphore>,
}

async fn accept<P: Pods>(
    listener: UnixListener,
    shared: Arc<Shared<P>>,
    mut end: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    let (ending, ended) = watch::channel(());
    loop {
        tokio::select! {
            _ = &mut end => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared), ended.clone()));
                }
                Err(error) => {
                    // No descriptor is left, or no memory: not better at once.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop((listener, ending));
    let drained = async {
        while connections.join_next().await.is_some() {}
        // A stream that was upgraded has left its connection.
        let _ = shared.streams.acquire_many(STREAMS).await;
    };
    let _ = timeout(DRAIN, drained).await;
}

async fn serve<P: Pods>(
    stream: UnixStream,
    shared: Arc<Shared<P>>,
    mut ended: watch::Receiver<()>,
) {
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        // The server ends, and its half with it: whoever has not asked yet is let go.
        Err(_) = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // A client that went away.
        tracing::debug!(%error, "a connection ended early");
    }
}

impl<P: Pods> Shared<P> {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let answered = match Route::of(request.method(), request.uri()) {
            Ok(Route::Pods) => self.list(),
            Ok(Route::Logs { target, query }) => self.logs(&target, &query),
            Ok(Route::Exec { target, query }) => self.exec(&target, &query, request),
            Ok(Route::Stop { target, grace }) => self.stop(&target, grace).await,
            Err(refusal) => Err(refusal),
        };
        let mut answer = answered.unwrap_or_else(Refusal::answer);
        // One request a connection: a client that keeps one open holds up nobody. An upgrade says
        // what it makes of its own.
        answer.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
        answer
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
