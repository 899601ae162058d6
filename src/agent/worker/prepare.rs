//! One container's image, made ready by whichever home runs it.

use std::path::Path;

use copepod_pod::{Failure, Pulled};
use k8s_openapi::api::core::v1::Pod;

use super::pulling::Pulling;
use super::set_up::Ready;
use super::{Shared, container, failure, kinds};
use crate::image::credentials::PullSecrets;
use crate::image::{ImageKind, ImageRequest, Prepared, Progress, Stage};
use crate::runtime::Runtime;
use crate::runtime::cri::images::{self as runtime, OrdinaryImage};

/// An image that a container can be started from.
#[derive(Clone, Debug)]
pub(super) enum PreparedImage {
    /// A Wasm guest's.
    Wasm(Prepared),
    /// An ordinary one, in the container runtime's store.
    Ordinary(OrdinaryImage),
}

impl PreparedImage {
    /// What its pull took, as far as the container runtime told; what else is known is `seen`.
    pub(super) fn pulled(&self, seen: Option<Pulled>) -> Option<Pulled> {
        match self {
            Self::Wasm(_) => seen,
            Self::Ordinary(image) => image.pulled,
        }
    }

    /// Its name and its id, as the container's status shows them.
    pub(super) fn names(&self) -> (String, String) {
        match self {
            Self::Wasm(image) => (image.image.clone(), image.image_id.clone()),
            Self::Ordinary(image) => (image.image.clone(), image.image_id.clone()),
        }
    }
}

/// Which image is wanted.
pub(super) struct Wanted<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a str,
    pub(super) base: &'a Path,
    pub(super) ready: &'a Ready,
    /// The pod's own credentials.
    pub(super) secrets: Option<&'a PullSecrets>,
}

/// Makes it ready.
///
/// # Errors
/// A [`Failure`] whose reason is the container's waiting reason.
pub(super) async fn prepare<R: Runtime>(
    shared: &Shared<R>,
    wanted: Wanted<'_>,
    pulling: &Pulling,
) -> Result<PreparedImage, Failure> {
    let Wanted { pod, container: name, base, ready, secrets } = wanted;
    let spec = copepod_pod::container_named(pod, name);
    let request = container::image_request(spec.as_deref(), base);
    let request = ImageRequest { secrets, ..request };
    let kind = match ready.kinds.of(name) {
        Some(kind) => kind,
        None => late(shared, pod, name, (ready, secrets)).await?,
    };
    match kind {
        ImageKind::Wasm => {
            let result = shared.images.prepare(request, pulling).await;
            result.map(PreparedImage::Wasm).map_err(|e| failure(e.reason(), &e))
        }
        ImageKind::Ordinary => {
            let wanted = runtime::Wanted {
                image: request.image,
                policy: request.policy,
                secrets: request.secrets,
                sandbox: ready.sandbox.as_ref().map(|sandbox| &*sandbox.config),
                handler: &ready.kinds.handler,
                annotations: pod.metadata.annotations.as_ref(),
            };
            let begin = || pulling.begin(Stage::Pull, request.image, 0);
            let image = shared.runtime.prepare_image(wanted, &begin).await?;
            Ok(PreparedImage::Ordinary(image))
        }
    }
}

/// The kind of an ephemeral container's image, in a pod whose kinds were decided without it.
async fn late<R: Runtime>(
    shared: &Shared<R>,
    pod: &Pod,
    name: &str,
    (ready, secrets): (&Ready, Option<&PullSecrets>),
) -> Result<ImageKind, Failure> {
    match kinds::of_image(shared, pod, name, secrets).await? {
        ImageKind::Ordinary if ready.sandbox.is_none() => Err(Failure {
            reason: "CreateContainerError".into(),
            message: format!(
                "container {name:?}: an ordinary image cannot join this pod: all of its other \
                 containers are Wasm, so it has no sandbox of the container runtime; expected a \
                 Wasm image"
            ),
        }),
        kind @ (ImageKind::Ordinary | ImageKind::Wasm) => Ok(kind),
    }
}
