//! Which of a pod's containers are Wasm and which ordinary images.
//!
//! Decided before anything of the pod is made, and kept for its life: a tag that moves to an image
//! of the other kind does not move a container to the other runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use copepod_pod::Failure;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::set_up::{WASM_HANDLER, no_sandbox};
use super::{Shared, Supplier, image_request, secrets};
use crate::image::credentials::PullSecrets;
use crate::image::{ImageKind, ImageRequest};
use crate::runtime::Runtime;

/// The kinds of one pod's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kinds {
    /// Those of containers whose images were looked at.
    pub(crate) by_image: BTreeMap<String, ImageKind>,
    /// That of all others.
    pub(crate) rest: ImageKind,
    /// The container runtime's handler, for the pod's sandbox; empty: its default.
    pub(crate) handler: String,
}

impl Default for Kinds {
    fn default() -> Self {
        Self::all(ImageKind::Wasm, String::new())
    }
}

impl Kinds {
    fn all(rest: ImageKind, handler: String) -> Self {
        Self { by_image: BTreeMap::new(), rest, handler }
    }

    /// The kind of the container; `None`: its image is to be looked at (an ephemeral one that came
    /// later, of a pod whose images were).
    pub(crate) fn of(&self, container: &str) -> Option<ImageKind> {
        match self.by_image.get(container) {
            Some(kind) => Some(*kind),
            None if self.by_image.is_empty() => Some(self.rest),
            None => None,
        }
    }

    /// Whether the pod has a sandbox of the container runtime.
    pub(crate) fn has_sandbox(&self) -> bool {
        let by_image = self.by_image.values().any(|kind| *kind == ImageKind::Ordinary);
        by_image || (self.by_image.is_empty() && self.rest == ImageKind::Ordinary)
    }
}

/// Why a pod's kinds are not known.
pub(super) enum Unresolved {
    /// The image of a container is not to be had.
    NoImage {
        /// The container.
        container: String,
        /// Why, with upstream's waiting reason.
        failure: Failure,
    },
    /// Anything else, with the reason of upstream's event.
    Other(Failure),
}

impl From<Failure> for Unresolved {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

/// Whether the container runtime may know of a pod whose kinds are these, if they are known: a pod
/// without a class is its own where it is there.
pub(super) fn may_be_ordinary(pod: &Pod, kept: Option<&Kinds>) -> bool {
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    kept.map_or(class.is_none_or(str::is_empty), Kinds::has_sandbox)
}

/// Decides by the handler of the pod's RuntimeClass, and for `wasm` by each image.
///
/// # Errors
/// [`Unresolved`].
pub(super) async fn resolve<R: Runtime>(
    shared: &Shared<R>,
    (pod, supplier): (Arc<Pod>, Arc<dyn Supplier>),
    handler: String,
) -> Result<Kinds, Unresolved> {
    match (&*handler, shared.runtime.has_ordinary()) {
        ("" | WASM_HANDLER, false) => Ok(Kinds::default()),
        // containerd's words.
        (_, false) => Err(no_sandbox(format!("no runtime for {handler:?} is configured")).into()),
        (WASM_HANDLER, true) => {
            let mut by_image = BTreeMap::new();
            let spec = pod.spec.iter();
            let all = spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
            let names: Vec<String> = all.map(|container| container.name.clone()).collect();
            let (secrets, _) = secrets::look(&pod, &*supplier).await;
            for name in names {
                match of_image(shared, &pod, &name, secrets.as_ref()).await {
                    Ok(kind) => by_image.insert(name, kind),
                    Err(failure) => return Err(Unresolved::NoImage { container: name, failure }),
                };
            }
            Ok(Kinds { by_image, rest: ImageKind::Wasm, handler: String::new() })
        }
        (_, true) => Ok(Kinds::all(ImageKind::Ordinary, handler)),
    }
}

/// Looks at the image of one container.
///
/// # Errors
/// A [`Failure`] with upstream's waiting reason.
pub(super) async fn of_image<R: Runtime>(
    shared: &Shared<R>,
    pod: &Pod,
    container: &str,
    secrets: Option<&PullSecrets>,
) -> Result<ImageKind, Failure> {
    let spec = copepod_pod::container_named(pod, container);
    let request = image_request(spec.as_deref(), std::path::Path::new("/"));
    let request = ImageRequest { secrets, ..request };
    let looked = shared.images.kind(request, shared.runtime.has_image(request.image)).await;
    looked.map_err(|error| Failure {
        reason: error.reason().into(),
        message: crate::telemetry::chain(&error),
    })
}
