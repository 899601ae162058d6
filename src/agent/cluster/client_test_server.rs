//! An HTTP/2 server with a certificate of its own authority, for tests: what it answers is a
//! function of the test, what it was asked is kept.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::client::{Options, connect};
use super::kubeconfig::Kubeconfig;

/// The node of all tests.
pub(super) const NODE: &str = "edge-1";
/// Far more than anything takes that has to come, on a machine with other work too.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A client's times where none of them is what is tested.
pub(super) fn patient() -> Options {
    Options { call_time: PATIENCE, connect_time: PATIENCE, ..Options::default() }
}

/// A certificate authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test ca");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn server(&self) -> Pair {
        let mut params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client certificate that is good in these years.
    pub(super) fn client(&self, name: &str, group: &str, years: [i32; 2]) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        [params.not_before, params.not_after] = years.map(|year| date_time_ymd(year, 1, 1));
        self.sign(params)
    }

    pub(super) fn node(&self) -> Pair {
        self.client(&format!("system:node:{NODE}"), "system:nodes", [2020, 2099])
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    /// Of which connection, from 0.
    pub(super) connection: usize,
}

impl Asked {
    /// Method and path with its query.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.uri.path_and_query().unwrap())
    }

    pub(super) fn is_watch(&self) -> bool {
        self.uri.query().unwrap_or_default().contains("watch=true")
    }
}

/// What is answered.
pub(super) enum Reply {
    Json(u16, Value),
    /// Status, `Retry-After`, text.
    Busy(u16, &'static str, &'static str),
    /// What is sent to it, as it comes.
    Stream(mpsc::UnboundedReceiver<Bytes>),
    /// Nothing, ever.
    Never,
}

type Handler = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// The server; it ends when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) authority: Authority,
    /// All requests so far.
    pub(super) asked: watch::Receiver<Vec<Asked>>,
    tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", Authority::new(), handler).await
    }

    pub(super) async fn start_at(
        address: &str,
        authority: Authority,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let pair = authority.server();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ));
        let mut tls = tls
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let (asked, shown) = watch::channel(Vec::new());
        let (handler, asked): (Handler, _) = (Arc::new(handler), Arc::new(asked));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, handler, asked) = (acceptor.clone(), handler.clone(), asked.clone());
                connections.spawn(serve(tcp, acceptor, number, handler, asked));
            }
        });
        Self { address, authority, asked: shown, tasks }
    }

    /// Ends all connections and does not listen any more.
    pub(super) async fn stop(mut self) -> (SocketAddr, Authority) {
        self.tasks.shutdown().await;
        (self.address, self.authority)
    }

    /// Waits until so many requests have come: all of them then.
    pub(super) async fn wait(&mut self, count: usize) -> Vec<Asked> {
        let asked = timeout(PATIENCE, self.asked.wait_for(|asked| asked.len() >= count)).await;
        let asked = asked.map(|asked| asked.unwrap().clone());
        asked.unwrap_or_else(|_| {
            let came: Vec<String> = self.asked.borrow().iter().map(Asked::line).collect();
            panic!("not {count} requests: {came:#?}")
        })
    }

    pub(super) fn client(&self, options: Options) -> kube::Client {
        self.client_at(self.address, options)
    }

    /// A client that goes to another address, as to a proxy.
    pub(super) fn client_at(&self, address: SocketAddr, options: Options) -> kube::Client {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let text = kubeconfig(&address.to_string(), &self.authority.pem(), &self.authority.node());
        std::fs::write(&path, text.to_string()).unwrap();
        connect(&Kubeconfig::read(&path, NODE, Timestamp::now()).unwrap(), options)
    }
}

/// A kubeconfig with everything in it.
pub(super) fn kubeconfig(address: &str, authority: &str, client: &Pair) -> Value {
    use base64::Engine;
    let data = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": data(authority),
        }}],
        "users": [{"name": "u", "user": {
            "client-certificate-data": data(&client.certificate),
            "client-key-data": data(&client.key),
        }}],
    })
}

async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    connection: usize,
    handler: Handler,
    asked: Arc<watch::Sender<Vec<Asked>>>,
) {
    let Ok(stream) = acceptor.accept(tcp).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, asked) = (handler.clone(), asked.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (method, uri, headers) = (head.method, head.uri, head.headers);
            let one = Asked { method, uri, headers, body, connection };
            let reply = handler(&one);
            asked.send_modify(|all| all.push(one));
            answer(reply).await
        }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(100);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(reply: Reply) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    Ok(match reply {
        Reply::Json(code, value) => {
            Response::builder().status(code).body(full(value.to_string())).unwrap()
        }
        Reply::Busy(code, after, text) => {
            let head = Response::builder().status(code).header("retry-after", after);
            head.body(full(text.to_owned())).unwrap()
        }
        Reply::Stream(bytes) => {
            let frames = stream::unfold(bytes, |mut bytes| async {
                bytes.recv().await.map(|data| (Ok(Frame::data(data)), bytes))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        Reply::Never => std::future::pending().await,
    })
}

/// A proxy that can stop to carry anything without closing: a link that is gone.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Link {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let accepted: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pairs = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let mut is_cut = is_cut.clone();
                pairs.spawn(async move {
                    // A cut one never works again; both ends are held open.
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                        _ = is_cut.wait_for(|cut| *cut) => {}
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, accepted, cut, _tasks: tasks }
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Nothing passes any more, on old and new connections.
    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// New connections work again; the old ones stay dead.
    pub(super) fn mend(&self) {
        self.cut.send_replace(false);
    }
}

/// Answers in turn, and the last one for ever.
pub(super) fn in_turn<T: Clone + Send>(all: Vec<T>) -> impl Fn() -> T {
    let left = Mutex::new(all);
    move || {
        let mut left = left.lock().unwrap();
        if left.len() > 1 { left.remove(0) } else { left[0].clone() }
    }
}
