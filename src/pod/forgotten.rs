//! What a runtime has forgotten while no agent looked (a reboot that wiped it, somebody who removed
//! containers): only the pod's object still knows of it. It is not to run again as if it never had
//! (upstream: `convertToAPIContainerStatuses`, `calcRestartCountByLogDir`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::{
    Attempt, AttemptState, Exit, Now,
    container::Container,
    known::Known,
    state::State,
    status::{status_before, whole_seconds},
    step::{LOST_CODE, LOST_REASON},
};

/// Upstream's text for one that ran when it was last seen.
const MESSAGE: &str = "The container could not be located when the pod was deleted.  The container \
                       used to be Running";

impl State {
    /// Takes the newest attempt of each container of which the runtime lists none that ran from the pod's
    /// object. Its sandbox is gone as well, as far as anybody knows.
    pub(crate) fn recall_forgotten(&mut self, now: Now) {
        if self.reported_end().is_some() || fault!(ForgottenNotRecalled) {
            return;
        }
        let pod = Arc::clone(&self.pod);
        let unknown =
            |container: &&mut Container| container.role.is_work() && container.newest().is_none();
        for container in self.containers.iter_mut().filter(unknown) {
            let Some(status) = status_before(&pod, container) else { continue };
            let Some((counted, state)) = ended(status, now) else { continue };
            // A restart of all is counted before it is begun: then it is this one.
            let is_begun = container.attempts.contains_key(&counted);
            let Some(attempt) = counted.checked_sub(u32::from(is_begun)) else { continue };
            let known = Attempt {
                container: container.name.clone(),
                attempt,
                sandbox: 0,
                id: status.container_id.clone().unwrap_or_default(),
                definition: None,
                user: None,
                image: None,
                state,
            };
            let known = Known { is_forgotten: true, ..Known::new(known, now.mono) };
            container.attempts.insert(attempt, known);
        }
    }
}

/// The number of the newest attempt that is shown to have run, and its end.
fn ended(status: &ContainerStatus, now: Now) -> Option<(u32, AttemptState)> {
    status.container_id.as_ref().filter(|id| !id.is_empty())?;
    let attempt = u32::try_from(status.restart_count).ok()?;
    let state = status.state.as_ref()?;
    let exit = if let Some(running) = &state.running {
        Exit {
            started_at: running.started_at.as_ref().map(|time| time.0),
            finished_at: whole_seconds(now.wall),
            code: LOST_CODE,
            reason: LOST_REASON.to_owned(),
            message: MESSAGE.to_owned(),
        }
    } else {
        let last = || status.last_state.as_ref()?.terminated.as_ref();
        let told = state.terminated.as_ref().or_else(last)?;
        Exit {
            started_at: told.started_at.as_ref().map(|time| time.0),
            finished_at: told.finished_at.as_ref().map_or(now.wall, |time| time.0),
            code: told.exit_code,
            reason: told.reason.clone().unwrap_or_default(),
            message: told.message.clone().unwrap_or_default(),
        }
    };
    Some((attempt, AttemptState::Exited(exit)))
}
