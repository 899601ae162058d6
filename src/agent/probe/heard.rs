//! A stream of which the first bytes that came are kept, for what is to be said of a peer that speaks
//! something else.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept: a status line, or a frame's head.
const HEAD_MAX: usize = 128;

/// The first bytes of a stream, however far it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Head(Arc<Mutex<Vec<u8>>>);

impl Head {
    /// What has come.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line of what has come, without its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        bytes.truncate(end);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        bytes
    }

    fn add(&self, bytes: &[u8]) {
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = HEAD_MAX.saturating_sub(head.len());
        head.extend(&bytes[..bytes.len().min(missing)]);
    }
}

/// A stream that keeps its [`Head`].
#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: S,
    head: Head,
}

impl<S> Heard<S> {
    /// Keeps in `head` what comes from now on.
    pub(super) fn new(stream: S, head: &Head) -> Self {
        Self { stream, head: head.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.head.add(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
