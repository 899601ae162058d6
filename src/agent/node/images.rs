//! The node's images, of both kinds: which its status names, and which go when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{ContainerImage, PodStatus};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::board::Board;
use crate::cluster::events::{Recorder, node_reference};
use crate::cluster::node::NodeHandle;
use crate::image::Listed;
use crate::image::gc::{self, Collector, Disk, Found, GcStore, Policy, StoreFailure, Told};
use crate::runtime::both::Both;
use crate::telemetry::chain;
use crate::worker::Shared;

/// How often the status' images are looked at.
const SHOW_EVERY: Duration = Duration::from_secs(10);
/// In how many of those looks the container runtime is asked (upstream: each 30 s).
const ASK_IN: u32 = 3;

/// What both tasks look at.
#[derive(Clone)]
pub(super) struct Images {
    pub(super) shared: Arc<Shared<Both>>,
    pub(super) board: Board,
    pub(super) node: NodeHandle,
}

impl Images {
    /// Starts one task that tells the node's status what images there are, and one that removes
    /// what the policy says; `name` is the node's. Both end with what is given.
    pub(super) fn start(
        self,
        policy: Policy,
        name: &str,
        recorder: Recorder,
    ) -> [AbortOnDropHandle<()>; 2] {
        let about = node_reference(name);
        let told = move |Told { reason, message }| {
            recorder.record(about.clone(), true, reason, message);
        };
        let ours: Arc<dyn GcStore> = Arc::new(Ours(Arc::clone(&self.shared)));
        let cri = self.shared.runtime.cri.as_ref();
        let theirs = cri.map(|cri| Arc::new(cri.images().clone()) as Arc<dyn GcStore>);
        let collector = Collector::new([ours].into_iter().chain(theirs).collect(), policy);
        let show = tokio::spawn(self.clone().show());
        let in_use = async move || {
            // What a pod uses of which nobody has told yet is not to go.
            self.board.known().await;
            self.in_use().await
        };
        [show, tokio::spawn(gc::run(collector, in_use, told))].map(AbortOnDropHandle::new)
    }

    async fn show(self) {
        let mut looks = interval(SHOW_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut look, mut theirs) = (0_u32, Vec::new());
        loop {
            looks.tick().await;
            if let Some(cri) = self.shared.runtime.cri.as_ref().filter(|_| look % ASK_IN == 0) {
                match cri.images().container_images().await {
                    Ok(images) => theirs = images,
                    // The last ones stand; that it does not answer is told elsewhere.
                    Err(error) => tracing::debug!(error, "cannot list the runtime's images"),
                }
            }
            look = look.wrapping_add(1);
            match self.shared.images.list().await {
                Ok(ours) => {
                    let all = container_images(ours).into_iter().chain(theirs.iter().cloned());
                    self.node.set_images(all.collect());
                }
                Err(error) => tracing::warn!(error = chain(&error), "cannot list images"),
            }
        }
    }

    /// What containers and sandboxes use: as the runtime tells it, and as the pods' statuses do.
    async fn in_use(&self) -> Result<BTreeSet<String>, StoreFailure> {
        let mut used = match &self.shared.runtime.cri {
            Some(cri) => cri.images_in_use().await?,
            None => BTreeSet::new(),
        };
        for known in self.board.lock().values() {
            let snapshot = known.snapshot.borrow();
            if !snapshot.terminated {
                used.extend(of_status(&snapshot.status));
            }
        }
        Ok(used)
    }
}

fn of_status(status: &PodStatus) -> impl Iterator<Item = String> {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let all = lists.into_iter().flatten().flatten();
    all.flat_map(|one| [one.image.clone(), one.image_id.clone()]).filter(|name| !name.is_empty())
}

/// The store of Wasm images, which the workers have.
struct Ours(Arc<Shared<Both>>);

impl GcStore for Ours {
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, StoreFailure>> {
        self.0.images.found()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreFailure>> {
        GcStore::remove(&self.0.images, id)
    }

    fn disk(&self) -> BoxFuture<'_, Result<Disk, StoreFailure>> {
        self.0.images.disk()
    }
}

/// The Wasm images, as a node's status lists them.
fn container_images(images: Vec<Listed>) -> Vec<ContainerImage> {
    let mut names: BTreeMap<String, (Vec<String>, u64)> = BTreeMap::new();
    for Listed { image, digest, bytes, whole, .. } in images {
        if whole {
            let repository = image.rsplit_once(':').map_or(&*image, |(repository, _)| repository);
            let by_digest = format!("{repository}@{digest}");
            let entry = names.entry(digest).or_insert((Vec::new(), bytes));
            entry.0.extend([by_digest, image]);
        }
    }
    let one = |(mut names, bytes): (Vec<String>, u64)| {
        // Digests before tags, each once.
        names.sort_by_key(|name| (!name.contains('@'), name.clone()));
        names.dedup();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(bytes).ok() }
    };
    names.into_values().map(one).collect()
}
