//! Clients that are attached to the guest: copies of what it writes, and what it reads.
//!
//! Owns: the ends of pipes that the agent has sent. A pipe of output that is full holds the guest up
//! while its client takes anything at all, as a usual runtime does, but not for longer than
//! [`PATIENCE`] without that: such a client is let go of. What the guest reads it reads from one
//! client after the other, in the order in which they came.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use copepod_wasm::Stdin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use crate::log::Stream;
use crate::stream;

/// How long the guest waits for a client that takes nothing: a client on a slow link takes something
/// in any such time, and a server of HTTP that is held up for so long once is not restarted for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients of either kind at a time; the agent sends no more.
const CLIENTS: usize = 8;

/// Copies of the guest's output.
#[derive(Debug, Default)]
pub(crate) struct Copies(Vec<(Stream, OwnedFd)>);

impl Copies {
    /// One more client gets what is written to `stream` from now on.
    pub(crate) fn add(&mut self, stream: Stream, pipe: OwnedFd) {
        // Two for each client.
        if self.0.len() < 2 * CLIENTS {
            self.0.push((stream, pipe));
        }
    }

    /// Gives all clients of the stream what was written to it; forgets those that are gone or take
    /// nothing.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.0.retain(|(of, pipe)| *of != stream || write_all(pipe, bytes));
    }
}

/// Whether all was taken.
fn write_all(pipe: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match write(pipe, bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let patience = Timespec::try_from(PATIENCE).ok();
                match poll(&mut [PollFd::new(pipe, PollFlags::OUT)], patience.as_ref()) {
                    Ok(0) => return false,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// What a guest reads that clients send; all clones are one.
#[derive(Clone)]
pub(crate) struct Input(Arc<Mutex<Inner>>);

struct Inner {
    /// The first is read, until its end.
    clients: VecDeque<stream::Input>,
    kind: Stdin,
    /// Who waits for a client while there is none.
    waiting: Vec<Waker>,
}

impl Input {
    /// Nobody is attached yet.
    pub(crate) fn new(kind: Stdin) -> Self {
        let inner = Inner { clients: VecDeque::new(), kind, waiting: Vec::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is whole at every step, so what a panic left is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more client sends what the guest reads; to be called within the event loop's context. One
    /// too many, or one that comes after the end, is let go of.
    pub(crate) fn add(&self, pipe: OwnedFd) {
        let mut inner = self.lock();
        if inner.kind != Stdin::Closed
            && inner.clients.len() < CLIENTS
            && let Ok(client) = stream::Input::new(pipe)
        {
            inner.clients.push_back(client);
            inner.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// Whether something can be read, or the end is there.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.kind == Stdin::Closed {
            return Poll::Ready(());
        }
        match inner.clients.front() {
            Some(client) => client.poll_ready(cx),
            None => {
                if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    inner.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// What is there to be read, at most `size` bytes; nothing if it has to be waited for.
    fn read_now(&self, size: usize) -> StreamResult<Bytes> {
        let mut inner = self.lock();
        loop {
            if inner.kind == Stdin::Closed {
                return Err(StreamError::Closed);
            }
            let Some(client) = inner.clients.front_mut() else { return Ok(Bytes::new()) };
            match client.read(size) {
                Ok(bytes) => return Ok(bytes),
                // Its end: that of all, or the next one's turn.
                Err(_) => {
                    inner.clients.pop_front();
                    if inner.kind == Stdin::Once {
                        inner.kind = Stdin::Closed;
                        inner.clients.clear();
                    }
                }
            }
        }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        self.read_now(size)
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_ready(cx));
            match self.read_now(buffer.remaining()) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                // Closed: the end.
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};

    use rustix::io::ioctl_fionbio;
    use tokio::io::AsyncReadExt;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn each_client_gets_its_streams_until_it_goes() {
        let (mut copies, mut bytes) = (Copies::default(), [0; 16]);
        let mut client = |stream| {
            let (from, to) = pipe().expect("a pipe");
            ioctl_fionbio(&to, true).expect("is set");
            copies.add(stream, to.into());
            from
        };
        let (mut out, mut err) = (client(Stream::Stdout), client(Stream::Stderr));
        let gone = client(Stream::Stdout);
        drop(gone);
        copies.write(Stream::Stdout, b"out");
        copies.write(Stream::Stderr, b"err");
        assert_eq!(copies.0.len(), 2, "who is gone is forgotten");
        for (pipe, text) in [(&mut out, b"out"), (&mut err, b"err")] {
            let len = pipe.read(&mut bytes).expect("reads");
            assert_eq!(&bytes[..len], text);
        }
    }

    fn read(input: &Input, clients: Vec<OwnedFd>) -> String {
        let runtime = Builder::new_current_thread().enable_io().build().expect("an event loop");
        runtime.block_on(async {
            let mut all = input.async_stream_pinned();
            let mut bytes = [0; 64];
            let reading = async {
                let len = all.read(&mut bytes).await.expect("reads");
                String::from_utf8_lossy(&bytes[..len]).into_owned()
            };
            let adding = async { clients.into_iter().for_each(|client| input.add(client)) };
            tokio::join!(reading, adding).0
        })
    }

    impl Input {
        fn async_stream_pinned(&self) -> Pin<Box<dyn AsyncRead + Send + Sync>> {
            Box::into_pin(self.async_stream())
        }
    }

    fn sent(text: &str) -> OwnedFd {
        let (from, mut to) = pipe().expect("a pipe");
        to.write_all(text.as_bytes()).expect("fits");
        from.into()
    }

    #[test]
    fn the_guest_reads_one_client_after_the_other() {
        let open = Input::new(Stdin::Open);
        assert_eq!(read(&open, vec![sent(""), sent("two")]), "two");
        assert_eq!(read(&open, vec![sent("three")]), "three", "it waits for the next");
        let once = Input::new(Stdin::Once);
        assert_eq!(read(&once, vec![sent("one"), sent("two")]), "one");
        assert_eq!(read(&once, Vec::new()), "", "the end of the first is the end");
        assert_eq!(read(&Input::new(Stdin::Closed), vec![sent("x")]), "");
    }
}
