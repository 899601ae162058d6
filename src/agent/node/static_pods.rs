//! Static pods: from their sources to workers, and to the mirrors that show them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use copepod_pod::{
    Change, Event, FILE_ANNOTATION, Life, SEEN_ANNOTATION, SOURCE_ANNOTATION, Source, StaticPods,
    full_name, is_mirror, mirrored, next_to_start, with_status_of,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::agent::Agent;
use super::board::Known;
use crate::cluster::events::pod_reference;
use crate::cluster::mirror::Mirrors;
use crate::config::Config;
use crate::sources::static_files::{self, FileOptions};
use crate::sources::static_url::{self, UrlOptions};
use crate::sources::{UPDATES, Update};

/// The source that the API server is (upstream `ApiserverSource`).
const FROM_API: &str = "api";

/// What is known of static pods.
pub(super) struct Statics {
    /// Those that are wanted.
    pub(super) wanted: StaticPods,
    /// Those of them that have not started: an older one of their name has to end before.
    pub(super) waiting: Vec<Arc<Pod>>,
    /// What shows them.
    pub(super) mirrors: Mirrors,
    /// What their sources say.
    pub(super) updates: mpsc::Receiver<Update>,
    /// None starts before, unless the pods of the API are known before: so a restart of the agent
    /// moves no time of a pod that the API server has.
    pub(super) held_until: Option<Instant>,
}

impl Statics {
    /// Starts the configured sources; `kept` is what an earlier agent had.
    pub(super) fn start(
        config: &Config,
        kept: Vec<Pod>,
        mirrors: Mirrors,
        held_until: Option<Instant>,
    ) -> Self {
        let (sender, updates) = mpsc::channel(UPDATES);
        let (static_pods, node) = (&config.static_pods, &config.node.name);
        let is_here = |pod: &&Pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref() == Some(node))
        };
        let sources = [
            static_pods.path.is_some().then_some(Source::File),
            static_pods.url.is_some().then_some(Source::Http),
        ];
        let wanted = StaticPods::of(sources.into_iter().flatten(), kept.iter().filter(is_here));
        let (mut of_files, mut of_url) = (BTreeMap::new(), Vec::new());
        for mut pod in kept.into_iter().filter(|pod| is_here(&pod)) {
            pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
            match Source::of(&pod) {
                Some(Source::File) => {
                    let annotations = pod.metadata.annotations.as_ref();
                    let path = annotations.and_then(|all| all.get(FILE_ANNOTATION));
                    if let Some(path) = path.map(PathBuf::from) {
                        of_files.insert(path, pod);
                    }
                }
                Some(Source::Http) => of_url.push(pod),
                None => {}
            }
        }
        if let Some(path) = static_pods.path.clone() {
            let every = static_pods.path_every;
            let options = FileOptions { path, node: node.clone(), every, kept: of_files };
            static_files::follow(options, sender.clone());
        }
        if let Some(url) = static_pods.url.clone() {
            let options = UrlOptions {
                url,
                headers: static_pods.headers.clone(),
                every: static_pods.url_every,
                node: node.clone(),
                kept: of_url,
            };
            static_url::follow(options, sender);
        }
        Self { wanted, waiting: Vec::new(), mirrors, updates, held_until }
    }

    /// Whether this pod is wanted and has not started yet.
    pub(super) fn is_waiting(&self, uid: &str) -> bool {
        self.waiting.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }
}

/// A pod of the API server: whatever it says of itself, it comes from there, and this node first saw
/// it `now`, unless that is known of an object `before` (upstream `pkg/kubelet/config`, with its
/// annotations; they are never written back). A mirror says which source its pod is from.
pub(super) fn of_api(mut pod: Arc<Pod>, before: Option<&Pod>, now: Timestamp) -> Arc<Pod> {
    if is_mirror(&pod) {
        return pod;
    }
    let seen = before.and_then(|pod| pod.metadata.annotations.as_ref()?.get(SEEN_ANNOTATION));
    let seen = seen.cloned().unwrap_or_else(|| now.to_string());
    let annotations = Arc::make_mut(&mut pod).metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.into(), FROM_API.into());
    annotations.insert(SEEN_ANNOTATION.into(), seen);
    pod
}

