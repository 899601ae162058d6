//! The pod's phase (upstream: `getPhase`, `TerminatePod`).

use k8s_openapi::api::core::v1::PodStatus;

use crate::{
    container::{Container, Role},
    state::State,
};

/// Whether a pod of this status has ended: Succeeded or Failed.
#[must_use]
pub fn is_terminal(status: Option<&PodStatus>) -> bool {
    status.and_then(|status| status.phase.as_deref()).and_then(Phase::terminal).is_some()
}

/// The pod's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    /// The terminal one of this name.
    pub(crate) fn terminal(name: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed].into_iter().find(|end| end.as_str() == name)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

/// The phase that follows from the state. It is terminal only once the pod has ended, that is, once
/// nothing can run any more: until then a pod whose main containers have all been started is
/// Running (sidecars count for nothing), every other one Pending, and so is one whose init containers run again in a new sandbox.
pub(crate) fn of(state: &State) -> Phase {
    if let Some(ended) = state.ended {
        return ended;
    }
    let mut mains = state.of_role(Role::Main);
    let is_initialising = state.of_role(Role::Init).any(Container::is_running);
    if mains.all(Container::has_appeared) && !is_initialising {
        Phase::Running
    } else {
        Phase::Pending
    }
}

/// The terminal phase of a pod in which nothing runs any more: Succeeded if every main container's
/// last attempt exited with 0. So a pod that ended before a main container ran is Failed, and so is
/// one whose init container failed for good, also in a later sandbox, and whatever was evicted. What the pod's object already
/// says wins.
pub(crate) fn at_end(state: &State) -> Phase {
    if let Some(reported) = state.reported_end() {
        return reported;
    }
    if state.cause.is_some() {
        return Phase::Failed;
    }
    let generation = state.generation();
    let has_failed = |init: &Container| {
        init.exit().is_some_and(|exit| exit.code != 0) && !init.is_wanted(generation)
    };
    let mut mains = state.of_role(Role::Main);
    if mains.all(Container::has_succeeded) && !state.of_role(Role::Init).any(has_failed) {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}
