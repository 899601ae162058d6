//! The one way in: an event is merged into the state, then one pass decides from the state alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    Action, Attempt, AttemptState, Event, Exit, Failure, Now,
    container::{Container, RUN_ERROR, Role},
    event::ImageRef,
    plan,
    state::State,
    status::whole_seconds,
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
    // A kubelet sets it when it first sees the pod.
    state.start_time.get_or_insert(whole_seconds(now.wall));
    merge(&mut state, event, now);
    let mut actions = plan::plan(&mut state, now.mono);
    state.settle_resize(now.wall);
    actions.extend(state.records.drain(..).map(Action::Record));
    if state.observed {
        let mut transitions = std::mem::take(&mut state.transitions);
        transitions.update(&state, now.wall);
        state.transitions = transitions;
    }
    (state, actions)
}

impl State {
    /// Takes a newer object of the pod. A main container whose image is another one now is run anew
    /// (upstream: `containerChanged`), an ephemeral one that was added is run.
    fn take(&mut self, pod: Arc<Pod>) {
        let old = std::mem::replace(&mut self.pod, pod);
        let images = |pod: &Pod| -> BTreeMap<String, Option<String>> {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            containers.map(|container| (container.name.clone(), container.image.clone())).collect()
        };
        let new = images(&self.pod);
        for (name, image) in images(&old) {
            if new.get(&name).is_some_and(|new| *new != image) {
                self.replace(&name);
            }
        }
        self.add_ephemeral();
    }

    fn replace(&mut self, container: &str) {
        let is_to_end = self.deadline.is_some();
        if let Some(container) = self.container(container).filter(|_| !is_to_end) {
            container.replace();
        }
    }

    /// One attempt has changed.
    fn hear(&mut self, attempt: Attempt, now: Duration) {
        if self.is_stale(attempt.sandbox, &attempt.state) {
            return;
        }
        let Some(container) = self.container(&attempt.container) else { return };
        let (number, name) = (attempt.attempt, attempt.container.clone());
        let id = attempt.id.clone();
        let before = container.progress(number);
        let asked = container.starting == Some(number) || before.is_some();
        container.merge(attempt, false, now);
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
        Event::Kill { grace } => state.end_within(grace, now.mono),
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
        Event::SandboxChanged { sandbox } => state.lose_sandbox(sandbox),
        Event::Changed => {
            state.stale = true;
            state.set_up.hurry();
            state.refresh.hurry();
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
        Event::Probed { .. } | Event::Hooked { .. } | Event::Timer => {}
    }
}

/// Merges the runtime's whole truth: what it lists, and what it lists no more.
fn observe(state: &mut State, attempts: Vec<Attempt>, now: Now) {
    state.observed = true;
    for container in &mut state.containers {
        container.forget_unlisted(&attempts, now);
    }
    for attempt in attempts {
        if state.container(&attempt.container).is_none() {
            state.containers.push(Container::new(&attempt.container, Role::Unwanted));
        }
        if let Some(container) = state.container(&attempt.container) {
            container.merge(attempt, true, now.mono);
        }
    }
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
        if !std::mem::take(&mut self.image.asked) || is_stale {
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
