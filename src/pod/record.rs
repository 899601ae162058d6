//! What people are told of a pod beside its status: upstream's events, to the letter
//! (`pkg/kubelet/events/event.go` and where they are recorded).

use k8s_openapi::api::core::v1::Pod;

use crate::{
    Failure, HookKind, ImageRef, ProbeKind, ProbeOutcome, Record,
    container::{Role, is_pull},
    go::go_duration,
    state::State,
    status::{full_name, spec_image},
};

/// What is said of a container before and after its name when it is stopped.
pub(crate) type Why = (&'static str, &'static str);
/// It is to end.
pub(crate) const STOPPING: Why = ("Stopping container ", "");
/// Its definition is another one.
const CHANGED: Why = ("Container ", " definition changed, will be restarted");

/// What follows its start has failed: upstream says no name here.
pub(crate) const POST_START: &str = "FailedPostStartHook";
/// The whole pod is begun anew (upstream: the kill's message).
pub(crate) const RESTART_ALL: &str = "killing";
/// Why a container is stopped for a probe that failed, by its role and by whether it starts again.
pub(crate) fn unhealthy(probe: ProbeKind, role: Role, restarts: bool) -> Why {
    match (probe, role.is_init(), restarts) {
        (ProbeKind::Startup, true, _) => ("Init container ", " failed startup probe"),
        (ProbeKind::Startup, false, true) => {
            ("Container ", " failed startup probe, will be restarted")
        }
        (ProbeKind::Startup, false, false) => ("Container ", " failed startup probe"),
        (ProbeKind::Liveness | ProbeKind::Readiness, true, _) => {
            ("Init container ", " failed liveness probe")
        }
        (ProbeKind::Liveness | ProbeKind::Readiness, false, true) => {
            ("Container ", " failed liveness probe, will be restarted")
        }
        (ProbeKind::Liveness | ProbeKind::Readiness, false, false) => {
            ("Container ", " failed liveness probe")
        }
    }
}

/// Why a container of an old definition is stopped.
pub(crate) fn changed(role: Role) -> Why {
    if role.is_init() { ("Init container ", " definition changed") } else { CHANGED }
}

/// Its resources are others.
pub(crate) const RESIZED: Why = ("Container ", " resize requires restart");

/// How far an attempt is once its guest runs.
const RUNNING: u8 = 1;

fn record(warning: bool, reason: &str, message: String, container: Option<&str>) -> Record {
    let container = container.map(str::to_owned);
    Record { warning, reason: reason.to_owned(), message, container }
}

fn normal(reason: &str, message: String, container: &str) -> Record {
    record(false, reason, message, Some(container))
}

fn failed(message: String, container: &str) -> Record {
    record(true, "Failed", message, Some(container))
}

/// A container is told to end.
pub(crate) fn killing(container: &str, why: Why) -> Record {
    let message = match why {
        (whole, "") if whole == POST_START || whole == RESTART_ALL => whole.to_owned(),
        (before, after) => format!("{before}{container}{after}"),
    };
    normal("Killing", message, container)
}

/// What is to be told of a probe.
pub(crate) fn probed(container: &str, kind: ProbeKind, outcome: ProbeOutcome) -> Option<Record> {
    let probe = match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    };
    let (reason, message) = match outcome {
        ProbeOutcome::Success => return None,
        ProbeOutcome::Warning(output) => {
            ("ProbeWarning", format!("{probe} probe warning: {output}"))
        }
        ProbeOutcome::Failure(output) => ("Unhealthy", format!("{probe} probe failed: {output}")),
        ProbeOutcome::Error(error) => ("Unhealthy", errored(probe, "unknown", &error)),
        ProbeOutcome::Broken(error) => ("Unhealthy", errored(probe, "failure", &error)),
    };
    Some(record(true, reason, message, Some(container)))
}

fn errored(probe: &str, state: &str, error: &str) -> String {
    format!("{probe} probe errored and resulted in {state} state: {error}")
}

/// A hook has failed: what it wrote is told to nobody, it may be secret.
pub(crate) fn hook_failed(container: &str, hook: HookKind) -> Record {
    let (reason, message) = match hook {
        HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
        HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
    };
    record(true, reason, message.to_owned(), Some(container))
}

/// The pod has used more than it may.
pub(crate) fn evicted(why: &Failure) -> Record {
    record(true, &why.reason, why.message.clone(), None)
}

