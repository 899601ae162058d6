//! What of an allocation is to be brought to the pod's group and its running containers.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container as Spec;

use super::Actuated;
use crate::backoff::Wake;
use crate::container::{Container, Role};
use crate::known::Known;
use crate::state::State;
use crate::{Action, AttemptState, Resized, container_named};

/// The resources that can be resized.
const RESIZED: [&str; 2] = ["cpu", "memory"];
/// The resize policy that asks for a restart.
const RESTART: &str = "RestartContainer";

/// One running container that has other resources than are allocated to it.
struct Open {
    index: usize,
    attempt: u32,
    id: String,
    wanted: Actuated,
    restart: bool,
}

/// What is to be done now so that the pod has what is allocated to it, if anything. Containers that
/// have to be restarted for it are marked so; nothing else is resized before they have ended, as
/// upstream kills them first.
pub(crate) fn wanted_actuation(
    state: &mut State,
    now: Duration,
    wake: &mut Wake,
) -> Option<Action> {
    if state.set_up.done.is_none() || state.resize.work.doing {
        return None;
    }
    let open = open(state);
    for one in open.iter().filter(|one| one.restart) {
        let container = &mut state.containers[one.index];
        container.restart_for_resize(one.attempt);
        state.resize.restarting.insert(container.name.clone());
    }
    let wanted_pod = Actuated::of_pod(&state.pod);
    let attempts: Vec<_> = open.into_iter().filter(|one| !one.restart).collect();
    let pod_differs = state.resize.pod.is_some_and(|pod| pod != wanted_pod);
    if attempts.is_empty() && !pod_differs
        || state.is_stopping_for_resize()
        || state.resize.work.waits(now, wake)
    {
        return None;
    }
    let name = |one: &Open| state.containers[one.index].name.clone();
    let resized =
        |one: &Open| Resized { container: name(one), attempt: one.attempt, id: one.id.clone() };
    let containers = attempts.iter().map(resized).collect();
    let asked = attempts.iter().map(|one| (name(one), one.attempt, one.wanted)).collect();
    state.resize.ask(wanted_pod, asked);
    Some(Action::Resize { containers })
}

/// The running containers that have other resources than are allocated to them.
fn open(state: &State) -> Vec<Open> {
    let of = |(index, container): (usize, &Container)| {
        let (attempt, known) = running(container)?;
        let spec = container_named(&state.pod, &container.name)?;
        let had = *state.resize.attempts.get(&(container.name.clone(), attempt))?;
        let wanted = Actuated::of(&state.pod, &spec);
        (had != wanted).then(|| Open {
            index,
            attempt,
            id: known.id.clone(),
            wanted,
            restart: asks_for_restart(&spec, had, wanted),
        })
    };
    let all = state.containers.iter().enumerate();
    all.filter(|(_, container)| container.role != Role::Ephemeral).filter_map(of).collect()
}

/// The attempt of a container that runs and is not to end.
fn running(container: &Container) -> Option<(u32, &Known)> {
    let (attempt, known) = container.newest()?;
    let runs = match known.state {
        AttemptState::Running { .. } => known.ending.is_none(),
        AttemptState::Starting | AttemptState::Exited(_) => false,
    };
    runs.then_some((attempt, known))
}

fn asks_for_restart(spec: &Spec, had: Actuated, wanted: Actuated) -> bool {
    let asks = |resource: &str| {
        let mut policies = spec.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == resource && policy.restart_policy == RESTART)
    };
    RESIZED.iter().any(|resource| had.differs_in(wanted, resource) && asks(resource))
}

impl State {
    /// Whether the pod has other resources than are allocated to it (upstream
    /// `IsPodResizeInProgress`). A container that does not run has none, unless it is on its way
    /// to its start with others.
    pub(crate) fn is_resizing(&self) -> bool {
        let wanted_pod = || Actuated::of_pod(&self.pod);
        self.resize.work.doing
            || self.resize.pod.is_some_and(|pod| pod != wanted_pod())
            || !self.resize.restarting.is_empty()
            || !open(self).is_empty()
    }

    /// Whether a container has still to end that is stopped for its resources. Nothing else is resized
    /// before that, and nothing is started: it would be in the pod's group as that was, which may be
    /// too small for it.
    pub(crate) fn is_stopping_for_resize(&self) -> bool {
        let is_ending = |container: &Container| {
            self.resize.restarting.contains(&container.name) && container.is_busy()
        };
        self.containers.iter().any(is_ending)
    }

    /// Whether what the pod has is known: before its set-up it may be anything.
    pub(crate) fn has_settled(&self) -> bool {
        self.set_up.done.is_some()
    }

    /// Forgets which containers are restarted for their resources once they have been.
    pub(crate) fn note_restarted(&mut self) {
        let (containers, is_to_end) = (&self.containers, self.deadline.is_some());
        let attempts = &self.resize.attempts;
        let pod = &self.pod;
        self.resize.restarting.retain(|name| {
            let container = containers.iter().find(|container| container.name == *name);
            let has_all = |container: &Container| {
                let newest = container.newest().map(|(attempt, _)| attempt);
                let had = newest.and_then(|attempt| attempts.get(&(name.clone(), attempt)));
                let spec = container_named(pod, name);
                had.zip(spec).is_some_and(|(had, spec)| *had == Actuated::of(pod, &spec))
            };
            !is_to_end && container.is_some_and(|container| !has_all(container))
        });
    }
}
