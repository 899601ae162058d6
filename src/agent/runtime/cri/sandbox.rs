//! A pod's sandbox: the one that stands is found, or a new one is made.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use copepod_cri::{
    ListPodSandboxRequest, NamespaceMode, PodSandbox as CriSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxStatusRequest, PodSandboxStatusResponse, RemovePodSandboxRequest,
    RunPodSandboxRequest, StopPodSandboxRequest,
};
use copepod_pod::Failure;
use serde::Deserialize;

use super::client::{CriError, call, within};
use super::config::labels;
use super::table::{Sandbox, is_ready};
use super::{Cri, Inner};
use crate::telemetry::chain;

/// What the making of a sandbox may take of the patience of a call: a network, and maybe its image
/// (upstream: twice the timeout as well).
const RUN_PATIENCE: u32 = 2;

/// What a sandbox is made from.
#[derive(Clone, Debug)]
pub(crate) struct SandboxSpec {
    /// Its configuration; whatever its generation is there.
    pub(crate) config: PodSandboxConfig,
    /// The runtime's handler; empty: its default.
    pub(crate) handler: String,
}

/// A sandbox that stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodSandbox {
    /// The runtime's id of it.
    pub(crate) id: String,
    /// Which sandbox of the pod it is, from 0.
    pub(crate) generation: u32,
    /// The pod's addresses; none on the host's network.
    pub(crate) ips: Vec<IpAddr>,
    /// Its network namespace, for processes that are not the runtime's.
    pub(crate) netns: Option<PathBuf>,
    /// What it was made from, for its containers.
    pub(crate) config: Arc<PodSandboxConfig>,
}

/// Why a pod has no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The runtime's word.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// The log directory cannot be made.
    #[error("cannot make the log directory {path}")]
    Logs {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It was made, and what became of it cannot be asked for.
    #[error(transparent)]
    Status(CriError),
    /// There is no network for it; the runtime's words.
    #[error("{0}")]
    NoNetwork(String),
    /// It was made without an address.
    #[error("the runtime has given sandbox {id} no address")]
    NoAddress {
        /// The sandbox.
        id: String,
    },
}

impl SandboxError {
    /// Upstream's event.
    pub(crate) fn failure(&self) -> Failure {
        let (reason, text) = match self {
            Self::Runtime(_) | Self::Logs { .. } | Self::NoAddress { .. } => {
                ("FailedCreatePodSandBox", "Failed to create pod sandbox")
            }
            Self::Status(_) => ("FailedPodSandBoxStatus", "Unable to get pod sandbox status"),
            Self::NoNetwork(_) => ("NetworkNotReady", "network is not ready"),
        };
        Failure { reason: reason.into(), message: format!("{text}: {}", chain(self)) }
    }
}

