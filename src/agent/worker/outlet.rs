//! Where what workers have to say goes beside their snapshots.

use std::sync::Arc;

use copepod_pod::Record;
use k8s_openapi::api::core::v1::Pod;

/// Hears of pods. Neither call may wait.
pub(crate) trait Outlet: Send + Sync {
    /// The pod of this uid has a new snapshot.
    fn changed(&self, uid: &str);

    /// Something for people to read about a pod.
    fn record(&self, pod: &Arc<Pod>, record: Record);
}

/// Tells nobody: a `copepod run`, which shows snapshots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silent;

impl Outlet for Silent {
    fn changed(&self, _uid: &str) {}

    fn record(&self, _pod: &Arc<Pod>, record: Record) {
        tracing::debug!(?record, "told nobody");
    }
}
