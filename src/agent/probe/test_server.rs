//! Servers and commands that do as a test says.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Commands, Target};
use crate::runtime::{ExecError, ExecOutput};

type Ran = Result<ExecOutput, ExecError>;

/// Commands that end as a list says.
pub(super) struct Scripted {
    ends: Mutex<VecDeque<Ran>>,
    given: Mutex<Vec<(Vec<String>, Duration)>>,
}

impl Scripted {
    pub(super) fn new(ends: Vec<Ran>) -> Self {
        Self { ends: Mutex::new(ends.into()), given: Mutex::default() }
    }

    /// The commands that were run.
    pub(super) fn given(&self) -> Vec<(Vec<String>, Duration)> {
        self.given.lock().unwrap().clone()
    }
}

impl Commands for Scripted {
    async fn run(&self, command: Vec<String>, within: Duration) -> Ran {
        self.given.lock().unwrap().push((command, within));
        self.ends.lock().unwrap().pop_front().expect("no more commands are expected")
    }
}

/// What a server does once it has read a request's head.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Answers and closes.
    Says(String),
    /// Says so much and then nothing, and leaves the connection open.
    Stalls(String),
    /// Closes with what it has not read: the client's connection is reset.
    Resets,
}

/// A server on a port of its own that does one thing after the other, the last for ever.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    // Ends with this.
    _task: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(does: Vec<Does>) -> Self {
        Self::with(does, None).await
    }

    /// The same over TLS, with a certificate that nobody knows.
    pub(super) async fn tls(does: Vec<Does>) -> Self {
        Self::tls_as(does, self_signed(&[])).await
    }

    /// The same, set up so.
    pub(super) async fn tls_as(does: Vec<Does>, config: ServerConfig) -> Self {
        Self::with(does, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(does: Vec<Does>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut task = JoinSet::new();
        let texts = Arc::clone(&heard);
        task.spawn(async move {
            let mut open = JoinSet::new();
            let mut next = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let does = does[next.min(does.len() - 1)].clone();
                next += 1;
                let (tls, texts) = (tls.clone(), Arc::clone(&texts));
                open.spawn(async move {
                    // A client that leaves is not this test's affair.
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, does, &texts).await,
                            Err(error) => Err(error),
                        },
                        None => serve(stream, does, &texts).await,
                    };
                });
            }
        });
        Self { address, heard, _task: task }
    }

    /// The heads that it was sent, oldest first.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve<S>(mut stream: S, does: Does, heard: &Mutex<Vec<String>>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // What resets leaves the rest unread.
        if matches!(does, Does::Resets) && head.len() > 4 {
            return Ok(());
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(()),
            // No HTTP, but something: it is answered all the same.
            Err(_) => break,
        }
        // Not text: a client that begins with TLS waits for an answer.
        if head == [0x16] {
            break;
        }
    }
    heard.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    match does {
        Does::Says(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await
        }
        Does::Stalls(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
            std::future::pending().await
        }
        Does::Resets => Ok(()),
    }
}

/// TLS with a certificate that nobody knows, and of these protocols the first that a client offers.
pub(super) fn self_signed(protocols: &[&str]) -> ServerConfig {
    let made = rcgen::generate_simple_self_signed(vec!["nobody".into()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// An answer with this status, these headers and this body.
pub(super) fn answer(status: &str, headers: &[&str], body: &str) -> Does {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    Does::Says(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

/// A port that nobody listens at, nor can as long as this is held.
pub(super) struct ClosedPort {
    pub(super) address: SocketAddr,
    _held: TcpSocket,
}

impl ClosedPort {
    pub(super) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { address: socket.local_addr().unwrap(), _held: socket }
    }
}

/// A port whose queue is full, so that no connection is made.
pub(super) struct FullPort {
    pub(super) address: SocketAddr,
    _held: (TcpListener, Vec<TcpStream>),
}

impl FullPort {
    pub(super) async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        // As many as the kernel takes for a queue of one.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        Self { address, _held: (listener, held) }
    }
}

/// A pod and one container of it, with ports.
pub(super) fn pod() -> (Pod, Container) {
    let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 7}]});
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}});
    (serde_json::from_value(pod).unwrap(), serde_json::from_value(container).unwrap())
}

/// What a probe of the container at 127.0.0.1 comes to.
pub(super) async fn probe(probe: Value) -> copepod_pod::ProbeOutcome {
    let (pod, container) = pod();
    let ip = Some(Ipv4Addr::LOCALHOST.into());
    let target = Target { pod: &pod, container: &container, ip };
    let probe: Probe = serde_json::from_value(probe).unwrap();
    super::probe(&probe, target, &Scripted::new(Vec::new())).await
}
