//! The set-up of a pod and its undoing: what all of its containers share.

use std::path::PathBuf;
use std::sync::Arc;

use copepod_pod::{Facts, Failure, Objects, PodAddresses};
use k8s_openapi::api::core::v1::Pod;

use super::kinds::{self, Kinds, Unresolved};
use super::{Shared, Supplier, blocking, failure, ordinary};
use crate::network::Attachment;
use crate::runtime::cri::PodSandbox;
use crate::runtime::cri::config::IdRange;
use crate::runtime::{Features, Runtime};
use crate::telemetry::chain;
use crate::volume::{self, Files, Place};

/// The handler that RuntimeClasses name for Wasm.
pub(crate) const WASM_HANDLER: &str = "wasm";
/// What upstream says of a runtime without a network, before the network's own words.
pub(crate) const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false \
                                     reason:NetworkPluginNotReady message:Network plugin returns \
                                     error: ";

/// The pod has no sandbox; upstream's event.
pub(crate) fn no_sandbox(why: String) -> Failure {
    Failure {
        reason: "FailedCreatePodSandBox".into(),
        message: format!("Failed to create pod sandbox: {why}"),
    }
}

/// A pod that is set up.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    /// What its containers are given their files from.
    pub(super) files: Arc<Files>,
    /// Its addresses and the node's.
    pub(super) addresses: PodAddresses,
    /// Its network namespace; none for a pod on the host's network.
    pub(super) network: Option<PathBuf>,
    /// Which of its containers are Wasm.
    pub(super) kinds: Kinds,
    /// Its sandbox, where it has ordinary containers.
    pub(super) sandbox: Option<PodSandbox>,
    /// Whether the sandbox's handler makes mounts read-only with all below them.
    pub(super) recursive_read_only: bool,
    /// The ids of its user namespace, if it has one of its own.
    pub(super) user_namespace: Option<IdRange>,
}

impl Ready {
    /// The generation of its sandbox; 0 for a pod without one.
    pub(super) fn generation(&self) -> u32 {
        self.sandbox.as_ref().map_or(0, |sandbox| sandbox.generation)
    }
}

/// One set-up, refresh or tear-down of a pod.
pub(super) struct SetUpJob<R> {
    pub(super) shared: Arc<Shared<R>>,
    pub(super) supplier: Arc<dyn Supplier>,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
}

impl<R: Runtime> SetUpJob<R> {
    /// Makes all that is not there yet, and brings up to date what is.
    ///
    /// # Errors
    /// [`Unresolved`], all failures but that of an image with the reason of upstream's event.
    pub(super) async fn set_up(self) -> Result<Ready, Unresolved> {
        let handler = self.supplier.handler(Arc::clone(&self.pod)).await?;
        let kinds = self.kinds(handler).await?;
        let refused = self.supplier.refusals(&self.pod, &|name| kinds.of(name));
        if !refused.is_empty() {
            return Err(no_sandbox(refused.join("; ")).into());
        }
        self.keep().await?;
        let objects = self.objects().await?;
        let mut files = self.volumes(objects, kinds.has_sandbox()).await?;
        let of_node = self.shared.host.facts();
        let mut addresses = of_node.addresses.clone();
        if addresses.host_ips.is_empty() {
            return Err(no_sandbox("the node has no address yet".into()).into());
        }
        let features = match kinds.has_sandbox() {
            true => self.shared.runtime.features(&kinds.handler).await,
            false => Features::default(),
        };
        let user_namespace = self.user_namespace(features).await?;
        let sandbox = self.sandbox(&kinds, &of_node, user_namespace).await?;
        let attached = match &sandbox {
            Some(sandbox) => {
                Attachment { netns: sandbox.netns.clone(), pod_ips: sandbox.ips.clone() }
            }
            None => self.attach().await?,
        };
        let Attachment { netns, pod_ips } = attached;
        if !pod_ips.is_empty() {
            addresses.pod_ips = pod_ips;
        }
        let facts = Facts { addresses: addresses.clone(), ..of_node };
        let pod = Arc::clone(&self.pod);
        (files.single, files.warnings) = blocking(move || volume::single(&pod, &facts)).await;
        Ok(Ready {
            files: Arc::new(files),
            addresses,
            network: netns,
            kinds,
            sandbox,
            recursive_read_only: features.recursive_read_only,
            user_namespace,
        })
    }

    /// Which containers are Wasm: as it was decided before, else it is decided now and kept.
    async fn kinds(&self, handler: String) -> Result<Kinds, Unresolved> {
        if let Some(kept) = self.shared.kinds(&self.uid).await {
            return Ok(kept);
        }
        let of = (Arc::clone(&self.pod), Arc::clone(&self.supplier));
        let kinds = kinds::resolve(&self.shared, of, handler).await?;
        if !self.shared.host.die_with_agent {
            let (shared, uid, kept) = (Arc::clone(&self.shared), self.uid.clone(), kinds.clone());
            let keep = move || shared.ledger.keep_kinds(&uid, &kept);
            blocking(keep).await.map_err(|e| no_sandbox(chain(&e)))?;
        }
        Ok(kinds)
    }

