//! The agent's side: its life and deaths, the machine's steps, and what it does of the actions.

use super::{What, World, failure};
use crate::{
    Action, Event, ImageRef, Now, PodAddresses, SetUpDone, State,
    container::Role,
    sim::{Sabotage, script},
    step,
};

impl World {
    pub(super) fn agent_starts(&mut self) -> Result<(), String> {
        if self.state.is_some() {
            return Ok(());
        }
        if self.sabotage == Sabotage::ForgetExits && self.life > 0 {
            self.runtime.processes.retain(|process| process.is_alive());
        }
        self.ready = 0;
        self.check.agent_starts(self.script.has_api);
        if let Some(phase) = self.check.terminal {
            self.pod = script::reported(&self.pod, phase.as_str());
        }
        let state = State::new(self.pod.clone());
        if let Some(grace) = state.deletion_grace() {
            self.check.told_to_end(grace);
        }
        self.state = Some(state);
        let look = self.rng.millis(3000);
        self.plan_for_agent(look, What::Relist);
        Ok(())
    }

    pub(super) fn agent_dies(&mut self) {
        if self.state.take().is_none() {
            return;
        }
        self.note(|_| "the agent is dead".to_owned());
        self.life += 1;
        self.check.seen.agent_deaths += 1;
        let away = self.rng.secs(0, 40);
        self.plan(away, What::AgentStarts);
    }

    /// One step of the machine, judged.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), String> {
        let Some(state) = self.state.take() else { return Ok(()) };
        self.check.told(&event, &self.script);
        match &event {
            Event::Kill { grace } => self.check.told_to_end(*grace),
            Event::Evict(_) => self.check.told_to_evict(),
            Event::Replace { container } => {
                let part = self.script.index(container);
                let believed = state.containers.iter().find(|known| known.name == *container);
                let Some(believed) = believed else { return self.step(state, event) };
                let alive = believed.attempts.iter().rev().find(|(_, known)| known.is_alive());
                let attempt = believed.starting.or(alive.map(|(number, _)| *number));
                if believed.role == Role::Main && self.check.is_left_alone() {
                    attempt.into_iter().for_each(|n| self.check.told_to_replace(part, n));
                }
            }
            Event::Desired(pod) => {
                let told = State::new(pod.clone()).deletion_grace();
                told.into_iter().for_each(|grace| self.check.told_to_end(grace));
            }
            Event::Observed(_)
            | Event::Resize(_)
            | Event::Actuated(_)
            | Event::Resized(_)
            | Event::Attempt(_)
            | Event::SetUp(_)
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
        if let Event::SetUp(Ok(done)) = &event {
            self.ready = done.sandbox;
        }
        self.step(state, event)
    }

    fn step(&mut self, state: State, event: Event) -> Result<(), String> {
        self.note(|_| format!("  > {event:?}"));
        let now = Now { wall: self.wall(), mono: self.now };
        let (state, actions) = step(state, event, now);
        for action in &actions {
            self.check.action(action, &self.script, &self.runtime)?;
        }
        self.check.state(&state, self.now, (&self.script, &self.runtime))?;
        self.note(|_| format!("  < {:?} {actions:?} wake {:?}", state.phase(), state.wake_at()));
        self.state = Some(state);
        self.take_actions(actions);
        Ok(())
    }

    /// The agent starts on the actions, or dies before, between or after them.
    fn take_actions(&mut self, actions: Vec<Action>) {
        let dies = !actions.is_empty() && self.rng.percent(self.faults.agent_dies_at_step);
        let done = if dies { self.rng.below(actions.len() as u64 + 1) } else { u64::MAX };
        for (index, action) in actions.into_iter().enumerate() {
            if index as u64 >= done {
                break;
            }
            if dies {
                self.note(|_| format!("{action:?} and the agent dies"));
                self.act(action);
            } else {
                let delay = self.delay(50);
                self.plan_for_agent(delay, What::Do(action));
            }
        }
        if dies {
            self.agent_dies();
        }
    }

    /// Does one action.
    pub(super) fn act(&mut self, action: Action) {
        let fails = self.rng.percent(self.faults.step_fails);
        let delay = self.delay(2000);
        match action {
            Action::SetUp => {
                // A sandbox may be made and not be heard of.
                let is_made = !fails || self.script.has_sandbox && self.rng.percent(50);
                let sandbox = if is_made { self.runtime.make_sandbox() } else { 0 };
                let done = SetUpDone { addresses: PodAddresses::default(), sandbox };
                let result = if fails { Err(failure()) } else { Ok(done) };
                self.plan_for_agent(delay, What::Tell(Event::SetUp(result)));
            }
            Action::Refresh => {
                let result = if fails { Err(failure()) } else { Ok(()) };
                self.plan_for_agent(delay, What::Tell(Event::Refreshed(result)));
            }
            Action::Record(_) | Action::Probe { .. } | Action::Hook { .. } => {}
            Action::Resize { .. } => {
                let result = if fails { Err("no".to_owned()) } else { Ok(()) };
                self.plan_for_agent(delay, What::Tell(Event::Resized(result)));
            }
            Action::TearDown => {
                let result = if fails { Err(failure()) } else { Ok(()) };
                self.plan_for_agent(delay, What::Tell(Event::TornDown(result)));
            }
            Action::PrepareImage { container } => {
                let image =
                    ImageRef { image: String::new(), image_id: String::new(), pulled: None };
                let result = if fails { Err(failure()) } else { Ok(image) };
                self.plan_for_agent(delay, What::Tell(Event::Image { container, result }));
            }
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::Stop { id, grace, .. } => self.stop(id.parse().unwrap(), grace),
            Action::Remove { id, .. } => {
                let id: u64 = id.parse().unwrap();
                if !fails {
                    self.runtime.processes.retain(|process| process.id != id);
                }
            }
        }
    }
}