impl Agent {
    /// A source says what it has.
    pub(super) async fn hear(&mut self, update: Update) {
        let Update { source, pods, is_seen } = update;
        let was_seen = self.statics.wanted.has_seen(source);
        let now = Timestamp::now().to_string();
        let change = self.statics.wanted.set(source, pods, is_seen, &now);
        let Change { removed, added, updated, doubles } = change;
        for pod in doubles {
            let (namespace, name) = full_name(&pod);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let message = format!(
                "Error validating pod {name}_{namespace}({uid}) from {source} due to duplicate pod \
                 name {name:?}, ignoring"
            );
            tracing::warn!("{message}");
            self.recorder.record(pod_reference(&pod, None), true, "FailedValidation", message);
        }
        let is_more_room = !removed.is_empty();
        for pod in removed {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            // One that never started is over with that.
            self.statics.waiting.retain(|waiting| waiting.metadata.uid != pod.metadata.uid);
            self.gone(&uid).await;
        }
        if is_more_room {
            self.retry_resizes().await;
        }
        for pod in updated {
            self.change(pod).await;
        }
        self.statics.waiting.extend(added);
        if !was_seen && self.statics.wanted.has_seen(source) {
            self.adopt_orphans().await;
        }
        self.start_waiting();
    }

    /// A static pod that brought its uid along is otherwise now.
    async fn change(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let waits =
            self.statics.waiting.iter_mut().find(|one| one.metadata.uid == pod.metadata.uid);
        if let Some(waiting) = waits {
            *waiting = pod;
            return;
        }
        if self.waiting.set(&uid, &pod) {
            return self.statics.mirrors.want(&pod, Life::Unknown);
        }
        let before = {
            let mut table = self.board.lock();
            let known = table.get_mut(&uid).filter(|known| !known.gone);
            known.map(|known| std::mem::replace(&mut known.pod, Arc::clone(&pod)))
        };
        let Some(before) = before else { return };
        let pod = self.allot(&uid, &before, &pod).await;
        self.keep(Arc::clone(&pod)).await;
        self.objects.register(&pod);
        self.tell(&uid, Event::Desired(pod)).await;
    }

    /// Starts the static pods whose turn it is.
    pub(super) fn start_waiting(&mut self) {
        if self.statics.held_until.is_some() {
            return;
        }
        let ready = {
            let table = self.board.lock();
            let is_busy = |pod: &Pod| {
                let name = full_name(pod);
                let stands = |known: &Known| {
                    let is_static = Source::of(&known.pod).is_some();
                    is_static && !known.is_terminated() && full_name(&known.pod) == name
                };
                // What is left of the same pod is cleaned away first.
                let same = pod.metadata.uid.as_ref().is_some_and(|uid| table.contains_key(uid));
                same || table.values().any(stands)
            };
            next_to_start(&mut self.statics.waiting, is_busy)
        };
        for pod in ready {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            // One that nobody has begun has another life than that which a mirror may still show: its
            // file was away.
            let is_kept = self.shared.ledger.has_pod(&uid);
            let pod = match self.board.mirror_of(&pod).filter(|_| is_kept) {
                Some(mirror) => Arc::new(with_status_of(&pod, &mirror)),
                None => pod,
            };
            self.statics.mirrors.want(&pod, Life::Unknown);
            self.take(uid, pod);
        }
    }

    /// Has the pod's status written where it is shown: a static pod's on its mirror.
    pub(super) fn show(&self, pod: &Arc<Pod>, status: PodStatus, terminated: bool) {
        if Source::of(pod).is_none() {
            return self.status.set(pod, status, terminated);
        }
        let runs = status.phase.as_deref() == Some("Running");
        self.statics.mirrors.want(pod, if runs { Life::Runs } else { Life::Unknown });
        self.show_by_mirror(pod, status, terminated);
    }

    /// The same of a static pod, if there is a mirror.
    pub(super) fn show_by_mirror(&self, pod: &Pod, status: PodStatus, terminated: bool) {
        if let Some(mirror) = self.board.mirror_of(pod) {
            self.status.set(&mirror, status, terminated);
        }
    }

