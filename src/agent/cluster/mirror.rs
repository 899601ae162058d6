//! Mirror pods: what static pods are shown by. They are made, made anew and deleted here, until the API
//! server has what it shall have.
//!
//! In: which static pods are to be shown ([`Mirrors::want`], [`Mirrors::unwant`]) and which mirrors
//! there are ([`Mirrors::synced`], [`Mirrors::seen`], [`Mirrors::gone`]). Out: requests, one after the
//! other: a node has few static pods. What is to be done is [`copepod_pod::mirror_step`]'s word.
//! Nothing is done before the pods of the API were seen once, nor while there is no node, which owns
//! them; orphans are left alone until their source was heard. Starts one task, which ends with the
//! last handle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copepod_pod::{
    FullName, Life, MirrorStep, Source, full_name, is_mirror, is_mirror_of, mirror_of, mirror_step,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::call::{CallError, call};
use super::client::Backoff;
use crate::telemetry::chain;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits after failures. A test shortens them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// The first, of any failure.
    pub(crate) first: Duration,
    /// The longest where the API server is not reached: it is to be noticed soon when it is back.
    pub(crate) unreached: Duration,
    /// The longest where it refuses (upstream tries with each sync of a pod, each minute).
    pub(crate) refused: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            unreached: Duration::from_secs(5),
            refused: Duration::from_secs(60),
        }
    }
}

/// The mirrors of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mirrors {
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
    /// By the name that a static pod and its mirror have in common. Bounded by the pods of the node.
    entries: BTreeMap<FullName, Entry>,
    is_synced: bool,
    /// Of these sources all static pods are known: a mirror of none of them is an orphan.
    known: BTreeSet<Source>,
}

#[derive(Default)]
struct Entry {
    wanted: Option<(Arc<Pod>, Life)>,
    mirror: Option<Arc<Pod>>,
    /// Nothing is tried before.
    pause: Option<Instant>,
    back_off: Option<[Backoff; 2]>,
}

/// One request.
struct Job {
    name: FullName,
    step: MirrorStep,
    pod: Option<Arc<Pod>>,
}

/// What became of it.
enum Done {
    /// There is this one now.
    There(Arc<Pod>),
    /// There is none.
    None,
    Failed(CallError),
    /// Another pod has the name: somebody else's, or one that somebody keeps from going.
    Taken,
}

impl Mirrors {
    /// Starts the task, with the node's own client. `node` shows our node as the API server has it.
    pub(crate) fn start(
        client: Client,
        node: watch::Receiver<Option<Arc<Node>>>,
        times: Times,
    ) -> Self {
        let shared = Arc::new(Shared { table: Mutex::default(), wake: Notify::new(), times });
        let end = CancellationToken::new();
        let task = run(Arc::clone(&shared), client, node);
        tokio::spawn(end.clone().run_until_cancelled_owned(task));
        Self { shared, _end: Arc::new(end.drop_guard()) }
    }

    /// This static pod is to be shown, and no other of its name.
    pub(crate) fn want(&self, pod: &Arc<Pod>, life: Life) {
        self.change(full_name(pod), |entry| {
            let is_same = entry.wanted.as_ref().is_some_and(|(before, was)| {
                before.metadata.uid == pod.metadata.uid && *was == life
            });
            entry.wanted = Some((Arc::clone(pod), life));
            !is_same
        });
    }

    /// This static pod is to end: until [`Mirrors::unwant`] its mirror is left as it is.
    pub(crate) fn end(&self, pod: &Arc<Pod>) {
        self.change(full_name(pod), |entry| {
            let is_other = |(wanted, _): &(Arc<Pod>, Life)| wanted.metadata.uid != pod.metadata.uid;
            if !entry.wanted.as_ref().is_some_and(is_other) {
                entry.wanted = Some((Arc::clone(pod), Life::Ends));
            }
            // Nothing is to be done for it.
            false
        });
    }

