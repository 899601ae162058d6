//! The pods that are on this node: what the agent's loop knows of each, and what its servers show.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use copepod_pod::{Event, Failure, FullName, full_name, is_mirror_of, is_terminal};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::ledger::Ledger;
use crate::runtime::both::Both;
use crate::runtime::{Attach, ExecError, ExecExit, ExecOutput, StreamRequest};
use crate::server::{Pods, Running, Served};
use crate::worker::{Asked, Shared, Snapshot};

/// The loop is stuck when it has not gone round for so long, or for twice the sync frequency where that
/// is longer (upstream `SyncLoopHealthCheck`).
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// What is known of one pod.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Its newest object.
    pub(super) pod: Arc<Pod>,
    /// To its worker; none for a pod that was not taken.
    pub(super) events: Option<mpsc::Sender<Event>>,
    /// What became of it.
    pub(super) snapshot: watch::Receiver<Snapshot>,
    /// The API server has it no more: it ends, and then nothing of it is kept.
    pub(super) gone: bool,
    /// An earlier agent began it.
    pub(super) is_kept: bool,
}

impl Known {
    /// Nothing of it is left to undo but what its worker has left behind.
    pub(super) fn is_terminated(&self) -> bool {
        self.snapshot.borrow().terminated
    }

    /// Whether it takes no room (upstream `isPodInactive`): its phase is terminal, so that nothing of it
    /// runs, whatever is left to undo. One that its worker has not looked at yet is as its object says.
    pub(super) fn has_ended(&self) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.terminated || is_terminal(Some(&snapshot.status))
    }
}

/// The pods by uid, for the loop, which alone changes them, and the servers. A clone is the same.
#[derive(Clone)]
pub(super) struct Board(Arc<Inner>);

struct Inner {
    pods: Mutex<BTreeMap<String, Known>>,
    /// The API server's copies of static pods, by the name that both have.
    mirrors: Mutex<BTreeMap<FullName, Arc<Pod>>>,
    /// Whether the API server has said which pods it has.
    known: watch::Sender<bool>,
    ledger: Arc<Ledger>,
    /// What runs commands, once the node is there.
    shared: OnceLock<Arc<Shared<Both>>>,
    /// When the loop last went round.
    beat: Mutex<Instant>,
    /// For how long that may be ago.
    stuck_after: Duration,
}

impl Board {
    /// No pods yet; `every` is the sync frequency.
    pub(super) fn new(ledger: Arc<Ledger>, every: Duration) -> Self {
        Self(Arc::new(Inner {
            pods: Mutex::default(),
            mirrors: Mutex::default(),
            known: watch::Sender::new(false),
            ledger,
            shared: OnceLock::new(),
            beat: Mutex::new(Instant::now()),
            stuck_after: stuck_after(every),
        }))
    }

    /// Commands can be run from now on.
    pub(super) fn serve(&self, shared: Arc<Shared<Both>>) {
        // Called once; a second one would be the same.
        let _ = self.0.shared.set(shared);
    }

