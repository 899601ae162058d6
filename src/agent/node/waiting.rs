//! Pods that are neither taken nor refused yet: those for which the node's object is asked for once
//! more, and critical ones that others make room for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_pod::admission::{PREEMPTING, Rejection, preempted};
use copepod_pod::{Event, Source, spec_grace};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;

use super::agent::Agent;
use crate::cluster::events::pod_reference;
use crate::cluster::node::fetch;

/// The least time that pods have to make room (upstream `killPodNow`).
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// Why a pod waits.
#[derive(Clone, Debug)]
enum Why {
    /// For the node's labels; refused with this if they are as they were.
    Labels(Rejection),
    /// Until these pods have ended, or for as long as they may take.
    Room { victims: BTreeSet<String>, until: Instant },
}

/// The pods that wait, by uid.
pub(super) struct Waiting {
    client: kube::Client,
    node: String,
    pods: BTreeMap<String, (Arc<Pod>, Why)>,
    fetching: JoinSet<(String, Option<Node>)>,
}

/// What was asked for for a pod.
pub(super) struct Fetched {
    uid: String,
    node: Option<Node>,
}

impl Waiting {
    /// Nobody waits for the node of this name.
    pub(super) fn new(client: kube::Client, node: &str) -> Self {
        let (pods, fetching) = (BTreeMap::new(), JoinSet::new());
        Self { client, node: node.to_owned(), pods, fetching }
    }

    /// Asks for the node's object before the pod is refused.
    pub(super) fn ask(&mut self, uid: String, pod: Arc<Pod>, rejection: Rejection) {
        let (client, node, of_job) = (self.client.clone(), self.node.clone(), uid.clone());
        self.fetching.spawn(async move { (of_job, fetch(client, &node).await) });
        self.pods.insert(uid, (pod, Why::Labels(rejection)));
    }

    /// The next answer; none comes while nothing is asked for. May be dropped and asked again.
    pub(super) async fn fetched(&mut self) -> Fetched {
        match self.fetching.join_next().await {
            Some(Ok((uid, node))) => Fetched { uid, node },
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// A newer object of a pod that waits; whether it does. One that is deleted waits no longer.
    pub(super) fn set(&mut self, uid: &str, pod: &Arc<Pod>) -> bool {
        if pod.metadata.deletion_timestamp.is_some() {
            self.pods.remove(uid);
        }
        let known = self.pods.get_mut(uid);
        known.map(|(known, _)| *known = Arc::clone(pod)).is_some()
    }

    /// The object of a pod that waits, as it is known.
    pub(super) fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid).map(|(pod, _)| pod)
    }

    /// The pod is gone; gives it if it waited.
    pub(super) fn forget(&mut self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.remove(uid).map(|(pod, _)| pod)
    }

    /// The uids of those that wait and are the API server's.
    pub(super) fn uids(&self) -> impl Iterator<Item = &String> {
        let of_api = self.pods.iter().filter(|(_, (pod, _))| Source::of(pod).is_none());
        of_api.map(|(uid, _)| uid)
    }

    /// The pods that room is made for: it is theirs.
    pub(super) fn holding(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().filter_map(|(pod, why)| match why {
            Why::Labels(_) => None,
            Why::Room { .. } => Some(pod),
        })
    }

    /// A pod has ended: those that waited for it alone.
    fn ended(&mut self, ended: &str) -> Vec<(String, Arc<Pod>)> {
        let ready = |why: &mut Why| match why {
            Why::Labels(_) => false,
            Why::Room { victims, until: _ } => victims.remove(ended) && victims.is_empty(),
        };
        let ready = self.pods.extract_if(.., |_, (_, why)| ready(why));
        ready.map(|(uid, (pod, _))| (uid, pod)).collect()
    }

    /// Those that have waited for others for long enough, with whom they waited for.
    fn late(&mut self, now: Instant) -> Vec<(String, Arc<Pod>, BTreeSet<String>)> {
        let late = self.pods.extract_if(.., |_, (_, why)| match why {
            Why::Labels(_) => false,
            Why::Room { until, victims: _ } => *until <= now,
        });
        late.map(|(uid, (pod, why))| match why {
            Why::Labels(_) => (uid, pod, BTreeSet::new()),
            Why::Room { victims, until: _ } => (uid, pod, victims),
        })
        .collect()
    }
}

impl Agent {
    /// Makes room for a critical pod, which waits meanwhile.
    pub(super) fn preempt(&mut self, uid: String, pod: Arc<Pod>, preempts: &[Arc<Pod>]) {
        let graces = preempts.iter().map(|victim| spec_grace(victim));
        // Upstream waits for half as long again.
        let longest = graces.max().unwrap_or_default();
        let until = Instant::now() + (longest + longest / 2).max(ROOM_WITHIN);
        let victims = preempts.iter().filter_map(|victim| victim.metadata.uid.clone()).collect();
        self.waiting.pods.insert(uid, (pod, Why::Room { victims, until }));
        self.evict_for_critical(preempts);
    }

    /// Ends pods so that a critical one has room.
    pub(super) fn evict_for_critical(&self, preempts: &[Arc<Pod>]) {
        for victim in preempts {
            let why = preempted();
            tracing::info!(pod = victim.metadata.name, "ends so that a critical pod has room");
            self.recorder.record(
                pod_reference(victim, None),
                true,
                PREEMPTING,
                why.message.clone(),
            );
            let uid = victim.metadata.uid.as_deref().unwrap_or_default();
            let events = self.board.get(uid).and_then(|known| known.events);
            let Some(events) = events else { continue };
            // A worker's inbox is hardly ever full. Closed: it has ended.
            if let Err(TrySendError::Full(evict)) = events.try_send(Event::Evict(why)) {
                tokio::spawn(async move { events.send(evict).await });
            }
        }
    }

    /// The node's object was asked for, for a pod that does not match it as it was known.
    pub(super) fn ask_again(&mut self, Fetched { uid, node }: Fetched) {
        let Some((pod, why)) = self.waiting.pods.remove(&uid) else { return };
        let Why::Labels(rejection) = why else {
            self.waiting.pods.insert(uid, (pod, why));
            return;
        };
        let active = self.active();
        match node.map(|node| self.admission.admit_to(&node, &pod, &active)) {
            None => self.reject(uid, pod, &rejection),
            Some(Err(rejection)) => self.reject(uid, pod, &rejection),
            Some(Ok(admitted)) if admitted.preempts.is_empty() => self.begin(uid, pod),
            Some(Ok(admitted)) => self.preempt(uid, pod, &admitted.preempts),
        }
    }

    /// Nothing of a pod runs any more: who waited for its room is asked about again.
    pub(super) async fn make_room(&mut self, ended: &str) {
        for (uid, pod) in self.waiting.ended(ended) {
            self.take(uid, pod);
        }
        self.retry_resizes().await;
    }

    /// Who has waited for long enough is taken, as upstream does.
    pub(super) fn end_waiting(&mut self) {
        for (uid, pod, victims) in self.waiting.late(Instant::now()) {
            for victim in victims.iter().filter_map(|uid| self.board.get(uid)) {
                let message =
                    "Container runtime did not kill the pod within specified grace period.";
                let about = pod_reference(&victim.pod, None);
                self.recorder.record(about, true, "ExceededGracePeriod", message.into());
            }
            self.begin(uid, pod);
        }
    }
}
