//! What is on this machine and belongs to no pod.

use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Source, removal_grace};
use k8s_openapi::api::core::v1::Pod;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::telemetry::chain;

/// The grace of a pod of which nobody knows any more (upstream's orphans).
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

impl Agent {
    /// What is on this machine and belongs to no pod ends, as far as the source was heard that would
    /// know of it.
    pub(super) async fn adopt_orphans(&mut self) {
        let ledger = Arc::clone(&self.shared.ledger);
        let kept = spawn_blocking(move || ledger.kept_pods()).await;
        match kept.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) {
            Ok(kept) => {
                for pod in kept {
                    self.adopt_orphan(pod);
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "cannot look for orphans"),
        }
        // Those that wait for the list of the API's pods are not asked for yet: a mirror of theirs is no
        // orphan.
        let is_held = self.statics.held_until.is_some();
        for source in Source::ALL {
            if !is_held && self.statics.wanted.has_seen(source) {
                self.statics.mirrors.know(source);
            }
        }
        if !self.knows_all() {
            return;
        }
        self.collect();
        for uid in self.network.attached() {
            if self.is_wanted(&uid) {
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

    fn adopt_orphan(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let source = Source::of(&pod);
        let is_heard = match source {
            Some(source) => self.statics.wanted.has_seen(source),
            // Of one that cannot be read nobody knows whose it is.
            None if pod.spec.is_none() => self.knows_all(),
            None => self.is_synced,
        };
        if is_heard && !self.is_wanted(&uid) {
            tracing::info!(pod = uid, "ends a pod that was deleted meanwhile");
            // A static one is known by itself, and has the time that it asks for.
            let grace = source.map_or(ORPHAN_GRACE, |_| removal_grace(&pod));
            let pod = Arc::new(pod);
            if source.is_some() {
                self.statics.mirrors.end(&pod);
            }
            self.start(uid, pod, true, Some(grace));
        }
    }

    /// Whether there is a pod of this uid, here or to be.
    fn is_wanted(&self, uid: &str) -> bool {
        let is_here = self.board.get(uid).is_some() || self.statics.is_waiting(uid);
        is_here || self.unread.contains(uid)
    }

    /// Has cleaned away what the container runtime holds for nobody (upstream: the garbage collection of
    /// containers, each minute), once all pods are known.
    pub(super) fn collect(&mut self) {
        let is_free = self.knows_all() && self.collecting.is_empty();
        let Some(cri) = self.shared.runtime.cri.clone().filter(|_| is_free) else { return };
        let mut unknown = cri.pods();
        unknown.retain(|uid| !self.is_wanted(uid));
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
}
