//! The loop that hands out pods: the API server's word to the workers, their statuses back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::admission::{NODE_AFFINITY, Rejection, rejected_status};
use copepod_pod::{Allocation, Event, Facts, removal_grace};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::End;
use super::admit::Admission;
use super::allocation::Allocations;
use super::board::{Board, Known};
use super::build;
use super::outlet::News;
use super::waiting::Waiting;
use crate::cluster::events::{Recorder, pod_reference};
use crate::cluster::node::NodeHandle;
use crate::cluster::objects::ObjectStore;
use crate::cluster::patch::is_terminal;
use crate::cluster::pods::PodChange;
use crate::cluster::status::StatusWriter;
use crate::linux;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::runtime::both::Both;
use crate::runtime::cri::{Cri, Health};
use crate::telemetry::chain;
use crate::worker::{Shared, Snapshot, Supplier, Workers};

/// The grace of a pod of which nobody knows any more (upstream's orphans).
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long what is being cleaned away is waited for at the end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often the loop goes round without news: what is due by time alone, node-wide.
const ROUND: Duration = Duration::from_secs(10);

/// All that the loop goes by.
pub(super) struct Agent {
    pub(super) workers: Workers<Both>,
    pub(super) shared: Arc<Shared<Both>>,
    pub(super) supplier: Arc<dyn Supplier>,
    pub(super) board: Board,
    pub(super) objects: ObjectStore,
    pub(super) status: StatusWriter,
    pub(super) recorder: Recorder,
    pub(super) node: NodeHandle,
    pub(super) network: Network,
    pub(super) admission: Admission,
    pub(super) allocations: Allocations,
    pub(super) waiting: Waiting,
    /// What pods may ask of the node, for the workers.
    pub(super) facts: watch::Sender<Facts>,
    /// The part of it that does not change.
    pub(super) fixed: Facts,
    pub(super) news: Arc<News>,
    /// Pods that are cleaned away: each gives its uid, and whether that was done.
    pub(super) cleaning: JoinSet<(String, bool)>,
    /// The one look for what the container runtime holds for nobody.
    pub(super) collecting: JoinSet<()>,
}

