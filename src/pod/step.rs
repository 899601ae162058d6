//! The one way in: an event is merged into the state, then one pass decides from the state alone.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    Action, Attempt, AttemptState, Event, Exit, Failure, HookKind, Now, ProbeKind, ProbeOutcome,
    container::{Container, RUN_ERROR, Role},
    container_named,
    event::ImageRef,
    known::{Hook, Known},
    life::{self, Life},
    plan,
    probe::Probes,
    record,
    state::State,
    status::before,
};

/// The text upstream gives an attempt that ran and of which nothing is left (exit 137, reason
/// `ContainerStatusUnknown`).
pub(crate) const LOST_REASON: &str = "ContainerStatusUnknown";
/// See [`LOST_REASON`].
pub(crate) const LOST_MESSAGE: &str =
    "The container could not be located when the pod was terminated";
/// See [`LOST_REASON`]: 128 + SIGKILL.
pub(crate) const LOST_CODE: i32 = 137;

/// Takes one event and gives the new state and what is now to be done, in this order. Before the
/// first [`Event::Observed`] there are no actions.
pub fn step(mut state: State, event: Event, now: Now) -> (State, Vec<Action>) {
    state.begin(now);
    merge(&mut state, event, now);
    let mut actions = plan::plan(&mut state, now.mono);
    state.settle_resize(now.wall);
    // What is to be told before the first look is told after it.
    if state.observed {
        actions.extend(state.records.drain(..).map(Action::Record));
    }
    if state.observed {
        let mut transitions = std::mem::take(&mut state.transitions);
        transitions.update(&state, now.wall);
        state.transitions = transitions;
    }
    (state, actions)
}

impl State {
    /// Takes a newer object of the pod. A container of another definition now is run anew (upstream:
    /// `containerChanged`), an ephemeral one that was added is run.
    fn take(&mut self, pod: Arc<Pod>) {
        let before = std::mem::replace(&mut self.pod, pod);
        let pod = Arc::clone(&self.pod);
        // Mostly the echo of a status.
        if before.spec == pod.spec {
            return;
        }
        let resources =
            |pod: &Pod, name: &str| container_named(pod, name).map(|c| c.resources.clone());
        for container in &mut self.containers {
            // The key of its back-off has them in it (upstream: `GetBackoffKey`).
            if resources(&before, &container.name) != resources(&pod, &container.name) {
                container.forget_crashes();
            }
        }
        for changed in self.take_spec() {
            self.replace(&changed);
        }
    }

    fn replace(&mut self, container: &str) {
        let is_to_end = self.deadline.is_some();
        if let Some(container) = self.container(container).filter(|_| !is_to_end) {
            container.replace();
        }
    }

    /// Takes the containers of the newest object as its spec now has them; the ephemeral ones may be
    /// more than before. Gives those whose definition is another one.
    fn take_spec(&mut self) -> Vec<String> {
        let pod = Arc::clone(&self.pod);
        let mut changed = Vec::new();
        for (name, role, life) in pod.spec.iter().flat_map(life::all) {
            match self.container(name) {
                Some(known) => {
                    if known.life.definition != life.definition {
                        changed.push(name.to_owned());
                    }
                    known.life = life;
                    // An earlier agent knew more of the pod than this one did at first.
                    if known.role == Role::Unwanted && role == Role::Ephemeral {
                        known.role = role;
                    }
                }
                None if role == Role::Ephemeral => {
                    self.containers.push(Container::new(name, role, life));
                }
                None => {}
            }
        }
        changed
    }

    /// Takes on what runs and was started by an earlier agent: its probes go on from what the pod's
    /// object says of it, and one of another definition is run anew (upstream: `containerChanged`).
    fn adopt(&mut self, now: Now) {
        let pod = Arc::clone(&self.pod);
        let seed = self.seed();
        for (index, container) in self.containers.iter_mut().enumerate() {
            let life = container.life.clone();
            let before = before(&pod, container);
            for known in container.attempts.values_mut() {
                let AttemptState::Running { started_at } = known.state else { continue };
                if known.probes.is_none() {
                    if fault!(AdoptedHookRun) {
                        known.post_start = Hook::of(life.post_start);
                    }
                    let before = before.get(&known.id).copied().unwrap_or_default();
                    let age = age(started_at, now.wall);
                    let seed = seed.wrapping_add(index as u64);
                    known.probes = Some(Probes::adopted(&life, before, age, seed, now.mono));
                }
            }
        }
        self.replace_changed();
    }