/// What containerd and CRI-O say of a sandbox to those who ask for more (`info["info"]`).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Verbose {
    runtime_spec: RuntimeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeSpec {
    linux: LinuxSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinuxSpec {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

impl Cri {
    /// The pod's sandbox that stands; a new one, of the next generation, where none does, or more than
    /// one. The others are stopped before.
    ///
    /// # Errors
    /// [`SandboxError`]; what was half made is found or given up by the next call.
    pub(crate) async fn run_sandbox(&self, spec: SandboxSpec) -> Result<PodSandbox, SandboxError> {
        let uid = spec.config.metadata.as_ref().map_or_else(String::new, |of| of.uid.clone());
        let on_host = on_host(&spec.config);
        let mut listed = self.0.list_sandboxes(&uid).await?;
        listed.sort_by_key(|one| (generation(one), one.created_at));
        let next = listed.last().map_or(0, |newest| generation(newest).saturating_add(1));
        let is_good = is_newest_alone_ready(&listed);
        let mut stands = None;
        if let Some(newest) = listed.last().filter(|_| is_good) {
            let (of, config) =
                (generation(newest), of_generation(&spec.config, generation(newest)));
            stands = self.0.standing(&newest.id, of, config, on_host).await?;
        }
        // Whoever is on the host's network needs none.
        let problem = self.0.health.borrow().network_problem().map(str::to_owned);
        if let Some(problem) = problem.filter(|_| stands.is_none() && !on_host) {
            return Err(SandboxError::NoNetwork(problem));
        }
        for old in listed.iter().filter(|one| stands.as_ref().is_none_or(|it| it.id != one.id)) {
            self.0.stop_sandbox(&old.id).await?;
        }
        match stands {
            Some(sandbox) => Ok(sandbox),
            None => self.0.make(spec, next, uid, on_host).await,
        }
    }

    /// Stops all sandboxes of the pod: their networks are given back, and what still runs in them
    /// is killed.
    ///
    /// # Errors
    /// [`CriError`]; the next call goes on with what is left.
    pub(crate) async fn stop_sandboxes(&self, pod_uid: &str) -> Result<(), CriError> {
        for one in self.0.list_sandboxes(pod_uid).await? {
            self.0.stop_sandbox(&one.id).await?;
        }
        Ok(())
    }

    /// Removes all sandboxes of the pod, with what is left in them.
    ///
    /// # Errors
    /// As [`Cri::stop_sandboxes`].
    pub(crate) async fn remove_sandboxes(&self, pod_uid: &str) -> Result<(), CriError> {
        for one in self.0.list_sandboxes(pod_uid).await? {
            self.0.stop_sandbox(&one.id).await?;
            self.0.remove_sandbox(&one.id).await?;
        }
        Ok(())
    }
}

fn of_generation(config: &PodSandboxConfig, generation: u32) -> PodSandboxConfig {
    let mut config = config.clone();
    if let Some(metadata) = &mut config.metadata {
        metadata.attempt = generation;
    }
    config
}

/// Whether the last one, which is the newest, is ready, and no other (upstream `PodSandboxChanged`: of
/// two that are ready nobody knows what runs in which, so that both go).
fn is_newest_alone_ready(listed: &[CriSandbox]) -> bool {
    let ready = listed.iter().filter(|one| is_ready(one.state())).count();
    ready == 1 && listed.last().is_some_and(|newest| is_ready(newest.state()))
}

/// Whether the pod is on the host's network.
fn on_host(config: &PodSandboxConfig) -> bool {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let namespaces = security.and_then(|security| security.namespace_options.as_ref());
    namespaces.is_some_and(|namespaces| namespaces.network() == NamespaceMode::Node)
}

fn generation(sandbox: &CriSandbox) -> u32 {
    sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}

impl Inner {
    /// The truth about one pod's sandboxes, as of now.
    pub(super) async fn list_sandboxes(&self, pod_uid: &str) -> Result<Vec<CriSandbox>, CriError> {
        let label = (labels::POD_UID.to_owned(), pod_uid.to_owned());
        let filter = PodSandboxFilter {
            label_selector: std::iter::once(label).collect(),
            ..PodSandboxFilter::default()
        };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let mut runtime = self.client.runtime();
        let limit = self.client.patience;
        let answer = runtime.list_pod_sandbox(within(limit, request));
        Ok(call("ListPodSandbox", limit, answer).await?.items)
    }

    /// A ready sandbox, if it has all that a pod needs.
    async fn standing(
        &self,
        id: &str,
        generation: u32,
        config: PodSandboxConfig,
        on_host: bool,
    ) -> Result<Option<PodSandbox>, CriError> {
        let status = match self.sandbox_status(id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let (ips, netns) = (addresses(&status), netns(&status));
        // Upstream: one without an address is made anew (`PodSandboxChanged`).
        Ok((on_host || !ips.is_empty()).then(|| PodSandbox {
            id: id.into(),
            generation,
            ips: if on_host { Vec::new() } else { ips },
            netns: netns.filter(|_| !on_host),
            config: Arc::new(config),
        }))
    }

    async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatusResponse, CriError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let mut runtime = self.client.runtime();
        let limit = self.client.patience;
        call("PodSandboxStatus", limit, runtime.pod_sandbox_status(within(limit, request))).await
    }

    async fn make(
        &self,
        spec: SandboxSpec,
        generation: u32,
        pod_uid: String,
        on_host: bool,
    ) -> Result<PodSandbox, SandboxError> {
        let config = of_generation(&spec.config, generation);
        let path = PathBuf::from(&config.log_directory);
        tokio::fs::create_dir_all(&path)
            .await
            .map_err(|source| SandboxError::Logs { path, source })?;
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: spec.handler };
        let limit: Duration = self.client.patience * RUN_PATIENCE;
        let mut runtime = self.client.runtime();
        let answer = runtime.run_pod_sandbox(within(limit, request));
        let id = call("RunPodSandbox", limit, answer).await?.pod_sandbox_id;
        let sandbox =
            Sandbox { pod_uid, generation, ready: true, created_at: 0, stopped: false, changed: 0 };
        self.table.lock().set_sandbox(&id, sandbox);
        // Looked at more often from now on.
        self.wake.notify_one();
        let standing = self.standing(&id, generation, config, on_host).await;
        let standing = standing.map_err(SandboxError::Status)?;
        standing.ok_or(SandboxError::NoAddress { id })
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        if let Some(known) = self.table.lock().sandboxes.get_mut(id) {
            known.stopped = true;
        }
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = runtime.stop_pod_sandbox(within(limit, request));
        gone_is_done(call("StopPodSandbox", limit, answer).await.map(drop))
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let limit = self.client.patience;
        let mut runtime = self.client.runtime();
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = runtime.remove_pod_sandbox(within(limit, request));
        gone_is_done(call("RemovePodSandbox", limit, answer).await.map(drop))?;
        self.table.lock().sandboxes.remove(id);
        Ok(())
    }
}

/// What is not there any more has been stopped and removed.
pub(super) fn gone_is_done(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn addresses(status: &PodSandboxStatusResponse) -> Vec<IpAddr> {
    let network = status.status.as_ref().and_then(|status| status.network.as_ref());
    let Some(network) = network else { return Vec::new() };
    let more = network.additional_ips.iter().map(|more| &more.ip);
    std::iter::once(&network.ip).chain(more).filter_map(|ip| ip.parse().ok()).collect()
}

fn netns(status: &PodSandboxStatusResponse) -> Option<PathBuf> {
    let verbose: Verbose = serde_json::from_str(status.info.get("info")?).ok()?;
    let mut namespaces = verbose.runtime_spec.linux.namespaces.into_iter();
    let network = namespaces.find(|namespace| namespace.kind == "network")?;
    Some(network.path).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use copepod_cri::PodSandboxState;

    use super::*;

    #[test]
    fn a_sandbox_stands_if_it_is_the_newest_and_alone_ready() {
        let list = |ready: &[bool]| -> Vec<CriSandbox> {
            let state = |ready: &bool| match ready {
                true => PodSandboxState::SandboxReady,
                false => PodSandboxState::SandboxNotready,
            };
            let one = |ready| CriSandbox { state: state(ready).into(), ..CriSandbox::default() };
            ready.iter().map(one).collect()
        };
        for (ready, stands) in [
            (&[][..], false),
            (&[true], true),
            (&[false, true], true),
            (&[false], false),
            (&[true, false], false),
            (&[true, true], false),
        ] {
            assert_eq!(is_newest_alone_ready(&list(ready)), stands, "{ready:?}");
        }
    }

    #[test]
    fn each_failure_is_upstreams_event() {
        let deadline = || CriError::Deadline { method: "PodSandboxStatus" };
        for (error, reason, message) in [
            (
                SandboxError::Status(deadline()),
                "FailedPodSandBoxStatus",
                "Unable to get pod sandbox status: rpc error: code = DeadlineExceeded desc = context \
                 deadline exceeded",
            ),
            (
                SandboxError::Runtime(deadline()),
                "FailedCreatePodSandBox",
                "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = context \
                 deadline exceeded",
            ),
            (
                SandboxError::NoNetwork("container runtime network not ready: why".into()),
                "NetworkNotReady",
                "network is not ready: container runtime network not ready: why",
            ),
        ] {
            let failure = error.failure();
            assert_eq!((failure.reason.as_str(), failure.message.as_str()), (reason, message));
        }
    }

    #[test]
    fn what_a_runtime_says_of_a_sandbox_is_read_and_the_rest_is_no_matter() {
        let info = r#"{"sandboxID":"x","pid":7,"runtimeSpec":{"ociVersion":"1.0","linux":{"namespaces":
            [{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
        let answer = |info: &str| PodSandboxStatusResponse {
            info: std::iter::once(("info".to_owned(), info.to_owned())).collect(),
            ..PodSandboxStatusResponse::default()
        };
        assert_eq!(netns(&answer(info)), Some("/var/run/netns/cni-1".into()));
        for odd in
            ["", "{}", "[]", r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#]
        {
            assert_eq!(netns(&answer(odd)), None, "{odd}");
        }
    }
}
