//! What is allocated to each pod, and whose resize waits (upstream `pkg/kubelet/allocation`). What
//! is decided is [`copepod_pod::decide`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_pod::resources::holds_less;
use copepod_pod::{Allocation, Decision, Event, Request, ResizeNews, first};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::telemetry::chain;

/// What a node says that it can do beyond what all can (upstream `nodedeclaredfeatures`): pods that
/// need it, and resizes of more than main containers and sidecars, go nowhere else.
pub(super) const FEATURES: [&str; 3] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];
/// How long after the last try the resizes that wait are decided on again (upstream `retryDelay`).
const RETRY_EVERY: Duration = Duration::from_secs(180);
/// The condition by which a pod's object remembers that its resize waits.
const PENDING: &str = "PodResizePending";

/// The allocations by uid. Changed by the agent's loop alone.
#[derive(Debug, Default)]
pub(super) struct Allocations {
    held: BTreeMap<String, Allocation>,
    /// Pods that ask for other resources than they have, and since when that is known to wait.
    pending: BTreeMap<String, Option<Timestamp>>,
    /// Whom those of them that are critical have asked to end.
    asked: BTreeMap<String, BTreeSet<String>>,
    /// When they were last decided on.
    tried: Option<Instant>,
}

impl Allocations {
    /// A pod that is taken has this allocated; what it asks for beyond that waits.
    pub(super) fn add(&mut self, uid: &str, pod: &Pod, allocation: Allocation) {
        if !allocation.is_of(pod) {
            self.pending.insert(uid.to_owned(), waiting_since(pod));
        }
        self.held.insert(uid.to_owned(), allocation);
    }

    /// Nothing is known of the pod any more.
    pub(super) fn forget(&mut self, uid: &str) {
        self.held.remove(uid);
        self.settle(uid);
    }

    /// The pod's resize waits no more.
    fn settle(&mut self, uid: &str) {
        self.pending.remove(uid);
        self.asked.remove(uid);
    }

    /// Of the pods that have to end for the pod's resize, those that were not asked to before.
    fn unasked(&mut self, uid: &str, mut victims: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
        let asked = self.asked.entry(uid.to_owned()).or_default();
        victims.retain(|victim| asked.insert(victim.metadata.uid.clone().unwrap_or_default()));
        victims
    }

    /// The pod with what is allocated to it; of one that has no allocation, the pod itself.
    pub(super) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.held.get(uid).map_or_else(|| Arc::clone(pod), |allocation| allocation.apply(pod))
    }

    /// The pod's object asks for other resources now, which have to be decided on.
    pub(super) fn ask(&mut self, uid: &str) {
        if self.held.contains_key(uid) {
            self.pending.entry(uid.to_owned()).or_default();
        }
    }

    /// Whether resizes wait that are to be decided on once more.
    pub(super) fn is_due(&self) -> bool {
        !self.pending.is_empty() && self.tried.is_none_or(|at| at.elapsed() >= RETRY_EVERY)
    }

    /// Whether any resize waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Since when the pod's object says that its resize waits.
fn waiting_since(pod: &Pod) -> Option<Timestamp> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let pending = conditions.find(|condition| condition.type_ == PENDING)?;
    pending.last_transition_time.as_ref().map(|time| time.0)
}

impl Agent {
    /// A pod that is here has another object now than `before`: what that asks for is decided on. Gives
    /// the pod with what is allocated to it.
    pub(super) async fn allot(&mut self, uid: &str, before: &Arc<Pod>, pod: &Arc<Pod>) -> Arc<Pod> {
        if Allocation::of(before) != Allocation::of(pod) {
            // Before the worker says that it has seen this object.
            self.allocations.ask(uid);
            self.decide_resizes().await;
        } else if holds_less(&self.allocations.apply(before), &self.allocations.apply(pod)) {
            self.retry_resizes().await;
        }
        self.allocations.apply(pod)
    }

