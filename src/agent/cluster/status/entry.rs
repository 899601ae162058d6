//! What is known and wanted of one pod.

use std::sync::Arc;
use std::time::Duration;

use copepod_pod::is_terminal;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use tokio::time::Instant;

use super::write::Job;
use crate::cluster::client::{Backoff, retry_after, told};
use crate::cluster::patch::status_patch;

/// Marks the API's copy of a pod that comes from elsewhere.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is to be done.
    Settled,
    /// Nothing is to be done, but others changed the status: the next reconcile looks at it.
    Changed,
    /// To be looked at as soon as there is room.
    Due,
    /// To be looked at then: nobody waits for what has changed, and more comes in a moment.
    Settling(Instant),
    /// A request is on its way; `again` if there is something new meanwhile.
    Busy { again: bool },
    /// To be looked at then, after a failure.
    Waiting(Instant),
    /// The API was told to delete it; there is nothing more to say.
    Deleted,
}

impl Stage {
    #[cfg(test)]
    pub(super) fn is_unsent(self) -> bool {
        match self {
            Stage::Due | Stage::Settling(_) | Stage::Busy { .. } | Stage::Waiting(_) => true,
            Stage::Settled | Stage::Changed | Stage::Deleted => false,
        }
    }
}

/// One pod.
pub(super) struct Entry {
    pub(super) stage: Stage,
    /// The newest object that we know.
    pod: Arc<Pod>,
    /// It is the answer to a patch, which the watch has not shown yet: what that shows may be older.
    is_answer: bool,
    wanted: Option<Wanted>,
    backoff: Backoff,
    failures: u32,
}

struct Wanted {
    status: Arc<PodStatus>,
    /// The API has it, as far as it takes it.
    sent: bool,
    terminated: bool,
}

impl Entry {
    pub(super) fn new(pod: Arc<Pod>, first: Duration, max: Duration) -> Self {
        let backoff = Backoff::new(first, max);
        Self { stage: Stage::Settled, pod, is_answer: false, wanted: None, backoff, failures: 0 }
    }

    pub(super) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// What the watch shows, in its order.
    pub(super) fn learn(&mut self, pod: &Arc<Pod>) {
        if !self.is_answer || version(pod) >= version(&self.pod) {
            self.replace(pod);
        }
    }

    /// What somebody had, which may be older than what we know.
    pub(super) fn learn_if_newer(&mut self, pod: &Arc<Pod>) {
        if version(pod) > version(&self.pod) {
            self.replace(pod);
        }
    }

    fn replace(&mut self, pod: &Arc<Pod>) {
        if self.stage == Stage::Settled && pod.status != self.pod.status {
            self.stage = Stage::Changed;
        }
        self.pod = Arc::clone(pod);
        self.is_answer = false;
    }

    /// Takes a new wish; false if it is the one that there is.
    pub(super) fn want(&mut self, status: PodStatus, terminated: bool) -> bool {
        let (same, was_terminated) = match &self.wanted {
            Some(wanted) => (*wanted.status == status, wanted.terminated),
            None => (false, false),
        };
        let terminated = terminated || was_terminated;
        if same && terminated == was_terminated {
            return false;
        }
        let sent = same && self.wanted.as_ref().is_some_and(|wanted| wanted.sent);
        self.wanted = Some(Wanted { status: Arc::new(status), sent, terminated });
        true
    }

    /// Whether somebody may wait for what is wanted: another phase or readiness than the API has, or
    /// the end.
    pub(super) fn is_pressing(&self) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        let have = self.pod.status.as_ref();
        let phase = have.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        wanted.terminated
            || wanted.status.phase.as_deref() != Some(phase)
            || is_ready(Some(&wanted.status)) != is_ready(have)
            || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// What is to be done next, if anything.
    pub(super) fn next(&mut self, uid: &str) -> Option<Job> {
        let wanted = self.wanted.as_mut()?;
        if !wanted.sent {
            match status_patch(uid, self.pod.status.as_ref(), &wanted.status) {
                Some(patch) => return Some(Job::Patch(patch)),
                None => wanted.sent = true,
            }
        }
        self.is_to_delete().then_some(Job::Delete)
    }

    /// Whether it is over, here and in the API, and somebody wants it deleted. A mirror pod's
    /// deletion says nothing of the pod that it mirrors.
    pub(super) fn is_to_delete(&self) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        wanted.sent
            && wanted.terminated
            && self.stage != Stage::Deleted
            && self.pod.metadata.deletion_timestamp.is_some()
            && !self.pod.annotations().contains_key(MIRROR)
            && is_terminal(self.pod.status.as_ref())
    }

    /// The API took a patch and has this now. What it made of it otherwise is not sent again.
    pub(super) fn written(&mut self, pod: Arc<Pod>, again: bool) {
        self.stage = Stage::Settled;
        if version(&pod) >= version(&self.pod) {
            self.pod = pod;
            self.is_answer = true;
        } else if pod.status != self.pod.status {
            // Others were there after us.
            self.stage = Stage::Changed;
        }
        if let Some(wanted) = &mut self.wanted {
            wanted.sent = !again;
        }
        self.backoff.reset();
        self.failures = 0;
    }

    /// How long to wait.
    pub(super) fn failed(&mut self, error: &kube::Error) -> Duration {
        let wait = self.backoff.wait(retry_after(error));
        let (namespace, name) = (self.pod.namespace().unwrap_or_default(), self.pod.name_any());
        if self.failures == 0 {
            tracing::warn!("status of pod {namespace}/{name} not written: {}", told(error));
        }
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Compares once more what there is with what is wanted.
    pub(super) fn look_again(&mut self) {
        self.stage = Stage::Settled;
        if let Some(wanted) = &mut self.wanted {
            wanted.sent = false;
        }
    }
}

fn is_ready(status: Option<&PodStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Versions of one kind of object can be compared (KEP-5504; it was always so in fact).
fn version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}
