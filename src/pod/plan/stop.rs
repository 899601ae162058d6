//! How what lives comes to its end: people are told, the preStop hook is done, its turn is waited for,
//! then it is stopped, all within one grace (upstream: `killContainer`, `termination_order.go`).

use std::time::Duration;

use super::Pass;
use crate::{
    Action, HookKind, ProbeKind,
    container::{Container, Culled, Role},
    known::{Ending, Hook, Known},
    life::{HookSpec, Life},
    record,
    state::State,
};

/// How long after its SIGKILL was due an attempt that still lives is killed again, and how often
/// from then on: the runtime has lost the command, or the agent that held it.
const STOP_AGAIN: Duration = Duration::from_secs(5);
/// The least time between SIGTERM and SIGKILL, whatever is left of the grace (upstream:
/// `minimumGracePeriodInSeconds`).
const LEAST: Duration = Duration::from_secs(2);
/// Dead attempts kept of a container beside the newest: the one whose logs are the previous ones
/// (upstream: `maximum-dead-containers-per-container`).
const KEPT_OLD: usize = 1;

/// How an attempt is to end.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// What people are told.
    pub(super) why: Option<record::Why>,
    /// When its grace is used up.
    pub(super) deadline: Duration,
    /// Whether SIGTERM may come now; else it comes when the grace is used up.
    pub(super) is_turn: bool,
    /// Whether it is killed at once when the grace is used up.
    pub(super) is_at_once: bool,
}

impl Pass {
    /// Stops all that lives of the pod, the sidecars in their turn.
    pub(super) fn stop_pod(&mut self, state: &mut State, deadline: Duration) {
        let is_at_once = state.is_at_once;
        let stop = Stop { why: Some(record::STOPPING), deadline, is_turn: true, is_at_once };
        self.stop_in_turn(state, |_| Some(stop), Container::is_busy);
    }

    /// What was to end with one that has ended before it still does, though its pod may go on.
    fn go_on_stopping(&mut self, state: &mut State) {
        let is_ending = |known: &Known| known.is_alive() && known.ending.is_some();
        let stop = |known: &Known| {
            let deadline = known.ending.as_ref()?.deadline;
            Some(Stop { why: None, deadline, is_turn: true, is_at_once: false })
        };
        self.stop_in_turn(state, stop, |one| one.attempts.values().any(is_ending));
    }

    /// Stops those attempts of which `stop` says how: the sidecars after the main containers, the last
    /// one first, each when none before it `holds` it.
    fn stop_in_turn(
        &mut self,
        state: &mut State,
        stop: impl Fn(&Known) -> Option<Stop>,
        holds: impl Fn(&Container) -> bool,
    ) {
        let (sidecars, others): (Vec<_>, Vec<_>) =
            state.containers.iter_mut().partition(|container| container.role == Role::Sidecar);
        let mut is_turn = true;
        for container in others.into_iter().chain(sidecars.into_iter().rev()) {
            let is_sidecar = container.role == Role::Sidecar;
            let may = !is_sidecar || is_turn || fault!(SidecarsNotLast);
            for (number, known) in &mut container.attempts {
                if let Some(stop) = stop(known) {
                    let stop = Stop { is_turn: may, ..stop };
                    self.stop((&container.name, &container.life), *number, known, stop);
                }
            }
            is_turn &= !(is_sidecar || container.role == Role::Main) || !holds(container);
        }
    }

    /// Stops what lives and should not: a container that is not in the spec, an attempt of an old
    /// definition or in an old sandbox, all attempts but the newest, and what its probes or its
    /// postStart hook have failed. No start is given while one of them lives.
    pub(super) fn stop_unfit(&mut self, state: &mut State) {
        let (grace, generation) = (state.spec_grace(), state.generation());
        // One that is on its way down counts no more (upstream ends it before it looks at the next).
        let runs_on = |main: &Container| {
            main.newest().is_some_and(|(_, known)| known.is_alive() && known.ending.is_none())
        };
        let is_to_run = |main: &&Container| runs_on(main) || main.is_wanted(generation);
        let lasting = state.of_role(Role::Main).filter(is_to_run).count();
        let mut whole = None;
        for container in &mut state.containers {
            let newest = container.attempts.keys().next_back().copied();
            let is_last = lasting <= 1;
            for number in container.attempts.keys().copied().collect::<Vec<_>>() {
                let unfit = container.unfit(number, newest, generation, is_last);
                let Some(Unfit { why, given, is_culled, is_whole }) = unfit else { continue };
                if is_culled && !container.is_culled(number) {
                    container.culled = Some(Culled { attempt: number, is_new: true });
                }
                let deadline = self.now.saturating_add(given.unwrap_or(grace));
                let stop = Stop { why, deadline, is_turn: true, is_at_once: false };
                let who = (container.name.as_str(), &container.life);
                if let Some(known) = container.attempts.get_mut(&number) {
                    self.stop(who, number, known, stop);
                    let ends = known.ending.as_ref().map(|ending| ending.deadline);
                    whole = whole.max(ends.filter(|_| is_whole));
                }
            }
        }
        // All of it within one grace, though its end is yet to be decided on.
        match whole {
            Some(deadline) => self.stop_pod(state, deadline),
            None => self.go_on_stopping(state),
        }
    }

