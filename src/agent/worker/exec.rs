//! A command beside a running container, for whoever asks over the server: it changes no pod, so
//! no worker decides of it.

use std::os::fd::OwnedFd;
use std::path::Path;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::{Shared, container, image_request};
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
        let request = image_request(container::find(pod, name), base);
        let artefact = match command.first() {
            Some(word) => self.images.prepare_file(request, word, &Quiet).await,
            None => return Err(ExecError::NoCommand),
        };
        let artefact = artefact.map_err(|error| ExecError::Start(Box::new(error)))?;
        self.runtime.exec(&id, Exec { command, artefact, streams }).await
    }
}

/// The id of the container if it runs, without the runtime's name before it.
pub(super) fn running_id(status: &PodStatus, name: &str) -> Option<String> {
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    let found: &ContainerStatus = all.find(|status| status.name == name)?;
    found.state.as_ref()?.running.as_ref()?;
    let id = found.container_id.as_deref()?;
    Some(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
}
