//! A pod's own credentials for its images.

use std::sync::Arc;

use copepod_pod::{Objects, Record, missing_pull_secrets, pull_secrets};
use k8s_openapi::api::core::v1::Pod;

use super::{Outlet, Supplier};
use crate::image::credentials::PullSecrets;

/// The pod's pull secrets that are there and are for images. Those that are not are told, and the
/// image is asked for without them, as upstream does (`getPullSecretsForPod`).
pub(super) async fn of_pod(
    pod: &Arc<Pod>,
    supplier: &dyn Supplier,
    outlet: &dyn Outlet,
) -> Option<PullSecrets> {
    let (secrets, missing) = look(pod, supplier).await;
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not \
             succeed.",
            missing.join(", ")
        );
        let reason = "FailedToRetrieveImagePullSecret".to_owned();
        outlet.record(pod, Record { warning: true, reason, message, container: None });
    }
    secrets
}

/// The pod's pull secrets that are there and are for images, and the names of those that are not.
pub(super) async fn look(
    pod: &Arc<Pod>,
    supplier: &dyn Supplier,
) -> (Option<PullSecrets>, Vec<String>) {
    let named = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
    if named.is_none_or(Vec::is_empty) {
        return (None, Vec::new());
    }
    // What is not known now counts as missing: an image that is here needs none of it.
    let objects = supplier.supply(Arc::clone(pod)).await.unwrap_or_else(|failure| {
        let error = failure.message;
        tracing::warn!(error, "cannot read a pod's pull secrets");
        Arc::new(Objects::default())
    });
    (PullSecrets::new(pull_secrets(pod, &objects)), missing_pull_secrets(pod, &objects))
}
