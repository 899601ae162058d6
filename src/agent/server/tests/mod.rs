//! A node's server as its clients see it: real sockets, real certificates; the pods and the API
//! server's word alone are made up.

mod access;
mod limits;
mod paths;
mod streams;

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use copepod_pod::Failure;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::PodStatus;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::runtime::{Attach, ExecError, ExecExit, ExecOutput, RefusalKind, StreamRequest};
use crate::worker::Snapshot;

/// Longer than anything takes that works.
const SOON: Duration = Duration::from_secs(30);
const NODE: &str = "node-1";

/// An authority that signs certificates.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, valid until a year.
    fn sign(&self, name: &str, group: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![NODE.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        (params.signed_by(&key, &self.issuer).expect("signs").pem(), key.serialize_pem())
    }
}

/// Far from now.
const LATER: i32 = 2090;

/// Lets `admin` do everything and anybody else nothing; `good` is the admin's token.
struct Script;

impl Reviewer for Script {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewed, ReviewError>> {
        let user = User { name: "admin".into(), ..User::default() };
        let good = token == "good";
        let said = if good { TokenReviewed::Of(user) } else { TokenReviewed::Refused("no".into()) };
        async { Ok(said) }.boxed()
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        assert_eq!(access.node, NODE);
        let may = user.name == "admin" && user.groups.iter().any(|g| g == "system:authenticated");
        async move { Ok(may) }.boxed()
    }
}

/// One pod `ns/p` with the containers `c`, which runs, `t`, which has a terminal, `o`, which is another
/// runtime's, and `w`, which waits.
#[derive(Clone)]
struct Fake(Arc<FakePods>);

struct FakePods {
    served: Served,
    snapshot: watch::Sender<Snapshot>,
    logs: PathBuf,
    trouble: Mutex<Option<String>>,
    /// Where the other runtime streams.
    runtime: Mutex<Option<String>>,
}

/// Copies until the end.
async fn cat(from: OwnedFd, to: OwnedFd) {
    let copy = move || std::io::copy(&mut fs::File::from(from), &mut fs::File::from(to));
    // Nobody reads any more.
    let _ = tokio::task::spawn_blocking(copy).await.expect("copies");
}

impl Pods for Fake {
    fn list(&self) -> Vec<Served> {
        vec![self.0.served.clone()]
    }

    fn log_dir(&self, _: &Pod, container: &str) -> PathBuf {
        self.0.logs.join(container)
    }

    fn stop(&self, _: &str, _: Option<Duration>) -> Result<(), Failure> {
        panic!("a node's server stops no pod");
    }

    async fn exec(
        &self,
        _: &Served,
        container: &str,
        command: Vec<String>,
        [stdin, stdout, _]: [OwnedFd; 3],
    ) -> Result<ExecExit, ExecError> {
        match &*command.join(" ") {
            "cat" => {
                cat(stdin, stdout).await;
                return Ok(ExecExit { code: 0, message: String::new() });
            }
            "wait" => std::future::pending().await,
            "none" => return Err(ExecError::NotRunning(container.into())),
            _ => {}
        }
        let text = format!("{container}: {}\n", command.join(" "));
        fs::File::from(stdout).write_all(text.as_bytes()).expect("writes");
        Ok(ExecExit { code: 3, message: String::new() })
    }

    async fn attach(&self, _: &Served, _: &str, attach: Attach) -> Result<(), ExecError> {
        let (stdin, stdout) = (attach.stdin.expect("in"), attach.stdout.expect("out"));
        rustix::io::ioctl_fionbio(&stdout, false).expect("is set");
        rustix::io::write(&stdout, b"attached\n").expect("writes");
        cat(stdin, stdout).await;
        Ok(())
    }

    async fn stream_url(
        &self,
        _: &Served,
        container: &str,
        _: StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        let runtime = self.0.runtime.lock().expect("whole").clone();
        match (container, runtime) {
            ("o", Some(runtime)) => Ok(Some(runtime)),
            ("o", None) => {
                let (kind, message) = (RefusalKind::Exhausted, "too many".into());
                Err(ExecError::Runtime { kind, message })
            }
            _ => Ok(None),
        }
    }

    async fn port_forward_url(&self, _: &Served, _: &[u16]) -> Result<Option<String>, ExecError> {
        Ok(None)
    }

    async fn connect(&self, _: &Served, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|_| "refused".into())
    }

    async fn exec_sync(
        &self,
        _: &Served,
        _: &str,
        command: Vec<String>,
        _: usize,
    ) -> Result<ExecOutput, ExecError> {
        let code = i32::from(command[0] == "fail");
        Ok(ExecOutput { code, stdout: command.join(",").into(), stderr: b"!".into() })
    }

    fn running(&self) -> Vec<Running> {
        let container = ("c".to_owned(), "registry.example/c:1".to_owned());
        let [namespace, name, uid] = ["ns", "p", "uid-1"].map(String::from);
        vec![Running { namespace, name, uid, containers: vec![container] }]
    }

    fn sync_loop(&self) -> Result<(), String> {
        self.0.trouble.lock().expect("whole").clone().map_or(Ok(()), Err)
    }
}

