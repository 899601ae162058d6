//! Does what `copepod_pod` decided about a container's probes and hooks, each once and in upstream's
//! words.
//!
//! Owns: one function per handler of a probe ([`exec`], [`http`], [`tcp`], [`grpc`]) and of a hook
//! ([`hook`]). Starts no task: each is a future that its caller may drop, and nothing is left of it.
//! In: a handler of a container's spec and where its pod is reached ([`Target`]); commands are run by
//! the caller ([`Commands`]). Out: a [`ProbeOutcome`], or how a hook ended ([`HookEnd`]).
//! Decides nothing: when to probe and what an outcome means is `copepod_pod::step`'s.

mod dial;
mod exec;
mod grpc;
mod heard;
mod hook;
mod http;
mod port;
mod tcp;
mod text;
mod tls;

pub(crate) use hook::{HookEnd, canceled, hook};

use std::net::IpAddr;
use std::time::Duration;

use copepod_pod::ProbeOutcome;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use crate::runtime::{ExecError, ExecOutput};

/// How often a probe is tried that cannot be made (upstream: `maxProbeRetries`).
const TRIES: u32 = 3;
/// Bytes of a command's output and of an answer's body that are looked at (upstream: `maxReadLength`,
/// `maxRespBodyLength`).
pub(crate) const OUTPUT_MAX: usize = 10 << 10;
/// The version that probes and hooks call themselves by: that of the kubelet whose rules these are.
const VERSION: &str = "1.36";

/// Whose probe or hook it is, and where its pod is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The container, as the pod's spec has it.
    pub(crate) container: &'a Container,
    /// The pod's main address, its host's on the host's network; none before it has one.
    pub(crate) ip: Option<IpAddr>,
}

/// Runs commands in one running container.
pub(crate) trait Commands: Send + Sync {
    /// Runs `command` to its end and gives what it wrote, at most [`OUTPUT_MAX`] bytes of each stream.
    /// What takes longer than `within` (zero: no limit) is killed.
    ///
    /// # Errors
    /// [`ExecError`]; [`ExecError::TimedOut`] for one that took too long.
    fn run(
        &self,
        command: Vec<String>,
        within: Duration,
    ) -> impl Future<Output = Result<ExecOutput, ExecError>> + Send;
}

/// Makes a probe, again if it cannot be made.
pub(crate) async fn probe(
    probe: &Probe,
    target: Target<'_>,
    commands: &impl Commands,
) -> ProbeOutcome {
    let mut tries = 1;
    loop {
        let outcome = once(probe, target, commands).await;
        match outcome {
            ProbeOutcome::Error(_) | ProbeOutcome::Broken(_) if tries < TRIES => tries += 1,
            ProbeOutcome::Error(_)
            | ProbeOutcome::Broken(_)
            | ProbeOutcome::Success
            | ProbeOutcome::Warning(_)
            | ProbeOutcome::Failure(_) => return outcome,
        }
    }
}

async fn once(probe: &Probe, target: Target<'_>, commands: &impl Commands) -> ProbeOutcome {
    // Upstream's default; less is refused by the API.
    let seconds = probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let within = Duration::from_secs(seconds.unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec::probe(action, target, within, commands).await;
    }
    if let Some(action) = &probe.http_get {
        return http::probe(action, target, within).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp::probe(action, target, within).await;
    }
    if let Some(action) = &probe.grpc {
        return grpc::probe(action, target, within).await;
    }
    let (pod, name) = (text::pod(target.pod), &target.container.name);
    ProbeOutcome::Error(format!("missing probe handler for {pod}:{name}"))
}

/// The host that is asked: the one that the handler names, else the pod's.
fn host(named: Option<&String>, ip: Option<IpAddr>) -> Result<String, &'static str> {
    let named = named.filter(|host| !host.is_empty()).cloned();
    named.or(ip.map(|ip| ip.to_string())).ok_or("the pod has no address yet")
}

#[cfg(test)]
mod test_server;
