//! The pods of a run as its server shows them: what [`Session`](super::session::Session) puts up,
//! `copepod ps` and the like read.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copepod_pod::{AttemptState, Event, Failure, spec_grace};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::net::TcpStream;

use super::load::Loaded;
use crate::runtime::{Attach, ExecError, ExecExit, ExecOutput, Runtime, StreamRequest};
use crate::server::{Pods, Running, Served, URL_PREFIX};
use crate::worker::{Asked, Handle, Shared};

/// The pods of a run, in the order of its files.
pub(super) struct Board<R> {
    shared: Arc<Shared<R>>,
    pods: Arc<Mutex<Vec<Shown>>>,
}

impl<R> Clone for Board<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), pods: Arc::clone(&self.pods) }
    }
}

struct Shown {
    /// With the addresses of its servers.
    pod: Arc<Pod>,
    handle: Handle,
    stopped: bool,
}

impl<R> Board<R> {
    /// A board without pods, of the workers that share `shared`.
    pub(super) fn new(shared: Arc<Shared<R>>) -> Self {
        Self { shared, pods: Arc::default() }
    }

    /// Shows a pod at its place: a new one, or one that takes the place of its earlier life.
    pub(super) fn show(&self, place: usize, loaded: &Loaded, handle: Handle) {
        let mut pod = Arc::clone(&loaded.pod);
        for module in &loaded.modules {
            if let Some(url) = module.url() {
                let annotations = &mut Arc::make_mut(&mut pod).metadata.annotations;
                let key = format!("{URL_PREFIX}{}", module.container);
                annotations.get_or_insert_default().insert(key, url);
            }
        }
        let shown = Shown { pod, handle, stopped: false };
        let mut pods = self.lock();
        match pods.get_mut(place) {
            Some(old) => *old = shown,
            None => pods.push(shown),
        }
    }

    /// Whether a user has asked for the end of the pod at this place.
    pub(super) fn is_stopped(&self, place: usize) -> bool {
        self.lock().get(place).is_some_and(|shown| shown.stopped)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Shown>> {
        // A panic elsewhere leaves the list whole: each change is one call.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(served: &Served) -> PodStatus {
    served.snapshot.borrow().status.clone()
}

fn asked<'a>(served: &'a Served, status: &'a PodStatus) -> Asked<'a> {
    Asked { pod: &served.pod, status }
}

impl<R: Runtime> Pods for Board<R> {
    fn list(&self) -> Vec<Served> {
        let served = |shown: &Shown| Served {
            pod: Arc::clone(&shown.pod),
            snapshot: shown.handle.snapshot.clone(),
            alias: None,
        };
        self.lock().iter().map(served).collect()
    }

    fn log_dir(&self, pod: &Pod, container: &str) -> PathBuf {
        self.shared.ledger.log_dir_of(pod, container)
    }

    fn stop(&self, uid: &str, grace: Option<Duration>) -> Result<(), Failure> {
        let mut pods = self.lock();
        let of_uid = |shown: &&mut Shown| shown.pod.metadata.uid.as_deref() == Some(uid);
        let Some(shown) = pods.iter_mut().find(of_uid) else { return Ok(()) };
        let grace = grace.unwrap_or_else(|| spec_grace(&shown.pod));
        // Or it has ended already.
        let _ = shown.handle.events.tell(Event::Kill { grace });
        shown.stopped = true;
        Ok(())
    }

    async fn exec(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> Result<ExecExit, ExecError> {
        let status = status(served);
        self.shared.exec(asked(served, &status), container, command, streams).await
    }

    async fn attach(
        &self,
        served: &Served,
        container: &str,
        attach: Attach,
    ) -> Result<(), ExecError> {
        let status = status(served);
        self.shared.attach(asked(served, &status), container, attach).await
    }

    async fn stream_url(
        &self,
        served: &Served,
        container: &str,
        request: StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        let status = status(served);
        self.shared.stream_url(asked(served, &status), container, request).await
    }

    async fn port_forward_url(
        &self,
        served: &Served,
        ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        let status = status(served);
        self.shared.port_forward_url(asked(served, &status), ports).await
    }

    async fn connect(&self, served: &Served, port: u16) -> Result<TcpStream, String> {
        let status = status(served);
        self.shared.connect(asked(served, &status), port).await
    }

    async fn exec_sync(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        limit: usize,
    ) -> Result<ExecOutput, ExecError> {
        let status = status(served);
        self.shared
            .exec_sync(asked(served, &status), container, command, Duration::ZERO, limit)
            .await
    }

    fn running(&self) -> Vec<Running> {
        let running = |shown: &Shown| {
            let metadata = &shown.pod.metadata;
            let uid = metadata.uid.clone().unwrap_or_default();
            let attempts = self.shared.runtime.list(&uid).into_iter();
            let running = attempts.filter(|a| matches!(a.state, AttemptState::Running { .. }));
            let containers: Vec<_> =
                running.map(|a| (image_of(&shown.pod, &a.container), a.container)).collect();
            (!containers.is_empty()).then(|| Running {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
                uid,
                containers: containers.into_iter().map(|(image, name)| (name, image)).collect(),
            })
        };
        self.lock().iter().filter_map(running).collect()
    }

    fn sync_loop(&self) -> Result<(), String> {
        // Each pod has a worker of its own, and a panic of any ends the run.
        Ok(())
    }
}

/// The image of a container of the pod.
fn image_of(pod: &Pod, container: &str) -> String {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let mut all = init.chain(spec.into_iter().flat_map(|spec| &spec.containers));
    let found = all.find(|c| c.name == container);
    found.and_then(|c| c.image.clone()).unwrap_or_default()
}
