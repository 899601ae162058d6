//! The planning pass: from the state alone to what is to be done now.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    Action, Record,
    backoff::{Backoff, Wake},
    container::{Container, Known, Policy, Role, Waiting},
    phase, record, resize,
    state::State,
};

/// How long after its SIGKILL was due an attempt that still lives is killed again, and how often
/// from then on: the runtime has lost the command, or the agent that held it.
const STOP_AGAIN: Duration = Duration::from_secs(5);
/// For how long a failed pull or start shows its own reason before that of its back-off takes its
/// place: half the shortest one, so that whoever polls sees both.
const FAILURE_SHOWN: Duration = Duration::from_secs(5);
/// Dead attempts kept of a container beside the newest: the one whose logs are the previous ones
/// (upstream: `maximum-dead-containers-per-container`).
const KEPT_OLD: usize = 1;

/// One pass. Gives the actions in the order they are to be done; what is asked for is remembered,
/// what waits for a time is told to the state's wake.
pub(crate) fn plan(state: &mut State, now: Duration) -> Vec<Action> {
    let (wake, actions) = (Wake::default(), Vec::new());
    let mut pass = Pass { now, wake, actions, records: Vec::new() };
    if state.observed {
        decide_end(state, now);
        for container in &mut state.containers {
            pass.remove_old(container);
        }
        if state.deadline.is_some() {
            pass.end(state);
        } else {
            pass.run(state);
        }
    }
    state.wake = pass.wake;
    state.records.append(&mut pass.records);
    pass.actions
}

/// Whether the pod is to end: it is deleted, its object says that it is over, or nothing of it is
/// to run again.
fn decide_end(state: &mut State, now: Duration) {
    if let Some(grace) = state.deletion_grace() {
        state.end_within(grace, now);
    }
    let is_over =
        || state.reported_end().is_some() || is_finished(state) || state.ends_with_sandbox();
    if state.deadline.is_none() && is_over() {
        state.end_within(state.spec_grace(), now);
    }
}

/// All main containers have ended for good, whatever has become of their sandbox, or an init
/// container has failed for good.
fn is_finished(state: &State) -> bool {
    let (policy, generation) = (state.policy(), state.generation());
    let over =
        |container: &Container| !container.is_busy() && !container.is_wanted(policy, generation);
    let init = state.current_init().and_then(|index| state.containers.get(index));
    state.of_role(Role::Main).all(over) || init.is_some_and(over)
}

/// What starts are decided by.
struct Rules<'a> {
    pod: &'a Pod,
    policy: Policy,
    /// Of the sandbox that stands.
    generation: u32,
}

struct Pass {
    now: Duration,
    wake: Wake,
    actions: Vec<Action>,
    records: Vec<Record>,
}

