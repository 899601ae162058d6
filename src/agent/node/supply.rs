//! What pods of a cluster read besides their own object.

use std::path::Path;
use std::sync::Arc;

use copepod_pod::{Failure, Objects};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

use super::classes::Classes;
use crate::cluster::objects::ObjectStore;
use crate::image::ImageKind;
use crate::sources::support::{HostCapabilities, refusals};
use crate::telemetry::chain;
use crate::worker::{Supplier, no_sandbox};

/// What a node can do for a pod.
const HERE: HostCapabilities = HostCapabilities { changes_user: true, mounts: true, cluster: true };

/// Asks the API server, through the store of what is watched there.
pub(super) struct ClusterSupplier {
    objects: ObjectStore,
    client: kube::Client,
    classes: Classes,
}

impl ClusterSupplier {
    pub(super) fn new(objects: ObjectStore, client: kube::Client, root: &Path) -> Self {
        Self { objects, client, classes: Classes::new(root) }
    }
}

impl Supplier for ClusterSupplier {
    fn supply(&self, pod: Arc<Pod>) -> BoxFuture<'static, Result<Arc<Objects>, Failure>> {
        let objects = self.objects.clone();
        async move {
            objects
                .gather(&pod)
                .await
                .map_err(|error| Failure { reason: "FailedMount".into(), message: chain(&error) })
        }
        .boxed()
    }

    fn handler(&self, pod: Arc<Pod>) -> BoxFuture<'static, Result<String, Failure>> {
        let (client, classes) = (self.client.clone(), self.classes.clone());
        async move {
            let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone());
            let Some(class) = class.filter(|class| !class.is_empty()) else {
                return Ok(String::new());
            };
            classes.handler(client, &class).await.map_err(|error| no_sandbox(chain(&error)))
        }
        .boxed()
    }

    fn refusals(&self, pod: &Pod, kind: &dyn Fn(&str) -> Option<ImageKind>) -> Vec<String> {
        let is_wasm = |name: &str| kind(name) == Some(ImageKind::Wasm);
        refusals(pod, HERE, &is_wasm).iter().map(ToString::to_string).collect()
    }
}
