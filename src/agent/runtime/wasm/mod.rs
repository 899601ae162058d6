//! Containers that are Wasm: one `copepod-sandbox` process each.
//!
//! Owns: the table of attempts of this agent, the start of a sandbox ([`spawn`]), the one task per
//! living sandbox that waits for it ([`monitor`]), the rotation of its log, commands beside it
//! ([`exec`]), clients of its own streams ([`attach`]), its last words (`last_words`), who was killed
//! for want of memory ([`oom`]), other resources for one that runs ([`resize`]), what of
//! an attempt outlives its agent ([`kept`]), and what is done with sandboxes that an earlier agent
//! left: they are ended ([`leftovers`]) or taken over ([`adopt`]).
//! In: the verbs of [`Runtime`]. Out: [`Happening`]s on the channel that [`Wasm::open`] gives.

mod adopt;
mod attach;
mod exec;
mod kept;
mod leftovers;
mod monitor;
mod oom;
mod resize;
mod spawn;
mod waited;

#[cfg(test)]
mod group_test;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copepod_pod::{Attempt, AttemptState, Failure};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;

pub(crate) use adopt::AdoptError;
pub(crate) use leftovers::end_leftovers;

use super::{
    Attach, Container, Exec, ExecError, ExecExit, ExecOutput, Happening, Launch, LogLimits,
    Resources, Runtime, StreamRequest, What, no_ordinary,
};
use crate::image::Programs;
use crate::ledger::Ledger;
use crate::{linux, logs};

/// Happenings on their way to the workers, a start gives three: workers only take, so few wait.
const HAPPENINGS: usize = 256;
/// Orders waiting for one monitor: stops, of which the last counts.
const ORDERS: usize = 8;

/// What stands before the ids of this runtime's containers wherever they are shown.
const SCHEME: &str = "wasm://";

/// A container's id as its status shows it.
fn shown(id: &str) -> String {
    format!("{SCHEME}{id}")
}

/// The other way: what the table and the files on disk know the container by; `None` for another
/// runtime's.
fn own(shown: &str) -> Option<&str> {
    shown.strip_prefix(SCHEME)
}

/// Runs containers as sandbox processes.
pub(crate) struct Wasm {
    ledger: Arc<Ledger>,
    sandbox: PathBuf,
    table: Arc<Table>,
    happenings: mpsc::Sender<Happening>,
}

/// What is known of one attempt.
struct Entry {
    pod_uid: String,
    attempt: Attempt,
    about: kept::About,
    /// To the monitor; closed once the sandbox has ended.
    stop: mpsc::Sender<Duration>,
    /// What was started, for commands beside it; of one that ended under another agent it is not
    /// known any more.
    container: Option<Arc<Container>>,
    /// What commands beside it mean.
    programs: Option<Arc<Programs>>,
    /// One permit for each command that may run beside it.
    execs: Arc<Semaphore>,
    /// To its sandbox, where that can be told anything.
    link: Option<Arc<OwnedWriteHalf>>,
    /// One permit for each client that may be attached to it.
    attached: Arc<Semaphore>,
    /// Its control group, and what is killed in it.
    oom: Arc<oom::OomKills>,
}

/// The attempts by container id. Locked for a look-up only, never across a wait.
#[derive(Default)]
struct Table(Mutex<HashMap<String, Entry>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the state and gives the attempt as it is now, for the happening.
    fn set(&self, id: &str, state: AttemptState) -> Option<Attempt> {
        let mut entries = self.lock();
        let entry = entries.get_mut(id)?;
        if let AttemptState::Exited(_) = state {
            // Nobody hears there any more.
            entry.link = None;
        }
        entry.attempt.state = state;
        Some(entry.attempt.clone())
    }
}

impl Wasm {
    /// A runtime that starts `sandbox` programs and keeps them below `ledger`'s directories.
    pub(crate) fn open(ledger: Arc<Ledger>, sandbox: PathBuf) -> (Self, mpsc::Receiver<Happening>) {
        let (happenings, receiver) = mpsc::channel(HAPPENINGS);
        (Self { ledger, sandbox, table: Arc::default(), happenings }, receiver)
    }
}

impl Wasm {
    /// Where what becomes of containers is told.
    pub(crate) fn happenings(&self) -> mpsc::Sender<Happening> {
        self.happenings.clone()
    }

