//! Other resources for a container that runs (CRI `UpdateContainerResources`), and word of those of its
//! pod (`UpdatePodSandboxResources`).

use copepod_cri::{
    LinuxContainerResources, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};

use super::Cri;
use super::client::{Client, CriError, call, within};
use crate::runtime::SandboxResources;

/// The runtime does not take what a pod is about to have; upstream's words, with its slip.
#[derive(Debug, thiserror::Error)]
#[error("updatePodSandboxResources failed for sanboxID {id:?}")]
pub(crate) struct SandboxResizeError {
    /// The sandbox.
    id: String,
    /// Its word.
    #[source]
    source: CriError,
}

impl Cri {
    /// Gives the container other resources; what is zero stays as it is.
    ///
    /// # Errors
    /// [`CriError`].
    pub(crate) async fn resize_container(
        &self,
        id: &str,
        linux: LinuxContainerResources,
    ) -> Result<(), CriError> {
        let Some(id) = self.own_id(id) else { return Ok(()) };
        let limit = self.0.client.patience;
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        let mut runtime = self.0.client.runtime();
        let answer = runtime.update_container_resources(within(limit, request));
        call("UpdateContainerResources", limit, answer).await.map(drop)
    }

    /// Tells the runtime what the group of the pod is about to have; a pod without a sandbox that stands
    /// has nobody to be told. A runtime that has no such verb is passed over, as upstream does.
    ///
    /// # Errors
    /// [`SandboxResizeError`].
    pub(crate) async fn resize_sandbox(
        &self,
        pod_uid: &str,
        resources: SandboxResources,
    ) -> Result<(), SandboxResizeError> {
        let id = self.0.table.lock().standing(pod_uid);
        match id {
            Some(id) => tell(&self.0.client, id, resources).await,
            None => Ok(()),
        }
    }
}

async fn tell(
    client: &Client,
    id: String,
    resources: SandboxResources,
) -> Result<(), SandboxResizeError> {
    let limit = client.patience;
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.clone(),
        overhead: Some(resources.overhead),
        resources: Some(resources.containers),
    };
    let mut runtime = client.runtime();
    let answer = runtime.update_pod_sandbox_resources(within(limit, request));
    match call("UpdatePodSandboxResources", limit, answer).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_unimplemented() || error.is_unimplemented_in_words() => {
            tracing::debug!(sandbox = id, "the runtime takes no word of a pod's resources");
            Ok(())
        }
        Err(source) => Err(SandboxResizeError { id, source }),
    }
}

#[cfg(test)]
#[path = "resize_test.rs"]
mod tests;
