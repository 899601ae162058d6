//! What the runtime's images are to the node: a store for its collector, a list for its status.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use copepod_cri as cri;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::ContainerImage;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tonic::{Code, IntoRequest, Status};

use super::super::Cri;
use super::super::client::{CriError, call, within};
use super::Images;
use super::error::go_text;
use crate::image::gc::{Disk, Found, GcStore, StoreFailure, disk_of};

/// Names of one image in a node's status (upstream `MaxNamesPerImageInNodeStatus`).
const NAMES_MAX: usize = 5;

impl Images {
    /// The runtime's images for a node's status, digests before tags; the node sorts them and takes
    /// the largest.
    ///
    /// # Errors
    /// What the runtime says, as Go shows it.
    pub(crate) async fn container_images(&self) -> Result<Vec<ContainerImage>, String> {
        let images = self.list().await.map_err(|status| go_text(&status))?;
        let one = |image: cri::Image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            ContainerImage {
                names: Some(names.take(NAMES_MAX).collect()),
                size_bytes: i64::try_from(image.size).ok(),
            }
        };
        Ok(images.into_iter().map(one).collect())
    }

    async fn list(&self) -> Result<Vec<cri::Image>, Status> {
        let mut client = self.client.clone();
        let call = client.list_images(cri::ListImagesRequest::default().into_request());
        Ok(self.within(call).await?.images)
    }

    async fn remove_image(&self, id: &str) -> Result<(), Status> {
        let spec = cri::ImageSpec { image: id.to_owned(), ..cri::ImageSpec::default() };
        let request = cri::RemoveImageRequest { image: Some(spec) };
        let mut client = self.client.clone();
        match self.within(client.remove_image(request.into_request())).await {
            // Who comes second finds nothing to remove.
            Err(status) if status.code() == Code::NotFound => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// Where the images lie.
    async fn mountpoint(&self) -> Result<PathBuf, StoreFailure> {
        let mut client = self.client.clone();
        let call = client.image_fs_info(cri::ImageFsInfoRequest {}.into_request());
        let info = self.within(call).await.map_err(|status| go_text(&status))?;
        let first = info.image_filesystems.into_iter().next().and_then(|usage| usage.fs_id);
        Ok(first.ok_or("imageFs information is unavailable")?.mountpoint.into())
    }
}

impl GcStore for Images {
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, StoreFailure>> {
        async {
            let images = self.list().await.map_err(|status| go_text(&status))?;
            let one = |image: cri::Image| Found {
                id: image.id,
                names: [image.repo_tags, image.repo_digests].concat(),
                bytes: image.size,
                pinned: image.pinned,
                in_use: false,
                idle: None,
            };
            Ok(images.into_iter().map(one).collect())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreFailure>> {
        async move {
            self.remove_image(id).await.map_err(|status| go_text(&status))?;
            Ok(true)
        }
        .boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Result<Disk, StoreFailure>> {
        async {
            let mountpoint = self.mountpoint().await?;
            let disk = spawn_blocking(move || disk_of(&mountpoint)).await;
            Ok(disk.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))?)
        }
        .boxed()
    }
}

impl Cri {
    /// What the runtime's containers and sandboxes use, for the collector of images.
    ///
    /// # Errors
    /// [`CriError`].
    pub(crate) async fn images_in_use(&self) -> Result<BTreeSet<String>, CriError> {
        let client = &self.0.client;
        let (limit, mut runtime) = (client.patience(), client.runtime());
        let request = within(limit, cri::ListContainersRequest::default());
        let listed = call("ListContainers", limit, runtime.list_containers(request)).await?;
        let request = within(limit, cri::StatusRequest { verbose: true });
        let status = call("Status", limit, runtime.status(request)).await?;
        Ok(in_use(&listed.containers, sandbox_image(&status.info).as_deref()))
    }
}

/// What a runtime's containers use, for the collector: ids of images where the runtime tells them,
/// and what it was asked for. `sandbox_image`: the one that all sandboxes are made of, which older
/// runtimes do not pin.
pub(super) fn in_use(
    containers: &[cri::Container],
    sandbox_image: Option<&str>,
) -> BTreeSet<String> {
    let of_containers = containers.iter().flat_map(|container| {
        let asked = container.image.as_ref().map(|image| image.image.clone());
        [Some(container.image_id.clone()), Some(container.image_ref.clone()), asked]
    });
    let all = of_containers.flatten().chain(sandbox_image.map(str::to_owned));
    all.filter(|name| !name.is_empty()).collect()
}

/// The image that a containerd makes sandboxes of, as its verbose status (`StatusResponse.info`)
/// has it: `sandboxImage` up to 1.7, `pinnedImages.sandbox` from 2.0 on.
pub(super) fn sandbox_image(info: &BTreeMap<String, String>) -> Option<String> {
    let config: Value = serde_json::from_str(info.get("config")?).ok()?;
    let places = ["/sandboxImage", "/pinnedImages/sandbox"];
    let found = places.into_iter().find_map(|place| config.pointer(place)?.as_str());
    found.filter(|image| !image.is_empty()).map(str::to_owned)
}
