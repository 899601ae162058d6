//! The connections of one kind of request, and their streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::client::conn::http2::SendRequest;
use kube::client::Body;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::STREAMS_MAX;
use super::dial::{DialError, Endpoint};

/// A stream of a connection, from before its request until its answer is dropped.
pub(super) type Stream = OwnedSemaphorePermit;

/// The connections of one kind of request.
pub(super) struct Lane {
    endpoint: Arc<Endpoint>,
    connections_max: usize,
    /// How many connections could not be made.
    failures: AtomicU64,
    /// Held while a connection is made, so that all who want one share it.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    connections: Vec<Connection>,
    /// Why the last one could not be made.
    failure: Option<Arc<DialError>>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    streams: Arc<Semaphore>,
}

impl Connection {
    fn stream(&self) -> Option<(SendRequest<Body>, Stream)> {
        let stream = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        Some((self.sender.clone(), stream))
    }

    fn is_idle(&self) -> bool {
        self.streams.available_permits() == STREAMS_MAX
    }
}

impl Lane {
    pub(super) fn new(endpoint: Arc<Endpoint>, connections_max: usize) -> Self {
        let (failures, open) = (AtomicU64::default(), Mutex::default());
        Self { endpoint, connections_max, failures, open }
    }

    /// A free stream, on a new connection if need be.
    ///
    /// # Errors
    /// Why there is no connection; also that of who tried it while we waited.
    pub(super) async fn stream(&self) -> Result<(SendRequest<Body>, Stream), Arc<DialError>> {
        let failures = self.failures.load(Ordering::Relaxed);
        let mut open = self.open.lock().await;
        open.connections.retain(|connection| !connection.sender.is_closed());
        if let Some(found) = open.connections.iter().find_map(Connection::stream) {
            open.drop_spare();
            return Ok(found);
        }
        if open.connections.len() >= self.connections_max
            && let Some(last) = open.connections.last().cloned()
        {
            drop(open);
            if let Ok(stream) = last.streams.acquire_owned().await {
                return Ok((last.sender, stream));
            }
            // Nobody closes these semaphores; were it so, a connection more does no harm.
            open = self.open.lock().await;
        }
        if failures != self.failures.load(Ordering::Relaxed)
            && let Some(failure) = &open.failure
        {
            return Err(Arc::clone(failure));
        }
        match self.endpoint.dial().await {
            Ok(sender) => {
                let streams = Arc::new(Semaphore::new(STREAMS_MAX));
                let connection = Connection { sender, streams };
                let first = connection.stream();
                open.failure = None;
                open.connections.push(connection);
                first.ok_or_else(|| Arc::new(DialError::Streams))
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                open.failure = Some(Arc::clone(&failure));
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(failure)
            }
        }
    }
}

impl Open {
    /// Ends connections that nobody uses, all but the first.
    fn drop_spare(&mut self) {
        let mut first = true;
        self.connections.retain(|connection| std::mem::take(&mut first) || !connection.is_idle());
    }
}
