//! What the runtime says of a container, as a state of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use copepod_cri::{ContainerState, ContainerStatus, ContainerStatusRequest, StopContainerRequest};
use copepod_pod::{Exit, ImageNames, User};
use jiff::Timestamp;

use super::client::{Client, CriError, call, within};
use super::config::labels;
use super::sandbox::gone_is_done;
use super::table::State;
use crate::runtime::{TerminationMessage, last_words};

/// The text upstream gives a container of which its runtime knows nothing.
const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
/// See [`UNKNOWN_REASON`].
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";
/// What a container has to end that its runtime lost sight of (upstream `minimumGracePeriodInSeconds`).
const UNKNOWN_GRACE: Duration = Duration::from_secs(2);
/// What that stop may take beyond: its pod waits meanwhile.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(8);
/// Longest grace that a runtime is asked for: a clock can say when that is over, and nobody waits longer
/// for one container.
pub(super) const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// 128 + SIGKILL.
const KILLED: i32 = 137;

/// A container, looked at.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// How far it is.
    pub(super) state: State,
    /// Its log.
    pub(super) log: PathBuf,
    /// As whom it began, if the runtime tells.
    pub(super) user: Option<User>,
    /// What it was made from, if the runtime tells.
    pub(super) image: Option<ImageNames>,
}

impl Looked {
    /// One that was made and of which there is no more to know.
    pub(super) fn created() -> Self {
        Self { state: State::Created, log: PathBuf::new(), user: None, image: None }
    }
}

/// Looks at one container. One that its runtime lost sight of may run still: it is stopped before it
/// is said to have ended, so that no second one runs beside it (upstream `computePodActions` kills a
/// container in an unknown state before it starts another).
///
/// # Errors
/// [`CriError`], also of that stop.
pub(super) async fn look(client: &Client, id: &str) -> Result<Looked, CriError> {
    let mut status = ask(client, id).await?;
    if status.state() == ContainerState::ContainerUnknown {
        tracing::warn!(container = id, "the container runtime does not know whether it runs");
        stop(client, id, UNKNOWN_GRACE, UNKNOWN_PATIENCE).await?;
        // Most runtimes know then how it ended.
        status = ask(client, id).await?;
    }
    let log = PathBuf::from(&status.log_path);
    let state = match status.state() {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => {
            State::Running { started_at: time(status.started_at).unwrap_or_else(Timestamp::now) }
        }
        ContainerState::ContainerExited => State::Exited(exit(&status, &log).await),
        ContainerState::ContainerUnknown => State::Exited(Exit {
            started_at: time(status.started_at),
            finished_at: Timestamp::now(),
            code: KILLED,
            reason: UNKNOWN_REASON.into(),
            message: UNKNOWN_MESSAGE.into(),
        }),
    };
    let linux = status.user.and_then(|user| user.linux);
    let user = linux.map(|linux| User {
        uid: linux.uid,
        gid: linux.gid,
        groups: linux.supplemental_groups,
    });
    let image = status.image.map(|image| image.image).filter(|image| !image.is_empty());
    let image = image.map(|image| ImageNames { image, image_id: status.image_ref });
    Ok(Looked { state, log, user, image })
}

async fn ask(client: &Client, id: &str) -> Result<ContainerStatus, CriError> {
    const METHOD: &str = "ContainerStatus";
    let limit: Duration = client.patience;
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    let mut runtime = client.runtime();
    let answer = call(METHOD, limit, runtime.container_status(within(limit, request))).await?;
    answer.status.ok_or(CriError::Lacks { method: METHOD, field: "status" })
}

/// Asks a container to end, and has it killed after `grace`; waits for `patience` beyond that. One that
/// is gone has ended.
///
/// # Errors
/// [`CriError`].
pub(super) async fn stop(
    client: &Client,
    id: &str,
    grace: Duration,
    patience: Duration,
) -> Result<(), CriError> {
    let grace = grace.min(GRACE_MAX);
    // Whole seconds, none of the grace lost.
    let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    let limit = grace + patience;
    let timeout = i64::try_from(seconds).unwrap_or(i64::MAX);
    let request = StopContainerRequest { container_id: id.into(), timeout };
    let mut runtime = client.runtime();
    let answer = runtime.stop_container(within(limit, request));
    gone_is_done(call("StopContainer", limit, answer).await.map(drop))
}

async fn exit(status: &ContainerStatus, log: &Path) -> Exit {
    let message = termination_message(status);
    let message = last_words::of(&message, log, status.exit_code, status.message.clone()).await;
    Exit {
        started_at: time(status.started_at),
        finished_at: time(status.finished_at).unwrap_or_else(Timestamp::now),
        code: status.exit_code,
        reason: status.reason.clone(),
        message,
    }
}

/// Where the container left its last words: what is mounted at the path that its annotation names
/// (upstream: `getTerminationMessage`).
fn termination_message(status: &ContainerStatus) -> TerminationMessage {
    let Some(of) = labels::of_container(&status.labels, &status.annotations) else {
        return TerminationMessage::default();
    };
    let mount = status.mounts.iter().find(|mount| mount.container_path == of.message_path);
    let host = mount.map(|mount| PathBuf::from(&mount.host_path));
    let place = host.as_ref().and_then(|host| Some((host.parent()?, host.file_name()?)));
    let (dir, file) = place.map(|(dir, file)| (dir.into(), file.into())).unwrap_or_default();
    TerminationMessage { dir, file, fallback_to_logs: of.fallback_to_logs }
}

/// Nanoseconds since 1970; zero is none.
pub(super) fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}
