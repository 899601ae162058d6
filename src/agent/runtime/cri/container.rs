//! One container of the runtime: made and started, stopped, removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_cri::{
    ContainerConfig, ContainerFilter, ContainerState, CreateContainerRequest,
    ListContainersRequest, RemoveContainerRequest, StartContainerRequest,
};
use copepod_pod::{Attempt, AttemptState, Failure};
use tokio::task::spawn_blocking;

use super::client::{CriError, call, within};
use super::config::labels;
use super::sandbox::{PodSandbox, gone_is_done};
use super::status::{Looked, look, stop};
use super::table::{Container, Listed, State};
use super::{Cri, Inner};
use crate::runtime::{Happening, What};
use crate::telemetry::chain;
use crate::{linux, logs, volume};

/// What a stop may take beyond its grace (upstream: the request's timeout and the grace).
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// One attempt of an ordinary container to start, all names resolved.
#[derive(Clone, Debug)]
pub(crate) struct Ordinary {
    /// Its pod.
    pub(crate) pod_uid: String,
    /// Its name in the pod.
    pub(crate) name: String,
    /// Its attempt, from 0.
    pub(crate) attempt: u32,
    /// What it is made from.
    pub(crate) config: ContainerConfig,
    /// The pod's sandbox.
    pub(crate) sandbox: PodSandbox,
    /// The directory of its logs.
    pub(crate) log_dir: PathBuf,
    /// Where the link to its log is put, as a path to which `-ID.log` is appended.
    pub(crate) log_link: Option<PathBuf>,
}

impl Cri {
    /// Creates and starts one container attempt; one that an earlier try of the same attempt has
    /// made is gone on with.
    ///
    /// # Errors
    /// A [`Failure`] with upstream's waiting reason when nothing of it runs.
    pub(crate) async fn start_container(&self, container: Ordinary) -> Result<Attempt, Failure> {
        let failed = |reason: &str, error: &dyn std::error::Error| Failure {
            reason: reason.into(),
            message: chain(error),
        };
        let of_runtime = |error: CriError| failed("CreateContainerError", &error);
        let found = self.0.find(&container).await.map_err(of_runtime)?;
        let listed = match found {
            Some(found) if found.state != ContainerState::ContainerCreated => {
                return self.adopt(found).await.map_err(of_runtime);
            }
            Some(found) => found,
            None => self.0.create(&container).await.map_err(of_runtime)?,
        };
        self.link_log(&container, &listed.id).await;
        match self.0.start(&listed.id).await {
            Ok(()) => {
                let dir = self.0.files(&container.pod_uid, &container.name, container.attempt);
                // Nobody waits for the kernel to take mounts away.
                drop(spawn_blocking(move || released(&dir)));
                self.adopt(listed).await.map_err(|e| failed("RunContainerError", &e))
            }
            Err(error) => self.not_started(listed, &error).await,
        }
    }

    /// What the container is now, which was just started or is found to have been.
    async fn adopt(&self, listed: Listed) -> Result<Attempt, CriError> {
        let looked = look(&self.0.client, &listed.id).await?;
        Ok(self.take(&listed, looked))
    }

    fn take(&self, listed: &Listed, looked: Looked) -> Attempt {
        let attempt = Attempt {
            container: listed.name.clone(),
            attempt: listed.attempt,
            id: format!("{}://{}", self.0.name, listed.id),
            sandbox: 0,
            definition: listed.definition,
            user: None,
            image: None,
            state: AttemptState::Starting,
        };
        let mut table = self.0.table.lock();
        let container = Container::new(listed, looked);
        let known = table.attempt(&listed.id, &container, &self.0.name);
        table.set(&listed.id, container);
        drop(table);
        // Looked at more often from now on.
        self.0.wake.notify_one();
        known.unwrap_or(attempt)
    }

    /// A start that failed: the runtime keeps the container as one that has ended, which tells
    /// why; where it has not done so nothing ran, and it goes.
    async fn not_started(&self, listed: Listed, error: &CriError) -> Result<Attempt, Failure> {
        let failure = Failure { reason: "RunContainerError".into(), message: chain(error) };
        match look(&self.0.client, &listed.id).await {
            Ok(Looked { state: State::Created, .. }) => {
                let _ = self.0.remove(&listed.id).await;
                Err(failure)
            }
            Ok(looked) => Ok(self.take(&listed, looked)),
            Err(_) => Err(failure),
        }
    }

