//! The planning pass: from the state alone to what is to be done now.

mod start;
mod stop;
mod tend;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    Action, Failure, Record,
    backoff::Wake,
    container::{Container, Role},
    phase, record, resize,
    state::{Cause, State},
};

/// Why a pod has failed whose `activeDeadlineSeconds` are over (upstream:
/// `active_deadline.go`).
const DEADLINE_REASON: &str = "DeadlineExceeded";
/// See [`DEADLINE_REASON`].
const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// One pass. Gives the actions in the order they are to be done; what is asked for is remembered,
/// what waits for a time is told to the state's wake.
pub(crate) fn plan(state: &mut State, now: Duration) -> Vec<Action> {
    let (wake, actions) = (Wake::default(), Vec::new());
    let mut pass = Pass { now, wake, actions, records: Vec::new() };
    if state.observed || fault!(LookNotAwaited) {
        state.pass_time(now);
        pass.decide_end(state);
        for container in &mut state.containers {
            pass.remove_old(container);
        }
        if state.deadline.is_some() && !fault!(GoesOnAfterDeletion) {
            pass.end(state);
        } else {
            pass.run(state);
        }
        // After what was decided to end: nothing but readiness is asked of that.
        let is_ending = state.deadline.is_some();
        for container in &mut state.containers {
            pass.tend(container, is_ending);
        }
    }
    state.is_first_look = false;
    state.wake = pass.wake;
    state.records.append(&mut pass.records);
    pass.actions
}

/// All main containers have ended for good, whatever has become of their sandbox, or an init
/// container has failed for good.
fn is_finished(state: &State) -> bool {
    let generation = state.generation();
    let over = |container: &Container| {
        !(container.is_busy() || container.awaits_hook() || container.is_wanted(generation))
    };
    let init = state.current_init().and_then(|index| state.containers.get(index));
    state.of_role(Role::Main).all(over) || init.is_some_and(over)
}

/// What starts are decided by.
struct Rules<'a> {
    pod: &'a Pod,
    /// Of the sandbox that stands.
    generation: u32,
    /// The longest wait between restarts.
    restart_max: Duration,
}

struct Pass {
    now: Duration,
    wake: Wake,
    actions: Vec<Action>,
    records: Vec<Record>,
}

impl Pass {
    /// Whether the pod is to end: it is deleted, its object says that it is over, nothing of it is to
    /// run again, or it has had its time.
    fn decide_end(&mut self, state: &mut State) {
        if let Some(grace) = state.deletion_grace() {
            state.end_within(grace, self.now);
        }
        let is_over =
            state.reported_end().is_some() || is_finished(state) || state.ends_with_sandbox();
        let is_late = self.is_late(state, is_over);
        if is_late {
            let (reason, message) = (DEADLINE_REASON.to_owned(), DEADLINE_MESSAGE.to_owned());
            let why = Failure { reason, message };
            self.records.push(record::deadline_exceeded(&why));
            state.cause = Some(Cause { why, disrupted: None });
        }
        if state.deadline.is_none() && (is_over || is_late) {
            state.end_within(state.spec_grace(), self.now);
        }
    }

    /// Whether the pod has had its time. One that was over when this agent first saw it is late only if
    /// its last end was: it was stopped for it by an agent before this one.
    fn is_late(&mut self, state: &State, is_over: bool) -> bool {
        let Some(until) = state.active_deadline().filter(|_| state.deadline.is_none()) else {
            return false;
        };
        if until > self.now {
            if !is_over {
                self.wake.at(until);
            }
            return false;
        }
        !is_over || state.is_first_look && state.ended_late()
    }

    /// The way down: everything is stopped, the sidecars last; when all is dead the phase is settled
    /// and the set-up undone.
    fn end(&mut self, state: &mut State) {
        let deadline = state.deadline.unwrap_or(self.now);
        self.stop_pod(state, deadline);
        if fault!(TerminalEarly) {
            state.ended = state.ended.or(Some(phase::at_end(state)));
        }
        if state.is_busy() || state.set_up.doing || state.refresh.doing {
            return;
        }
        if state.ended.is_none() {
            state.ended = Some(phase::at_end(state));
        }
        if state.tear_down.ask(self.now, &mut self.wake) {
            self.actions.push(Action::TearDown);
        }
    }

    /// The way up: set-up, then init containers one after the other, then the main containers, and
    /// the ephemeral ones beside all of them. What lives in an old sandbox goes before anything of
    /// this is begun in a new one.
    fn run(&mut self, state: &mut State) {
        if std::mem::take(&mut state.sandbox.is_news) {
            self.records.push(record::sandbox_changed());
        }
        if state.may_set_up()
            && !self.lacks_image(state)
            && state.set_up.ask(self.now, &mut self.wake)
        {
            state.resize.set_up(&state.pod);
            self.actions.push(Action::SetUp);
        }
        if state.set_up.done.is_some() && state.stale && self.may_refresh(state) {
            self.actions.push(Action::Refresh);
        }
        let is_to_begin_anew = state.begin_anew(self.now);
        self.actions.extend(resize::wanted_actuation(state, self.now, &mut self.wake));
        self.stop_unfit(state);
        let generation = state.generation();
        let (pod, turn) = (Arc::clone(&state.pod), state.current_init());
        let is_held = state.resize.is_doing() || state.is_stopping_for_resize();
        if state.set_up.done.is_none() || state.has_old() || is_to_begin_anew || is_held {
            return;
        }
        let rules = Rules { pod: &pod, generation, restart_max: state.host.restart_max };
        // Main containers start beside each other, but none before what follows the start of an
        // earlier one is done (upstream starts them one after the other).
        let mut is_held = state.waits_for_last_sidecar(generation) && !fault!(InitsNotAwaited);
        for (index, container) in state.containers.iter_mut().enumerate() {
            let is_its_turn = match container.role {
                Role::Init => turn == Some(index),
                Role::Sidecar => turn.is_none_or(|turn| index <= turn),
                Role::Main => (turn.is_none() || fault!(InitsNotAwaited)) && !is_held,
                Role::Ephemeral => true,
                Role::Unwanted => false,
            };
            if is_its_turn && self.start(&rules, container) {
                let attempt = container.starting.unwrap_or_default();
                state.resize.start(&pod, &container.name, attempt);
            }
            is_held |= container.role == Role::Main && container.holds_next();
        }
    }

    /// Whether the set-up failed for want of an image, and the back-off of that still holds.
    fn lacks_image(&mut self, state: &mut State) -> bool {
        if state.set_up.done.is_some() || state.set_up.doing {
            return false;
        }
        let pod = Arc::clone(&state.pod);
        let waits = |container| self.waits_for_image(&pod, container);
        // All of them: each is shown.
        state.containers.iter_mut().map(waits).filter(|waits| *waits).count() > 0
    }

    /// Whether the volumes' files may be asked for now; what changes from here on is another time.
    fn may_refresh(&mut self, state: &mut State) -> bool {
        if state.refresh.doing || state.refresh.waits(self.now, &mut self.wake) {
            return false;
        }
        state.refresh.doing = true;
        state.stale = false;
        true
    }
}

impl Container {
    /// Whether the next main container waits for this one: its postStart hook is still to come, of a
    /// start that is under way.
    fn holds_next(&self) -> bool {
        if self.life.post_start.is_none() {
            return false;
        }
        let is_open = self.newest().map_or(self.image.asked, |(_, known)| {
            known.is_alive() && (known.post_start.is_open() || known.ending.is_some())
        });
        self.starting.is_some() || is_open
    }
}
