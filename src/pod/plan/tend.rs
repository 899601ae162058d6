//! What is done beside a running attempt: its postStart hook and its probes.

use std::time::Duration;

use super::Pass;
use crate::{
    Action, AttemptState, HookKind,
    container::Container,
    known::{Hook, Known},
    life::{HookSpec, Life},
    state::State,
};

impl Pass {
    /// Looks after what runs of the container. `is_ending`: its pod is to end.
    pub(super) fn tend(&mut self, container: &mut Container, is_ending: bool) {
        let (name, life) = (&container.name, &container.life);
        for known in container.attempts.values_mut().filter(|known| known.is_running()) {
            self.post_start((name, life), known);
            let is_ending = (is_ending || known.ending.is_some()) && !fault!(ProbedToTheEnd);
            self.probe((name, life), known, is_ending);
        }
    }

    fn post_start(&mut self, (container, life): (&str, &Life), known: &mut Known) {
        // One that is to end by now will never have started.
        if known.post_start == Hook::Due && known.ending.is_none() {
            known.post_start = match life.post_start {
                Some(HookSpec::Sleep(time)) if time.is_zero() => Hook::Done,
                Some(HookSpec::Sleep(time)) => Hook::Doing(Some(self.now.saturating_add(time))),
                Some(HookSpec::Act) => {
                    let (container, id) = (container.to_owned(), known.id.clone());
                    self.actions.push(Action::Hook { container, id, hook: HookKind::PostStart });
                    Hook::Doing(None)
                }
                None => Hook::Done,
            };
        }
        if let Hook::Doing(Some(until)) = known.post_start {
            self.wake.at(until);
        }
    }

    /// Asks for the probes that are due. Before the postStart hook is done the container has not
    /// started, and upstream sees nothing of it.
    fn probe(&mut self, (container, life): (&str, &Life), known: &mut Known, is_ending: bool) {
        if known.post_start != Hook::Done {
            return;
        }
        let Some(probes) = &mut known.probes else { return };
        for probe in probes.ask(life, is_ending, self.now, &mut self.wake) {
            let (container, id) = (container.to_owned(), known.id.clone());
            self.actions.push(Action::Probe { container, id, probe });
        }
    }
}

impl State {
    /// Waits of hooks that are over by now.
    pub(crate) fn pass_time(&mut self, now: Duration) {
        let known = self.containers.iter_mut().flat_map(|c| c.attempts.values_mut());
        for known in known {
            if matches!(known.post_start, Hook::Doing(Some(until)) if until <= now) {
                known.post_start = Hook::Done;
            }
        }
    }

    /// If a container has ended so that a rule wants all of the pod anew, all that ran before that is
    /// past: it is stopped, and the pod begins with its first init container, in the sandbox that
    /// stands (upstream: `ShouldAllContainersRestart`). Whether that still waits for starts which are
    /// under way: nothing else is to start until it is decided.
    pub(crate) fn begin_anew(&mut self, now: Duration) -> bool {
        let asks = |container: &Container| {
            let (number, newest) = container.newest()?;
            let is_heard = container.role.is_work() && !(newest.is_past || newest.is_forgotten);
            let exit = newest.exit().filter(|_| is_heard)?;
            let asks =
                !container.goes_on_at_once(number, now) && container.life.restarts_all(exit.code);
            asks.then(|| (container.name.clone(), number, Some(exit.finished_at)))
        };
        let Some((source, attempt, at)) = self.containers.iter().find_map(asks) else {
            return false;
        };
        if fault!(OthersNotBegunAnew) {
            return false;
        }
        // Wall times are asked only of what an agent before this one may have begun.
        let at = at.filter(|_| self.is_first_look);
        if self.containers.iter().any(|container| container.starting.is_some()) {
            return true;
        }
        for container in self.containers.iter_mut().filter(|container| container.role.is_work()) {
            for (number, known) in &mut container.attempts {
                let began = match &known.state {
                    AttemptState::Starting => None,
                    AttemptState::Running { started_at } => Some(*started_at),
                    AttemptState::Exited(exit) => exit.started_at,
                };
                let is_later = began.zip(at).is_some_and(|(began, at)| began > at);
                known.is_past |=
                    if container.name == source { *number <= attempt } else { !is_later };
            }
        }
        false
    }
}
