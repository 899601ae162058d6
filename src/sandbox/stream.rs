//! A guest's standard streams as three descriptors that the agent sent: an exec.
//!
//! They are of any kind: pipes, sockets, terminals, files. A description may be shared with other
//! processes, so none is switched to non-blocking; the one thread asks by poll(2) before each read
//! and write instead, and waits in the event loop. Files cannot be waited for and never have to be.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::linux;

#[cfg(test)]
mod tests;

/// Bytes read at once, at most: as wasmtime's own streams.
const READ_MAX: usize = 64 << 10;
/// Bytes written at once, at most: what a writable pipe takes whole (`PIPE_BUF`).
const WRITE_MAX: usize = 4096;
/// Bytes that a guest may have written and nobody has taken. A guest that goes by the interface
/// has [`WRITE_MAX`] a stream; more streams of one descriptor are for odd guests only.
const UNTAKEN_MAX: usize = 64 << 10;

/// The three streams of an exec's guest.
#[derive(Clone)]
pub(crate) struct Streams {
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) error: Output,
}

impl Streams {
    /// Takes over input, output and error; to be called within the event loop's context.
    ///
    /// # Errors
    /// What the event loop refuses.
    pub(crate) fn new([input, output, error]: [OwnedFd; 3]) -> io::Result<Self> {
        Ok(Self {
            input: Input::new(input)?,
            output: Output::new(output)?,
            error: Output::new(error)?,
        })
    }

    /// Waits until all that the guest has written is taken, or nobody reads any more.
    pub(crate) async fn finish(&mut self) {
        self.output.ready().await;
        self.error.ready().await;
    }
}

/// A descriptor with a way to wait for it.
struct Descriptor {
    waiting: Waiting,
    interest: Interest,
}

enum Waiting {
    InLoop(AsyncFd<OwnedFd>),
    /// A file, a directory, `/dev/null`: never waited for.
    Never(OwnedFd),
}

impl Descriptor {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let waiting = match linux::watch(fd, interest) {
            Ok(fd) => Waiting::InLoop(fd),
            Err(refused) => match refused.into_parts() {
                // What epoll says of such.
                (fd, e) if Errno::from_io_error(&e) == Some(Errno::PERM) => Waiting::Never(fd),
                (_, e) => return Err(e),
            },
        };
        Ok(Self { waiting, interest })
    }

    fn fd(&self) -> &OwnedFd {
        match &self.waiting {
            Waiting::InLoop(fd) => fd.get_ref(),
            Waiting::Never(fd) => fd,
        }
    }

    /// Whether the next read or write does not wait: for bytes, room, an end or an error.
    fn is_ready(&self) -> bool {
        let Waiting::InLoop(fd) = &self.waiting else { return true };
        let flags = if self.interest.is_readable() { PollFlags::IN } else { PollFlags::OUT };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        retry_on_intr(|| poll(&mut [PollFd::new(fd.get_ref(), flags)], Some(&now)))
            .is_ok_and(|ready| ready > 0)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Waiting::InLoop(fd) = &self.waiting else { return Poll::Ready(()) };
        loop {
            let polled = if self.interest.is_readable() {
                fd.poll_read_ready(cx)
            } else {
                fd.poll_write_ready(cx)
            };
            match ready!(polled) {
                Ok(mut guard) if !self.is_ready() => guard.clear_ready(),
                // Ready; or the event loop ends, and nobody waits any more.
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Reads what is there; `None` if nothing is yet.
    fn read(&self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.is_ready() {
            return None;
        }
        would_wait(retry_on_intr(|| rustix::io::read(self.fd(), &mut *buffer)))
    }

    /// Writes what is taken at once of at most [`WRITE_MAX`] bytes; `None` if nothing is yet.
    fn write(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        if !self.is_ready() {
            return None;
        }
        let piece = &bytes[..bytes.len().min(WRITE_MAX)];
        would_wait(retry_on_intr(|| rustix::io::write(self.fd(), piece)))
    }

    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(self.fd())
    }
}

/// A description that its owner made non-blocking says so itself.
fn would_wait(result: Result<usize, Errno>) -> Option<io::Result<usize>> {
    match result {
        Err(Errno::AGAIN) => None,
        other => Some(other.map_err(io::Error::from)),
    }
}

/// A broken pipe is a closed stream, which C libraries of guests tell as one again.
fn failed(error: io::Error) -> StreamError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return StreamError::Closed;
    }
    StreamError::LastOperationFailed(error.into())
}

