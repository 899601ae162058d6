//! One request and its answer, over a connection of their own.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::LOCATION;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::dial::dial;
use super::super::heard::{Head, Heard};
use super::super::tls;
use super::{GetError, Request};

/// What a connection is, plain or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Moves the bytes of a connection; without an end as long as nothing is wrong.
type Driver = Fuse<BoxFuture<'static, ()>>;

/// An answer whose head has come.
pub(in super::super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Where it leads.
    pub(super) location: Option<String>,
    body: Incoming,
    driver: Driver,
    peer: Peer,
}

/// Who is spoken to, for what is to be said of it.
struct Peer {
    ends: Option<(SocketAddr, SocketAddr)>,
    head: Head,
}

impl Answer {
    /// The body, no further than `limit` bytes.
    ///
    /// # Errors
    /// [`GetError`]: what cut it off.
    pub(super) async fn body(&mut self, limit: usize) -> Result<Vec<u8>, GetError> {
        let mut whole: Vec<u8> = Vec::new();
        while whole.len() < limit {
            let frame = driven(&mut self.driver, self.body.frame()).await;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| self.peer.fault(error))?;
            let data: Bytes = frame.into_data().unwrap_or_default();
            whole.extend(&data[..data.len().min(limit - whole.len())]);
        }
        Ok(whole)
    }
}

/// What `work` gives, while the connection is driven.
async fn driven<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = &mut *driver => {}
    }
    // The connection is over: what came of it has been handed on.
    work.await
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// [`GetError`].
pub(super) async fn exchange(request: &Request) -> Result<Answer, GetError> {
    let url = &request.url;
    if !["http", "https"].contains(&&*url.scheme) {
        return Err(GetError::Scheme { scheme: url.scheme.clone() });
    }
    let written = request.written()?;
    let tcp = dial(&url.host, url.port()).await?;
    let ends = tcp.local_addr().ok().zip(tcp.peer_addr().ok());
    let head = Head::default();
    let stream: Pin<Box<dyn Stream>> = if url.is_tls() {
        let raw = Head::default();
        let spoken = tls::connect(&url.host, Heard::new(tcp, &raw)).await;
        let tls = spoken.map_err(|why| match raw.bytes().starts_with(b"HTTP/") {
            true => GetError::NoTls,
            false => GetError::Tls { why },
        })?;
        Box::pin(Heard::new(tls, &head))
    } else {
        Box::pin(Heard::new(tcp, &head))
    };
    let peer = Peer { ends, head };
    let connected = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream));
    let (mut sender, connection) = connected.await.map_err(|error| peer.fault(error))?;
    // How it ends its request or its body tells as well.
    let driver: BoxFuture<'static, ()> = Box::pin(connection.map(drop));
    let mut driver = driver.fuse();
    let response = driven(&mut driver, sender.send_request(written)).await;
    let response: Response<Incoming> = response.map_err(|error| peer.fault(error))?;
    let (head, body) = response.into_parts();
    let location = head.headers.get(LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Ok(Answer { status: head.status, location, body, driver, peer })
}

impl Peer {
    /// What went wrong, in Go's words.
    fn fault(&self, error: hyper::Error) -> GetError {
        let heard = self.head.bytes();
        if let (Some((local, remote)), Some(why)) = (self.ends, io_kind(&error)) {
            return GetError::Read { local, remote, why: why.into() };
        }
        match heard.is_empty() {
            true if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                GetError::Eof
            }
            false if !heard.starts_with(b"HTTP/") && error.is_parse() => {
                GetError::Malformed { line: self.head.line() }
            }
            // A body that ends too early is one as well.
            false if error.is_incomplete_message() || is_early_end(&error) => GetError::Cut,
            true | false => GetError::Broken { why: error },
        }
    }
}

/// What the kernel said of the connection.
fn io_kind(error: &hyper::Error) -> Option<rustix::io::Errno> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    source.raw_os_error().map(rustix::io::Errno::from_raw_os_error)
}

fn is_early_end(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::UnexpectedEof)
}
