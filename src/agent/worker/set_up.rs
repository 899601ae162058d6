//! The set-up of a pod and its undoing: what all of its containers share.

use std::sync::Arc;

use copepod_pod::{Failure, Objects, PodAddresses};
use k8s_openapi::api::core::v1::Pod;

use super::{Shared, Supplier, blocking, failure};
use crate::volume::{self, Files, Place};

/// A pod that is set up.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    /// What its containers are given their files from.
    pub(super) files: Arc<Files>,
    /// Its addresses and the node's.
    pub(super) addresses: PodAddresses,
}

/// One set-up, refresh or tear-down of a pod.
pub(super) struct SetUpJob<R> {
    pub(super) shared: Arc<Shared<R>>,
    pub(super) supplier: Arc<dyn Supplier>,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
}

impl<R: Send + Sync + 'static> SetUpJob<R> {
    /// Makes all that is not there yet, and brings up to date what is.
    ///
    /// # Errors
    /// A [`Failure`] with the reason of upstream's event.
    pub(super) async fn set_up(self) -> Result<Ready, Failure> {
        let objects = self.objects().await?;
        let addresses = self.shared.host.facts.addresses.clone();
        let files = self.volumes(objects).await?;
        Ok(Ready { files: Arc::new(files), addresses })
    }

    /// Brings the files of the volumes up to date.
    ///
    /// # Errors
    /// As [`SetUpJob::set_up`].
    pub(super) async fn refresh(self) -> Result<(), Failure> {
        let objects = self.objects().await?;
        self.volumes(objects).await.map(drop)
    }

    /// Undoes it all.
    ///
    /// # Errors
    /// As [`SetUpJob::set_up`].
    pub(super) async fn tear_down(self) -> Result<(), Failure> {
        let place = self.place();
        let done = blocking(move || volume::tear_down(&place)).await;
        done.map_err(|e| failure("FailedKillPod", &e))
    }

    async fn objects(&self) -> Result<Arc<Objects>, Failure> {
        let supplied = self.supplier.supply(Arc::clone(&self.pod)).await;
        supplied.map_err(|e| Failure { reason: "FailedMount".into(), message: e.message })
    }

    async fn volumes(&self, objects: Arc<Objects>) -> Result<Files, Failure> {
        let (pod, shared, place) = (Arc::clone(&self.pod), Arc::clone(&self.shared), self.place());
        let files = blocking(move || volume::set_up(&pod, &objects, &shared.host.facts, &place));
        files.await.map_err(|e| failure("FailedMount", &e))
    }

    /// Where the pod's volumes lie.
    fn place(&self) -> Place {
        let Shared { ledger, host, .. } = &*self.shared;
        Place {
            disk: ledger.pod_dir(&self.uid),
            memory: ledger.pod_memory_dir(&self.uid),
            mounts: host.mounts,
            changes_user: host.changes_user,
        }
    }
}
