//! One connection: plain HTTP/1.1 with one request, or TLS with HTTP/2 and HTTP/1.1.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Refusal};

/// Bytes of a request's head: a command of an exec stands in its path.
const HEAD_MAX: usize = 128 << 10;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long each stage of a TLS connection may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// TLS' handshake.
    pub(super) handshake: Duration,
    /// The first request's head.
    pub(super) head: Duration,
    /// All of a connection whose client is not known yet.
    pub(super) stranger: Duration,
    /// Without a request.
    pub(super) idle: Duration,
}

/// Those of a node's server.
pub(super) const TIMES: Times = Times {
    handshake: Duration::from_secs(10),
    head: HEAD_TIMEOUT,
    // Longer than all reviews that one request can need.
    stranger: Duration::from_secs(40),
    // Upstream's `IdleTimeout`.
    idle: Duration::from_secs(90),
};

/// How long a client may take to go once it was told to.
const PARTING: Duration = Duration::from_secs(1);
/// Requests of one HTTP/2 connection at a time; Go's client opens another connection past them.
const CONCURRENT: u32 = 100;
/// Bytes that a client may send of a body: no request that is served has one that is read.
const WINDOW: u32 = 64 << 10;
/// Bytes of an answer that wait for an HTTP/2 client to take them, by stream.
const SEND_BUFFER: usize = 128 << 10;
/// How often a peer that says nothing is asked whether it is there, and how long it may take to say
/// so: a log that is followed ends with a client that has vanished. Go's server asks as often.
const ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(15));
/// How many such questions are asked in vain.
const ALIVE_PROBES: u32 = 4;
/// Bytes of a body that a request may announce: none that is served has one.
const BODY_MAX: u64 = 64 << 10;

/// Serves one request over HTTP/1.1.
pub(super) async fn plain<S, F>(
    stream: S,
    mut ended: watch::Receiver<()>,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Answer>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async {
            let mut answer = answered.await;
            // One request a connection: a client that keeps one open holds up nobody. An upgrade
            // says what it makes of its own.
            answer.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
            Ok::<_, Infallible>(answer)
        }
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

/// A client of a TLS connection, as far as TLS tells.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// The certificates that it has shown, its own first. It has the first one's key; nothing else
    /// of them is known.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
}

/// Serves requests over TLS until the client goes, says nothing for too long, or is not known.
pub(super) async fn tls<F>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    times: Times,
    mut ended: watch::Receiver<()>,
    answer: impl Fn(Client, Request<Incoming>) -> F + Send + Sync,
) where
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    keep_alive(&stream);
    let stream = match timeout(times.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let client =
        Client { certificates: certificates.iter().map(|c| c.clone().into_owned()).collect() };
    let (uses, mut seen) = watch::channel(Uses::default());
    let uses = Arc::new(uses);
    let service = service_fn(|request: Request<Incoming>| {
        let used = Used::new(&uses);
        let http1 = request.version() <= Version::HTTP_11;
        let answered = match too_large(request.body()) {
            Some(refusal) => Either::Left(async { refusal.answer() }),
            None => Either::Right(answer(client.clone(), request)),
        };
        async move {
            let mut answer = answered.await;
            let closes = closes(answer.status());
            used.uses.send_modify(|uses| {
                uses.parting |= closes;
                uses.known |= !closes;
            });
            if closes && http1 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| held(body, used)))
        }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut parting = false;
    let mut ending = false;
    loop {
        let now = *seen.borrow_and_update();
        if (now.parting || ending) && !parting {
            parting = true;
            connection.as_mut().graceful_shutdown();
        }
        let wait = match now {
            _ if parting => PARTING,
            Uses { any: false, .. } => times.head,
            Uses { known: false, .. } => times.stranger,
            Uses { known: true, .. } => times.idle,
        };
        tokio::select! {
            served = &mut connection => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            Ok(()) = seen.changed() => {}
            // A stranger that takes no answer is not waited for.
            () = sleep(wait), if now.open == 0 || !now.known => {
                if parting {
                    return;
                }
                // Said to an HTTP/2 client, so that it asks nothing more here.
                ending = true;
            }
            Err(_) = ended.changed(), if !ending => ending = true,
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would end a connection that waits for a next request as well; `Uses` tells the two
        // apart.
        .header_read_timeout(None)
        .max_buf_size(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CONCURRENT)
        .max_header_list_size(HEAD_MAX as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(ALIVE.0)
        .keep_alive_timeout(ALIVE.1);
    builder
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    /// Requests whose answers are under way.
    open: usize,
    /// Whether there was any request.
    any: bool,
    /// Whether any was of somebody who is known.
    known: bool,
    /// Whether it is to end.
    parting: bool,
}

/// A request of a connection, for as long as its answer lasts.
struct Used {
    uses: Arc<watch::Sender<Uses>>,
}

impl Used {
    fn new(uses: &Arc<watch::Sender<Uses>>) -> Self {
        uses.send_modify(|uses| (uses.open, uses.any) = (uses.open + 1, true));
        Self { uses: Arc::clone(uses) }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.uses.send_modify(|uses| uses.open -= 1);
    }
}

/// The body, with which the request ends.
fn held(body: Answer, used: Used) -> Answer {
    body.map_frame(move |frame: hyper::body::Frame<Bytes>| {
        let _ = &used;
        frame
    })
    .boxed_unsync()
}

/// Whether the connection ends with this answer: who is not known does not keep one, and a body
/// that is not read is not waited for.
fn closes(code: StatusCode) -> bool {
    matches!(code, StatusCode::UNAUTHORIZED | StatusCode::PAYLOAD_TOO_LARGE)
}

fn too_large(body: &Incoming) -> Option<Refusal> {
    let announced = body.size_hint().lower();
    let text = format!("a request's body may have {BODY_MAX} bytes");
    (announced > BODY_MAX).then(|| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text))
}

/// Sends small frames at once, and has the kernel end a connection whose peer has vanished.
fn keep_alive(stream: &TcpStream) {
    // What the kernel does not know, it does not do: the connection works all the same.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, ALIVE.0);
    let _ = sockopt::set_tcp_keepintvl(stream, ALIVE.1);
    let _ = sockopt::set_tcp_keepcnt(stream, ALIVE_PROBES);
}
