//! Ordinary images: the container runtime's image service, used as a kubelet uses it (upstream
//! `pkg/kubelet/images`).
//!
//! Owns: the way of one image to a container ([`Images::prepare`]): its name, the pull policy, one
//! pull for all who ask for the same at a time, each credential tried, upstream's reasons and texts
//! ([`OrdinaryImageError`]). What of it the node's collector and status need is in [`gc`]. In: an
//! image as a container names it, a pod's secrets. Out: [`OrdinaryImage`].
//! Starts one task for each pull under way, which goes on if its asker ends: a pod that is gone has
//! not wasted its bytes.

mod error;
mod gc;
mod pull;
mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_cri as cri;
use copepod_cri::image_service_client::ImageServiceClient;
use copepod_pod::Pulled;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tonic::{IntoRequest, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use self::pull::Flights;
use super::config::ImageUser;
use crate::image::PullPolicy;
use crate::image::credentials::{Keyring, PullSecrets};
use crate::image::gate::Gate;

pub(crate) use self::error::OrdinaryImageError;
pub(crate) use self::error::go_text;

/// Largest answer of a runtime (upstream `maxMsgSize`).
const MESSAGE_MAX: usize = 16 << 20;

/// What carries calls to the runtime: a channel, or in tests something that answers by itself.
type Wire = BoxCloneSyncService<Request<Body>, Response<Body>, WireError>;
type Client = ImageServiceClient<Wire>;

/// A call that did not reach the runtime.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct WireError(#[from] tonic::transport::Error);

/// An image that a container wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its name, as the container has it.
    pub(crate) image: &'a str,
    /// When its registry is asked.
    pub(crate) policy: PullPolicy,
    /// The pod's own credentials.
    pub(crate) secrets: Option<&'a PullSecrets>,
    /// The pod's sandbox, as it was asked for; some runtimes pull by it.
    pub(crate) sandbox: Option<&'a cri::PodSandboxConfig>,
    /// The pod's runtime handler; empty: the default one.
    pub(crate) handler: &'a str,
    /// The pod's annotations, which are the image's for the runtime.
    pub(crate) annotations: Option<&'a BTreeMap<String, String>>,
}

/// An image that the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrdinaryImage {
    /// What a container is made of (`ContainerConfig.image.image`).
    pub(crate) image_ref: String,
    /// Its name for a status until the runtime has a container of it.
    pub(crate) image: String,
    /// Its id for a status until then: its digest in a registry where it has one.
    pub(crate) image_id: String,
    /// Whom it runs as where nothing else says so.
    pub(crate) user: ImageUser,
    /// Its size.
    pub(crate) bytes: u64,
    /// What its pull took; `None`: it was here.
    pub(crate) pulled: Option<Pulled>,
}

/// The images of a container runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images {
    client: Client,
    keyring: Arc<Keyring>,
    gate: Arc<Gate>,
    /// For each call but a pull (`runtimeRequestTimeout`).
    deadline: Duration,
    flights: Arc<Flights>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Images {
    /// Over the connection to the image service, which may come and go. `deadline` bounds each call
    /// but pulls; `keyring` and `gate` are the node's, shared with the Wasm images.
    pub(crate) fn new(
        channel: Channel,
        keyring: Arc<Keyring>,
        gate: Arc<Gate>,
        deadline: Duration,
    ) -> Self {
        let wire = BoxCloneSyncService::new(channel.map_err(WireError));
        Self::over(wire, keyring, gate, deadline)
    }

    fn over(wire: Wire, keyring: Arc<Keyring>, gate: Arc<Gate>, deadline: Duration) -> Self {
        let client = ImageServiceClient::new(wire).max_decoding_message_size(MESSAGE_MAX);
        Self { client, keyring, gate, deadline, flights: Arc::default() }
    }

    /// Sees to it that the runtime has an image. `pulling` is called once it is to be pulled, before
    /// its turn has come.
    ///
    /// # Errors
    /// [`OrdinaryImageError`], whose reason is the container's waiting reason.
    pub(crate) async fn prepare(
        &self,
        wanted: Wanted<'_>,
        pulling: &(dyn Fn() + Send + Sync),
    ) -> Result<OrdinaryImage, OrdinaryImageError> {
        let image = || wanted.image.to_owned();
        let (name, repository) = reference::tagged(wanted.image)
            .map_err(|why| OrdinaryImageError::Name { image: image(), why })?;
        let spec = cri::ImageSpec {
            image: name,
            annotations: wanted.annotations.cloned().unwrap_or_default(),
            runtime_handler: wanted.handler.to_owned(),
            ..cri::ImageSpec::default()
        };
        match wanted.policy {
            PullPolicy::Always => {}
            PullPolicy::IfNotPresent | PullPolicy::Never => {
                let here = self.status(&spec).await.map_err(OrdinaryImageError::Inspect)?;
                match here {
                    Some(here) => return Ok(prepared(wanted.image, None, Some(&here))),
                    None if wanted.policy == PullPolicy::Never => {
                        return Err(OrdinaryImageError::Never(image()));
                    }
                    None => {}
                }
            }
        }
        let asked = Instant::now();
        pulling();
        let landed = self.pull(&spec, repository, wanted).await;
        let landed = landed.map_err(|error| OrdinaryImageError::of_pull(wanted.image, &error))?;
        let here = landed.image.as_ref();
        let pulled = Pulled {
            took: landed.took,
            waited: asked.elapsed(),
            bytes: here.map_or(0, |here| here.size),
        };
        let mut prepared = prepared(wanted.image, Some(pulled), here);
        prepared.image_ref = landed.image_ref;
        Ok(prepared)
    }

    /// Whether the runtime has an image; one that does not answer has none.
    pub(crate) async fn has(&self, image: &str) -> bool {
        let Ok((name, _)) = reference::tagged(image) else { return false };
        let spec = cri::ImageSpec { image: name, ..cri::ImageSpec::default() };
        self.status(&spec).await.is_ok_and(|here| here.is_some())
    }

    /// What the runtime has under a name.
    async fn status(&self, spec: &cri::ImageSpec) -> Result<Option<cri::Image>, Status> {
        let request = cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let mut client = self.client.clone();
        let answer = self.within(client.image_status(request.into_request())).await?;
        let found = answer.image;
        if found.as_ref().is_some_and(|image| image.id.is_empty() || image.size == 0) {
            // Upstream's text.
            let text = format!("Id or size of image {:?} is not set", spec.image);
            return Err(Status::unknown(text));
        }
        Ok(found)
    }

    /// A call's answer within its time.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            // Go's text.
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        }
    }
}

fn prepared(name: &str, pulled: Option<Pulled>, here: Option<&cri::Image>) -> OrdinaryImage {
    let id = here.map(|image| image.id.clone()).unwrap_or_default();
    let first = |names: &[String]| names.first().cloned();
    OrdinaryImage {
        image: here.and_then(|image| first(&image.repo_tags)).unwrap_or_else(|| name.to_owned()),
        image_id: here.and_then(|image| first(&image.repo_digests)).unwrap_or_else(|| id.clone()),
        user: here.map(ImageUser::of).unwrap_or_default(),
        bytes: here.map_or(0, |image| image.size),
        image_ref: id,
        pulled,
    }
}