/// The guest's standard input; all clones are one.
#[derive(Clone)]
pub(crate) struct Input {
    descriptor: Arc<Descriptor>,
    terminal: bool,
}

impl Input {
    /// Takes over a descriptor to be read; to be called within the event loop's context.
    ///
    /// # Errors
    /// What the event loop refuses.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let descriptor = Descriptor::new(fd, Interest::READABLE)?;
        let terminal = descriptor.is_terminal();
        Ok(Self { descriptor: Arc::new(descriptor), terminal })
    }

    /// Waits until something can be read, or the end is there.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.descriptor.poll_ready(cx)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.terminal
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
        poll_fn(|cx| self.descriptor.poll_ready(cx)).await;
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(size.min(READ_MAX));
        match self.descriptor.read(&mut bytes) {
            None => Ok(Bytes::new()),
            Some(Ok(0)) => Err(StreamError::Closed),
            Some(Ok(n)) => Ok(bytes.split_to(n).freeze()),
            Some(Err(e)) => Err(failed(e)),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.descriptor.poll_ready(cx));
            if let Some(read) = self.descriptor.read(buffer.initialize_unfilled()) {
                return Poll::Ready(read.map(|n| buffer.advance(n)));
            }
        }
    }
}

/// The guest's standard output or error; all clones are one.
#[derive(Clone)]
pub(crate) struct Output {
    descriptor: Arc<Descriptor>,
    /// Written by the guest and not taken yet.
    untaken: Arc<Mutex<BytesMut>>,
    terminal: bool,
}

impl Output {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let descriptor = Descriptor::new(fd, Interest::WRITABLE)?;
        let terminal = descriptor.is_terminal();
        Ok(Self { descriptor: Arc::new(descriptor), untaken: Arc::default(), terminal })
    }

    fn untaken(&self) -> MutexGuard<'_, BytesMut> {
        // Each change is whole at every step, so what a panic left is usable.
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is taken at once; whether that is all.
    fn pass_on(&self) -> io::Result<bool> {
        let mut untaken = self.untaken();
        while !untaken.is_empty() {
            match self.descriptor.write(&untaken) {
                None => return Ok(false),
                Some(Ok(n)) => untaken.advance(n),
                Some(Err(e)) => {
                    untaken.clear();
                    return Err(e);
                }
            }
        }
        Ok(true)
    }

    fn poll_passed_on(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.descriptor.poll_ready(cx));
            if self.pass_on()? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        // An error is told again by the next write: the descriptor stays as it is.
        let _ = poll_fn(|cx| self.poll_passed_on(cx)).await;
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        {
            let mut untaken = self.untaken();
            if untaken.len() + bytes.len() > UNTAKEN_MAX {
                return Err(StreamError::trap("more was written than check-write allowed"));
            }
            untaken.extend_from_slice(&bytes);
        }
        self.pass_on().map(drop).map_err(failed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.pass_on().map(drop).map_err(failed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.pass_on() {
            Ok(true) if self.descriptor.is_ready() => Ok(WRITE_MAX),
            Ok(_) => Ok(0),
            Err(e) => Err(failed(e)),
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_passed_on(cx))?;
            if let Some(written) = self.descriptor.write(bytes) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_passed_on(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_passed_on(cx)
    }
}
