//! Other resources for a container that runs (CRI `UpdateContainerResources`).

use copepod_cri::{LinuxContainerResources, UpdateContainerResourcesRequest};

use super::Cri;
use super::client::{CriError, call, within};

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
}
