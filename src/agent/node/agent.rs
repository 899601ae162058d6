//! The loop that hands out pods: the sources' words to the workers, their statuses back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::admission::{NODE_AFFINITY, Rejection, in_turn, rejected_status};
use copepod_pod::{Allocation, Event, Facts, Source, is_mirror, is_terminal, removal_grace};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::End;
use super::admit::Admission;
use super::allocation::Allocations;
use super::board::{Board, Known};
use super::build;
use super::outlet::News;
use super::standing::Standing;
use super::static_pods::{Statics, of_api};
use super::waiting::Waiting;
use crate::cluster::events::{Recorder, pod_reference};
use crate::cluster::node::NodeHandle;
use crate::cluster::objects::ObjectStore;
use crate::cluster::pods::{self, PodChange};
use crate::cluster::status::StatusWriter;
use crate::linux;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::runtime::both::Both;
use crate::runtime::cri::{Cri, Health};
use crate::telemetry::chain;
use crate::worker::{Shared, Snapshot, Supplier, Workers};

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
    pub(super) client: kube::Client,
    pub(super) network: Network,
    pub(super) admission: Admission,
    pub(super) allocations: Allocations,
    pub(super) waiting: Waiting,
    /// Our node as admission is to see it.
    pub(super) admitting: watch::Sender<Option<Arc<Node>>>,
    pub(super) statics: Statics,
    /// The pods of the API were listed once.
    pub(super) is_synced: bool,
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
    pub(super) async fn run(
        mut self,
        mut standing: watch::Receiver<Option<Standing>>,
        mut end: End,
    ) {
        let mut dirty: BTreeSet<String> = BTreeSet::new();
        // Whether any pod has changed since the last round.
        let mut busy = false;
        let mut changes = None;
        let mut network = self.network.changes();
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = self.shared.runtime.cri.as_ref().map(Cri::health);
        if let Some(health) = &mut health {
            // What was said before anybody listened.
            health.mark_changed();
        }
        standing.mark_changed();
        loop {
            // Each arm only takes: what it takes is worked on after it.
            tokio::select! {
                () = end.wait() => {
                    // What is half removed is better removed whole; the next agent finds the rest.
                    let rest = async { while self.cleaning.join_next().await.is_some() {} };
                    let _ = timeout(END_WITHIN, rest).await;
                    return;
                }
                Some(change) = of_api_server(&mut changes) => self.follow(change).await,
                Some(update) = self.statics.updates.recv() => self.hear(update).await,
                () = reached(self.statics.held_until) => {
                    self.statics.held_until = None;
                    self.start_waiting();
                }
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
                Ok(()) = standing.changed() => {
                    let now = standing.borrow_and_update().clone();
                    now.into_iter().for_each(|now| self.learn(now, &mut changes));
                }
                fetched = self.waiting.fetched() => self.ask_again(fetched),
                Some(done) = self.collecting.join_next() => {
                    if let Err(error) = done {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                Some(done) = self.cleaning.join_next() => dirty.extend(self.cleaned(done)),
                _ = round.tick() => {
                    self.round(&mut dirty).await;
                    if std::mem::take(&mut busy) {
                        linux::trim_heap();
                    }
                }
            }
        }
    }

    /// The API server's word of its pods.
    async fn follow(&mut self, change: PodChange) {
        match change {
            PodChange::Synced(pods) => {
                let (mirrors, pods): (Vec<_>, Vec<_>) =
                    pods.into_iter().partition(|pod| is_mirror(pod));
                self.sync_mirrors(&mirrors).await;
                self.sync(pods).await;
                if !std::mem::replace(&mut self.is_synced, true) {
                    self.statics.held_until = None;
                    self.board.know_all();
                    self.adopt_orphans().await;
                    self.start_waiting();
                }
                // Once all are there that have an allocation.
                self.decide_resizes().await;
            }
            PodChange::Set(pod) if is_mirror(&pod) => self.see_mirror(&pod).await,
            PodChange::Set(pod) => self.set(pod).await,
            PodChange::Gone { uid: _, pod } if is_mirror(&pod) => self.lose_mirror(&pod),
            PodChange::Gone { uid, pod: _ } => {
                self.gone(&uid).await;
                self.retry_resizes().await;
            }
        }
    }

    /// Whether each source was heard.
    pub(super) fn knows_all(&self) -> bool {
        self.is_synced && self.statics.wanted.has_seen_all()
    }

    /// What is due by time alone: `dirty` pods are tried again, once more.
    async fn round(&mut self, dirty: &mut BTreeSet<String>) {
        self.board.beat();
        self.end_waiting();
        if self.allocations.is_due() {
            self.decide_resizes().await;
        }
        self.share_cpus().await;
        self.collect();
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

    /// The node's object is another one now. Once the API server has it, `changes` of its pods are
    /// followed: they are admitted by it.
    fn learn(&self, now: Standing, changes: &mut Option<mpsc::Receiver<PodChange>>) {
        let new = build::facts(&now.node, &self.fixed);
        self.facts.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
        self.admitting.send_replace(Some(now.node));
        if now.is_registered && changes.is_none() {
            let (client, name) = (self.client.clone(), &self.fixed.node_name);
            *changes = Some(pods::watch(client, name, pods::Times::default()));
        }
    }

    /// A pod is cleaned away; gives the uid of one that has to be tried again, with the next round.
    fn cleaned(&mut self, done: Result<(String, bool), JoinError>) -> Option<String> {
        let (uid, is_done) = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        if !is_done {
            return Some(uid);
        }
        self.board.lock().remove(&uid);
        self.start_waiting();
        None
    }

    /// These are all pods that the API server has.
    async fn sync(&mut self, pods: Vec<Arc<Pod>>) {
        let uids: BTreeSet<String> =
            pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let gone: Vec<String> = {
            let known = self.board.lock();
            let of_api = known.iter().filter(|(_, known)| Source::of(&known.pod).is_none());
            of_api
                .map(|(uid, _)| uid)
                .chain(self.waiting.uids())
                .filter(|uid| !uids.contains(*uid))
                .cloned()
                .collect()
        };
        for uid in gone {
            self.gone(&uid).await;
        }
        let ledger = Arc::clone(&self.shared.ledger);
        for pod in in_turn(pods, |uid| ledger.has_pod(uid)) {
            self.set(pod).await;
        }
    }

    /// This pod is there, as it is now.
    async fn set(&mut self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let before = self.board.get(&uid).map(|known| known.pod);
        let before = before.or_else(|| self.waiting.get(&uid).cloned());
        let pod = of_api(pod, before.as_deref(), Timestamp::now());
        self.status.seen(&pod);
        let known = {
            let mut table = self.board.lock();
            table.get_mut(&uid).map(|known| {
                known.gone = false;
                std::mem::replace(&mut known.pod, Arc::clone(&pod))
            })
        };
        match known {
            Some(before) => {
                let pod = self.allot(&uid, &before, &pod).await;
                if ephemeral(&before) != ephemeral(&pod) {
                    self.keep(Arc::clone(&pod)).await;
                }
                // Its spec may name more now.
                self.objects.register(&pod);
                self.tell(&uid, Event::Desired(pod)).await;
            }
            None if self.waiting.set(&uid, &pod) => {}
            None => self.take(uid, pod),
        }
    }

    /// Keeps the pod's object anew: an agent that finds only that is to know its ephemeral
    /// containers.
    pub(super) async fn keep(&self, pod: Arc<Pod>) {
        let ledger = Arc::clone(&self.shared.ledger);
        match spawn_blocking(move || ledger.keep_pod(&pod)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot keep a pod's object"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// A pod that is new to this agent.
    pub(super) fn take(&mut self, uid: String, pod: Arc<Pod>) {
        // One that an earlier agent took is not asked again whether it fits: it runs.
        let asked = !self.shared.ledger.has_pod(&uid)
            && pod.metadata.deletion_timestamp.is_none()
            && !is_terminal(pod.status.as_ref());
        if asked {
            match self.admission.admit(&pod, &self.active()) {
                Ok(admitted) if admitted.preempts.is_empty() => {}
                Ok(admitted) => return self.preempt(uid, pod, &admitted.preempts),
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
    pub(super) fn start(&mut self, uid: String, pod: Arc<Pod>, gone: bool, kill: Option<Duration>) {
        let supplier = Arc::clone(&self.supplier);
        let handle = self.workers.add(self.allocations.apply(&pod), "/".into(), supplier);
        if let Some(grace) = kill {
            // A new worker's inbox is empty.
            let _ = handle.events.try_send(Event::Kill { grace });
        }
        let (events, snapshot) = (Some(handle.events), handle.snapshot);
        // Its worker, which keeps it, has not begun.
        let is_kept = self.shared.ledger.has_pod(&uid);
        self.board.lock().insert(uid, Known { pod, events, snapshot, gone, is_kept });
    }

    /// The pod is not taken: it has failed, and is never run.
    pub(super) fn reject(&mut self, uid: String, pod: Arc<Pod>, rejection: &Rejection) {
        let about = pod_reference(&pod, None);
        self.recorder.record(about, true, &rejection.reason, rejection.message.clone());
        let status = rejected_status(&pod, rejection, Timestamp::now());
        let snapshot = Snapshot { status: status.clone(), trouble: None, terminated: true };
        let (_, snapshot) = watch::channel(snapshot);
        self.show(&pod, status, true);
        let known = Known { pod, events: None, snapshot, gone: false, is_kept: false };
        self.board.lock().insert(uid, known);
    }

    /// The pods that are here and have not ended, with what is allocated to them.
    pub(super) fn active(&self) -> Vec<Arc<Pod>> {
        let table = self.board.lock();
        // Who its source has no more counts no more, as for the scheduler (upstream: `GetActivePods`).
        let active = table.values().filter(|known| !known.has_ended() && !known.gone);
        let active = active.map(|known| self.allocations.apply(&known.pod));
        active.chain(self.waiting.holding().map(Arc::clone)).collect()
    }

    /// Its source has the pod no more: what runs of it ends.
    pub(super) async fn gone(&mut self, uid: &str) {
        self.status.forget(uid);
        // One that never started is over with that.
        if let Some(pod) = self.waiting.forget(uid) {
            self.statics.mirrors.unwant(&pod);
        }
        let (pod, terminated, grace) = {
            let mut table = self.board.lock();
            let Some(known) = table.get_mut(uid).filter(|known| !known.gone) else { return };
            known.gone = true;
            (Arc::clone(&known.pod), known.is_terminated(), removal_grace(&known.pod))
        };
        if Source::of(&pod).is_some() {
            self.statics.mirrors.end(&pod);
        }
        if terminated {
            self.clean(uid);
        } else {
            self.tell(uid, Event::Kill { grace }).await;
        }
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
        let has_ended = known.has_ended();
        match (known.gone, terminated) {
            (false, _) => self.show(&known.pod, status, terminated),
            (true, true) => self.clean(uid),
            // It is shown until it has ended.
            (true, false) if Source::of(&known.pod).is_some() => {
                self.show_by_mirror(&known.pod, status, terminated);
            }
            (true, false) => {}
        }
        if terminated {
            self.start_waiting();
        }
        if has_ended {
            self.make_room(uid).await;
        }
    }

    /// Removes all that is left of a pod.
    fn clean(&mut self, uid: &str) {
        let Some(known) = self.board.get(uid) else { return };
        self.objects.forget(uid);
        self.status.forget(uid);
        self.statics.mirrors.unwant(&known.pod);
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

/// The next word of the API server; before it is asked, for ever.
async fn of_api_server(changes: &mut Option<mpsc::Receiver<PodChange>>) -> Option<PodChange> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for a time; for none, for ever.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
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
