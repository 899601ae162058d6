//! A command beside a running container, for whoever asks over the server: it changes no pod, so
//! no worker decides of it.

use std::os::fd::OwnedFd;
use std::path::Path;

use copepod_pod::container_named;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::{Shared, image_request};
use crate::image::Quiet;
use crate::runtime::{Exec, ExecError, ExecExit, Runtime};

impl<R: Runtime> Shared<R> {
    /// Runs `command` in the container `name` of `pod`, as its status has it, and waits for its
    /// end: the Wasm file of the container's image that its first word names, else the container's
    /// own. `base` is the folder from which the pod's images' paths start. Dropped before, the
    /// command is killed.
    ///
    /// # Errors
    /// As [`Runtime::exec`]; [`ExecError::Start`] as well for a file that cannot be compiled.
    pub(crate) async fn exec(
        &self,
        (pod, base): (&Pod, &Path),
        status: &PodStatus,
        name: &str,
        command: Vec<String>,
        streams: [OwnedFd; 3],
    ) -> Result<ExecExit, ExecError> {
        let Some(id) = running_id(status, name) else {
            return Err(ExecError::NotRunning(name.into()));
        };
        let spec = container_named(pod, name);
        let request = image_request(spec.as_deref(), base);
        let artefact = match command.first() {
            Some(word) => self.images.prepare_file(request, word, &Quiet).await,
            None => return Err(ExecError::NoCommand),
        };
        let artefact = artefact.map_err(|error| ExecError::Start(Box::new(error)))?;
        self.runtime.exec(&id, Exec { command, artefact, streams }).await
    }
}

/// The id of the container if it runs.
pub(super) fn running_id(status: &PodStatus, name: &str) -> Option<String> {
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten()).chain(ephemeral);
    let found: &ContainerStatus = all.find(|status| status.name == name)?;
    found.state.as_ref()?.running.as_ref()?;
    found.container_id.clone()
}