    /// This static pod is over: unless there is another one of its name, nothing is to be shown.
    pub(crate) fn unwant(&self, pod: &Pod) {
        self.change(full_name(pod), |entry| {
            let is_it = |(wanted, _): &(Arc<Pod>, Life)| wanted.metadata.uid == pod.metadata.uid;
            entry.wanted.take_if(|wanted| is_it(wanted)).is_some()
        });
    }

    /// All static pods of this source are known from now on.
    pub(crate) fn know(&self, source: Source) {
        if self.shared.table().known.insert(source) {
            self.shared.wake.notify_one();
        }
    }

    /// These are all mirrors that there are.
    pub(crate) fn synced(&self, mirrors: &[Arc<Pod>]) {
        let mut table = self.shared.table();
        table.is_synced = true;
        for entry in table.entries.values_mut() {
            entry.mirror = None;
            // The API server answers: what was refused long ago may be so no longer.
            entry.settle();
        }
        for mirror in mirrors {
            table.entries.entry(full_name(mirror)).or_default().mirror = Some(Arc::clone(mirror));
        }
        table.tidy();
        drop(table);
        self.shared.wake.notify_one();
    }

    /// This mirror is there, as it is now.
    pub(crate) fn seen(&self, mirror: &Arc<Pod>) {
        self.change(full_name(mirror), |entry| {
            // Of what we made ourselves the watch may still show what was before.
            let is_news = entry.mirror.as_ref().is_none_or(|have| version(have) < version(mirror));
            if is_news {
                entry.mirror = Some(Arc::clone(mirror));
            }
            is_news
        });
    }

    /// This mirror is there no longer.
    pub(crate) fn gone(&self, mirror: &Pod) {
        self.change(full_name(mirror), |entry| {
            let is_it = |have: &Arc<Pod>| have.metadata.uid == mirror.metadata.uid;
            let is_news =
                entry.mirror.take_if(|have| is_it(have)).is_some() || entry.pause.is_some();
            // Its name is free, if that was it.
            entry.settle();
            is_news
        });
    }

    fn change(&self, name: FullName, change: impl FnOnce(&mut Entry) -> bool) {
        let mut table = self.shared.table();
        if change(table.entries.entry(name).or_default()) {
            self.shared.wake.notify_one();
        }
        table.tidy();
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change is one assignment.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn step(&self) -> MirrorStep {
        let wanted = self.wanted.as_ref().map(|(pod, life)| (&**pod, *life));
        mirror_step(wanted, self.mirror.as_deref())
    }

    /// Nothing has failed.
    fn settle(&mut self) {
        self.pause = None;
        self.back_off = None;
    }
}

impl Table {
    /// Forgets names of nothing.
    fn tidy(&mut self) {
        self.entries.retain(|_, entry| entry.wanted.is_some() || entry.mirror.is_some());
    }

    /// What is to be done first, else when to look again. What is due for longest comes first: creations
    /// that time out again and again starve no other.
    fn next(&self, now: Instant) -> Result<Job, Option<Instant>> {
        if !self.is_synced {
            return Err(None);
        }
        let due = |(name, entry): (&FullName, &Entry)| {
            let source = entry.mirror.as_deref().and_then(Source::of);
            let is_known = source.is_none_or(|source| self.known.contains(&source));
            let step = (entry.wanted.is_some() || is_known).then(|| entry.step());
            match step {
                None | Some(MirrorStep::Keep) => None,
                Some(step @ (MirrorStep::Create | MirrorStep::Delete { .. })) => {
                    let pod = entry.wanted.as_ref().map(|(pod, _)| Arc::clone(pod));
                    Some((entry.pause, Job { name: name.clone(), step, pod }))
                }
            }
        };
        // What was not tried yet has no pause, and is before all others.
        let first = self.entries.iter().filter_map(due).min_by_key(|(pause, _)| *pause);
        match first {
            None => Err(None),
            Some((Some(pause), _)) if pause > now => Err(Some(pause)),
            Some((_, job)) => Ok(job),
        }
    }