    /// Has what runs and was made from another definition run anew.
    fn replace_changed(&mut self) {
        let is_to_end = self.deadline.is_some();
        for container in self.containers.iter_mut().filter(|_| !is_to_end) {
            let definition = container.life.definition;
            let is_changed = container.newest().is_some_and(|(number, known)| {
                let is_other = known.definition.is_some_and(|made| made != definition);
                is_other && known.is_running() && container.replacing != Some(number)
            });
            if is_changed {
                container.replace();
            }
        }
    }

    /// Takes the result of a probe; people are told of what is no plain success.
    fn take_probe(&mut self, name: &str, id: &str, kind: ProbeKind, outcome: ProbeOutcome) {
        let Some(container) = self.container(name) else { return };
        let life = container.life.clone();
        let is_meant = |known: &Known| known.id == id || fault!(StaleProbeCounts);
        let mut newest = container.attempts.values_mut().rev();
        let Some(known) = newest.find(|known| is_meant(known)) else { return };
        if !known.is_running() {
            return;
        }
        let Some(probes) = &mut known.probes else { return };
        let is_success = match &outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => Some(true),
            ProbeOutcome::Failure(_) => Some(false),
            ProbeOutcome::Error(_) | ProbeOutcome::Broken(_) => None,
        };
        if probes.take(&life, kind, is_success) {
            self.records.extend(record::probed(name, kind, outcome));
        }
    }

    /// Takes the answer of a hook.
    fn take_hook(&mut self, name: &str, id: &str, hook: HookKind, result: Result<(), String>) {
        let Some(container) = self.container(name) else { return };
        // One that has ended with its container is told as if that were yet to be stopped.
        let is_late = hook == HookKind::PostStart && container.awaits_hook();
        let has_failed = match hook {
            HookKind::PostStart => container.take_post_start(id, result),
            HookKind::PreStop => {
                let mut all = container.attempts.values_mut();
                let known = all.find(|known| known.id == id);
                known.is_some_and(|known| known.take_pre_stop(&result))
            }
        };
        if has_failed {
            self.records.push(record::hook_failed(name, hook));
            if is_late {
                self.records.push(record::killing(name, (record::POST_START, "")));
            }
        }
    }

    /// The set-up has failed for want of the container's image.
    fn lack_image(&mut self, name: &str, failure: Failure, now: Duration) {
        if !self.set_up.doing {
            return;
        }
        self.set_up.fail(now);
        if let Some(container) = self.container(name) {
            container.image.fail(failure.clone(), now);
            self.record_image(name, &Err(failure));
        }
    }

    /// One attempt has changed.
    fn hear(&mut self, attempt: Attempt, now: Duration) {
        if self.is_stale(attempt.sandbox, &attempt.state) {
            return;
        }
        self.merge_attempt(attempt, false, now);
        self.replace_changed();
    }

    /// Merges what is said of one attempt (see [`Container::merge`]), and tells of a start that this
    /// agent asked for.
    fn merge_attempt(&mut self, attempt: Attempt, listed: bool, now: Duration) {
        let Some(container) = self.container(&attempt.container) else { return };
        let (number, name) = (attempt.attempt, attempt.container.clone());
        let id = attempt.id.clone();
        let before = container.progress(number);
        let asked = container.starting == Some(number) || before.is_some();
        container.merge(attempt, listed, now);
        let after = container.progress(number);
        let error = container.start_error(number).map(|error| unnamed(&error.message, &id, &name));
        if asked {
            self.record_start(&name, before, after, error);
        }
    }
}

/// A text in which a container's id gives way to its name, so that equal events are equal (upstream:
/// `recordContainerEvent`).
fn unnamed(text: &str, id: &str, name: &str) -> String {
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    if id.is_empty() { text.to_owned() } else { text.replace(id, name) }
}