fn status(state: serde_json::Value) -> PodStatus {
    let container = |name: &str, state: serde_json::Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let waits = container("w", json!({"waiting": {"reason": "ContainerCreating"}}));
    let status = json!({"phase": "Running", "containerStatuses": [container("c", state), waits]});
    serde_json::from_value(status).expect("a status")
}

impl Fake {
    fn new(dir: &Path) -> Self {
        let pod = json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "uid-1"},
            "spec": {"containers": [
                {"name": "c", "image": "registry.example/c:1"},
                {"name": "w"},
                {"name": "o"},
                {"name": "t", "tty": true},
            ]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        let status = status(json!({"running": {"startedAt": "2026-11-25T00:00:00Z"}}));
        let first = Snapshot { status, trouble: None, terminated: false };
        let (snapshot, seen) = watch::channel(first);
        let logs = dir.join("logs");
        fs::create_dir_all(logs.join("c")).expect("makes");
        let served = Served { pod: Arc::new(pod), snapshot: seen, alias: None };
        Self(Arc::new(FakePods {
            served,
            snapshot,
            logs,
            trouble: Mutex::default(),
            runtime: Mutex::default(),
        }))
    }

    /// Lets `c` end.
    fn end(&self) {
        let end = json!({"terminated": {"exitCode": 0, "containerID": "wasm://1"}});
        self.0.snapshot.send_modify(|snapshot| snapshot.status = status(end));
    }

    fn log(&self, line: &str) {
        let path = self.0.logs.join("c/0.log");
        let mut file = fs::File::options().create(true).append(true).open(path).expect("opens");
        writeln!(file, "2026-11-25T00:00:00Z stdout F {line}").expect("writes");
    }
}

/// A server with its authority of clients, and what a client needs to trust it.
struct Node {
    server: Server,
    address: SocketAddr,
    pods: Fake,
    metrics: Arc<Metrics>,
    dir: TempDir,
    clients: Ca,
    roots: RootCertStore,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    async fn start_with(change: impl FnOnce(&Path, &mut ServerOptions)) -> Self {
        Self::start_in(TIMES, change).await
    }

    async fn start_in(times: Times, change: impl FnOnce(&Path, &mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clients = Ca::new("clients");
        fs::write(dir.path().join("clients.crt"), &clients.pem).expect("writes");
        let mut options = ServerOptions {
            node_name: NODE.into(),
            tls: TlsOptions {
                certificate: ServingCertificate::SelfSigned {
                    dir: dir.path().join("pki"),
                    host: NODE.into(),
                    addresses: vec![Ipv4Addr::LOCALHOST.into()],
                },
                min_version: TlsVersion::V12,
                cipher_suites: Vec::new(),
            },
            authentication: AuthenticationOptions {
                anonymous: false,
                token_ttl: Some(Duration::from_secs(120)),
                client_ca_file: Some(dir.path().join("clients.crt")),
            },
            authorization: AuthorizationMode::Webhook {
                allowed_ttl: Duration::from_secs(300),
                denied_ttl: Duration::from_secs(30),
            },
            debugging_handlers: true,
            stream_idle: STREAM_IDLE,
        };
        change(dir.path(), &mut options);
        let pods = Fake::new(dir.path());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let metrics = Metrics::new().expect("figures");
        let of_node = (pods.clone(), Arc::clone(&metrics));
        let server = Server::serve_tls(listener, of_node, Arc::new(Script), options, times);
        let mut roots = RootCertStore::empty();
        for authority in ["pki/kubelet.crt", "serving-ca.crt"] {
            if let Ok(pem) = fs::read(dir.path().join(authority)) {
                roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a root");
            }
        }
        Self { server: server.expect("starts"), address, pods, metrics, dir, clients, roots }
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn config(&self, identity: Option<(String, String)>, alpn: &[&str]) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots.clone());
        let mut config = match identity {
            Some((certificate, key)) => {
                let chain =
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A client with this identity, that speaks HTTP/1.1 or, if it may, HTTP/2.
    fn client(&self, identity: Option<(String, String)>, http2: bool) -> Client {
        let alpn: &[&str] = if http2 { &["h2", "http/1.1"] } else { &["http/1.1"] };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.config(identity, alpn))
            .timeout(SOON)
            .build()
            .expect("a client");
        Client { client, base: format!("https://{}", self.address()) }
    }

    fn admin(&self) -> Client {
        self.client(Some(self.clients.sign("admin", "masters", LATER)), true)
    }

    /// A connection over TLS from an address of this host, for what no HTTP client does.
    async fn connect(&self, from: [u8; 4], config: ClientConfig) -> TlsStream<TcpStream> {
        let stream = connect(self.address(), from).await;
        let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
    }
}

async fn connect(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::from(from), 0).into()).expect("binds");
    socket.connect(to).await.expect("connects")
}

#[derive(Clone)]
struct Client {
    client: reqwest::Client,
    base: String,
}

impl Client {
    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    /// Code and body.
    async fn ask(&self, path: &str) -> (u16, String) {
        answered(self.get(path)).await
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}