    fn finish(&mut self, job: &Job, done: Done, times: Times) {
        let Some(entry) = self.entries.get_mut(&job.name) else { return };
        let (namespace, name) = &job.name;
        let waits = entry.back_off.get_or_insert_with(|| {
            [times.unreached, times.refused].map(|max| Backoff::new(times.first, max))
        });
        let wait = match &done {
            Done::There(mirror) => {
                tracing::info!("mirror pod {namespace}/{name} is there");
                if entry.mirror.as_ref().is_none_or(|have| version(have) < version(mirror)) {
                    entry.mirror = Some(Arc::clone(mirror));
                }
                return entry.settle();
            }
            Done::None => {
                let MirrorStep::Delete { uid } = &job.step else { return };
                let is_it = |have: &Arc<Pod>| have.metadata.uid.as_ref() == Some(uid);
                entry.mirror.take_if(|have| is_it(have));
                entry.settle();
                return self.tidy();
            }
            Done::Taken => {
                tracing::warn!("static pod {namespace}/{name} is not shown: its name is taken");
                waits[1].wait(None)
            }
            Done::Failed(error) => {
                let wait = waits[usize::from(!error.is_passing())].wait(error.retry_after());
                tracing::warn!(?wait, "mirror pod {namespace}/{name}: {}", chain(error));
                wait
            }
        };
        entry.pause = Some(Instant::now() + wait);
    }
}

async fn run(shared: Arc<Shared>, client: Client, mut node: watch::Receiver<Option<Arc<Node>>>) {
    loop {
        // One that is being deleted takes its mirrors along (upstream makes none then).
        let owner = node.borrow_and_update().clone();
        let owner = owner.filter(|node| node.metadata.deletion_timestamp.is_none());
        let next = match &owner {
            None => Err(None),
            Some(owner) => match shared.table().next(Instant::now()) {
                Ok(job) => Ok((job, Arc::clone(owner))),
                Err(next) => Err(next),
            },
        };
        match next {
            Ok((job, owner)) => {
                let done = perform(&client, &job, &owner).await;
                shared.table().finish(&job, done, shared.times);
            }
            Err(next) => {
                let pause = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shared.wake.notified() => {}
                    () = pause => {}
                    // It ends with the event loop.
                    Ok(()) = node.changed() => {}
                }
            }
        }
    }
}

async fn perform(client: &Client, job: &Job, owner: &Node) -> Done {
    let (namespace, name) = &job.name;
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match (&job.step, &job.pod) {
        (MirrorStep::Create, Some(pod)) => {
            let uid = owner.metadata.uid.as_deref().unwrap_or_default();
            let mirror = mirror_of(pod, &owner.name_any(), uid);
            match call(LIMIT, api.create(&PostParams::default(), &mirror)).await {
                Ok(made) => Done::There(slim(made)),
                Err(error) if error.is_already_exists() => there(&api, name, pod).await,
                Err(error) => Done::Failed(error),
            }
        }
        (MirrorStep::Delete { uid }, _) => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match call(LIMIT, api.delete(name, &params)).await {
                Ok(_) => Done::None,
                // It is not that one any more: what there is, the watch says.
                Err(error) if error.is_not_found() || error.is_conflict() => Done::None,
                Err(error) => Done::Failed(error),
            }
        }
        (MirrorStep::Keep | MirrorStep::Create, _) => Done::None,
    }
}

/// What has the name of the mirror of `pod`.
async fn there(api: &Api<Pod>, name: &str, pod: &Pod) -> Done {
    match call(LIMIT, api.get(name)).await {
        Err(error) => Done::Failed(error),
        // Deleted already, and held: the watch tells of its end.
        Ok(found) if found.metadata.deletion_timestamp.is_some() => Done::Taken,
        Ok(found) if is_mirror_of(&found, pod) => Done::There(slim(found)),
        Ok(found) => {
            let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            match is_mirror(&found) && node(&found) == node(pod) {
                true => Done::There(slim(found)),
                false => Done::Taken,
            }
        }
    }
}

fn slim(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}

/// Versions of one kind of object can be compared (KEP-5504; it was always so in fact).
fn version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
#[path = "mirror_test.rs"]
mod tests;
