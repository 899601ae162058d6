//! The pods that are served, as whoever runs them gives them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::Failure;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::runtime::{Attach, ExecError, ExecExit, ExecOutput, StreamRequest};
use crate::worker::Snapshot;

/// An annotation of a served pod for each container that is an HTTP server: this and its name,
/// with the address at which it answers as its value.
pub(crate) const URL_PREFIX: &str = "url.copepod.dev/";

/// A pod that is served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The pod as it is run.
    pub(crate) pod: Arc<Pod>,
    /// What becomes of it.
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    /// Another uid that means it: that of a static pod's mirror.
    pub(crate) alias: Option<String>,
}

/// The pods that are served, as whoever runs them knows them.
pub(crate) trait Pods: Send + Sync + 'static {
    /// All pods, in the order in which they are shown.
    fn list(&self) -> Vec<Served>;

    /// The directory of a container's logs.
    fn log_dir(&self, pod: &Pod, container: &str) -> PathBuf;

    /// Asks the pod of this uid to end within `grace`, its own where that is `None`. What becomes
    /// of it is seen in its snapshot.
    ///
    /// # Errors
    /// Why that cannot be asked of it now.
    fn stop(&self, uid: &str, grace: Option<Duration>) -> Result<(), Failure>;

    /// Runs a command beside a container of the pod and waits for its end. Dropped before, the
    /// command is killed.
    ///
    /// # Errors
    /// [`ExecError`]; nothing of it runs then.
    fn exec(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> impl Future<Output = Result<ExecExit, ExecError>> + Send;

    /// Connects a running container of the pod to pipes and waits for its end. Dropped before, they
    /// get nothing more.
    ///
    /// # Errors
    /// [`ExecError`]; nothing is connected then.
    fn attach(
        &self,
        served: &Served,
        container: &str,
        attach: Attach,
    ) -> impl Future<Output = Result<(), ExecError>> + Send;

    /// Where the container runtime itself streams this of a container of the pod; `None`: it does
    /// not.
    ///
    /// # Errors
    /// [`ExecError`].
    fn stream_url(
        &self,
        served: &Served,
        container: &str,
        request: StreamRequest,
    ) -> impl Future<Output = Result<Option<String>, ExecError>> + Send;

    /// Where the container runtime itself forwards ports of the pod; `None`: it does not.
    ///
    /// # Errors
    /// [`ExecError`].
    fn port_forward_url(
        &self,
        served: &Served,
        ports: &[u16],
    ) -> impl Future<Output = Result<Option<String>, ExecError>> + Send;

    /// A connection to a port of the pod, made in its network.
    ///
    /// # Errors
    /// Why there is none, in containerd's words.
    fn connect(
        &self,
        served: &Served,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, String>> + Send;

    /// Runs a command in a container of the pod and gives what it wrote, at most `limit` bytes of
    /// each stream.
    ///
    /// # Errors
    /// [`ExecError`].
    fn exec_sync(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        limit: usize,
    ) -> impl Future<Output = Result<ExecOutput, ExecError>> + Send;

    /// The pods of which a container runs, as the runtime knows them.
    fn running(&self) -> Vec<Running>;

    /// Whether pods are looked after: `Err` says why not (upstream's check `syncloop`).
    ///
    /// # Errors
    /// What keeps the loop that hands out work from going round.
    fn sync_loop(&self) -> Result<(), String>;
}

/// A pod as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Its containers that run: name and image.
    pub(crate) containers: Vec<(String, String)>,
}

impl Running {
    /// As upstream shows it (`ToAPIPod`): names and images alone.
    pub(super) fn into_pod(self) -> Pod {
        let container = |(name, image): (String, String)| Container {
            name,
            image: Some(image),
            ..Container::default()
        };
        Pod {
            metadata: ObjectMeta {
                namespace: Some(self.namespace),
                name: Some(self.name),
                uid: Some(self.uid),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: self.containers.into_iter().map(container).collect(),
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

impl Served {
    /// Whether the uid means this pod.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        [&self.pod.metadata.uid, &self.alias].into_iter().flatten().any(|known| known == uid)
    }

    /// Whether a container of the pod has a terminal, as its spec says.
    pub(super) fn has_terminal(&self, name: &str) -> bool {
        let Some(spec) = &self.pod.spec else { return false };
        let init = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut tty = init.filter(|c| c.name == name).map(|c| c.tty);
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        let of_ephemeral = || ephemeral.find(|c| c.name == name).and_then(|c| c.tty);
        tty.next().unwrap_or_else(of_ephemeral) == Some(true)
    }

    /// Whether the pod has a container of this name, init and ephemeral ones among them.
    pub(super) fn has_container(&self, name: &str) -> bool {
        let Some(spec) = &self.pod.spec else { return false };
        let init = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut names = init.map(|container| &container.name);
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        names.any(|n| n == name) || ephemeral.any(|container| container.name == name)
    }
}
