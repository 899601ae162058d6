//! The node's images, of both kinds: which its status names, and which go when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{ContainerImage, Pod, PodSpec, PodStatus};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::board::Board;
use crate::cluster::events::{Recorder, node_reference};
use crate::cluster::node::NodeHandle;
use crate::image::gc::{self, Collector, Disk, Found, GcStore, Policy, StoreFailure, Told};
use crate::image::{Listed, Reference, reference};
use crate::runtime::both::Both;
use crate::telemetry::chain;
use crate::worker::Shared;

/// How often the status' images are looked at.
const SHOW_EVERY: Duration = Duration::from_secs(10);
/// In how many of those looks the container runtime is asked (upstream: each 30 s).
const ASK_IN: u32 = 3;

/// How long the collector waits for the API server's word of its pods. Its rounds are minutes apart.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);

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
            // What a pod uses of which nobody has told yet is not to go. Without the API server pods are
            // run all the same, and disks get full: what is kept of its pods speaks for them then.
            let _ = timeout(KNOWN_WITHIN, self.board.known()).await;
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

    /// What containers and sandboxes use: as the runtime tells it, as the pods' statuses do, and as pods
    /// may that are kept on disk and of which nobody has told yet.
    async fn in_use(&self) -> Result<BTreeSet<String>, StoreFailure> {
        let mut used = match &self.shared.runtime.cri {
            Some(cri) => cri.images_in_use().await?,
            None => BTreeSet::new(),
        };
        let ledger = Arc::clone(&self.shared.ledger);
        let kept = spawn_blocking(move || ledger.kept_pods()).await;
        let kept = kept.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        used.extend(unheard(&kept, |uid| self.board.get(uid).is_some()));
        for known in self.board.lock().values() {
            let snapshot = known.snapshot.borrow();
            if !snapshot.terminated {
                used.extend(of_status(&snapshot.status));
            }
        }
        Ok(used)
    }
}

/// What pods may use of which only what is kept is known: none `is_here`.
fn unheard(kept: &[Pod], is_here: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let is_here = |pod: &&Pod| !pod.metadata.uid.as_deref().is_some_and(&is_here);
    let names = kept.iter().filter(is_here).flat_map(|pod| {
        let of_spec = pod.spec.iter().flat_map(images_of).flat_map(|image| names_of(&image));
        of_spec.chain(pod.status.iter().flat_map(of_status)).collect::<Vec<_>>()
    });
    names.collect()
}

/// The images that a pod's spec names.
fn images_of(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    let all = containers.map(|one| &one.image).chain(ephemeral.map(|one| &one.image));
    all.chain(volumes.map(|volume| &volume.reference)).flatten().cloned().collect()
}

/// What stores may call an image that a pod names so: as it is, and with all that is left out.
fn names_of(image: &str) -> Vec<String> {
    let mut names = vec![image.to_owned()];
    if let Ok(Reference { repository, tag, digest }) = reference(image) {
        let whole = format!("{}/{}", repository.host, repository.name);
        names.extend(tag.map(|tag| format!("{whole}:{tag}")));
        names.extend(digest.map(|digest| format!("{whole}@{digest}")));
    }
    names
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_nobody_has_told_of_yet_hold_their_images() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let pod = |uid: &str, image: &str| {
            let one = |name: &str, image: &str| json!([{"name": name, "image": image}]);
            let pod = json!({"metadata": {"uid": uid}, "spec": {
                "containers": one("c", image), "initContainers": one("i", "h.io:5000/a/b"),
                "ephemeralContainers": one("e", &format!("h.io/e@{digest}")),
                "volumes": [{"name": "v", "image": {"reference": "h.io/v:1"}}],
            }, "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "sha256:id",
                "ready": true, "restartCount": 0}]}});
            serde_json::from_value::<Pod>(pod).expect("a pod")
        };
        // Of one that cannot be read only the uid is known.
        let mut broken = Pod::default();
        broken.metadata.uid = Some("broken".into());
        let kept = [pod("here", "here:1"), pod("unheard", "busybox"), broken];
        let used = unheard(&kept, |uid| uid == "here");
        let expected = [
            "busybox",
            "docker.io/library/busybox:latest",
            "h.io:5000/a/b",
            "h.io:5000/a/b:latest",
            &format!("h.io/e@{digest}"),
            "h.io/v:1",
            "sha256:id",
        ];
        assert_eq!(used, expected.map(str::to_owned).into());
    }
}
