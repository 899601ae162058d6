//! The agent's side: its life and deaths, the machine's steps, and what it does of the actions.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{What, World, failure};
use crate::{
    Action, Event, Failure, ImageRef, Now, PodAddresses, SetUpDone, State,
    sim::{
        check::{Judged, seen::Happening},
        dice::{Draw, Trouble},
        sabotage::Sabotage,
        script::{Kind, POD, pod},
    },
    state::removal_grace,
    step,
};

impl World {
    pub(super) fn agent_starts(&mut self) -> Judged {
        if self.state.is_some() {
            return Ok(());
        }
        if self.sabotage == Sabotage::ForgetExits && self.life > 0 {
            self.runtime.processes.retain(|process| process.is_alive());
        }
        self.ready = 0;
        self.hooks.clear();
        if let Some(status) = self.reported.take() {
            self.pod = pod::reported(&self.pod, status);
        }
        self.check.agent_starts(self.pod.status.as_ref(), at!(self));
        self.state = Some(State::new(self.pod.clone()));
        let look = self.draw(Draw::Look, POD).millis(3000);
        self.plan_for_agent(look, What::Relist);
        Ok(())
    }

    pub(super) fn agent_dies(&mut self) {
        let Some(state) = self.state.take() else { return };
        self.note(|_| "the agent is dead".to_owned());
        // What was decided last may not have been reported yet, but for a terminal phase.
        let has_news = self.check.terminal.is_some() || self.draw(Draw::Status, POD).percent(80);
        if self.script.has_api && state.observed && has_news {
            self.reported = Some(state.status());
        }
        self.life += 1;
        self.check.seen.saw(Happening::AgentDeath);
        let away = self.draw(Draw::Away, POD).secs(0, 40);
        self.plan(away, What::AgentStarts);
    }

    /// One step of the machine, judged.
    pub(super) fn tell(&mut self, event: Event) -> Judged {
        let Some(state) = self.state.take() else { return Ok(()) };
        let now = self.now;
        self.check.told(&event, at!(self));
        // What a deletion says counts from the first look on.
        let is_deleted = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        match &event {
            Event::Kill { grace } => self.check.told_to_end(*grace, now),
            Event::Evict(_) => self.check.told_to_evict(now),
            Event::Replace { container } => self.believed_replaced(&state, container),
            Event::Desired(pod) => {
                for container in changed(state.pod(), pod) {
                    self.believed_replaced(&state, &container);
                }
                if is_deleted(pod) && state.observed {
                    self.check.told_to_end(removal_grace(pod), now);
                }
            }
            Event::SetUp(Ok(done)) => self.ready = done.sandbox,
            Event::Observed(_) => {
                if is_deleted(state.pod()) && !state.observed {
                    self.check.told_to_end(removal_grace(state.pod()), now);
                }
            }
            Event::Resize(_)
            | Event::Actuated(_)
            | Event::Resized(_)
            | Event::Attempt(_)
            | Event::SetUp(Err(_))
            | Event::NoImage { .. }
            | Event::SandboxChanged { .. }
            | Event::Changed
            | Event::Refreshed(_)
            | Event::Pulling { .. }
            | Event::Image { .. }
            | Event::StartFailed { .. }
            | Event::TornDown(_)
            | Event::Probed { .. }
            | Event::Hooked { .. }
            | Event::Timer => {}
        }
        self.step(state, event)
    }

    /// The definition of a container is another one: what the machine believes to live of it, or to be
    /// about to, is to be replaced.
    fn believed_replaced(&mut self, state: &State, container: &str) {
        let part = self.script.index(container);
        let believed = state.containers.iter().find(|known| known.name == *container);
        let Some(believed) = believed else { return };
        let alive = believed.attempts.iter().rev().find(|(_, known)| known.is_alive());
        let attempt = believed.starting.or(alive.map(|(number, _)| *number));
        if attempt.is_none() {
            self.check.waits_no_more(part);
        }
        if self.check.is_left_alone() {
            self.check.image_is_void(part);
        }
        if matches!(self.script.parts[part].kind, Kind::Main | Kind::Sidecar)
            && self.check.is_left_alone()
        {
            let now = self.now;
            attempt.into_iter().for_each(|n| self.check.told_to_replace(part, n, now));
        }
    }

    fn step(&mut self, state: State, event: Event) -> Judged {
        self.note(|_| format!("  > {event:?}"));
        let now = Now { wall: self.wall(), mono: self.now };
        let (state, actions) = step(state, event, now);
        self.note(|_| format!("  < {:?} {actions:?} wake {:?}", state.phase(), state.wake_at()));
        self.check.step(&state, &actions, at!(self))?;
        self.state = Some(state);
        self.take_actions(actions);
        Ok(())
    }

