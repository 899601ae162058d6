//! HTTP/2 with a server that has chosen it, driven by whoever asks: no task is started.

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Parts of a connection that are waiting to be driven: the connection itself and its one request.
const PARTS: usize = 8;

/// Bytes of an answer's headers: as many as over HTTP/1 (hyper's own bound is 16 KiB).
const HEADERS_MAX: u32 = 400 << 10;

/// Takes what a connection would start as tasks.
#[derive(Clone)]
pub(super) struct Parts(mpsc::Sender<BoxFuture<'static, ()>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Parts {
    fn execute(&self, part: F) {
        // Full it never is; closed, nobody waits for the answer any more.
        let _ = self.0.try_send(part.boxed());
    }
}

/// Greets the server. Gives what sends requests, and what moves the connection's bytes meanwhile.
///
/// # Errors
/// hyper's.
pub(super) async fn greet<S>(
    stream: S,
) -> hyper::Result<(http2::SendRequest<String>, BoxFuture<'static, ()>)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (parts, mut waiting) = mpsc::channel(PARTS);
    let mut builder = http2::Builder::new(Parts(parts));
    builder.max_header_list_size(HEADERS_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let driver = async move {
        let mut driven = FuturesUnordered::from_iter([connection.map(drop).boxed()]);
        loop {
            tokio::select! {
                Some(part) = waiting.recv() => driven.push(part),
                Some(()) = driven.next() => {}
                else => return,
            }
        }
    };
    Ok((sender, driver.boxed()))
}
