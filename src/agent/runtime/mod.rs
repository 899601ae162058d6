//! What runs containers.
//!
//! Owns: the trait [`Runtime`], whose verbs are CRI's (what they ask and answer about streams is in
//! [`stream`]), and its homes: [`wasm`], [`cri`], and [`both`], which a node has. What happens to a
//! container comes out on one stream as [`Happening`]s; the worker that takes them reads the truth
//! again where it matters.

pub(crate) mod both;
pub(crate) mod cri;
mod last_words;
mod resize;
mod stream;
pub(crate) mod wasm;

use std::future::ready;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Attempt, Failure};
use copepod_wasm::{GuestKind, Mount, Preopen, Stdin, User};
use serde::{Deserialize, Serialize};

use self::cri::images::{OrdinaryImage, Wanted};
use self::cri::{Ordinary, PodSandbox, SandboxSpec};
pub(crate) use self::resize::{Resources, SandboxResources};
pub(crate) use self::stream::{
    Attach, Exec, ExecError, ExecExit, ExecOutput, RefusalKind, StreamKind, StreamRequest,
};
use crate::image::{ImageTree, Programs};
use crate::linux::cgroup::LeafSpec;

/// What is to be started: which home runs it.
#[derive(Debug)]
pub(crate) enum Launch {
    /// A Wasm guest.
    Wasm(Box<Container>),
    /// An ordinary image.
    Ordinary(Box<Ordinary>),
}

/// One attempt of a Wasm container to start, all names resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    /// Whose it is.
    pub(crate) pod_uid: String,
    /// The container's name in the pod.
    pub(crate) name: String,
    /// Its attempt, from 0.
    pub(crate) attempt: u32,
    /// The generation of its pod's sandbox; 0 where it has none.
    #[serde(default)]
    pub(crate) sandbox: u32,
    /// The definition that it is made from; `None` where that is not known.
    #[serde(default)]
    pub(crate) definition: Option<u32>,
    /// The directory of its logs; the attempt's file in it is `ATTEMPT.log`.
    pub(crate) log_dir: PathBuf,
    /// Where the link to its log is put, as a path to which `-ID.log` is appended.
    pub(crate) log_link: Option<PathBuf>,
    /// The compiled artefact.
    pub(crate) artefact: PathBuf,
    /// What the artefact holds.
    pub(crate) kind: GuestKind,
    /// The files of its image, where commands beside it are looked for; `None` for an image that is
    /// one Wasm file.
    #[serde(default)]
    pub(crate) tree: Option<ImageTree>,
    /// Arguments, the guest's own name first.
    pub(crate) args: Vec<String>,
    /// Environment, in order.
    pub(crate) env: Vec<(String, String)>,
    /// Directories that the guest sees.
    pub(crate) preopens: Vec<Preopen>,
    /// What is bound below the preopens.
    pub(crate) mounts: Vec<Mount>,
    /// Where the guest leaves its last words.
    pub(crate) termination_message: TerminationMessage,
    /// What it reads.
    #[serde(default)]
    pub(crate) stdin: Stdin,
    /// Whom it runs as; `None` is the agent's own user.
    pub(crate) user: Option<User>,
    /// The control group that is made for it; `None`: it stays in the agent's.
    #[serde(skip)]
    pub(crate) cgroup: Option<LeafSpec>,
    /// Its `oom_score_adj`; `None` is the agent's.
    pub(crate) oom_score_adj: Option<i32>,
    /// The network namespace that it joins; `None` is the agent's.
    pub(crate) network: Option<PathBuf>,
    /// Bytes of memory; `None` is no limit.
    pub(crate) memory_limit_bytes: Option<u64>,
    /// How much of its log is kept.
    pub(crate) log_limits: LogLimits,
    /// Where an http guest listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(crate) grace_seconds: u64,
    /// Whether it ends with the agent.
    pub(crate) die_with_agent: bool,
}

/// How much of a container's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLimits {
    /// Bytes of a file past which it is rotated; the largest number is no bound.
    pub(crate) bytes: u64,
    /// Files of one attempt, the one written to included.
    pub(crate) files: u32,
}

impl Default for LogLimits {
    /// Upstream's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        Self { bytes: 10 << 20, files: 5 }
    }
}

/// Where a container leaves its termination message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminationMessage {
    /// The absolute path, without a link, of the directory that the file lies in. The guest may
    /// have written to both: no link is followed to it and below it.
    pub(crate) dir: PathBuf,
    /// The file, relative to `dir`; empty: there is none.
    pub(crate) file: PathBuf,
    /// Whether the end of the log stands in for an empty file of a failed container
    /// (`FallbackToLogsOnError`).
    pub(crate) fallback_to_logs: bool,
}

/// What became of an attempt, for the worker of the pod `pod_uid`.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    /// Whose.
    pub(crate) pod_uid: String,
    /// What.
    pub(crate) what: What,
}

/// What a worker is told.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// It is in this state now.
    Attempt(Attempt),
    /// Something has changed: its attempts are to be listed.
    Look,
    /// This generation of its sandbox stands no more.
    SandboxChanged {
        /// Which.
        sandbox: u32,
    },
    /// It never ran: the same attempt may start again.
    NeverRan {
        /// Of which container.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
}

/// What a handler of ordinary images can do beyond what all can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// It makes mounts read-only with all below them.
    pub(crate) recursive_read_only: bool,
    /// It gives pods user namespaces of their own.
    pub(crate) user_namespaces: bool,
}