    /// The table, for a look or a change; never held across a wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // A panic elsewhere leaves the table whole: each change is one call.
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mirrors, for a look or a change; never held across a wait.
    pub(super) fn mirrors(&self) -> MutexGuard<'_, BTreeMap<FullName, Arc<Pod>>> {
        self.0.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mirror of this static pod, if the API server has it.
    pub(super) fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors().get(&full_name(pod)).filter(|mirror| is_mirror_of(mirror, pod)).cloned()
    }

    /// The API server has said which pods it has; those of other sources are here as soon as they are
    /// known at all.
    pub(super) fn know_all(&self) {
        self.0.known.send_replace(true);
    }

    /// Waits until it has.
    pub(super) async fn known(&self) {
        // The sender is here as long as this is.
        let _ = self.0.known.subscribe().wait_for(|known| *known).await;
    }

    /// What is known of the pod of this uid.
    pub(super) fn get(&self, uid: &str) -> Option<Known> {
        self.lock().get(uid).cloned()
    }

    /// What runs commands.
    fn shared(&self) -> Result<&Arc<Shared<Both>>, ExecError> {
        self.0.shared.get().ok_or_else(|| ExecError::NotRunning("the node is starting".into()))
    }

    /// The loop has gone round.
    pub(super) fn beat(&self) {
        *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// For how long the loop may not go round; `every` is the sync frequency.
fn stuck_after(every: Duration) -> Duration {
    STUCK_AFTER.max(every.saturating_mul(2))
}

fn status_of(served: &Served) -> PodStatus {
    served.snapshot.borrow().status.clone()
}

fn asked<'a>(served: &'a Served, status: &'a PodStatus) -> Asked<'a> {
    Asked { pod: &served.pod, status }
}

impl Pods for Board {
    fn list(&self) -> Vec<Served> {
        let pods = self.lock();
        let mut here: Vec<&Known> = pods.values().filter(|known| !known.gone).collect();
        // Of two with one name the newer is meant: the older is on its way out.
        here.sort_by_key(|known| {
            Reverse(known.pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        });
        let served = |known: &Known| Served {
            pod: Arc::clone(&known.pod),
            snapshot: known.snapshot.clone(),
            alias: self.mirror_of(&known.pod).and_then(|mirror| mirror.metadata.uid.clone()),
        };
        here.into_iter().map(served).collect()
    }

    fn log_dir(&self, pod: &Pod, container: &str) -> PathBuf {
        self.0.ledger.log_dir_of(pod, container)
    }

    fn stop(&self, _uid: &str, _grace: Option<Duration>) -> Result<(), Failure> {
        let message = "a pod of a cluster is deleted at its API server".into();
        Err(Failure { reason: "Forbidden".into(), message })
    }

    async fn exec(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> Result<ExecExit, ExecError> {
        let (shared, status) = (self.shared()?, status_of(served));
        shared.exec(asked(served, &status), container, command, streams).await
    }

    async fn attach(
        &self,
        served: &Served,
        container: &str,
        attach: Attach,
    ) -> Result<(), ExecError> {
        let (shared, status) = (self.shared()?, status_of(served));
        shared.attach(asked(served, &status), container, attach).await
    }

    async fn stream_url(
        &self,
        served: &Served,
        container: &str,
        request: StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        let (shared, status) = (self.shared()?, status_of(served));
        shared.stream_url(asked(served, &status), container, request).await
    }

    async fn port_forward_url(
        &self,
        served: &Served,
        ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        let (shared, status) = (self.shared()?, status_of(served));
        shared.port_forward_url(asked(served, &status), ports).await
    }

    async fn connect(&self, served: &Served, port: u16) -> Result<TcpStream, String> {
        let shared = self.shared().map_err(|error| error.to_string())?;
        let status = status_of(served);
        shared.connect(asked(served, &status), port).await
    }

    async fn exec_sync(
        &self,
        served: &Served,
        container: &str,
        command: Vec<String>,
        limit: usize,
    ) -> Result<ExecOutput, ExecError> {
        let (shared, status) = (self.shared()?, status_of(served));
        shared.exec_sync(asked(served, &status), container, command, Duration::ZERO, limit).await
    }

    fn running(&self) -> Vec<Running> {
        let pods = self.lock();
        pods.values()
            .filter_map(|known| running(&known.pod, &known.snapshot.borrow().status))
            .collect()
    }

    fn sync_loop(&self) -> Result<(), String> {
        let beat = *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner);
        if beat.elapsed() < self.0.stuck_after {
            return Ok(());
        }
        // Upstream's words.
        Err(format!(
            "sync Loop took longer than expected; last went round {:?} ago",
            beat.elapsed()
        ))
    }
}

/// The pod with its containers that run; none if there is none.
fn running(pod: &Pod, status: &PodStatus) -> Option<Running> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let runs =
        |one: &&ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
    let containers: Vec<_> =
        all.filter(runs).map(|one| (one.name.clone(), one.image.clone())).collect();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    (!containers.is_empty()).then(|| Running {
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
        containers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_syncs_rarely_is_stuck_later() {
        for (every, after) in [(0, 300), (60, 300), (150, 300), (151, 302), (600, 1200)] {
            assert_eq!(stuck_after(Duration::from_secs(every)), Duration::from_secs(after));
        }
    }
}
