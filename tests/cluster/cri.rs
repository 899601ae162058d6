//! A container runtime as a test asks it.

use std::path::{Path, PathBuf};

use copepod_cri::image_service_client::ImageServiceClient;
use copepod_cri::runtime_service_client::RuntimeServiceClient;
use copepod_cri::{
    Container, ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec,
    ImageStatusRequest, LinuxPodSandboxConfig, ListContainersRequest, ListPodSandboxRequest,
    PodSandbox, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Channel;

use crate::cluster::images::BUSYBOX;
use crate::cri_faults::channel;

/// A client that waits for each answer. Each call has a connection of its own, since nobody looks
/// after one in between, when the runtime may end.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    socket: PathBuf,
}

impl Cri {
    /// Of the runtime at this socket, connected when first asked.
    #[track_caller]
    pub fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime"), socket: socket.into() }
    }

    fn channel(&self) -> Channel {
        self.runtime.block_on(async { channel(&self.socket) })
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel())
    }

    /// Whether it answers: not before it has looked what it runs.
    pub fn serves(&self) -> bool {
        let request = ListPodSandboxRequest::default();
        self.runtime.block_on(self.client().list_pod_sandbox(request)).is_ok()
    }

    /// Whether it has this image.
    #[track_caller]
    pub fn has_image(&self, image: &str) -> bool {
        let spec = Some(ImageSpec { image: image.into(), ..Default::default() });
        let request = ImageStatusRequest { image: spec, verbose: false };
        let mut client = ImageServiceClient::new(self.channel());
        let answer = self.runtime.block_on(client.image_status(request));
        answer.expect("an answer").into_inner().image.is_some()
    }

    /// All sandboxes, ready or not.
    #[track_caller]
    pub fn sandboxes(&self) -> Vec<PodSandbox> {
        let request = ListPodSandboxRequest::default();
        let answer = self.runtime.block_on(self.client().list_pod_sandbox(request));
        answer.expect("an answer").into_inner().items
    }

    /// All containers, running or not.
    #[track_caller]
    pub fn containers(&self) -> Vec<Container> {
        let request = ListContainersRequest::default();
        let answer = self.runtime.block_on(self.client().list_containers(request));
        answer.expect("an answer").into_inner().containers
    }

    /// A configuration of a sandbox by this name, whose cgroups are below this one of cgroupfs.
    pub fn sandbox(name: &str, cgroup: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "default".into(),
            attempt: 0,
        };
        let linux = LinuxPodSandboxConfig {
            cgroup_parent: format!("/{cgroup}/{name}"),
            ..Default::default()
        };
        PodSandboxConfig { metadata: Some(metadata), linux: Some(linux), ..Default::default() }
    }

    /// Runs a sandbox: its id.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let answer = self.runtime.block_on(self.client().run_pod_sandbox(request));
        Ok(answer?.into_inner().pod_sandbox_id)
    }

    /// Starts busybox with a command of its shell in a sandbox: the container's id.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn run(
        &self,
        sandbox: &str,
        config: &PodSandboxConfig,
        shell: &str,
    ) -> Result<String, Status> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
            command: ["sh", "-c", shell].map(String::from).to_vec(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let answer = self.runtime.block_on(self.client().create_container(request))?;
        let container_id = answer.into_inner().container_id;
        let request = StartContainerRequest { container_id: container_id.clone() };
        self.runtime.block_on(self.client().start_container(request))?;
        Ok(container_id)
    }

    /// Stops a sandbox; what runs in it is killed.
    #[track_caller]
    pub fn stop_sandbox(&self, sandbox: &str) {
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.into() };
        let answer = self.runtime.block_on(self.client().stop_pod_sandbox(stop));
        answer.expect("an answer");
    }

    /// Stops and removes a sandbox with all its containers.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let stop = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.block_on(self.client().stop_pod_sandbox(stop))?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.block_on(self.client().remove_pod_sandbox(remove))?;
        Ok(())
    }
}
