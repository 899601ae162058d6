//! A proxy between a node and its container runtime that does what a bad day does to calls: refuses,
//! delays and holds them, loses their answers, makes them twice.
//!
//! It knows no message: each call is bytes that are handed on, so whatever CRI has passes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// As long as messages of a runtime may be: what containerd sets for its own.
const MESSAGE_MAX: usize = 16 << 20;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this error, and the runtime does not hear of it.
    Refuse(Code),
    /// It is handed on this much later.
    Delay(Duration),
    /// It is handed on, and answered this much after the runtime answered.
    Late(Duration),
    /// It is held until [`Proxy::release`] and handed on then, if who asked is still there.
    Hang,
    /// It is done, even if who asked goes away, and the answer is an error as of a connection that
    /// broke.
    Lose,
    /// It is done twice, one after the other, and answered as the second time.
    Twice,
}

/// Says what happens to a call, from the method's name and how many of it there were before.
type Plan = dyn Fn(&str, u64) -> Option<Fault> + Send + Sync;

/// A plan by chance, the same for the same seed: so many of a thousand calls go wrong, except for
/// the first of each method and for streams, which only break.
pub fn random(seed: u64, per_mille: u64) -> impl Fn(&str, u64) -> Option<Fault> + Send + Sync {
    move |method, number| {
        let mut hasher = DefaultHasher::new();
        (seed, method, number).hash(&mut hasher);
        let chance = hasher.finish();
        if number == 0 || chance % 1000 >= per_mille {
            return None;
        }
        let millis = Duration::from_millis(chance / 1000 % 1500);
        Some(match chance / 1_500_000 % 5 {
            _ if method.starts_with("Get") => Fault::Refuse(Code::Unavailable),
            0 => Fault::Refuse(Code::Unavailable),
            1 => Fault::Delay(millis),
            2 => Fault::Late(millis),
            3 => Fault::Lose,
            _ => Fault::Twice,
        })
    }
}

/// A running proxy, ended with this value; its calls are ended too then.
pub struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plan: Mutex<Arc<Plan>>,
    seen: Mutex<Seen>,
    released: watch::Sender<u64>,
    upstream: PathBuf,
}

#[derive(Default)]
struct Seen {
    numbers: BTreeMap<String, u64>,
    calls: Vec<(String, Option<Fault>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens at `socket` for a node; hands on to the runtime at `upstream`, which may come and go.
    #[track_caller]
    pub fn start(
        upstream: &Path,
        socket: &Path,
        plan: impl Fn(&str, u64) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            plan: Mutex::new(Arc::new(plan)),
            seen: Mutex::default(),
            released: watch::Sender::new(0),
            upstream: upstream.into(),
        });
        let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
        listener.set_nonblocking(true).expect("set");
        let (end, ended) = oneshot::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(listener, &of_thread, ended));
        Self { socket: socket.into(), shared, end: Some(end), thread: Some(thread) }
    }

    /// Its socket as a node names it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Another plan from now on; calls go on being counted.
    pub fn plan(&self, plan: impl Fn(&str, u64) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.shared.plan) = Arc::new(plan);
    }

    /// Hands on what is held, and nothing goes wrong any more.
    pub fn calm(&self) {
        self.plan(|_, _| None);
        self.release();
    }

    /// Hands on the calls that are held.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// The calls so far, in the order in which they came, with what happened to each.
    pub fn calls(&self) -> Vec<(String, Option<Fault>)> {
        lock(&self.shared.seen).calls.clone()
    }

    /// How many calls of a method there were.
    pub fn count(&self, method: &str) -> u64 {
        lock(&self.shared.seen).numbers.get(method).copied().unwrap_or(0)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

/// Serves until the other end of `ended` is gone.
fn serve(
    listener: std::os::unix::net::UnixListener,
    shared: &Arc<Shared>,
    ended: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = UnixListener::from_std(listener).expect("a listener");
        let channel = channel(&shared.upstream);
        let server = Server::builder()
            .add_service(Forward::<RuntimeService>::new(shared, &channel))
            .add_service(Forward::<ImageService>::new(shared, &channel))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::select! {
            served = server => served.expect("it serves"),
            _ = ended => {}
        }
    });
}

/// A channel to the runtime at a Unix socket, connected when it is needed and again when it broke.
/// To be made within a tokio runtime.
pub fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}

/// The two services of CRI.
#[derive(Clone, Copy)]
struct RuntimeService;
#[derive(Clone, Copy)]
struct ImageService;

/// Takes all calls of one service.
struct Forward<S> {
    shared: Arc<Shared>,
    channel: Channel,
    service: PhantomData<S>,
}

impl<S> Forward<S> {
    fn new(shared: &Arc<Shared>, channel: &Channel) -> Self {
        Self { shared: Arc::clone(shared), channel: channel.clone(), service: PhantomData }
    }
}

impl<S> Clone for Forward<S> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, &self.channel)
    }
}

impl NamedService for Forward<RuntimeService> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl NamedService for Forward<ImageService> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl<S> Service<http::Request<tonic::body::Body>> for Forward<S> {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let call = Call { path, shared: Arc::clone(&self.shared), channel: self.channel.clone() };
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(Raw).max_decoding_message_size(MESSAGE_MAX);
            Ok(server.server_streaming(call, request).await)
        })
    }
}

/// One call: of any kind, since an answer is a stream of one message.
#[derive(Clone)]
struct Call {
    path: PathAndQuery,
    shared: Arc<Shared>,
    channel: Channel,
}

type Answer = Result<Response<Streaming<Bytes>>, Status>;

impl tonic::server::ServerStreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = Streaming<Bytes>;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let call = self.clone();
        Box::pin(async move { call.run(request.into_inner()).await })
    }
}

impl Call {
    async fn run(self, message: Bytes) -> Answer {
        match self.fault() {
            None => self.pass(message).await,
            Some(Fault::Refuse(code)) => Err(Status::new(code, "fault proxy: refused")),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                self.pass(message).await
            }
            Some(Fault::Late(time)) => {
                let answer = self.pass(message).await;
                tokio::time::sleep(time).await;
                answer
            }
            Some(Fault::Hang) => {
                // Ends with the proxy, which holds the sender, at the latest.
                let _ = self.shared.released.subscribe().changed().await;
                self.pass(message).await
            }
            Some(Fault::Lose) => {
                let _ = tokio::spawn(async move { self.done(message).await }).await;
                Err(Status::unavailable("fault proxy: the answer is lost"))
            }
            Some(Fault::Twice) => {
                let once = self.clone();
                let first = message.clone();
                let _ = tokio::spawn(async move { once.done(first).await }).await;
                self.pass(message).await
            }
        }
    }

    /// Counts this call and asks the plan.
    fn fault(&self) -> Option<Fault> {
        let method = self.path.path().rsplit('/').next().unwrap_or_default();
        let mut seen = lock(&self.shared.seen);
        let number = seen.numbers.entry(method.to_owned()).or_default();
        let plan = Arc::clone(&lock(&self.shared.plan));
        let fault = plan(method, *number);
        *number += 1;
        seen.calls.push((method.to_owned(), fault));
        fault
    }

    async fn pass(&self, message: Bytes) -> Answer {
        let mut client =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(format!("fault proxy: {error}")))?;
        client.server_streaming(Request::new(message), self.path.clone(), Raw).await
    }

    /// Hands it on and reads the answer to its end.
    async fn done(&self, message: Bytes) -> Result<(), Status> {
        let mut answer = self.pass(message).await?.into_inner();
        while answer.message().await?.is_some() {}
        Ok(())
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