/// A runtime's verbs. Each but `exec` is idempotent and waits for no guest.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// Whether there is a runtime of ordinary images.
    fn has_ordinary(&self) -> bool {
        false
    }

    /// What the handler of ordinary images can do; waits until the runtime was asked for it once.
    fn features(&self, handler: &str) -> impl Future<Output = Features> + Send {
        let _ = handler;
        ready(Features::default())
    }

    /// The pod's sandbox that stands; a new one where none does. Only pods with ordinary containers
    /// have one.
    ///
    /// # Errors
    /// A [`Failure`] with the reason of upstream's event.
    fn run_sandbox(
        &self,
        spec: SandboxSpec,
    ) -> impl Future<Output = Result<PodSandbox, Failure>> + Send {
        drop(spec);
        ready(Err(no_ordinary()))
    }

    /// Stops the pod's sandboxes; one that has none is no error.
    ///
    /// # Errors
    /// As [`Runtime::run_sandbox`].
    fn stop_sandboxes(&self, pod_uid: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = pod_uid;
        ready(Ok(()))
    }

    /// Whether the runtime of ordinary images has this one.
    fn has_image(&self, image: &str) -> impl Future<Output = bool> + Send {
        let _ = image;
        ready(false)
    }

    /// Makes an ordinary image ready to run: it is there, pulled by whatever credentials let in.
    /// `pulling` is called once it is to be pulled.
    ///
    /// # Errors
    /// A [`Failure`] with upstream's waiting reason.
    fn prepare_image(
        &self,
        wanted: Wanted<'_>,
        pulling: &(dyn Fn() + Send + Sync),
    ) -> impl Future<Output = Result<OrdinaryImage, Failure>> + Send {
        let _ = (wanted, pulling);
        ready(Err(no_ordinary()))
    }

    /// Creates and starts one container attempt. What becomes of it comes as [`Happening`]s.
    ///
    /// # Errors
    /// A [`Failure`] with upstream's waiting reason when nothing of it runs.
    fn start(&self, launch: Launch) -> impl Future<Output = Result<Attempt, Failure>> + Send;

    /// Asks the container `id` to end and kills it after `grace`; a shorter grace may follow.
    /// An id that does not run is no error.
    fn stop(&self, id: &str, grace: Duration);

    /// Gives the running container `id` other resources. An id that does not run is no error.
    ///
    /// # Errors
    /// Why not, for people.
    fn resize(
        &self,
        id: &str,
        resources: Resources,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Tells the runtime of ordinary images what the pod's group is about to have; nothing where the pod
    /// has no sandbox there, or the runtime has no such verb.
    ///
    /// # Errors
    /// Why the runtime does not take it, in upstream's words.
    fn resize_sandbox(
        &self,
        pod_uid: &str,
        resources: SandboxResources,
    ) -> impl Future<Output = Result<(), String>> + Send {
        let _ = (pod_uid, resources);
        ready(Ok(()))
    }

    /// Forgets the dead container `id` and removes what it left on disk, its logs too.
    fn remove(&self, id: &str) -> impl Future<Output = ()> + Send;

    /// The Wasm files that commands beside the container `id` may mean; `None` where it has none but
    /// its own.
    fn programs(&self, id: &str) -> Option<Arc<Programs>>;

    /// Runs a command beside the running container `id` and waits for its end. Dropped before, it
    /// is killed; it is killed with its container as well.
    ///
    /// # Errors
    /// [`ExecError`]; nothing of it runs then.
    fn exec(
        &self,
        id: &str,
        exec: Exec,
    ) -> impl Future<Output = Result<ExecExit, ExecError>> + Send;

    /// Waits until the runtime of ordinary images was looked at once; without one, for nothing.
    fn looked(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
    /// Connects the running container `id` to pipes, and waits for its end. Dropped before, nothing
    /// is copied to them any more.
    ///
    /// # Errors
    /// [`ExecError`]; it is not connected then.
    fn attach(
        &self,
        id: &str,
        attach: Attach,
    ) -> impl Future<Output = Result<(), ExecError>> + Send;

    /// Where the runtime itself streams what is asked for of the container `id`; `None`: it does not,
    /// and [`Runtime::exec`] or [`Runtime::attach`] is to be used.
    ///
    /// # Errors
    /// [`ExecError`].
    fn stream_url(
        &self,
        id: &str,
        request: &StreamRequest,
    ) -> impl Future<Output = Result<Option<String>, ExecError>> + Send;

    /// Where the runtime itself forwards ports of the pod; `None`: its network is the agent's.
    ///
    /// # Errors
    /// [`ExecError`].
    fn port_forward_url(
        &self,
        pod_uid: &str,
        ports: &[u16],
    ) -> impl Future<Output = Result<Option<String>, ExecError>> + Send;

    /// Runs a command in the running container `id` and gives what it wrote, at most `limit` bytes of
    /// each stream; `None`: it streams no commands, and [`Runtime::exec`] is to be used. What is not
    /// done within `timeout` (zero: no limit) is killed and an error.
    ///
    /// # Errors
    /// [`ExecError`].
    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
        limit: usize,
    ) -> impl Future<Output = Result<Option<ExecOutput>, ExecError>> + Send;

    /// All attempts of the pod that are known: the truth that a worker starts from.
    fn list(&self, pod_uid: &str) -> Vec<Attempt>;
}

/// What a home that runs Wasm alone says to the rest.
pub(crate) fn no_ordinary() -> Failure {
    Failure {
        reason: "CreateContainerError".into(),
        message: "no runtime of ordinary images is configured: expected containerRuntimeEndpoint"
            .into(),
    }
}