    /// Brings a living attempt to its end. Given again it only shortens, or kills again what outlives
    /// its end. The first is told to people.
    fn stop(
        &mut self,
        (container, life): (&str, &Life),
        attempt: u32,
        known: &mut Known,
        stop: Stop,
    ) {
        if !known.is_alive() {
            return;
        }
        let (now, id, is_running) = (self.now, known.id.clone(), known.is_running());
        if known.ending.is_none() {
            self.records.extend(stop.why.map(|why| record::killing(container, why)));
        }
        let pre_stop = Hook::of(life.pre_stop);
        let new = Ending { deadline: stop.deadline, pre_stop, kill_at: None };
        let ending = known.ending.get_or_insert(new);
        ending.deadline = ending.deadline.min(stop.deadline);
        // One that is starting has its hook once it runs, if it is not stopped before.
        if is_running && self.pre_stop((container, &id), life, ending) {
            return;
        }
        if !stop.is_turn && now < ending.deadline && ending.kill_at.is_none() {
            return self.wake.at(ending.deadline);
        }
        let least = if stop.is_at_once { Duration::ZERO } else { LEAST };
        let nearest = ending.deadline.max(now.saturating_add(least));
        let due = match ending.kill_at {
            None => Some(nearest),
            Some(kill_at) if nearest < kill_at => Some(nearest),
            Some(kill_at) => (now >= kill_at + STOP_AGAIN).then_some(now),
        };
        if let Some(due) = due {
            ending.kill_at = Some(due);
            ending.pre_stop = Hook::Done;
            let (container, grace) = (container.to_owned(), due - now);
            self.actions.push(Action::Stop { container, attempt, id, grace });
        }
        if let Some(kill_at) = ending.kill_at {
            self.wake.at(kill_at.saturating_add(STOP_AGAIN));
        }
    }

    /// Goes on with the preStop hook; whether it is still to be waited for.
    fn pre_stop(
        &mut self,
        (container, id): (&str, &str),
        life: &Life,
        ending: &mut Ending,
    ) -> bool {
        let is_again = fault!(PreStopRepeated) && ending.pre_stop == Hook::Doing(None);
        // There is no time for it.
        if ending.pre_stop == Hook::Due && ending.deadline <= self.now {
            ending.pre_stop = Hook::Done;
        }
        if ending.pre_stop == Hook::Due || is_again {
            ending.pre_stop = match life.pre_stop {
                Some(HookSpec::Sleep(time)) => Hook::Doing(Some(self.now.saturating_add(time))),
                Some(HookSpec::Act) => {
                    let (container, id) = (container.to_owned(), id.to_owned());
                    self.actions.push(Action::Hook { container, id, hook: HookKind::PreStop });
                    Hook::Doing(None)
                }
                None => Hook::Done,
            };
        }
        let Hook::Doing(sleep) = ending.pre_stop else { return false };
        let until = sleep.map_or(ending.deadline, |until| until.min(ending.deadline));
        if until <= self.now || fault!(PreStopNotAwaited) {
            ending.pre_stop = Hook::Done;
            // It is cut short.
            if sleep.is_none() {
                self.records.push(record::hook_failed(container, HookKind::PreStop));
            }
            return false;
        }
        self.wake.at(until);
        true
    }

    /// Has old dead attempts removed.
    pub(super) fn remove_old(&mut self, container: &mut Container) {
        let Some(newest) = container.newest().map(|(number, _)| number) else { return };
        let dead = container.attempts.iter_mut().rev();
        let old = dead.filter(|(number, known)| **number < newest && !known.is_alive());
        for (number, known) in old.skip(KEPT_OLD).filter(|(_, known)| !known.removing) {
            known.removing = true;
            self.actions.push(Action::Remove {
                container: container.name.clone(),
                attempt: *number,
                id: known.id.clone(),
            });
        }
    }
}

/// Why an attempt is not to run on.
struct Unfit {
    why: Option<record::Why>,
    /// Its own grace, if that is not the pod's.
    given: Option<Duration>,
    /// It is for its probes.
    is_culled: bool,
    /// Upstream ends the pod with it.
    is_whole: bool,
}

impl Container {
    /// Why the attempt is not to run on, if so. `is_last`: no other main container is to run.
    fn unfit(
        &self,
        number: u32,
        newest: Option<u32>,
        generation: u32,
        is_last: bool,
    ) -> Option<Unfit> {
        let known = self.attempts.get(&number)?;
        let unfit = |why| Some(Unfit { why, given: None, is_culled: false, is_whole: false });
        if self.role == Role::Unwanted {
            return unfit(None);
        }
        // At once, whatever else is the matter with it.
        if known.is_past {
            let (why, given) = (Some((record::RESTART_ALL, "")), Some(Duration::ZERO));
            return Some(Unfit { why, given, is_culled: false, is_whole: false });
        }
        if self.replacing.is_some() && (self.replacing == Some(number) || Some(number) != newest) {
            return unfit(Some(self.replaced_for()));
        }
        if Some(number) != newest || known.is_old(generation) {
            return unfit(Some(record::STOPPING));
        }
        if let Hook::Failed(_) = known.post_start {
            return unfit(Some((record::POST_START, "")));
        }
        let probe = known.probes.as_ref()?.failed(&self.life).filter(|_| known.is_running())?;
        Some(self.unhealthy(probe, is_last && self.role == Role::Main))
    }

    fn unhealthy(&self, probe: ProbeKind, is_last: bool) -> Unfit {
        let restarts = self.life.restarts_after_probe(self.role);
        if is_last && !restarts {
            let why = Some(record::STOPPING);
            return Unfit { why, given: None, is_culled: true, is_whole: true };
        }
        let why = Some(record::unhealthy(probe, self.role, restarts));
        let given = self.life.timing(probe).and_then(|timing| timing.grace);
        Unfit { why, given, is_culled: true, is_whole: false }
    }
}