fn merge(state: &mut State, event: Event, now: Now) {
    match event {
        Event::Desired(pod) => {
            if pod.metadata.uid == state.pod.metadata.uid {
                state.take(pod);
            }
        }
        Event::Resize(news) => {
            if let Some(pod) = state.decide_resize(news, now) {
                state.take(pod);
            }
        }
        Event::Actuated(known) => state.recall_actuated(known),
        Event::Resized(result) => state.take_resized(result, now),
        Event::Kill { grace } => {
            state.is_at_once |= grace.is_zero();
            state.end_within(grace, now.mono);
        }
        Event::Evict(why) => state.evict(why, now),
        Event::Replace { container } => {
            state.replace(&container);
        }
        Event::Observed(attempts) => observe(state, attempts, now),
        Event::Attempt(attempt) => {
            state.hear(attempt, now.mono);
        }
        Event::SetUp(result) => {
            state.take_set_up(result, now.mono);
        }
        Event::NoImage { container, failure } => state.lack_image(&container, failure, now.mono),
        Event::SandboxChanged { sandbox } => state.lose_sandbox(sandbox),
        Event::Changed => {
            state.stale = true;
            state.set_up.hurry();
            state.refresh.hurry();
            for container in &mut state.containers {
                container.start.hurry();
            }
        }
        Event::Refreshed(result) => {
            state.record_failure(&result);
            state.stale |= result.is_err();
            state.refresh.answer(result, now.mono);
        }
        Event::Pulling { container } => state.record_pulling(&container),
        Event::Image { container, result } => {
            if let Some(taken) = state.container(&container)
                && taken.take_image(result.clone(), now.mono)
            {
                state.record_image(&container, &result);
            }
        }
        Event::StartFailed { container, attempt, failure } => {
            if let Some(known) = state.container(&container)
                && known.start_failed(attempt, failure.clone(), now.mono)
            {
                state.record_start_failure(&container, &failure);
            }
        }
        Event::TornDown(result) => {
            state.record_kill_failure(&result);
            state.tear_down.answer(result, now.mono);
        }
        Event::Probed { container, id, probe, outcome } => {
            state.take_probe(&container, &id, probe, outcome);
        }
        Event::Hooked { container, id, hook, result } => {
            state.take_hook(&container, &id, hook, result);
        }
        Event::Timer => {}
    }
}

/// Merges the runtime's whole truth: what it lists, and what it lists no more.
fn observe(state: &mut State, attempts: Vec<Attempt>, now: Now) {
    state.is_first_look |= !state.observed;
    state.observed = true;
    for container in &mut state.containers {
        container.forget_unlisted(&attempts, now);
    }
    for attempt in attempts {
        if state.container(&attempt.container).is_none() {
            let unwanted = Container::new(&attempt.container, Role::Unwanted, Life::unknown());
            state.containers.push(unwanted);
        }
        state.merge_attempt(attempt, true, now.mono);
    }
    if state.is_first_look {
        state.recall_forgotten(now);
    }
    state.adopt(now);
}

impl Container {
    /// Repairs what was believed of attempts that the runtime has no more. An attempt whose `Start`
    /// is not answered may be absent. One that was launched has left a durable record, so that a
    /// vanished one which was only starting has never run: it starts again. A dead one stays known,
    /// or its container would start anew, unless its removal was asked for.
    fn forget_unlisted(&mut self, listed: &[Attempt], now: Now) {
        let mut vanished = None;
        let (name, starting) = (&self.name, self.starting);
        self.attempts.retain(|number, known| {
            let is_listed = listed.iter().any(|attempt| {
                attempt.container == *name && attempt.attempt == *number && attempt.id == known.id
            });
            if is_listed {
                known.removing = false;
                return true;
            }
            match known.state {
                AttemptState::Starting => {
                    if starting != Some(*number) {
                        vanished = Some(*number);
                    }
                    true
                }
                AttemptState::Running { started_at } => {
                    known.state = AttemptState::Exited(lost(Some(started_at), now.wall));
                    known.ended = now.mono;
                    true
                }
                AttemptState::Exited(_) => !known.removing,
            }
        });
        if let Some(number) = vanished {
            let message = format!("attempt {number} of container {name} was gone before it ran");
            let failure = Failure { reason: RUN_ERROR.to_owned(), message };
            let _ = self.start_failed(number, failure, now.mono);
        }
    }

    /// Takes the answer of an image that was asked for; whether it counts.
    fn take_image(&mut self, result: Result<ImageRef, Failure>, now: Duration) -> bool {
        let is_stale = std::mem::take(&mut self.image.stale);
        if !std::mem::take(&mut self.image.asked) || is_stale && !fault!(OldImageCounts) {
            return false;
        }
        match result {
            Ok(image) => {
                self.image.ready = true;
                self.image.failed = None;
                self.image.known = Some(image);
            }
            Err(failure) => self.image.fail(failure, now),
        }
        true
    }
}

impl Known {
    /// Takes the answer of the preStop hook: failed or not, the stop goes on. Whether it has failed and
    /// anybody waited for it.
    fn take_pre_stop(&mut self, result: &Result<(), String>) -> bool {
        match &mut self.ending {
            Some(ending) if ending.pre_stop == Hook::Doing(None) => {
                ending.pre_stop = Hook::Done;
                result.is_err()
            }
            Some(_) | None => false,
        }
    }
}

/// How long ago that was, as far as the wall clock knows.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// How an attempt ended that ran and left nothing behind.
fn lost(started_at: Option<Timestamp>, finished_at: Timestamp) -> Exit {
    Exit {
        started_at,
        finished_at,
        code: LOST_CODE,
        reason: LOST_REASON.to_owned(),
        message: LOST_MESSAGE.to_owned(),
    }
}