    /// The ids of a pod that wants none of the host's, where its handler can give it such; none for
    /// one whose guests are all Wasm, which have no use for them.
    async fn user_namespace(&self, features: Features) -> Result<Option<IdRange>, Failure> {
        let wants = self.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
        let Some(ids) = self.shared.host.user_ids.clone().filter(|_| wants) else {
            return Ok(None);
        };
        // What it has, it keeps: its sandbox stands, whatever the runtime says of itself now.
        if let Some(kept) = ids.get(&self.uid) {
            return Ok(Some(kept));
        }
        if !features.user_namespaces {
            return Ok(None);
        }
        let (shared, uid) = (Arc::clone(&self.shared), self.uid.clone());
        let taken = blocking(move || ids.take(&uid, &shared.ledger)).await;
        let taken = taken.map_err(|e| no_sandbox(format!("create user namespace: {}", chain(&e))));
        taken.map(Some)
    }

    /// The sandbox of a pod with ordinary containers.
    async fn sandbox(
        &self,
        kinds: &Kinds,
        facts: &Facts,
        user_namespace: Option<IdRange>,
    ) -> Result<Option<PodSandbox>, Failure> {
        if !kinds.has_sandbox() {
            return Ok(None);
        }
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let (handler, facts) = (kinds.handler.clone(), facts.clone());
        let spec = move || {
            let of = (&*pod, user_namespace);
            ordinary::sandbox_spec(of, handler, &facts, &shared.ledger, &shared.host)
        };
        let spec = blocking(spec).await?;
        self.shared.runtime.run_sandbox(spec).await.map(Some)
    }

    /// What has to be there before anything else of the pod: its record, its control group.
    async fn keep(&self) -> Result<(), Failure> {
        let (pod, shared) = (Arc::clone(&self.pod), Arc::clone(&self.shared));
        let keep = move || {
            let Shared { ledger, host, .. } = &*shared;
            // A run's pods end with it.
            if !host.die_with_agent {
                ledger.keep_pod(&pod).map_err(|e| no_sandbox(chain(&e)))?;
            }
            host.cgroups.as_ref().map_or(Ok(()), |cgroups| cgroups.set_up(&pod))
        };
        blocking(keep).await
    }

    /// The pod's network; the host's where there is no other.
    async fn attach(&self) -> Result<Attachment, Failure> {
        let Some(network) = &self.shared.host.network else { return Ok(Attachment::default()) };
        let on_host = self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        if let Err(why) = network.status()
            && !on_host
        {
            let message = format!("network is not ready: {NO_NETWORK}{why}");
            return Err(Failure { reason: "NetworkNotReady".into(), message });
        }
        network.attach(&self.pod).await.map_err(|e| no_sandbox(chain(&e)))
    }

    /// Brings the files of the volumes up to date.
    ///
    /// # Errors
    /// As [`SetUpJob::set_up`].
    pub(super) async fn refresh(self) -> Result<(), Failure> {
        let objects = self.objects().await?;
        let kinds = self.shared.kinds(&self.uid).await;
        let ordinary = kinds.is_some_and(|kinds| kinds.has_sandbox());
        self.volumes(objects, ordinary).await.map(drop)
    }

    /// Undoes it all.
    ///
    /// # Errors
    /// As [`SetUpJob::set_up`].
    pub(super) async fn tear_down(self) -> Result<(), Failure> {
        let kinds = self.shared.kinds(&self.uid).await;
        // A pod of Wasm alone ends whether the container runtime answers or not.
        if kinds.is_some_and(|kinds| kinds.has_sandbox()) {
            self.shared.runtime.stop_sandboxes(&self.uid).await?;
        }
        if let Some(network) = &self.shared.host.network {
            network.detach(&self.uid).await.map_err(|e| failure("FailedKillPod", &e))?;
        }
        let (place, shared, uid) = (self.place(), Arc::clone(&self.shared), self.uid);
        let undo = move || {
            volume::tear_down(&place).map_err(|e| failure("FailedKillPod", &e))?;
            let removed = shared.host.cgroups.as_ref().map(|cgroups| cgroups.tear_down(&uid));
            removed.transpose().map_err(|e| failure("FailedKillPod", &e))?;
            let ids = shared.host.user_ids.as_ref();
            let released = ids.map(|ids| ids.release(&uid, &shared.ledger));
            released.transpose().map(drop).map_err(|e| failure("FailedKillPod", &e))
        };
        blocking(undo).await
    }

    async fn objects(&self) -> Result<Arc<Objects>, Failure> {
        let supplied = self.supplier.supply(Arc::clone(&self.pod)).await;
        supplied.map_err(|e| Failure { reason: "FailedMount".into(), message: e.message })
    }

    async fn volumes(&self, objects: Arc<Objects>, ordinary: bool) -> Result<Files, Failure> {
        let (pod, shared) = (Arc::clone(&self.pod), Arc::clone(&self.shared));
        let place = Place { ordinary, ..self.place() };
        let files = blocking(move || volume::set_up(&pod, &objects, &shared.host.facts(), &place));
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
            ordinary: false,
        }
    }
}