    /// There is more room: decides on the resizes that wait, if any.
    pub(super) async fn retry_resizes(&mut self) {
        if self.allocations.is_waiting() {
            self.decide_resizes().await;
        }
    }

    /// Decides on all resizes that wait, in their order; each pod hears what becomes of its own.
    pub(super) async fn decide_resizes(&mut self) {
        // Before that, those are not counted that have room already.
        if !self.knows_all() {
            return;
        }
        self.allocations.tried = Some(Instant::now());
        let mut requests: Vec<(String, Request)> = {
            let table = self.board.lock();
            let request = |(uid, since): (&String, &Option<Timestamp>)| {
                // One that has ended makes nobody end.
                let known = table.get(uid).filter(|known| !known.gone && !known.has_ended())?;
                let desired = Arc::clone(&known.pod);
                let allocation = self.allocations.held.get(uid)?.clone();
                let is_to_stay = desired.metadata.deletion_timestamp.is_none();
                let request = Request { desired, allocation, since: *since };
                is_to_stay.then(|| (uid.clone(), request))
            };
            self.allocations.pending.iter().filter_map(request).collect()
        };
        requests.sort_by(|(_, one), (_, other)| first(one, other));
        for (uid, request) in requests {
            let decision = self.admission.decide(&request, &self.active());
            if let Some(news) = self.carry_out(&uid, request.desired, decision).await {
                self.tell(&uid, Event::Resize(news)).await;
            }
        }
    }

    /// Does what was decided; what the pod's worker is to hear of it.
    async fn carry_out(
        &mut self,
        uid: &str,
        desired: Arc<Pod>,
        decision: Decision,
    ) -> Option<ResizeNews> {
        match decision {
            Decision::None => {
                self.allocations.settle(uid);
                Some(ResizeNews::None)
            }
            Decision::Pending { reason, message } => {
                let since = self.allocations.pending.entry(uid.to_owned()).or_default();
                since.get_or_insert_with(Timestamp::now);
                Some(ResizeNews::Pending { desired, reason, message })
            }
            Decision::Allocated { preempts } if !preempts.is_empty() => {
                // Decided on again when they have ended.
                let preempts = self.allocations.unasked(uid, preempts);
                self.evict_for_critical(&preempts);
                None
            }
            Decision::Allocated { preempts: _ } => {
                let allocation = Allocation::of(&desired);
                if !self.keep_allocation(uid, &allocation).await {
                    return None;
                }
                self.allocations.held.insert(uid.to_owned(), allocation);
                self.allocations.settle(uid);
                Some(ResizeNews::Allocated(desired))
            }
        }
    }

    /// Keeps the allocation before anybody acts on it; whether that was done.
    async fn keep_allocation(&self, uid: &str, allocation: &Allocation) -> bool {
        let (ledger, allocation) = (Arc::clone(&self.shared.ledger), allocation.clone());
        let of_job = uid.to_owned();
        let kept = spawn_blocking(move || ledger.keep_allocation(&of_job, &allocation)).await;
        match kept.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(pod = uid, error = chain(&error), "cannot keep an allocation");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn a_victim_is_asked_once_for_each_resize() {
        let mut allocations = Allocations::default();
        for uid in ["one", "other"] {
            allocations.add(uid, &pod(uid, "1"), Allocation::of(&pod(uid, "500m")));
        }
        let mut asked = |uid: &str, victims: &[&str]| -> Vec<String> {
            let victims = victims.iter().map(|uid| pod(uid, "1")).collect();
            let asked = allocations.unasked(uid, victims);
            asked.iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
        };
        assert_eq!(asked("one", &["a"]), ["a"]);
        assert!(asked("one", &["a"]).is_empty());
        assert_eq!(asked("one", &["b", "a"]), ["b"], "who is new");
        assert_eq!(asked("other", &["a"]), ["a"]);
        allocations.settle("one");
        let again = allocations.unasked("one", vec![pod("a", "1")]);
        assert_eq!(again.len(), 1, "another resize of it");
    }
}
