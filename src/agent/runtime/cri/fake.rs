//! A container runtime that is a table, for tests: behind a real socket, with calls that go wrong as
//! a test says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use copepod_cri as cri;
use copepod_cri::{ContainerState, PodSandboxState};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

use super::config::labels;
use super::{Client, Cri, Options};
use crate::image::credentials::{Keyring, NodeFiles};
use crate::image::gate::{Gate, PullLimits};
use crate::ledger::Ledger;
use crate::runtime::{Happening, LogLimits, What};

/// Far more than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// One second and two, after 1970, in nanoseconds.
const TIMES: [i64; 2] = [1_000_000_000, 2_000_000_000];

/// What becomes of one call instead of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It is refused.
    Refuse(Code),
    /// It is never answered.
    Hang,
}

/// By the method and the id that it is about.
type Plan = Box<dyn Fn(&str, &str) -> Option<Fault> + Send + Sync>;
type Answer = Result<Vec<u8>, Code>;

/// The table.
struct Shared {
    containers: Mutex<BTreeMap<String, cri::ContainerStatus>>,
    sandboxes: Mutex<BTreeMap<String, cri::PodSandbox>>,
    /// What a container is in once it was stopped.
    stopped: Mutex<ContainerState>,
    stops: Mutex<Vec<(String, i64)>>,
    plan: Mutex<Plan>,
}

/// The runtime; it ends when dropped.
pub(super) struct Fake {
    shared: Arc<Shared>,
    pub(super) dir: TempDir,
    _tasks: JoinSet<()>,
}

/// An agent's side of it.
pub(super) struct Side {
    pub(super) cri: Cri,
    pub(super) happenings: mpsc::Receiver<Happening>,
}

impl Fake {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("cri.sock")).unwrap();
        let shared = Arc::new(Shared {
            containers: Mutex::default(),
            sandboxes: Mutex::default(),
            stopped: Mutex::new(ContainerState::ContainerExited),
            stops: Mutex::default(),
            plan: Mutex::new(Box::new(|_, _| None)),
        });
        let mut tasks = JoinSet::new();
        let of_task = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Self { shared, dir, _tasks: tasks }
    }

    /// An agent that begins now.
    pub(super) fn agent(&self) -> Side {
        let (root, run) = (self.dir.path().join("root"), self.dir.path().join("run"));
        let options = Options {
            log_limits: LogLimits::default(),
            log_links: self.dir.path().join("links"),
            ledger: Arc::new(Ledger::open(&root, &run).unwrap()),
        };
        let socket = format!("unix://{}", self.dir.path().join("cri.sock").display());
        let client = Client::new(&socket, None, PATIENCE).unwrap();
        let keyring = Arc::new(Keyring::new(NodeFiles::Node(Vec::new()), Vec::new()));
        let gate = Arc::new(Gate::new(PullLimits::default()));
        let images = super::images::Images::new(client.images(), keyring, gate, PATIENCE);
        let (told, happenings) = mpsc::channel(64);
        Side { cri: Cri::start(client, images, "fake".into(), options, told), happenings }
    }

    /// A container of a pod is in this state now.
    pub(super) fn container(&self, pod: &str, id: &str, state: ContainerState) {
        let labels = [(labels::POD_UID, pod), (labels::CONTAINER_NAME, id)];
        let [started_at, finished_at] = TIMES;
        let container = cri::ContainerStatus {
            id: id.into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
            metadata: Some(cri::ContainerMetadata::default()),
            state: state.into(),
            started_at,
            finished_at,
            exit_code: 7,
            reason: "Error".into(),
            log_path: self.log(id).to_string_lossy().into_owned(),
            image: Some(cri::ImageSpec { image: "h.io/app:1".into(), ..cri::ImageSpec::default() }),
            image_ref: "h.io/app@sha256:1".into(),
            ..cri::ContainerStatus::default()
        };
        self.shared.containers.lock().unwrap().insert(id.into(), container);
    }

    /// Where a container's log is.
    pub(super) fn log(&self, id: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// A pod's sandbox, whose id is the pod's too.
    pub(super) fn sandbox(&self, pod: &str, ready: bool) {
        let state =
            if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        let sandbox = cri::PodSandbox {
            id: pod.into(),
            labels: [(labels::POD_UID.into(), pod.into())].into(),
            metadata: Some(cri::PodSandboxMetadata::default()),
            state: state.into(),
            ..cri::PodSandbox::default()
        };
        self.shared.sandboxes.lock().unwrap().insert(pod.into(), sandbox);
    }

    /// What is stopped from now on is in this state then.
    pub(super) fn stopped(&self, state: ContainerState) {
        *self.shared.stopped.lock().unwrap() = state;
    }

    /// What was stopped, each with its seconds.
    pub(super) fn stops(&self) -> Vec<(String, i64)> {
        self.shared.stops.lock().unwrap().clone()
    }

    /// What goes wrong from now on.
    pub(super) fn plan(&self, plan: impl Fn(&str, &str) -> Option<Fault> + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Box::new(plan);
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&self) {
        self.plan(|_, _| None);
    }
}