    /// These are all mirrors that the API server has.
    pub(super) async fn sync_mirrors(&self, mirrors: &[Arc<Pod>]) {
        let before = std::mem::take(&mut *self.board.mirrors());
        let is_there = |old: &Pod| mirrors.iter().any(|new| new.metadata.uid == old.metadata.uid);
        for gone in before.values().filter(|old| !is_there(old)) {
            self.status.forget(gone.metadata.uid.as_deref().unwrap_or_default());
        }
        self.statics.mirrors.synced(mirrors);
        for mirror in mirrors {
            self.see_mirror(mirror).await;
        }
    }

    /// A mirror is there, as it is now.
    pub(super) async fn see_mirror(&self, mirror: &Arc<Pod>) {
        self.board.mirrors().insert(full_name(mirror), Arc::clone(mirror));
        self.statics.mirrors.seen(mirror);
        self.status.seen(mirror);
        let known = mirrored(mirror).and_then(|uid| self.board.get(uid));
        let is_its = |known: &Known| full_name(&known.pod) == full_name(mirror);
        if let Some(known) = known.filter(is_its) {
            self.remind(&known, mirror).await;
            let snapshot = known.snapshot.borrow().clone();
            self.status.set(mirror, snapshot.status, snapshot.terminated);
        }
    }

    /// Tells a worker once what the mirror has of its pod: it started when no mirror was known. What a
    /// mirror shows of another life of the same file is no matter.
    async fn remind(&self, known: &Known, mirror: &Pod) {
        let has_told = |pod: &Pod| {
            pod.status.as_ref().is_some_and(|status| status.container_statuses.is_some())
        };
        if has_told(&known.pod) || !has_told(mirror) {
            return;
        }
        let began = |status: &PodStatus| status.start_time.clone();
        let is_its_own =
            began(&known.snapshot.borrow().status) == mirror.status.as_ref().and_then(began);
        if !known.is_kept && !is_its_own {
            return;
        }
        let pod = Arc::new(with_status_of(&known.pod, mirror));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(known) = self.board.lock().get_mut(&uid) {
            known.pod = Arc::clone(&pod);
        }
        self.tell(&uid, Event::Desired(pod)).await;
    }

    /// A mirror is there no longer: the static pod that it showed goes on.
    pub(super) fn lose_mirror(&self, mirror: &Arc<Pod>) {
        let name = full_name(mirror);
        let mut mirrors = self.board.mirrors();
        if mirrors.get(&name).is_some_and(|have| have.metadata.uid == mirror.metadata.uid) {
            mirrors.remove(&name);
        }
        drop(mirrors);
        self.statics.mirrors.gone(mirror);
        self.status.forget(mirror.metadata.uid.as_deref().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use copepod_pod::admission::is_critical;
    use serde_json::json;

    use super::*;

    fn pod(annotations: serde_json::Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "annotations": annotations}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn a_pod_of_the_api_says_nothing_of_its_source() {
        let now = |text: &str| text.parse().expect("a time");
        let (first, later) = (now("2026-01-01T00:00:00Z"), now("2026-01-02T00:00:00Z"));
        for forged in ["file", "http", "x", "api"] {
            let told = pod(json!({SOURCE_ANNOTATION: forged, SEEN_ANNOTATION: "y", "mine": "z"}));
            let known = of_api(told, None, first);
            let is = json!({SOURCE_ANNOTATION: "api", SEEN_ANNOTATION: "2026-01-01T00:00:00Z",
                "mine": "z"});
            assert_eq!(json!(known.metadata.annotations), is, "{forged}");
            assert!(!is_critical(&known) && Source::of(&known).is_none());
            let again = of_api(pod(json!({"mine": "z"})), Some(&known), later);
            assert_eq!(again.metadata.annotations, known.metadata.annotations);
        }
        let mirror = pod(json!({copepod_pod::MIRROR_ANNOTATION: "h", SOURCE_ANNOTATION: "file"}));
        assert_eq!(of_api(Arc::clone(&mirror), None, first), mirror);
    }
}