impl Pass {
    /// The way down: everything is stopped at once; when all is dead the phase is settled and the
    /// set-up undone.
    fn end(&mut self, state: &mut State) {
        let deadline = state.deadline.unwrap_or(self.now);
        for container in &mut state.containers {
            for (number, known) in &mut container.attempts {
                let why = Some(record::STOPPING);
                self.stop((&container.name, why), *number, known, deadline);
            }
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
        if state.may_set_up() && state.set_up.ask(self.now, &mut self.wake) {
            state.resize.set_up(&state.pod);
            self.actions.push(Action::SetUp);
        }
        if state.set_up.done.is_some() && state.stale && self.may_refresh(state) {
            self.actions.push(Action::Refresh);
        }
        self.actions.extend(resize::wanted_actuation(state, self.now, &mut self.wake));
        let (grace, generation) = (state.spec_grace(), state.generation());
        let (pod, turn) = (Arc::clone(&state.pod), state.current_init());
        let may_start = state.set_up.done.is_some() && !state.has_old() && !state.resize.is_doing();
        let rules = Rules { pod: &pod, policy: state.policy(), generation };
        for (index, container) in state.containers.iter_mut().enumerate() {
            self.stop_extras(container, grace, generation);
            let is_its_turn = match container.role {
                Role::Init => turn == Some(index),
                Role::Main => turn.is_none(),
                Role::Ephemeral => true,
                Role::Unwanted => false,
            };
            if is_its_turn && may_start && self.start(&rules, container) {
                let attempt = container.starting.unwrap_or_default();
                state.resize.start(&pod, &container.name, attempt);
            }
        }
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

    /// Towards the next start: the back-offs are served, the image is prepared, then it starts.
    /// Gives whether it was started.
    fn start(&mut self, rules: &Rules<'_>, container: &mut Container) -> bool {
        if container.is_busy() || !container.is_wanted(rules.policy, rules.generation) {
            return false;
        }
        let attempt = container.next_attempt();
        if !self.serve_crash_back_off(rules, container, attempt)
            || container.start.waits(self.now, &mut self.wake)
            || !self.prepare_image(rules.pod, container)
        {
            return false;
        }
        container.image.ready = false;
        container.starting = Some(attempt);
        self.actions.push(Action::Start { container: container.name.clone(), attempt });
        true
    }

    /// Whether the restart back-off of the attempt is over. The first restart is immediate
    /// (upstream: `doBackOff`), and so is the one of an init container in a new sandbox, of which
    /// nothing is known there (upstream: `purgeInitContainers`).
    fn serve_crash_back_off(
        &mut self,
        rules: &Rules<'_>,
        container: &mut Container,
        attempt: u32,
    ) -> bool {
        let Some((_, last)) = container.newest() else { return true };
        let ended = last.ended;
        if container.role == Role::Init && last.sandbox < rules.generation {
            return true;
        }
        // One of an old definition has not crashed: the count begins anew.
        if container.replacing.is_some_and(|replaced| replaced.saturating_add(1) == attempt) {
            container.crash = None;
            container.served = Some(attempt);
        }
        if container.served == Some(attempt) {
            return true;
        }
        if let Some(until) = Backoff::until(container.crash, ended, self.now) {
            self.wake.at(until);
            let shown_until = ended + FAILURE_SHOWN;
            if container.waiting == Some(Waiting::Start) && self.now < shown_until {
                self.wake.at(shown_until);
                return false;
            }
            let delay = container.crash.map(|entry| entry.delay).unwrap_or_default();
            let waiting = container.waiting.replace(Waiting::CrashLoop(delay));
            if waiting != container.waiting {
                self.records.push(record::crash_back_off(rules.pod, &container.name));
            }
            return false;
        }
        container.crash = Some(Backoff::next(container.crash, ended, self.now));
        container.served = Some(attempt);
        true
    }

    /// Whether the image is ready for one start; asks for it if nobody has. It is asked for before
    /// each start, as upstream does: the pull policy may want a look at the registry.
    fn prepare_image(&mut self, pod: &Pod, container: &mut Container) -> bool {
        let image = &mut container.image;
        if image.ready || image.asked {
            return image.ready;
        }
        if let Some(wait) = image.waits(self.now) {
            self.wake.at(wait.until);
            let shown_until = wait.since + FAILURE_SHOWN;
            let now = if wait.is_pull && self.now >= shown_until {
                Waiting::ImageBackOff
            } else {
                Waiting::Image
            };
            if container.waiting.replace(now) != Some(now) && now == Waiting::ImageBackOff {
                self.records.extend(record::pull_back_off(pod, &container.name));
            }
            if wait.is_pull && self.now < shown_until {
                self.wake.at(shown_until);
            }
            return false;
        }
        image.asked = true;
        self.actions.push(Action::PrepareImage { container: container.name.clone() });
        false
    }

    /// Stops what lives and should not: a container that is not in the spec, an attempt of an old
    /// definition or in an old sandbox, and all attempts but the newest. No start is given while one
    /// of them lives.
    fn stop_extras(&mut self, container: &mut Container, grace: Duration, generation: u32) {
        let newest = container.attempts.keys().next_back().copied();
        let (newest, why) = match container.role {
            Role::Init | Role::Main if container.replacing.is_some() => {
                (newest, Some(container.replaced_for()))
            }
            Role::Init | Role::Main | Role::Ephemeral => (newest, Some(record::STOPPING)),
            Role::Unwanted => (None, None),
        };
        for (number, known) in &mut container.attempts {
            if Some(*number) != newest
                || Some(*number) == container.replacing
                || known.sandbox < generation
            {
                let deadline = known.kill_at.unwrap_or(self.now.saturating_add(grace));
                self.stop((&container.name, why), *number, known, deadline);
            }
        }
    }

    /// Stops a living attempt by `deadline`: once, again if the deadline has moved nearer, and with
    /// no grace again and again if it outlives it. The first is told to people, with the text of
    /// why.
    fn stop(
        &mut self,
        (container, why): (&str, Option<record::Why>),
        attempt: u32,
        known: &mut Known,
        deadline: Duration,
    ) {
        if !known.is_alive() {
            return;
        }
        let due = match known.kill_at {
            None => Some(deadline.max(self.now)),
            Some(kill_at) if kill_at > self.now => {
                (deadline < kill_at).then_some(deadline.max(self.now))
            }
            Some(kill_at) => (self.now >= kill_at + STOP_AGAIN).then_some(self.now),
        };
        if let Some(due) = due {
            if known.kill_at.is_none() {
                self.records.extend(why.map(|why| record::killing(container, why)));
            }
            known.kill_at = Some(due);
            self.actions.push(Action::Stop {
                container: container.to_owned(),
                attempt,
                id: known.id.clone(),
                grace: due - self.now,
            });
        }
        if let Some(kill_at) = known.kill_at {
            self.wake.at(kill_at.saturating_add(STOP_AGAIN));
        }
    }

    /// Has old dead attempts removed.
    fn remove_old(&mut self, container: &mut Container) {
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