impl Agent {
    /// Runs until the end is told.
    pub(super) async fn run(mut self, mut changes: mpsc::Receiver<PodChange>, mut end: End) {
        let mut dirty: BTreeSet<String> = BTreeSet::new();
        // Whether any pod has changed since the last round.
        let mut busy = false;
        let mut network = self.network.changes();
        let mut object = self.node.node();
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut synced = false;
        let mut health = self.shared.runtime.cri.as_ref().map(Cri::health);
        if let Some(health) = &mut health {
            // What was said before anybody listened.
            health.mark_changed();
        }
        loop {
            // Each arm only takes: what it takes is worked on after it.
            tokio::select! {
                () = end.wait() => {
                    // What is half removed is better removed whole; the next agent finds the rest.
                    let rest = async { while self.cleaning.join_next().await.is_some() {} };
                    let _ = timeout(END_WITHIN, rest).await;
                    return;
                }
                Some(change) = changes.recv() => match change {
                    PodChange::Synced(pods) => {
                        self.sync(pods).await;
                        if !synced {
                            synced = true;
                            self.adopt_orphans().await;
                        }
                    }
                    PodChange::Set(pod) => self.set(pod).await,
                    PodChange::Gone { uid, pod: _ } => self.gone(&uid).await,
                },
                uids = self.news.take() => {
                    busy = true;
                    for uid in uids {
                        self.report(&uid).await;
                    }
                }
                uids = self.objects.changed() => {
                    for uid in uids {
                        self.tell(&uid, Event::Changed).await;
                    }
                }
                Ok(()) = network.changed() => self.judge(health.as_ref()),
                () = changed(&mut health) => self.judge(health.as_ref()),
                Ok(()) = object.changed() => {
                    let node = object.borrow_and_update().clone();
                    node.into_iter().for_each(|node| self.learn(&node));
                }
                fetched = self.waiting.fetched() => self.ask_again(fetched).await,
                Some(done) = self.collecting.join_next() => {
                    if let Err(error) = done {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                Some(done) = self.cleaning.join_next() => match done {
                    Ok((uid, true)) => drop(self.board.lock().remove(&uid)),
                    // Tried again with the next round.
                    Ok((uid, false)) => drop(dirty.insert(uid)),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = round.tick() => {
                    self.round(synced, &mut dirty).await;
                    if std::mem::take(&mut busy) {
                        linux::trim_heap();
                    }
                }
            }
        }
    }

    /// What is due by time alone: `dirty` pods are tried again, once more.
    async fn round(&mut self, synced: bool, dirty: &mut BTreeSet<String>) {
        self.board.beat();
        self.end_waiting();
        if self.allocations.is_due() {
            self.decide_resizes().await;
        }
        self.share_cpus().await;
        self.collect(synced).await;
        for uid in std::mem::take(dirty) {
            self.clean(&uid);
        }
    }

    /// The network or the container runtime is otherwise now: what keeps the node from being ready.
    fn judge(&self, health: Option<&watch::Receiver<Health>>) {
        let health = health.map(|health| health.borrow().clone());
        if health.as_ref().is_some_and(|health| !health.asked) {
            return;
        }
        self.node.set_problems(build::problems(&self.network, health.as_ref()));
        if let Some(health) = health.filter(|health| !health.version.is_empty()) {
            self.node.set_runtime(build::report(&health));
        }
    }

    /// The node's object is another one now.
    fn learn(&self, node: &Node) {
        let new = build::facts(node, &self.fixed);
        self.facts.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// These are all pods that there are.
    async fn sync(&mut self, pods: Vec<Arc<Pod>>) {
        let uids: BTreeSet<String> =
            pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let gone: Vec<String> = {
            let known = self.board.lock();
            let all = known.keys().chain(self.waiting.uids());
            all.filter(|uid| !uids.contains(*uid)).cloned().collect()
        };
        for uid in gone {
            self.gone(&uid).await;
        }
        // In the order in which they were made, as upstream: of two that do not both fit, the older
        // stays.
        let mut pods = pods;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
        for pod in pods {
            self.set(pod).await;
        }
        // Once all are there that have an allocation.
        self.decide_resizes().await;
    }

    /// This pod is there, as it is now.
    async fn set(&mut self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.status.seen(&pod);
        let known = {
            let mut table = self.board.lock();
            table.get_mut(&uid).map(|known| {
                known.gone = false;
                let before = std::mem::replace(&mut known.pod, Arc::clone(&pod));
                (ephemeral(&before), Allocation::of(&before))
            })
        };
        match known {
            Some((before, asked_for)) => {
                if asked_for != Allocation::of(&pod) {
                    // Before the worker says that it has seen this object.
                    self.allocations.ask(&uid);
                    self.decide_resizes().await;
                }
                let pod = self.allocations.apply(&pod);
                if before != ephemeral(&pod) {
                    self.keep(Arc::clone(&pod)).await;
                }
                // Its spec may name more now.
                self.objects.register(&pod);
                self.tell(&uid, Event::Desired(pod)).await;
            }
            None if self.waiting.set(&uid, &pod) => {}
            None => self.take(uid, pod).await,
        }
    }

    /// Keeps the pod's object anew: an agent that finds only that is to know its ephemeral
    /// containers.
    async fn keep(&self, pod: Arc<Pod>) {
        let ledger = Arc::clone(&self.shared.ledger);
        match spawn_blocking(move || ledger.keep_pod(&pod)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot keep a pod's object"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// A pod that is new to this agent.
    pub(super) async fn take(&mut self, uid: String, pod: Arc<Pod>) {
        // One that an earlier agent took is not asked again whether it fits: it runs.
        let asked = !self.shared.ledger.has_pod(&uid)
            && pod.metadata.deletion_timestamp.is_none()
            && !is_terminal(pod.status.as_ref());
        if asked {
            match self.admission.admit(&pod, &self.active()) {
                Ok(admitted) if admitted.preempts.is_empty() => {}
                Ok(admitted) => return self.preempt(uid, pod, &admitted.preempts).await,
                // What is known of the node may be older than its labels.
                Err(rejection) if rejection.reason == NODE_AFFINITY => {
                    return self.waiting.ask(uid, pod, rejection);
                }
                Err(rejection) => return self.reject(uid, pod, &rejection),
            }
        }
        self.begin(uid, pod);
    }

    /// The pod is taken: it has what it was allocated, by an earlier agent or now.
    pub(super) fn begin(&mut self, uid: String, pod: Arc<Pod>) {
        let kept = self.shared.ledger.allocation(&uid);
        self.allocations.add(&uid, &pod, kept.unwrap_or_else(|| Allocation::of(&pod)));
        self.objects.register(&pod);
        self.start(uid, pod, false, None);
    }

    /// Starts the worker of a pod; `kill` ends it at once within that grace.
    fn start(&mut self, uid: String, pod: Arc<Pod>, gone: bool, kill: Option<Duration>) {
        let supplier = Arc::clone(&self.supplier);
        let handle = self.workers.add(self.allocations.apply(&pod), "/".into(), supplier);
        if let Some(grace) = kill {
            // A new worker's inbox is empty.
            let _ = handle.events.try_send(Event::Kill { grace });
        }
        let (events, snapshot) = (Some(handle.events), handle.snapshot);
        self.board.lock().insert(uid, Known { pod, events, snapshot, gone });
    }

    /// The pod is not taken: it has failed, and is never run.
    pub(super) fn reject(&mut self, uid: String, pod: Arc<Pod>, rejection: &Rejection) {
        let about = pod_reference(&pod, None);
        self.recorder.record(about, true, &rejection.reason, rejection.message.clone());
        let status = rejected_status(&pod, rejection, Timestamp::now());
        let snapshot = Snapshot { status: status.clone(), trouble: None, terminated: true };
        let (_, snapshot) = watch::channel(snapshot);
        self.status.set(&pod, status, true);
        self.board.lock().insert(uid, Known { pod, events: None, snapshot, gone: false });
    }

    /// The pods that are here and have not ended, with what is allocated to them.
    pub(super) fn active(&self) -> Vec<Arc<Pod>> {
        let table = self.board.lock();
        let active = table.values().filter(|known| !known.is_terminated());
        let active = active.map(|known| self.allocations.apply(&known.pod));
        active.chain(self.waiting.holding().map(Arc::clone)).collect()
    }

    /// The API server has the pod no more: what runs of it ends.
    async fn gone(&mut self, uid: &str) {
        self.status.forget(uid);
        self.waiting.forget(uid);
        let (terminated, grace) = {
            let mut table = self.board.lock();
            let Some(known) = table.get_mut(uid).filter(|known| !known.gone) else { return };
            known.gone = true;
            (known.is_terminated(), removal_grace(&known.pod))
        };
        if terminated {
            self.clean(uid);
        } else {
            self.tell(uid, Event::Kill { grace }).await;
        }
    }

    /// What is on this machine and belongs to no pod ends.
    async fn adopt_orphans(&mut self) {
        let ledger = Arc::clone(&self.shared.ledger);
        let kept = spawn_blocking(move || ledger.kept_pods()).await;
        match kept.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) {
            Ok(kept) => {
                for pod in kept {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    if self.board.get(&uid).is_none() {
                        tracing::info!(pod = uid, "ends a pod that was deleted meanwhile");
                        self.start(uid, Arc::new(pod), true, Some(ORPHAN_GRACE));
                    }
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "cannot look for orphans"),
        }
        self.collect(true).await;
        for uid in self.network.attached() {
            if self.board.get(&uid).is_some() {
                continue;
            }
            // Beside the loop: a plugin may take its time.
            let network = self.network.clone();
            tokio::spawn(async move {
                if let Err(error) = network.detach(&uid).await {
                    tracing::warn!(pod = uid, error = chain(&error), "cannot detach an orphan");
                }
            });
        }
    }

    /// Has cleaned away what the container runtime holds for nobody (upstream: the garbage collection of
    /// containers, each minute), once all pods are `synced`.
    async fn collect(&mut self, synced: bool) {
        let Some(cri) =
            self.shared.runtime.cri.clone().filter(|_| synced && self.collecting.is_empty())
        else {
            return;
        };
        let unknown: Vec<String> = {
            let known = self.board.lock();
            cri.pods().into_iter().filter(|uid| !known.contains_key(uid)).collect()
        };
        self.collecting.spawn(async move {
            for uid in unknown {
                tracing::info!(pod = uid, "removes what the container runtime has of no pod");
                if let Err(error) = cri.remove_pod(&uid).await {
                    tracing::warn!(pod = uid, error = chain(&error), "cannot remove an orphan");
                }
            }
            if let Err(error) = cri.collect().await {
                tracing::warn!(error = chain(&error), "cannot remove old sandboxes");
            }
        });
    }

    /// Tells the pod's worker; one that has ended hears nothing.
    pub(super) async fn tell(&self, uid: &str, event: Event) {
        let events = self.board.lock().get(uid).and_then(|known| known.events.clone());
        if let Some(events) = events {
            // A worker waits for nothing but events, so that this is short. Closed: it has ended.
            let _ = events.send(event).await;
        }
    }

    /// The pod has a new snapshot: its status goes to the API server; one that the API server has
    /// no more is cleaned away once it has ended.
    async fn report(&mut self, uid: &str) {
        let Some(known) = self.board.get(uid) else { return };
        let Snapshot { status, terminated, .. } = known.snapshot.borrow().clone();
        match (known.gone, terminated) {
            (false, _) => self.status.set(&known.pod, status, terminated),
            (true, true) => self.clean(uid),
            (true, false) => {}
        }
        if terminated {
            self.make_room(uid).await;
        }
    }

    /// Removes all that is left of a pod.
    fn clean(&mut self, uid: &str) {
        let Some(known) = self.board.get(uid) else { return };
        self.objects.forget(uid);
        self.status.forget(uid);
        self.allocations.forget(uid);
        let (shared, uid) = (Arc::clone(&self.shared), uid.to_owned());
        self.cleaning.spawn(async move {
            for attempt in shared.runtime.list(&uid) {
                shared.runtime.remove(&attempt.id).await;
            }
            if let Some(cri) = shared.runtime.cri.as_ref().filter(|cri| cri.pods().contains(&uid))
                && let Err(error) = cri.remove_pod(&uid).await
            {
                tracing::warn!(pod = uid, error = chain(&error), "cannot remove a pod's sandbox");
                return (uid, false);
            }
            let done = spawn_blocking(move || shared.ledger.forget_pod(&known.pod)).await;
            let done = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            if let Err(error) = &done {
                tracing::warn!(pod = uid, error = chain(error), "cannot remove what a pod left");
            }
            (uid, done.is_ok())
        });
    }

    /// Shares the cpus between the classes of service.
    async fn share_cpus(&self) {
        let Some(cgroups) = self.shared.host.cgroups.clone() else { return };
        let active = self.active();
        let shared =
            spawn_blocking(move || cgroups.update_classes(active.iter().map(|pod| &**pod)));
        match shared.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot share cpus"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Waits for news of the container runtime; without one, for ever.
async fn changed(health: &mut Option<watch::Receiver<Health>>) {
    match health {
        // It ends with the agent.
        Some(health) => drop(health.changed().await),
        None => std::future::pending().await,
    }
}

/// How many ephemeral containers a pod has: none ever goes.
fn ephemeral(pod: &Pod) -> usize {
    pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref()).map_or(0, Vec::len)
}