/// The pod has had its time.
pub(crate) fn deadline_exceeded(why: &Failure) -> Record {
    record(false, &why.reason, why.message.clone(), None)
}

/// The pod's sandbox stands no more, and it gets another one.
pub(crate) fn sandbox_changed() -> Record {
    let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
    record(false, "SandboxChanged", message, None)
}

/// A container waits for its next start.
pub(crate) fn crash_back_off(pod: &Pod, container: &str) -> Record {
    let pod = full_name(pod);
    let message = format!("Back-off restarting failed container {container} in pod {pod}");
    record(true, "BackOff", message, Some(container))
}

/// The next pull of a container's image waits.
pub(crate) fn pull_back_off(pod: &Pod, container: &str) -> [Record; 2] {
    let image = spec_image(pod, container);
    [
        normal("BackOff", format!("Back-off pulling image \"{image}\""), container),
        failed("Error: ImagePullBackOff".to_owned(), container),
    ]
}

impl State {
    /// A step of the pod as a whole has failed: its reason is the event's.
    pub(crate) fn record_failure<T>(&mut self, result: &Result<T, Failure>) {
        if let Err(Failure { reason, message }) = result {
            self.records.push(record(true, reason, message.clone(), None));
        }
    }

    /// What the pod's containers do without.
    pub(crate) fn record_warnings(&mut self, warnings: &[Failure]) {
        let all = warnings
            .iter()
            .map(|Failure { reason, message }| record(true, reason, message.clone(), None));
        self.records.extend(all);
    }

    /// The set-up could not be undone.
    pub(crate) fn record_kill_failure(&mut self, result: &Result<(), Failure>) {
        if let Err(Failure { reason, message }) = result {
            self.records.push(record(true, reason, format!("error killing pod: {message}"), None));
        }
    }

    /// The image of a container comes from its registry.
    pub(crate) fn record_pulling(&mut self, container: &str) {
        let image = spec_image(&self.pod, container);
        let message = format!("Pulling image \"{image}\"");
        self.records.push(normal("Pulling", message, container));
    }

    /// An image is here, or is not to be had.
    pub(crate) fn record_image(&mut self, container: &str, result: &Result<ImageRef, Failure>) {
        let image = spec_image(&self.pod, container).to_owned();
        let failure = match result {
            Ok(ImageRef { pulled: None, .. }) => {
                let message = format!(
                    "Container image \"{image}\" already present on machine and can be accessed \
                     by the pod"
                );
                return self.records.push(normal("Pulled", message, container));
            }
            Ok(ImageRef { pulled: Some(pulled), .. }) => {
                let (took, waited) = (go_duration(pulled.took), go_duration(pulled.waited));
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({waited} including waiting). \
                     Image size: {} bytes.",
                    pulled.bytes
                );
                return self.records.push(normal("Pulled", message, container));
            }
            Err(failure) => failure,
        };
        let Failure { reason, message } = failure;
        let first = match reason.as_str() {
            "InvalidImageName" | "ImageInspectError" => {
                record(true, "InspectFailed", message.clone(), Some(container))
            }
            "ErrImageNeverPull" => record(true, reason, message.clone(), Some(container)),
            _ if is_pull(failure) => {
                failed(format!("Failed to pull image \"{image}\": {message}"), container)
            }
            _ => failed(message.clone(), container),
        };
        self.records.extend([first, failed(format!("Error: {reason}"), container)]);
    }

    /// A container could not be described, made or started.
    pub(crate) fn record_start_failure(&mut self, container: &str, failure: &Failure) {
        self.records.push(failed(format!("Error: {}", failure.message), container));
    }

    /// An attempt that this agent asked for has come from one state to another; `error` is why it could
    /// not be started.
    pub(crate) fn record_start(
        &mut self,
        name: &str,
        before: Option<u8>,
        after: Option<u8>,
        error: Option<String>,
    ) {
        let Some(after) = after else { return };
        if before.is_none() {
            self.records.push(normal("Created", "Container created".to_owned(), name));
        }
        if before.is_none_or(|before| before < RUNNING) && after >= RUNNING {
            self.records.push(match error {
                Some(error) => failed(format!("Error: {error}"), name),
                None => normal("Started", "Container started".to_owned(), name),
            });
        }
    }
}
