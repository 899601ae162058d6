//! The runtimes of a node as one: Wasm always, a container runtime where one is configured. Which of
//! them a container is of is said by its id's scheme.

use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Attempt, Failure};

use super::cri::images::{OrdinaryImage, Wanted};
use super::cri::{Cri, PodSandbox, SandboxSpec};
use super::wasm::Wasm;
use super::{
    Attach, Exec, ExecError, ExecExit, ExecOutput, Features, Launch, Resources, Runtime,
    SandboxResources, StreamRequest, no_ordinary,
};
use crate::image::Programs;
use crate::telemetry::chain;

/// Both.
pub(crate) struct Both {
    /// Runs Wasm.
    pub(crate) wasm: Wasm,
    /// Runs ordinary images.
    pub(crate) cri: Option<Cri>,
}

/// The home of a container.
enum Home<'a> {
    Wasm(&'a Wasm),
    Cri(&'a Cri),
}

impl Both {
    fn home(&self, id: &str) -> Home<'_> {
        match &self.cri {
            Some(cri) if id.strip_prefix(cri.name()).is_some_and(|id| id.starts_with("://")) => {
                Home::Cri(cri)
            }
            Some(_) | None => Home::Wasm(&self.wasm),
        }
    }
}

impl Runtime for Both {
    fn has_ordinary(&self) -> bool {
        self.cri.is_some()
    }

    async fn features(&self, handler: &str) -> Features {
        let Some(cri) = &self.cri else { return Features::default() };
        let mut health = cri.health();
        // It ends with the agent.
        let Ok(health) = health.wait_for(|health| health.asked).await else {
            return Features::default();
        };
        let found = health.handlers.iter().find(|known| known.name == handler);
        found.and_then(|known| known.features).map_or_else(Features::default, |found| Features {
            recursive_read_only: found.recursive_read_only_mounts,
            user_namespaces: found.user_namespaces,
        })
    }

    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<PodSandbox, Failure> {
        let Some(cri) = &self.cri else { return Err(no_ordinary()) };
        cri.run_sandbox(spec).await.map_err(|error| error.failure())
    }

    async fn stop_sandboxes(&self, pod_uid: &str) -> Result<(), Failure> {
        let Some(cri) = &self.cri else { return Ok(()) };
        cri.stop_sandboxes(pod_uid).await.map_err(|error| Failure {
            reason: "FailedKillPod".into(),
            message: format!(
                "error killing pod: failed to \"KillPodSandbox\" for {pod_uid:?} with \
                 KillPodSandboxError: {:?}",
                chain(&error)
            ),
        })
    }

    async fn has_image(&self, image: &str) -> bool {
        match &self.cri {
            Some(cri) => cri.images().has(image).await,
            None => false,
        }
    }

    async fn prepare_image(
        &self,
        wanted: Wanted<'_>,
        pulling: &(dyn Fn() + Send + Sync),
    ) -> Result<OrdinaryImage, Failure> {
        let Some(cri) = &self.cri else { return Err(no_ordinary()) };
        cri.images()
            .prepare(wanted, pulling)
            .await
            .map_err(|error| Failure { reason: error.reason().into(), message: chain(&error) })
    }

    async fn start(&self, launch: Launch) -> Result<Attempt, Failure> {
        match (launch, &self.cri) {
            (Launch::Ordinary(container), Some(cri)) => cri.start_container(*container).await,
            (launch @ (Launch::Wasm(_) | Launch::Ordinary(_)), _) => self.wasm.start(launch).await,
        }
    }

    fn stop(&self, id: &str, grace: Duration) {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.stop(id, grace),
            Home::Cri(cri) => cri.stop_container(id, grace),
        }
    }

    async fn resize(&self, id: &str, resources: Resources) -> Result<(), String> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.resize(id, resources).await,
            Home::Cri(cri) => {
                let resized = cri.resize_container(id, resources.ordinary).await;
                resized.map_err(|error| chain(&error))
            }
        }
    }

    async fn resize_sandbox(
        &self,
        pod_uid: &str,
        resources: SandboxResources,
    ) -> Result<(), String> {
        let Some(cri) = &self.cri else { return Ok(()) };
        cri.resize_sandbox(pod_uid, resources).await.map_err(|error| chain(&error))
    }

    async fn remove(&self, id: &str) {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.remove(id).await,
            Home::Cri(cri) => cri.remove_container(id).await,
        }
    }

    fn programs(&self, id: &str) -> Option<Arc<Programs>> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.programs(id),
            Home::Cri(_) => None,
        }
    }

    async fn exec(&self, id: &str, exec: Exec) -> Result<ExecExit, ExecError> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.exec(id, exec).await,
            // Its streams are the runtime's own.
            Home::Cri(_) => Err(ExecError::NotRunning(id.into())),
        }
    }

    async fn attach(&self, id: &str, attach: Attach) -> Result<(), ExecError> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.attach(id, attach).await,
            // Its streams are the runtime's own.
            Home::Cri(_) => Err(ExecError::NotRunning(id.into())),
        }
    }

    async fn stream_url(
        &self,
        id: &str,
        request: &StreamRequest,
    ) -> Result<Option<String>, ExecError> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.stream_url(id, request).await,
            Home::Cri(cri) => cri.stream_url(id, request).await.map(Some),
        }
    }

    async fn port_forward_url(
        &self,
        pod_uid: &str,
        ports: &[u16],
    ) -> Result<Option<String>, ExecError> {
        match &self.cri {
            Some(cri) => cri.port_forward_url(pod_uid, ports).await,
            None => Ok(None),
        }
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
        limit: usize,
    ) -> Result<Option<ExecOutput>, ExecError> {
        match self.home(id) {
            Home::Wasm(wasm) => wasm.exec_sync(id, command, timeout, limit).await,
            Home::Cri(cri) => cri.exec_sync(id, command, timeout, limit).await.map(Some),
        }
    }

    async fn looked(&self) {
        if let Some(cri) = &self.cri {
            cri.looked().await;
        }
    }

    fn list(&self, pod_uid: &str) -> Vec<Attempt> {
        let mut all = self.wasm.list(pod_uid);
        all.extend(self.cri.iter().flat_map(|cri| cri.list(pod_uid)));
        all
    }
}