impl Side {
    /// Has the runtime looked at now.
    pub(super) fn wake(&self) {
        self.cri.0.wake.notify_one();
    }

    /// The next pod that is told of something, and what.
    pub(super) async fn told(&mut self) -> String {
        let happening = timeout(PATIENCE, self.happenings.recv()).await.expect("told in time");
        let Happening { pod_uid, what } = happening.unwrap();
        match what {
            What::Look => format!("{pod_uid} looks"),
            What::SandboxChanged { sandbox } => format!("{pod_uid} has lost sandbox {sandbox}"),
            What::Attempt(_) | What::NeverRan { .. } => panic!("{what:?}"),
        }
    }

    /// Waits until a pod is known, or finds that it is not.
    pub(super) async fn knows(&self, pod: &str) {
        timeout(PATIENCE, self.cri.looked(pod)).await.expect("known in time");
    }
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            // One byte that says whether it is compressed, four of the length.
            Ok::<_, Infallible>(framed(shared.answer(&method, &body[5..]).await))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // It ends with the other side.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn framed(answer: Answer) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (message, code) = match answer {
        Ok(message) => {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            ([&[0][..], &length, &message].concat(), 0)
        }
        Err(code) => (Vec::new(), i32::from(code)),
    };
    let end = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.into())]);
    let body = Full::new(message.into()).with_trailers(std::future::ready(Some(Ok(end))));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body.boxed_unsync()).unwrap()
}

impl Shared {
    async fn answer(&self, method: &str, body: &[u8]) -> Answer {
        let id = match method {
            "ContainerStatus" => cri::ContainerStatusRequest::decode(body).unwrap().container_id,
            "StopContainer" => cri::StopContainerRequest::decode(body).unwrap().container_id,
            "RemoveContainer" => cri::RemoveContainerRequest::decode(body).unwrap().container_id,
            _ => String::new(),
        };
        let fault = (self.plan.lock().unwrap())(method, &id);
        match fault {
            Some(Fault::Refuse(code)) => return Err(code),
            Some(Fault::Hang) => std::future::pending().await,
            None => {}
        }
        let mut containers = self.containers.lock().unwrap();
        match method {
            "ListPodSandbox" => {
                let items = self.sandboxes.lock().unwrap().values().cloned().collect();
                Ok(cri::ListPodSandboxResponse { items }.encode_to_vec())
            }
            "ListContainers" => {
                let containers = containers.values().map(listed).collect();
                Ok(cri::ListContainersResponse { containers }.encode_to_vec())
            }
            "ContainerStatus" => {
                let status = Some(containers.get(&id).ok_or(Code::NotFound)?.clone());
                let answer = cri::ContainerStatusResponse { status, ..Default::default() };
                Ok(answer.encode_to_vec())
            }
            "StopContainer" => {
                let seconds = cri::StopContainerRequest::decode(body).unwrap().timeout;
                self.stops.lock().unwrap().push((id.clone(), seconds));
                let state = *self.stopped.lock().unwrap();
                containers.get_mut(&id).ok_or(Code::NotFound)?.state = state.into();
                Ok(cri::StopContainerResponse {}.encode_to_vec())
            }
            "RemoveContainer" => {
                containers.remove(&id);
                Ok(cri::RemoveContainerResponse {}.encode_to_vec())
            }
            _ => Err(Code::Unimplemented),
        }
    }
}

fn listed(one: &cri::ContainerStatus) -> cri::Container {
    cri::Container {
        id: one.id.clone(),
        labels: one.labels.clone(),
        metadata: one.metadata.clone(),
        state: one.state,
        ..cri::Container::default()
    }
}

/// Waits until something is so.
pub(super) async fn until(what: &str, is: impl Fn() -> bool) {
    let so = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Writes a file.
pub(super) fn written(path: &Path) {
    std::fs::write(path, "x").unwrap();
}
