//! A client's streams over one upgraded connection, whatever it speaks there: SPDY/3.1 ([`spdy`]) or
//! a WebSocket ([`websocket`]).
//!
//! Owns: the handshake ([`upgrade`]), the two protocols, and what both give: [`Incoming`] and
//! [`Outgoing`] streams; how those meet descriptors ([`relay`]) and how an end is told ([`status`]). A connection is a future (`drive`) that lives as long as somebody polls it;
//! it starts no task. In: an upgraded connection; out: streams, and the end of that future when the
//! client is gone.

pub(super) mod relay;
pub(super) mod spdy;
pub(super) mod status;
pub(super) mod upgrade;
pub(crate) mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bytes of a client that wait for those who take them, of all its streams together. Past it nothing
/// more is read of the client, so that its kernel holds it back.
pub(super) const ROOM: usize = 256 << 10;
/// What a piece counts at least: so much is kept of it beside its bytes.
const PIECE_COST: usize = 256;
/// Pieces on their way to a client that does not take them.
pub(super) const QUEUED: usize = 8;
/// Bytes of output that are read and sent at once.
pub(super) const CHUNK: usize = 32 << 10;
/// How often a client is asked whether it is there: a command whose client is gone is ended.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client may take to go once all is said. What it still sends is taken until then: with
/// that unread the kernel would throw away what is on its way to the client.
pub(super) const PARTING: Duration = Duration::from_secs(5);

/// Nobody takes a client's stream any more, or its client is gone.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the client is gone")]
pub(super) struct Gone;

/// A client ended a stream before its end.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the client has reset the stream")]
pub(super) struct Reset;

/// What comes of a stream.
enum Came {
    Bytes(
        Bytes,
        #[expect(dead_code, reason = "held until the bytes are taken")] OwnedSemaphorePermit,
    ),
    End,
    Reset,
}

/// What a client sends over one stream.
#[derive(Debug)]
pub(super) struct Incoming(UnboundedReceiver<Came>);

impl Incoming {
    /// The next bytes; none at the stream's end, and at that of the connection.
    ///
    /// # Errors
    /// [`Reset`].
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Reset> {
        match self.0.recv().await {
            Some(Came::Bytes(bytes, _)) => Ok(Some(bytes)),
            Some(Came::Reset) => Err(Reset),
            Some(Came::End) | None => Ok(None),
        }
    }

    /// Waits until the client ends the stream both ways, whatever else comes of it.
    pub(super) async fn reset(&mut self) {
        loop {
            match self.0.recv().await {
                Some(Came::Reset) => return,
                Some(Came::Bytes(..) | Came::End) => {}
                // With the connection all ends.
                None => std::future::pending().await,
            }
        }
    }
}

impl std::fmt::Debug for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes, _) => write!(f, "{} bytes", bytes.len()),
            Self::End => f.write_str("end"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// The room of one connection.
#[derive(Clone, Debug)]
struct Room(Arc<Semaphore>);

impl Room {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }

    /// A stream of the connection: where what comes is put in, and where it comes out. Dropped, the
    /// former is its end.
    fn stream(&self) -> (Feed, Incoming) {
        let (to, from) = mpsc::unbounded_channel();
        (Feed { to, room: self.clone() }, Incoming(from))
    }
}

/// The connection's end of an [`Incoming`].
#[derive(Debug)]
struct Feed {
    to: UnboundedSender<Came>,
    room: Room,
}

impl Feed {
    /// Passes bytes on once there is room for them; drops those that nobody takes.
    async fn give(&self, bytes: Bytes) {
        if bytes.is_empty() || self.is_closed() {
            return;
        }
        let cost = u32::try_from(bytes.len().clamp(PIECE_COST, ROOM)).unwrap_or(u32::MAX);
        // Never closed.
        let Ok(permit) = Arc::clone(&self.room.0).acquire_many_owned(cost).await else { return };
        let _ = self.to.send(Came::Bytes(bytes, permit));
    }

    /// Whether nobody takes anything of it any more.
    fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// The client has said all.
    fn end(&self) {
        let _ = self.to.send(Came::End);
    }

    /// The client has ended the stream before its end.
    fn reset(self) {
        let _ = self.to.send(Came::Reset);
    }
}

/// What is sent to a client, by the stream's number.
#[derive(Debug)]
pub(super) enum Out {
    /// The stream is taken.
    Reply(u32),
    /// Bytes of it; none is said as well.
    Data(u32, Bytes),
    /// No more bytes come of it.
    End(u32),
    /// It is over, both ways.
    Reset(u32),
}

/// What is sent to a client over one stream. The connection ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    stream: u32,
    to: mpsc::Sender<Out>,
}

impl Outgoing {
    /// A stream of this number over the connection that `to` leads to.
    fn new(stream: u32, to: mpsc::Sender<Out>) -> Self {
        Self { stream, to }
    }

    async fn out(&self, out: Out) -> Result<(), Gone> {
        self.to.send(out).await.map_err(|_| Gone)
    }

    /// Sends bytes; waits while too much is on its way.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.out(Out::Data(self.stream, bytes.into())).await
    }

    /// Says that the stream is taken.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn reply(&self) -> Result<(), Gone> {
        self.out(Out::Reply(self.stream)).await
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn end(&self) -> Result<(), Gone> {
        self.out(Out::End(self.stream)).await
    }

    /// Ends the stream, both ways.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn reset(&self) -> Result<(), Gone> {
        self.out(Out::Reset(self.stream)).await
    }
}

/// The streams of a command's client, those that it asked for.
#[derive(Debug)]
pub(super) struct Client {
    /// What the command reads.
    pub(super) stdin: Option<Incoming>,
    /// What it writes.
    pub(super) stdout: Option<Outgoing>,
    /// What it writes of errors.
    pub(super) stderr: Option<Outgoing>,
    /// The sizes of the client's terminal.
    pub(super) resize: Option<Incoming>,
    /// How it ended.
    pub(super) error: Outgoing,
    /// Whether that is said as a `Status`; else as a text, and nothing if all went well (what
    /// protocols before `v4` have).
    pub(super) statuses: bool,
}

/// Which of a command's streams a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `input`
    pub(super) stdin: bool,
    /// `output`
    pub(super) stdout: bool,
    /// `error`, never with a terminal
    pub(super) stderr: bool,
    /// `tty`
    pub(super) tty: bool,
}

/// When a connection was last used for anything but to ask whether the client is there.
#[derive(Debug)]
pub(super) struct Activity {
    since: Instant,
    last_ms: AtomicU64,
    limit: Duration,
}

impl Activity {
    pub(super) fn new(limit: Duration) -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0), limit }
    }

    pub(super) fn touch(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(last) > self.limit
    }
}
