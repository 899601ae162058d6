//! The runtime's side: processes that start, vanish, run, end and ignore signals, and the events
//! of it, of which some are lost, doubled or late.

use std::time::Duration;

use super::{What, World, failure};
use crate::{Attempt, AttemptState, Event, container::Role, life::Policy, sim::Sabotage};

impl World {
    pub(super) fn start(&mut self, container: String, attempt: u32) {
        if self.rng.percent(self.faults.start_fails) {
            let delay = self.delay(500);
            let event = Event::StartFailed { container, attempt, failure: failure() };
            return self.plan_for_agent(delay, What::Tell(event));
        }
        if self.runtime.sandbox() != Some(self.ready) {
            let delay = self.delay(500);
            let event = Event::StartFailed { container, attempt, failure: failure() };
            return self.plan_for_agent(delay, What::Tell(event));
        }
        let part = self.script.index(&container);
        let process = self.runtime.make(part, attempt, self.ready, self.life);
        let (id, told) = (process.id, process.tell(&container));
        self.emit(told);
        let unlaunched = self.rng.percent(self.faults.dies_unlaunched);
        let delay = self.delay(200);
        self.plan(delay, if unlaunched { What::Vanish(id) } else { What::Launch(id) });
    }

    pub(super) fn launch(&mut self, id: u64) -> Result<(), String> {
        let wall = self.wall();
        // Some kinds of containers cannot be launched in a dead sandbox.
        let sandbox = self.runtime.find(id).map(|process| process.sandbox);
        if sandbox != self.runtime.sandbox() && self.rng.percent(50) {
            return self.vanish(id);
        }
        if !self.runtime.launch(id, wall) {
            return Ok(());
        }
        self.tell_of(id);
        let Some(process) = self.runtime.find(id) else { return Ok(()) };
        let (part, attempt, sandbox) = (process.part, process.attempt, process.sandbox);
        self.check.launched(part, attempt, sandbox)?;
        let healed = self.now >= self.script.heal_at;
        let code = self.rng.pick(&[0, 0, 0, 1, 2, 134]);
        let after = self.rng.pick(&[0, 1, 10, 200]);
        let after = self.rng.millis(after * 1000);
        let exit = match (self.script.parts[part].role, self.script.policy) {
            (Role::Init, _) if healed => Some((Duration::from_secs(1), 0)),
            (Role::Main, Policy::Always) if healed => None,
            (Role::Main, Policy::OnFailure) if healed => Some((after, 0)),
            // A shell that somebody has open.
            (Role::Ephemeral, _) if after.as_millis().is_multiple_of(2) => None,
            (Role::Init | Role::Sidecar | Role::Main | Role::Ephemeral | Role::Unwanted, _) => {
                Some((after, code))
            }
        };
        if let Some((after, code)) = exit {
            self.plan(after, What::Exit(id, code));
        }
        Ok(())
    }

    /// A process ends before its launch. The agent that started it is owed an answer; a later one
    /// that has adopted it learns of it before the next list, or not at all.
    pub(super) fn vanish(&mut self, id: u64) -> Result<(), String> {
        let Some(process) = self.runtime.vanish(id) else { return Ok(()) };
        self.check.seen.unlaunched += 1;
        let container = self.script.parts[process.part].name.to_owned();
        let event = Event::StartFailed { container, attempt: process.attempt, failure: failure() };
        if process.life == self.life {
            let delay = self.delay(500);
            self.plan_for_agent(delay, What::Tell(event));
        } else if !self.rng.percent(self.faults.event_lost) {
            self.tell(event)?;
        }
        Ok(())
    }

    pub(super) fn exit(&mut self, id: u64, code: i32) {
        let wall = self.wall();
        if self.runtime.exit(id, code, wall)
            && let Some(process) = self.runtime.find(id)
        {
            let (part, attempt) = (process.part, process.attempt);
            self.check.exited(part, attempt, code);
            self.tell_of(id);
        }
    }

    pub(super) fn stop(&mut self, id: u64, grace: Duration) {
        if self.rng.percent(self.faults.stop_lost) {
            return;
        }
        let due = self.now + grace;
        let Some(process) = self.runtime.find(id) else { return };
        let is_first = process.kill_at.is_none();
        process.kill_at = Some(process.kill_at.map_or(due, |already| already.min(due)));
        if is_first && !grace.is_zero() && !self.rng.percent(self.faults.ignores_term) {
            let code = self.rng.pick(&[0, 143]);
            let after = self.rng.millis(3000);
            self.plan(after, What::Exit(id, code));
        }
        // The timer of the grace is the agent's, or the sandbox's own.
        let life = self.rng.percent(50).then_some(self.life);
        self.push(grace, life, What::Sigkill(id));
    }

