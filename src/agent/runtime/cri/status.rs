//! What the runtime says of a container, as a state of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use copepod_cri::{ContainerState, ContainerStatus, ContainerStatusRequest};
use copepod_pod::Exit;
use jiff::Timestamp;

use super::client::{Client, CriError, call, within};
use super::config::labels;
use super::table::State;
use crate::runtime::{TerminationMessage, last_words};

/// The text upstream gives a container of which its runtime knows nothing.
const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
/// See [`UNKNOWN_REASON`].
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";
/// 128 + SIGKILL.
const KILLED: i32 = 137;

/// A container, looked at.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// How far it is.
    pub(super) state: State,
    /// Its log.
    pub(super) log: PathBuf,
}

/// Looks at one container.
///
/// # Errors
/// [`CriError`].
pub(super) async fn look(client: &Client, id: &str) -> Result<Looked, CriError> {
    const METHOD: &str = "ContainerStatus";
    let limit: Duration = client.patience;
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    let mut runtime = client.runtime();
    let answer = call(METHOD, limit, runtime.container_status(within(limit, request))).await?;
    let status = answer.status.ok_or(CriError::Lacks { method: METHOD, field: "status" })?;
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
    Ok(Looked { state, log })
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
