//! The server of a `wasi:http` component.
//!
//! Owns: the listeners, the connections, the stop. Tasks: one per connection, one per request in
//! flight. In: requests, SIGTERM; out: responses, and the exit record when the server ends.
//!
//! Stop, as a Kubernetes server does it: SIGTERM comes while endpoints still point here, so the
//! server goes on accepting, with `Connection: close` on each response, until no connection has
//! come for [`QUIET`] or half of the grace is over; then it closes its listeners, finishes what is
//! in flight, and ends with 0. What does not finish is killed by the agent at the grace's end.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use copepod_wasm::state::Exit;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::exit;
use crate::guest::{ComponentState, Template};
use crate::log::Log;
use crate::request::Handler;
use crate::timer::TokioTimer;

/// Connections served at once; further ones wait in the listener's backlog. A connection is a
/// descriptor, and the usual soft limit is 1024 of those.
pub(crate) const CONNECTIONS: usize = 1024;
/// Requests at work at once. One per connection, but a guest may work on after its response.
const REQUESTS: usize = CONNECTIONS;
/// How long a client may take to send a request's head; as long an idle connection is kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Largest request head, in bytes: what proxies take at most, with room. Also the largest piece of
/// a body that is read at once.
const HEAD_MAX: usize = 32 << 10;
/// Headers of a request, at most.
const HEADERS: usize = 128;
/// So long no new connection comes once the endpoints have forgotten this server.
const QUIET: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is mostly for want of descriptors: time for one to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All permits of connections, or of requests: who has them knows that no task is left.
const ALL: u32 = CONNECTIONS as u32;

/// A server that is bound and ready to serve.
pub(crate) struct Server {
    listeners: Vec<TcpListener>,
    terminate: Signal,
    grace: Duration,
    handler: Arc<Handler>,
    /// A guest that failed for want of memory ends the container.
    fatal: mpsc::Receiver<Exit>,
    /// Set from SIGTERM on: each response closes its connection.
    stopping: Arc<AtomicBool>,
    /// Set when connections are to end with the request they are at.
    closing: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Server {
    /// Takes bound, non-blocking listeners; to be called within the event loop's context and
    /// before the jail, since it installs the handler of SIGTERM.
    ///
    /// # Errors
    /// What the event loop refuses.
    pub(crate) fn new(
        pre: ProxyPre<ComponentState>,
        template: Template,
        log: Log,
        listeners: Vec<StdListener>,
        grace_seconds: u64,
    ) -> io::Result<Self> {
        // One end of the container is all that is ever told.
        let (failed, fatal) = mpsc::channel(1);
        Ok(Self {
            listeners: listeners
                .into_iter()
                .map(TcpListener::from_std)
                .collect::<Result<_, _>>()?,
            terminate: signal(SignalKind::terminate())?,
            grace: Duration::from_secs(grace_seconds),
            handler: Arc::new(Handler::new(pre, template, log, failed)),
            fatal,
            stopping: Arc::new(AtomicBool::new(false)),
            closing: watch::Sender::new(false),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        })
    }

    /// Serves until SIGTERM and all that is to be finished after it, or until the guest fails for
    /// want of memory.
    pub(crate) async fn serve(mut self) -> Exit {
        let (_, mut fatal) = mpsc::channel(1);
        std::mem::swap(&mut fatal, &mut self.fatal);
        tokio::select! {
            () = self.serve_and_stop() => exit::exited(0),
            Some(exit) = fatal.recv() => exit,
        }
    }

    async fn serve_and_stop(&mut self) {
        loop {
            // Cancel-safe: an accept that is dropped has taken no connection.
            tokio::select! {
                (stream, permit) = accept(&self.listeners, &self.connections) => {
                    self.spawn(stream, permit);
                }
                _ = self.terminate.recv() => break,
            }
        }
        self.stopping.store(true, Ordering::Relaxed);
        let half = Instant::now() + self.grace / 2;
        while let Ok((stream, permit)) =
            timeout_at(half.min(Instant::now() + QUIET), accept(&self.listeners, &self.connections))
                .await
        {
            self.spawn(stream, permit);
        }
        self.listeners.clear();
        self.closing.send_replace(true);
        // Neither is ever closed: the permits come back when the tasks have ended.
        let _ = self.connections.acquire_many(ALL).await;
        let _ = self.requests.acquire_many(ALL).await;
    }

    /// Serves one connection, in a task that holds the permit.
    fn spawn(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        // Small responses go out at once; a refusal costs only time.
        let _ = stream.set_nodelay(true);
        let handler = self.handler.clone();
        let requests = self.requests.clone();
        let stopping = self.stopping.clone();
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                handler.clone().handle(request, requests.clone(), stopping.clone())
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer)
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(HEAD_MAX)
                .max_headers(HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let over = tokio::select! {
                _ = connection.as_mut() => true,
                _ = closing.changed() => false,
            };
            // What goes wrong with a connection is its client's to see.
            if !over {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(permit);
        });
    }
}

/// The next connection of any listener, once there is room for it.
async fn accept(
    listeners: &[TcpListener],
    room: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let accepted = async {
            let Ok(permit) = room.clone().acquire_owned().await else {
                // The semaphore is never closed.
                return std::future::pending().await;
            };
            let stream = poll_fn(|cx| {
                for listener in listeners {
                    if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                        return Poll::Ready(accepted);
                    }
                }
                Poll::Pending
            })
            .await?;
            io::Result::Ok((stream.0, permit))
        };
        match accepted.await {
            Ok(accepted) => return accepted,
            // The client has gone already, or descriptors are short.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