    pub(super) fn sigkill(&mut self, id: u64) -> Result<(), String> {
        let is_alive = self.runtime.find(id).is_some_and(|process| process.is_alive());
        self.check.seen.forced_kills += u64::from(is_alive);
        self.vanish(id)?;
        self.exit(id, 137);
        Ok(())
    }

    /// The sandbox dies, and what runs in it now or when it is told to, by its kind.
    pub(super) fn sandbox_dies(&mut self) -> Result<(), String> {
        let Some(sandbox) = self.runtime.sandbox() else { return Ok(()) };
        self.runtime.lose_sandbox();
        self.check.seen.sandbox_deaths += 1;
        let in_it = self.runtime.alive().filter(|process| process.sandbox == sandbox);
        let ids: Vec<u64> = in_it.map(|process| process.id).collect();
        for id in ids {
            if self.rng.percent(50) {
                self.vanish(id)?;
                self.exit(id, 137);
            }
        }
        if self.state.is_some() && !self.rng.percent(self.faults.event_lost) {
            let delay = self.delay(500);
            self.plan_for_agent(delay, What::Tell(Event::SandboxChanged { sandbox }));
        }
        Ok(())
    }

    /// The runtime's event of what the process now is.
    fn tell_of(&mut self, id: u64) {
        let Some(process) = self.runtime.find(id) else { return };
        let told = process.clone();
        self.emit(told.tell(self.script.parts[told.part].name));
    }

    /// An event on its way: it may be lost, doubled, late.
    fn emit(&mut self, attempt: Attempt) {
        if self.state.is_none() {
            return;
        }
        if self.rng.percent(self.faults.event_lost) {
            self.check.seen.lost_events += 1;
            return;
        }
        let copies = if self.rng.percent(self.faults.event_doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.delay(20);
            self.plan_for_agent(delay, What::Tell(Event::Attempt(attempt.clone())));
        }
        if self.sabotage == Sabotage::RewriteLate {
            self.rewrite_late();
        }
    }

    /// The sabotage: exits still on their way are told of the newest process of their container.
    fn rewrite_late(&mut self) {
        for item in &mut self.queue {
            let What::Tell(Event::Attempt(told)) = &mut item.what else { continue };
            let part = self.script.index(&told.container);
            if let (AttemptState::Exited(_), Some(newest)) =
                (&told.state, self.runtime.newest(part))
            {
                told.attempt = newest.attempt;
                told.sandbox = newest.sandbox;
                told.id = newest.id.to_string();
            }
        }
    }

    /// The runtime's whole truth, in any order; then the next relist is planned.
    pub(super) fn relist(&mut self) -> Result<(), String> {
        let Some(state) = &self.state else { return Ok(()) };
        let blind = self.sabotage == Sabotage::EmptyLook && self.life > 0 && !state.observed;
        let is_dead = self.runtime.newest_sandbox().filter(|_| self.runtime.sandbox().is_none());
        let is_first = !state.observed;
        let mut list: Vec<Attempt> = self.truth();
        list.retain(|_| !blind);
        if !list.is_empty() {
            let at = self.rng.below(list.len() as u64);
            list.rotate_left(usize::try_from(at).unwrap_or(0));
        }
        let healed = self.now >= self.script.heal_at;
        let next = if healed { Duration::from_secs(30) } else { self.rng.secs(1, 60) };
        self.plan_for_agent(next, What::Relist);
        // A dead sandbox is told of again, before the list or after it.
        let before = self.rng.percent(50);
        let told = |sandbox| Event::SandboxChanged { sandbox };
        if let Some(sandbox) = is_dead.filter(|_| before) {
            self.tell(told(sandbox))?;
        }
        self.tell(Event::Observed(list))?;
        // The first look of an agent may know nothing of sandboxes yet.
        let after = is_dead.filter(|_| !(before || is_first));
        after.map_or(Ok(()), |sandbox| self.tell(told(sandbox)))
    }

    /// What the runtime lists.
    fn truth(&self) -> Vec<Attempt> {
        let newest = self.runtime.newest_sandbox().unwrap_or(0);
        let processes = self.runtime.processes.iter();
        let listed = processes.filter(|process| match self.sabotage {
            Sabotage::HideOldSandbox => process.sandbox == newest || !process.is_alive(),
            Sabotage::ForgetEphemeral => {
                self.script.parts[process.part].role != Role::Ephemeral || process.is_alive()
            }
            Sabotage::None
            | Sabotage::ForgetExits
            | Sabotage::RewriteLate
            | Sabotage::EmptyLook
            | Sabotage::MixSandboxes => true,
        });
        let mut all: Vec<Attempt> =
            listed.map(|process| process.tell(self.script.parts[process.part].name)).collect();
        if self.sabotage == Sabotage::MixSandboxes {
            all.iter_mut().for_each(|attempt| attempt.sandbox = newest);
        }
        all
    }
}
