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
use super::{GetError, Request, h2};

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
    is_h2: bool,
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
            let frame = frame.map_err(|error| self.peer.fault_of_body(error))?;
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
    let mut is_h2 = false;
    let stream: Pin<Box<dyn Stream>> = if url.is_tls() {
        let raw = Head::default();
        let spoken = tls::connect(&url.host, Heard::new(tcp, &raw), request.is_probe).await;
        let tls = spoken.map_err(|why| no_tls(&raw.bytes(), why))?;
        is_h2 = tls.get_ref().1.alpn_protocol() == Some(tls::H2);
        Box::pin(Heard::new(tls, &head))
    } else {
        Box::pin(Heard::new(tcp, &head))
    };
    let peer = Peer { ends, head, is_h2 };
    let answered = match is_h2 {
        true => by_h2(stream, request.over_h2(written)?).await,
        false => by_h1(stream, written).await,
    };
    let (response, driver) = answered.map_err(|error| peer.fault(error))?;
    let (head, body) = response.into_parts();
    let location = head.headers.get(LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Ok(Answer { status: head.status, location, body, driver, peer })
}

/// Headers that an answer over HTTP/1 may have: ten times hyper's own bound. Go counts their bytes
/// alone, which are bounded here as well (hyper: 400 KiB).
const HEADERS_MAX: usize = 1000;

type Answered = (Response<Incoming>, Driver);

async fn by_h1(
    stream: impl Stream + 'static,
    written: hyper::Request<String>,
) -> hyper::Result<Answered> {
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // How it ends its request or its body tells as well.
    let mut driver = connection.map(drop).boxed().fuse();
    Ok((driven(&mut driver, sender.send_request(written)).await?, driver))
}

async fn by_h2(
    stream: impl Stream + 'static,
    written: hyper::Request<String>,
) -> hyper::Result<Answered> {
    let (mut sender, driver) = h2::greet(stream).await?;
    let mut driver = driver.fuse();
    Ok((driven(&mut driver, sender.send_request(written)).await?, driver))
}

/// Why TLS did not come about with who said this first.
fn no_tls(heard: &[u8], why: io::Error) -> GetError {
    if let Some(alert) = tls::alert(&why) {
        return GetError::Alert { alert };
    }
    // A record of TLS begins with what it holds: an alert or a handshake.
    match heard.first() {
        Some(_) if heard.starts_with(b"HTTP/") => GetError::NoTls,
        Some(first) if ![0x15, 0x16].contains(first) => GetError::NotTls,
        None if why.kind() == io::ErrorKind::UnexpectedEof => GetError::Eof,
        Some(_) | None => GetError::Tls { why },
    }
}

impl Peer {
    /// What went wrong before there was a head.
    fn fault(&self, error: hyper::Error) -> GetError {
        if let Some(broken) = self.broken(&error) {
            return broken;
        }
        if self.is_h2 {
            return GetError::H2 { why: error };
        }
        if self.head.bytes().is_empty() {
            return match error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
                true => GetError::Eof,
                false => GetError::Broken { why: error },
            };
        }
        match error.is_parse() {
            true => malformed(&self.head.line()).unwrap_or(GetError::Broken { why: error }),
            false if error.is_incomplete_message() => GetError::Cut,
            false => GetError::Broken { why: error },
        }
    }

    /// What went wrong with a body.
    fn fault_of_body(&self, error: hyper::Error) -> GetError {
        if self.is_h2 {
            return GetError::H2 { why: error };
        }
        let early = io_error(&error).is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
        match error.is_incomplete_message() || error.is_closed() || early {
            true => GetError::CutBody,
            false => self.broken(&error).unwrap_or(GetError::Broken { why: error }),
        }
    }

    /// What the server said of TLS, or the kernel of the connection.
    fn broken(&self, error: &hyper::Error) -> Option<GetError> {
        let error = io_error(error)?;
        // A server that is content with a handshake may see only then that a certificate is missing.
        if let Some(alert) = tls::alert(error) {
            return Some(GetError::Alert { alert });
        }
        let (local, remote) = self.ends?;
        let code = error.raw_os_error()?;
        Some(GetError::Read { local, remote, why: io::Error::from_raw_os_error(code) })
    }
}

fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// What is wrong with a status line, if anything is.
fn malformed(line: &[u8]) -> Option<GetError> {
    let text = String::from_utf8_lossy(line);
    let (what, text) = match text.split_once(' ') {
        None => ("response", line.to_vec()),
        Some((version, rest)) => {
            let code = rest.trim_start_matches(' ').split(' ').next().unwrap_or_default();
            if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
                ("status code", code.into())
            } else if version.starts_with("HTTP/") {
                return None;
            } else {
                ("version", version.into())
            }
        }
    };
    Some(GetError::Malformed { what, text })
}