    /// The agent starts on the actions, or dies before, between or after them.
    fn take_actions(&mut self, actions: Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        let dies = self.strikes(Trouble::AgentDies, POD);
        let done = self.draw(Draw::Death, POD).below(actions.len() as u64 + 1);
        for (index, action) in actions.into_iter().enumerate() {
            if dies && index as u64 >= done {
                break;
            }
            let Some(container) = container_of(&action) else { continue };
            let part = container.map(|container| self.script.index(container));
            let definition = part.and_then(|part| self.check.definition(part));
            if dies {
                self.note(|_| format!("{action:?} and the agent dies"));
                self.act(action, definition);
            } else {
                let slot = part.map_or(POD, |part| self.slot(part));
                let delay = self.delay(slot, 50);
                self.plan_for_agent(delay, What::Do(action, definition));
            }
        }
        if dies {
            self.agent_dies();
        }
    }

    /// Does one action.
    pub(super) fn act(&mut self, action: Action, definition: Option<u32>) {
        match action {
            Action::SetUp => {
                let fails = self.strikes(Trouble::StepFails, POD);
                // A sandbox may be made and not be heard of.
                let is_unheard = self.strikes(Trouble::SetUpUnheard, POD);
                let is_made = !fails || self.script.has_sandbox && is_unheard;
                let sandbox = if is_made { self.runtime.make_sandbox() } else { 0 };
                let done = SetUpDone {
                    addresses: PodAddresses::default(),
                    sandbox,
                    recursive_read_only: false,
                    warnings: Vec::new(),
                };
                let first = self.script.parts.first().filter(|_| fails && !is_unheard);
                let event = match (first, fails) {
                    (Some(part), _) => {
                        let failure = failure();
                        Event::NoImage { container: part.name.to_owned(), failure }
                    }
                    (None, true) => Event::SetUp(Err(failure())),
                    (None, false) => Event::SetUp(Ok(done)),
                };
                self.answer(POD, event);
            }
            Action::Refresh => {
                let result = self.outcome(POD);
                self.answer(POD, Event::Refreshed(result));
            }
            Action::Resize { .. } => {
                let result = self.outcome(POD).map_err(|failure| failure.message);
                self.answer(POD, Event::Resized(result));
            }
            Action::TearDown => {
                let result = self.outcome(POD);
                self.answer(POD, Event::TornDown(result));
            }
            Action::PrepareImage { container } => {
                let slot = self.slot(self.script.index(&container));
                let image =
                    ImageRef { image: String::new(), image_id: String::new(), pulled: None };
                let result = self.outcome(slot).map(|()| image);
                self.answer(slot, Event::Image { container, result });
            }
            Action::Record(_) => {}
            Action::Probe { container, id, probe } => self.do_probe(container, id, probe),
            Action::Hook { container, id, hook } => {
                self.do_hook(self.script.index(&container), id.parse().unwrap(), hook);
            }
            Action::Start { container, attempt } => self.start(container, attempt, definition),
            Action::Stop { id, grace, .. } => self.stop(id.parse().unwrap(), grace),
            Action::Remove { id, container, .. } => {
                let slot = self.slot(self.script.index(&container));
                let id: u64 = id.parse().unwrap();
                if self.outcome(slot).is_ok() {
                    self.runtime.processes.retain(|process| process.id != id);
                }
            }
        }
    }

    fn outcome(&mut self, slot: usize) -> Result<(), Failure> {
        if self.strikes(Trouble::StepFails, slot) { Err(failure()) } else { Ok(()) }
    }

    fn answer(&mut self, slot: usize, event: Event) {
        let delay = self.delay(slot, 2000);
        self.plan_for_agent(delay, What::Tell(event));
    }
}

/// The container that an action is about, if it is about one; none of what needs no doing.
#[expect(clippy::option_option, reason = "nothing to do, for the pod, for a container")]
fn container_of(action: &Action) -> Option<Option<&str>> {
    match action {
        Action::Record(_) => None,
        Action::SetUp | Action::Refresh | Action::Resize { .. } | Action::TearDown => Some(None),
        Action::PrepareImage { container }
        | Action::Start { container, .. }
        | Action::Probe { container, .. }
        | Action::Hook { container, .. }
        | Action::Stop { container, .. }
        | Action::Remove { container, .. } => Some(Some(container)),
    }
}

/// The containers whose image is another one in the new object.
fn changed(old: &Pod, new: &Pod) -> Vec<String> {
    fn all(pod: &Pod) -> impl Iterator<Item = &Container> {
        let spec = pod.spec.iter();
        let inits = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
        spec.flat_map(|spec| &spec.containers).chain(inits)
    }
    let is_changed =
        |new: &&Container| all(old).any(|old| old.name == new.name && old.image != new.image);
    all(new).filter(is_changed).map(|container| container.name.clone()).collect()
}