    /// Puts a living attempt into the table and starts the task that waits for it.
    fn watch(
        &self,
        pod_uid: String,
        attempt: Attempt,
        container: Option<Arc<Container>>,
        mut living: monitor::Living,
    ) {
        let (reader, link) = living.stream.take().map(UnixStream::into_split).unzip();
        let link = link.map(Arc::new);
        let (stop, orders) = mpsc::channel(ORDERS);
        let execs = Arc::new(Semaphore::new(exec::AT_ONCE));
        let running = match attempt.state {
            AttemptState::Running { started_at } => Some(started_at),
            AttemptState::Starting | AttemptState::Exited(_) => None,
        };
        let entry = Entry {
            pod_uid: pod_uid.clone(),
            attempt,
            about: living.about.clone(),
            stop,
            programs: container
                .as_ref()
                .and_then(|c| c.tree.clone())
                .map(Programs::of)
                .map(Arc::new),
            container: container.clone(),
            execs: Arc::clone(&execs),
            link: link.clone(),
            attached: Arc::new(Semaphore::new(attach::AT_ONCE)),
            oom: Arc::clone(&living.oom),
        };
        self.table.lock().insert(living.id.clone(), entry);
        let monitor = monitor::Monitor {
            table: Arc::clone(&self.table),
            happenings: self.happenings.clone(),
            pod_uid,
            container,
            execs,
            reader,
            link,
            oom: Arc::clone(&living.oom),
            unloadable: None,
            running,
        };
        tokio::spawn(monitor.run(living, orders));
    }
}

impl Runtime for Wasm {
    async fn start(&self, launch: Launch) -> Result<Attempt, Failure> {
        let container = match launch {
            Launch::Wasm(container) => *container,
            Launch::Ordinary(_) => return Err(no_ordinary()),
        };
        let spawned = spawn::spawn(&self.ledger, &self.sandbox, &container).await.map_err(|e| {
            Failure { reason: "CreateContainerError".into(), message: crate::telemetry::chain(&e) }
        })?;
        let attempt = Attempt {
            container: container.name.clone(),
            attempt: container.attempt,
            sandbox: container.sandbox,
            id: shown(&spawned.id),
            definition: container.definition,
            user: None,
            image: None,
            state: AttemptState::Starting,
        };
        let pod_uid = container.pod_uid.clone();
        self.watch(pod_uid, attempt.clone(), Some(Arc::new(container)), spawned.into());
        Ok(attempt)
    }

    fn stop(&self, id: &str, grace: Duration) {
        let stop = own(id).and_then(|id| Some(self.table.lock().get(id)?.stop.clone()));
        // Full: eight orders wait already and the worker gives the stop again; closed: it ended.
        let _ = stop.map(|stop| stop.try_send(grace));
    }

    async fn resize(&self, id: &str, resources: Resources) -> Result<(), String> {
        let Some(id) = own(id) else { return Ok(()) };
        resize::resize(self, id, resources).await.map_err(|e| crate::telemetry::chain(&e))
    }

    async fn remove(&self, id: &str) {
        let Some(entry) = own(id).and_then(|id| self.table.lock().remove(id)) else { return };
        entry.oom.remove_leaf().await;
        let Attempt { container, attempt, .. } = entry.attempt;
        let dir = self.ledger.attempt_dir(&entry.pod_uid, &container, attempt);
        logs::remove(&entry.about.log);
        monitor::forget(&entry.about);
        let of_job = dir.clone();
        let removed = spawn_blocking(move || linux::remove_tree(&of_job)).await;
        if let Err(error) = removed.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) {
            tracing::warn!(path = %dir.display(), %error, "cannot remove a dead container's files");
        }
    }

    fn programs(&self, id: &str) -> Option<Arc<Programs>> {
        self.table.lock().get(own(id)?)?.programs.clone()
    }

    async fn exec(&self, id: &str, exec: Exec) -> Result<ExecExit, ExecError> {
        let id = own(id).ok_or_else(|| ExecError::NotRunning(id.into()))?;
        exec::exec(self, id, exec).await
    }

    async fn attach(&self, id: &str, attach: Attach) -> Result<(), ExecError> {
        let id = own(id).ok_or_else(|| ExecError::NotRunning(id.into()))?;
        attach::attach(self, id, attach).await
    }

    async fn stream_url(&self, _: &str, _: &StreamRequest) -> Result<Option<String>, ExecError> {
        Ok(None)
    }

    async fn port_forward_url(&self, _: &str, _: &[u16]) -> Result<Option<String>, ExecError> {
        Ok(None)
    }

    async fn exec_sync(
        &self,
        _: &str,
        _: &[String],
        _: Duration,
        _: usize,
    ) -> Result<Option<ExecOutput>, ExecError> {
        Ok(None)
    }

    fn list(&self, pod_uid: &str) -> Vec<Attempt> {
        let entries = self.table.lock();
        entries.values().filter(|e| e.pod_uid == pod_uid).map(|e| e.attempt.clone()).collect()
    }
}
