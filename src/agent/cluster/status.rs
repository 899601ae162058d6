//! Statuses on their way to the API: the latest of each pod, in order, until it is there.
//!
//! One PATCH for each change (upstream: a GET and a PATCH), against the newest object that we have
//! seen. After the last one of a pod that is being deleted comes its DELETE.

mod entry;
mod write;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::entry::{Entry, Stage};
use self::write::Done;

/// Pods of which a request is on its way at a time: 40 that start at once take three rounds.
const IN_FLIGHT_MAX: usize = 16;

/// The times of the writer. A test shortens them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// First wait after a failure.
    pub(crate) first: Duration,
    /// Longest wait.
    pub(crate) max: Duration,
    /// How long what nobody waits for may wait for what comes next: a start is one PATCH then, where
    /// upstream has three.
    pub(crate) settle: Duration,
    /// Between two looks for what others changed (upstream: `syncPeriod`).
    pub(crate) reconcile: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            settle: Duration::from_millis(100),
            reconcile: Duration::from_secs(10),
        }
    }
}

/// Takes statuses, and has them written. Its task ends when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

struct Shared {
    table: Mutex<Table>,
    wake: Notify,
    times: Times,
}

#[derive(Default)]
struct Table {
    /// By uid. Bounded by the pods of the node: who sets a status also forgets the pod.
    pods: HashMap<String, Entry>,
    /// The uids of those that are [`Stage::Due`], in the order in which they became so.
    due: VecDeque<String>,
}

impl StatusWriter {
    /// Starts the task that writes. Must be called within the event loop.
    pub(crate) fn start(client: Client, times: Times) -> Self {
        let shared = Arc::new(Shared { table: Mutex::default(), wake: Notify::new(), times });
        let end = CancellationToken::new();
        tokio::spawn(run(Arc::clone(&shared), client, end.clone()));
        Self { shared, _end: Arc::new(end.drop_guard()) }
    }

    /// Has `status` written as that of `pod`, instead of whatever was to be written of it before.
    /// `terminated` says that nothing of the pod is left on this node: once its terminal phase is
    /// in the API and it is being deleted, it is deleted there. Never waits.
    pub(crate) fn set(&self, pod: &Arc<Pod>, status: PodStatus, terminated: bool) {
        let Some(uid) = pod.uid() else { return };
        let mut table = self.shared.table();
        let times = self.shared.times;
        let entry = table.entry(&uid, pod, times);
        entry.learn_if_newer(pod);
        if entry.want(status, terminated) {
            if entry.is_pressing() || times.settle.is_zero() {
                table.make_due(&uid);
            } else {
                table.settle(&uid, Instant::now() + times.settle);
            }
            self.shared.wake.notify_one();
        }
    }

    /// Tells what the API has of a pod now, from the watch: later patches are against it.
    pub(crate) fn seen(&self, pod: &Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        let mut table = self.shared.table();
        let entry = table.entry(&uid, pod, self.shared.times);
        entry.learn(pod);
        if entry.is_to_delete() {
            table.make_due(&uid);
            self.shared.wake.notify_one();
        }
    }

    /// Drops a pod that the API has no more, with whatever was not written of it.
    pub(crate) fn forget(&self, uid: &str) {
        let mut table = self.shared.table();
        if table.pods.remove(uid).is_some() {
            self.shared.wake.notify_one();
        }
    }

    /// How many pods have something that is not in the API yet.
    #[cfg(test)]
    fn unsent(&self) -> usize {
        self.shared.table().pods.values().filter(|entry| entry.stage.is_unsent()).count()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// What is known of a pod, from now on if nothing was.
    fn entry(&mut self, uid: &str, pod: &Arc<Pod>, times: Times) -> &mut Entry {
        let new = || Entry::new(Arc::clone(pod), times.first, times.max);
        self.pods.entry(uid.to_owned()).or_insert_with(new)
    }

    /// Has a pod looked at, unless it is already to be.
    fn make_due(&mut self, uid: &str) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        match entry.stage {
            Stage::Settled | Stage::Changed | Stage::Settling(_) => {
                entry.stage = Stage::Due;
                self.due.push_back(uid.to_owned());
            }
            Stage::Busy { .. } => entry.stage = Stage::Busy { again: true },
            // A pause after a failure stays one.
            Stage::Due | Stage::Waiting(_) | Stage::Deleted => {}
        }
    }

    /// Has a pod looked at then, unless it is to be already.
    fn settle(&mut self, uid: &str, then: Instant) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        match entry.stage {
            Stage::Settled | Stage::Changed => entry.stage = Stage::Settling(then),
            Stage::Busy { .. } => entry.stage = Stage::Busy { again: true },
            Stage::Settling(_) | Stage::Due | Stage::Waiting(_) | Stage::Deleted => {}
        }
    }

    /// Those whose pause is over become due; gives when the next one is.
    fn end_pauses(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (uid, entry) in &mut self.pods {
            let (Stage::Waiting(until) | Stage::Settling(until)) = entry.stage else { continue };
            if until <= now {
                entry.stage = Stage::Due;
                self.due.push_back(uid.clone());
            } else {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        next
    }

    /// Starts what can be started.
    fn start_due(&mut self, jobs: &mut JoinSet<(String, Done)>, client: &Client) {
        while jobs.len() < IN_FLIGHT_MAX
            && let Some(uid) = self.due.pop_front()
        {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            if !matches!(entry.stage, Stage::Due) {
                continue;
            }
            entry.stage = match entry.next(&uid) {
                None => Stage::Settled,
                Some(job) => {
                    let (client, pod) = (client.clone(), Arc::clone(entry.pod()));
                    jobs.spawn(async move { (uid, job.run(client, &pod).await) });
                    Stage::Busy { again: false }
                }
            };
        }
    }

    /// What became of a request.
    fn finish(&mut self, uid: &str, done: Done) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let again = matches!(entry.stage, Stage::Busy { again: true });
        match done {
            Done::Gone => {
                self.pods.remove(uid);
            }
            Done::Deleted => entry.stage = Stage::Deleted,
            Done::Written(pod) => {
                entry.written(pod, again);
                if again || entry.is_to_delete() {
                    self.make_due(uid);
                }
            }
            Done::Failed { error, newest } => {
                let wait = entry.failed(&error);
                entry.stage = Stage::Waiting(Instant::now() + wait);
                if let Some(pod) = newest {
                    entry.learn(&pod);
                }
            }
        }
    }

    /// Has a look at all pods whose object has changed since.
    fn reconcile(&mut self) {
        let changed = |(uid, entry): (&String, &mut Entry)| {
            matches!(entry.stage, Stage::Changed).then(|| {
                entry.look_again();
                uid.clone()
            })
        };
        let uids: Vec<String> = self.pods.iter_mut().filter_map(changed).collect();
        for uid in uids {
            self.make_due(&uid);
        }
    }
}

async fn run(shared: Arc<Shared>, client: Client, end: CancellationToken) {
    let mut jobs = JoinSet::new();
    let mut reconcile = interval(shared.times.reconcile);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = {
            let mut table = shared.table();
            let next = table.end_pauses(Instant::now());
            table.start_due(&mut jobs, &client);
            next
        };
        let pause = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = shared.wake.notified() => {}
            () = pause => {}
            _ = reconcile.tick() => shared.table().reconcile(),
            Some(ended) = jobs.join_next() => match ended {
                Ok((uid, done)) => shared.table().finish(&uid, done),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
        }
    }
}

#[cfg(test)]
#[path = "status_test.rs"]
mod tests;