    /// Log shippers' link to the log.
    async fn link_log(&self, container: &Ordinary, id: &str) {
        let Some(prefix) = &container.log_link else { return };
        let log = container.log_dir.join(format!("{}.log", container.attempt));
        let mut link = prefix.as_os_str().to_owned();
        link.push(format!("-{id}.log"));
        let linked = tokio::fs::symlink(&log, &link).await;
        if let Err(error) = linked
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            tracing::warn!(link = %Path::new(&link).display(), %error, "cannot link to a log");
        }
    }

    /// Asks the container to end, and has it killed after `grace`.
    pub(crate) fn stop_container(&self, id: &str, grace: Duration) {
        let Some(id) = self.own_id(id).map(str::to_owned) else { return };
        let until = Instant::now() + grace;
        {
            let mut table = self.0.table.lock();
            let Some(known) = table.containers.get_mut(&id) else { return };
            // One that is under way and ends as soon does the same.
            if known.stopping.is_some_and(|other| other <= until) {
                return;
            }
            known.stopping = Some(until);
        }
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let stopped = inner.stop(&id, grace).await;
            if let Err(error) = &stopped {
                tracing::warn!(container = id, error = chain(error), "cannot stop a container");
            }
            if let Some(known) = inner.table.lock().containers.get_mut(&id)
                && known.stopping == Some(until)
            {
                known.stopping = None;
            }
            inner.look_again(&id).await;
        });
    }

    /// Removes the dead container, its logs and its files.
    pub(crate) async fn remove_container(&self, id: &str) {
        let Some(id) = self.own_id(id) else { return };
        let known = self.0.table.lock().containers.get(id).cloned();
        if let Err(error) = self.0.remove(id).await {
            return tracing::warn!(container = id, error = chain(&error), "cannot remove it");
        }
        let Some(known) = known else { return };
        let dir = self.0.files(&known.pod_uid, &known.name, known.attempt);
        let removed = spawn_blocking(move || {
            if let Err(error) = linux::remove_tree(&dir) {
                let path = dir.display();
                tracing::warn!(%path, %error, "cannot remove a dead container's files");
            }
        });
        // The agent ends.
        let _ = removed.await;
    }
}

/// What was bound for the start of a container is not for longer.
fn released(dir: &Path) {
    if let Err(error) = volume::release(dir) {
        tracing::warn!(path = %dir.display(), %error, "cannot undo a container's binds");
    }
}

impl Inner {
    /// The directory of an attempt's files.
    fn files(&self, pod_uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.options.ledger.attempt_dir(pod_uid, container, attempt)
    }

    /// The container of this very attempt, if the runtime has it: an answer may have been lost.
    async fn find(&self, container: &Ordinary) -> Result<Option<Listed>, CriError> {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let filter = ContainerFilter {
            label_selector: [
                label(labels::POD_UID, &container.pod_uid),
                label(labels::CONTAINER_NAME, &container.name),
            ]
            .into_iter()
            .collect(),
            ..ContainerFilter::default()
        };
        let request = ListContainersRequest { filter: Some(filter) };
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let answer = runtime.list_containers(within(limit, request));
        let all = call("ListContainers", limit, answer).await?.containers;
        for one in all {
            let attempt = one.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            if attempt != container.attempt {
                continue;
            }
            let found = Listed {
                id: one.id.clone(),
                pod_uid: container.pod_uid.clone(),
                name: container.name.clone(),
                attempt,
                sandbox: one.pod_sandbox_id.clone(),
                definition: definition(&one.labels, &one.annotations),
                state: one.state(),
            };
            // Made in a sandbox that is gone, and never started: nothing of it is of use.
            let is_stale = found.state == ContainerState::ContainerCreated
                && found.sandbox != container.sandbox.id;
            if is_stale {
                self.remove(&found.id).await?;
                continue;
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    async fn create(&self, container: &Ordinary) -> Result<Listed, CriError> {
        let sandbox = &container.sandbox;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(container.config.clone()),
            sandbox_config: Some((*sandbox.config).clone()),
        };
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let answer = runtime.create_container(within(limit, request));
        let id = call("CreateContainer", limit, answer).await?.container_id;
        Ok(Listed {
            id,
            pod_uid: container.pod_uid.clone(),
            name: container.name.clone(),
            attempt: container.attempt,
            sandbox: sandbox.id.clone(),
            definition: definition(&container.config.labels, &container.config.annotations),
            state: ContainerState::ContainerCreated,
        })
    }

    async fn start(&self, id: &str) -> Result<(), CriError> {
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let request = StartContainerRequest { container_id: id.into() };
        let answer = runtime.start_container(within(limit, request));
        call("StartContainer", limit, answer).await.map(drop)
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        stop(&self.client, id, grace, STOP_PATIENCE).await
    }

    /// Removes a container and its logs; one that is not there is removed. The logs go first: where
    /// the answer is lost the container is not there to be removed again.
    pub(super) async fn remove(&self, id: &str) -> Result<(), CriError> {
        let known = self.table.lock().containers.get(id).cloned();
        let links = self.options.log_links.clone();
        let suffix = format!("-{id}.log");
        let log = known.map(|known| known.log).filter(|log| !log.as_os_str().is_empty());
        let removed = spawn_blocking(move || remove_logs(log.as_deref(), &links, &suffix));
        // The agent ends.
        let _ = removed.await;
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let request = RemoveContainerRequest { container_id: id.into() };
        let answer = runtime.remove_container(within(limit, request));
        gone_is_done(call("RemoveContainer", limit, answer).await.map(drop))?;
        self.table.lock().containers.remove(id);
        Ok(())
    }

    /// Looks at one container, whose end was just heard of, and tells its worker.
    async fn look_again(&self, id: &str) {
        let Ok(looked) = look(&self.client, id).await else {
            return self.wake.notify_one();
        };
        let pod_uid = {
            let mut table = self.table.lock();
            if !table.advance(id, looked) {
                return;
            }
            table.containers.get(id).map(|known| known.pod_uid.clone())
        };
        if let Some(pod_uid) = pod_uid {
            self.tell(Happening { pod_uid, what: What::Look }).await;
        }
    }
}

/// The log, what was rotated out of it, and the links to it.
fn remove_logs(log: Option<&Path>, links: &Path, suffix: &str) {
    if let Some(log) = log {
        logs::remove(log);
    }
    for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(suffix)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The definition that a container with these labels and annotations was made from.
fn definition(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Option<u32> {
    labels::of_container(labels, annotations)?.hash
}
