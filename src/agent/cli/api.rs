//! The clients' side of [`server`](crate::server): finds the runs of this user and asks them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use reqwest::Url;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::ledger::{self, home};

/// How long a run may take to list its pods: one that is stopped (Ctrl-Z) is not waited for.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that is read as a whole: a list of pods, of 100 KiB each at the very most.
const ANSWER_MAX: usize = 64 << 20;

/// A running `copepod run`.
#[derive(Debug)]
pub(super) struct Run {
    socket: PathBuf,
    /// Its process, as the kernel tells it.
    pub(super) pid: Option<i32>,
    /// Its pods, in the order of its files.
    pub(super) pods: Vec<Pod>,
}

/// A pod of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// The run.
    pub(super) run: &'a Run,
    /// The pod.
    pub(super) pod: &'a Pod,
}

/// All runs of this user that answer. One that does not is named on standard error.
///
/// # Errors
/// A run directory that cannot be read.
pub(super) async fn runs() -> Result<Vec<Run>> {
    let sockets = ledger::api_sockets(&home::run())?;
    let mut runs = Vec::new();
    for (socket, run) in sockets.iter().zip(join_all(sockets.iter().map(look)).await) {
        match run {
            Ok(run) => runs.extend(run),
            Err(error) => super::note(&format!("{}: {error:#}", socket.display())),
        }
    }
    Ok(runs)
}

/// Asks whoever listens on `socket` for its pods; `None` if nobody does: an ended run left it.
async fn look(socket: &PathBuf) -> Result<Option<Run>> {
    let asked = async {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(e) => {
                let ended = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
                return if ended.contains(&e.kind()) { Ok(None) } else { Err(e.into()) };
            }
        };
        let pid = stream.peer_cred()?.pid();
        let mut run = Run { socket: socket.clone(), pid, pods: Vec::new() };
        let answer = send(stream, Method::GET, &address(&["pods"])?).await?;
        let list: List<Pod> = serde_json::from_slice(&whole(answer).await?)?;
        run.pods = list.items;
        Ok(Some(run))
    };
    match timeout(LIST_TIMEOUT, asked).await {
        Ok(run) => run,
        Err(_) => bail!("this run did not answer within {} s", LIST_TIMEOUT.as_secs()),
    }
}

/// The address of a path, to which parameters may be added.
///
/// # Errors
/// None in fact: its beginning is an address.
pub(super) fn address(path: &[&str]) -> Result<Url> {
    let mut url = Url::parse("http://localhost/")?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().extend(path);
    }
    Ok(url)
}

impl Run {
    /// Asks the run and gives its answer once its head is there.
    ///
    /// # Errors
    /// A run that is gone, and what it says where it refuses.
    pub(super) async fn ask(&self, method: Method, url: &Url) -> Result<Response<Incoming>> {
        send(self.connect().await?, method, url).await
    }

    /// A new connection to the run.
    ///
    /// # Errors
    /// A run that is gone.
    pub(super) async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.context("the run has ended")
    }
}

async fn send(stream: UnixStream, method: Method, url: &Url) -> Result<Response<Incoming>> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = Request::builder().method(method).uri(target).header(HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, whose reader is told what went wrong.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.context("the run ended before it answered")?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let code = answer.status();
    let text = whole(answer).await?;
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    bail!("{}", if text.is_empty() { code.to_string() } else { text })
}

/// The whole body of an answer.
///
/// # Errors
/// A run that ends meanwhile; more than it may be.
pub(super) async fn whole(answer: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    Ok(body.map_err(|e| anyhow!(e)).context("cannot read the run's answer")?.to_bytes())
}

#[cfg(test)]
impl Run {
    /// A run that nobody can ask.
    pub(super) fn of(pods: Vec<Pod>) -> Self {
        Self { socket: PathBuf::new(), pid: None, pods }
    }
}
