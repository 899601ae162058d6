//! What workers have to say: statuses that changed, and events.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use copepod_pod::Record;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::cluster::events::{Recorder, pod_reference};
use crate::worker::Outlet;

/// Collects which pods have a new snapshot, and passes events on. Bounded by the pods of the node.
pub(super) struct News {
    changed: Mutex<BTreeSet<String>>,
    any: Notify,
    recorder: Recorder,
}

impl News {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { changed: Mutex::default(), any: Notify::new(), recorder }
    }

    /// The uids of the pods with news since they were last asked for; waits until there are any.
    /// May be dropped and asked again.
    pub(super) async fn take(&self) -> BTreeSet<String> {
        loop {
            let any = self.any.notified();
            let taken = std::mem::take(&mut *self.lock());
            if !taken.is_empty() {
                return taken;
            }
            any.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A panic elsewhere leaves the set whole: each change is one call.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for News {
    fn changed(&self, uid: &str) {
        self.lock().insert(uid.to_owned());
        self.any.notify_one();
    }

    fn record(&self, pod: &Arc<Pod>, record: Record) {
        let path = record.container.as_deref().and_then(|name| field_path(pod, name));
        let about = pod_reference(pod, path);
        self.recorder.record(about, record.warning, &record.reason, record.message);
    }
}

/// Where the container stands in the pod (upstream `fieldPath`).
fn field_path(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let among =
        |all: &[k8s_openapi::api::core::v1::Container]| all.iter().any(|one| one.name == container);
    if among(&spec.containers) {
        return Some(format!("spec.containers{{{container}}}"));
    }
    if among(spec.init_containers.as_deref().unwrap_or_default()) {
        return Some(format!("spec.initContainers{{{container}}}"));
    }
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    let is_ephemeral = ephemeral.any(|one| one.name == container);
    is_ephemeral.then(|| format!("spec.ephemeralContainers{{{container}}}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_named_by_its_place() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e"}],
        }});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!(field_path(&pod, "c").as_deref(), Some("spec.containers{c}"));
        assert_eq!(field_path(&pod, "i").as_deref(), Some("spec.initContainers{i}"));
        assert_eq!(field_path(&pod, "e").as_deref(), Some("spec.ephemeralContainers{e}"));
        assert_eq!(field_path(&pod, "x"), None);
    }
}
