//! What runs containers.
//!
//! Owns: the trait [`Runtime`], whose verbs are CRI's, and its homes: `wasm`, later `cri`. What
//! happens to a container comes out on one stream per runtime as [`Happening`]s; the worker that
//! takes them reads the truth again where it matters.

pub(crate) mod wasm;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use copepod_pod::{Attempt, Failure};
use copepod_wasm::{GuestKind, Mount, Preopen, User};

/// One container attempt to start, all names resolved.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// Whose it is.
    pub(crate) pod_uid: String,
    /// The container's name in the pod.
    pub(crate) name: String,
    /// Its attempt, from 0.
    pub(crate) attempt: u32,
    /// The directory of its logs; the attempt's file in it is `ATTEMPT.log`.
    pub(crate) log_dir: PathBuf,
    /// The compiled artefact.
    pub(crate) artefact: PathBuf,
    /// What the artefact holds.
    pub(crate) kind: GuestKind,
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
    /// Whom it runs as; `None` is the agent's own user.
    pub(crate) user: Option<User>,
    /// Bytes of memory; `None` is no limit.
    pub(crate) memory_limit_bytes: Option<u64>,
    /// Where an http guest listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(crate) grace_seconds: u64,
    /// Whether it ends with the agent.
    pub(crate) die_with_agent: bool,
}

/// Where a container leaves its termination message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TerminationMessage {
    /// The directory that the file lies in, which the guest may have written to: the file is opened
    /// below it without following any link.
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

/// The two ways of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// It is in this state now.
    Attempt(Attempt),
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

/// A runtime's verbs. Each is idempotent; none waits for a guest.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// Creates and starts one container attempt. What becomes of it comes as [`Happening`]s.
    ///
    /// # Errors
    /// A [`Failure`] with upstream's waiting reason when nothing of it runs.
    fn start(&self, container: Container) -> impl Future<Output = Result<Attempt, Failure>> + Send;

    /// Asks the container `id` to end and kills it after `grace`; a shorter grace may follow.
    /// An id that does not run is no error.
    fn stop(&self, id: &str, grace: Duration);

    /// Forgets the dead container `id` and removes what it left on disk, its logs too.
    fn remove(&self, id: &str) -> impl Future<Output = ()> + Send;

    /// All attempts of the pod that are known: the truth that a worker starts from.
    fn list(&self, pod_uid: &str) -> Vec<Attempt>;
}
