//! The runtime's side: processes that start, vanish, run, end and ignore signals, and the events
//! of it, of which some are lost, doubled or late.

use std::time::Duration;

use super::{What, World, failure};
use crate::{
    Attempt, AttemptState, Event,
    sim::{
        check::{Judged, seen::Happening},
        dice::{Draw, Trouble},
        runtime::Made,
        sabotage::Sabotage,
        script::{Kind, POD},
    },
};

impl World {
    pub(super) fn start(&mut self, container: String, attempt: u32, definition: Option<u32>) {
        let part = self.script.index(&container);
        let slot = self.slot(part);
        let fails = self.strikes(Trouble::StartFails, slot);
        if fails || self.runtime.sandbox() != Some(self.ready) {
            let delay = self.delay(slot, 500);
            let event = Event::StartFailed { container, attempt, failure: failure() };
            return self.plan_for_agent(delay, What::Tell(event));
        }
        let is_unknown = self.strikes(Trouble::DefinitionUnknown, slot);
        let definition = definition.filter(|_| !is_unknown);
        let (sandbox, life) = (self.ready, self.life);
        let process = self.runtime.make(Made { part, attempt, sandbox, life, definition });
        let (id, told) = (process.id, process.tell(&container));
        self.emit(told, slot);
        let unlaunched = self.strikes(Trouble::DiesUnlaunched, slot);
        let delay = self.delay(slot, 200);
        self.plan(delay, if unlaunched { What::Vanish(id) } else { What::Launch(id) });
    }

    pub(super) fn launch(&mut self, id: u64) -> Judged {
        let wall = self.wall();
        let Some(process) = self.runtime.get(id) else { return Ok(()) };
        let (part, attempt, sandbox) = (process.part, process.attempt, process.sandbox);
        let slot = self.slot(part);
        // Some kinds of containers cannot be launched in a dead sandbox.
        let is_dead = Some(sandbox) != self.runtime.sandbox();
        if is_dead && self.draw(Draw::Sandbox, slot).percent(50) {
            return self.vanish(id);
        }
        if !self.runtime.launch(id, self.now, wall) {
            return Ok(());
        }
        self.check.launched(part, attempt, sandbox)?;
        self.tell_of(id);
        if let Some((after, code)) = self.lives_for(part) {
            self.plan(after, What::Ends(id, code));
        }
        Ok(())
    }

    /// How long a process runs by itself, and its exit code, if it ends at all.
    fn lives_for(&mut self, part: usize) -> Option<(Duration, i32)> {
        let mut rng = self.draw(Draw::Exit, self.slot(part));
        let code = rng.pick(&[0, 0, 0, 1, 2, 134]);
        let most = rng.pick(&[0, 1, 10, 200]);
        let after = rng.millis(most * 1000);
        let is_open = rng.percent(50);
        let healed = self.is_healed;
        let script = &self.script;
        match script.parts[part].kind {
            Kind::Init if healed => Some((Duration::from_secs(1), 0)),
            // Whatever ends it for good; one that always runs again runs on.
            Kind::Main if healed => {
                let for_good = [code, 0, 1].into_iter().find(|code| !script.restarts(part, *code));
                for_good.map(|code| (after, code))
            }
            Kind::Sidecar if healed => None,
            // Most sidecars are meant to run.
            Kind::Sidecar if is_open => None,
            // A shell that somebody has open.
            Kind::Ephemeral if is_open => None,
            Kind::Init | Kind::Main | Kind::Sidecar | Kind::Ephemeral => Some((after, code)),
        }
    }

    /// A process ends before its launch. The agent that started it is owed an answer; a later one
    /// that has adopted it learns of it before the next list, or not at all.
    pub(super) fn vanish(&mut self, id: u64) -> Judged {
        let Some(process) = self.runtime.vanish(id) else { return Ok(()) };
        self.check.seen.saw(Happening::DeathBeforeLaunch);
        let slot = self.slot(process.part);
        let container = self.script.parts[process.part].name.to_owned();
        let event = Event::StartFailed { container, attempt: process.attempt, failure: failure() };
        if process.life == self.life {
            let delay = self.delay(slot, 500);
            self.plan_for_agent(delay, What::Tell(event));
        } else if !self.strikes(Trouble::EventLost, slot) {
            self.tell(event)?;
        }
        Ok(())
    }

    pub(super) fn exit(&mut self, id: u64, code: i32) {
        let wall = self.wall();
        if self.runtime.exit(id, code, wall)
            && let Some(process) = self.runtime.get(id)
        {
            self.check.exited(process.part, process.attempt, code, self.now);
            self.tell_of(id);
            self.cut_hook(id);
        }
    }

    pub(super) fn stop(&mut self, id: u64, grace: Duration) {
        let Some(part) = self.runtime.get(id).map(|process| process.part) else { return };
        let slot = self.slot(part);
        self.cut_hook(id);
        if self.strikes(Trouble::StopLost, slot) {
            return;
        }
        let due = self.now + grace;
        let Some(process) = self.runtime.find(id) else { return };
        let is_first = process.kill_at.is_none();
        process.kill_at = Some(process.kill_at.map_or(due, |already| already.min(due)));
        if is_first
            && !grace.is_zero()
            && let Some((after, code)) = self.heeds(slot)
        {
            self.plan(after, What::Exit(id, code));
        }
        // The timer of the grace is the agent's, or the sandbox's own.
        let life = self.draw(Draw::KillTimer, slot).percent(50).then_some(self.life);
        self.push(grace, life, What::Sigkill(id));
    }

    pub(super) fn sigkill(&mut self, id: u64) -> Judged {
        let is_alive = self.runtime.get(id).is_some_and(super::Process::is_alive);
        self.check.seen.saw_if(Happening::Sigkill, is_alive);
        self.vanish(id)?;
        self.exit(id, 137);
        Ok(())
    }

    /// The sandbox dies, and what runs in it now or when it is told to, by its kind.
    pub(super) fn sandbox_dies(&mut self) -> Judged {
        let sandbox = self.runtime.sandbox().filter(|_| self.script.has_sandbox);
        let Some(sandbox) = sandbox else { return Ok(()) };
        self.runtime.lose_sandbox();
        self.check.seen.saw(Happening::SandboxDeath);
        let in_it = self.runtime.alive().filter(|process| process.sandbox == sandbox);
        let ids: Vec<(u64, usize)> = in_it.map(|process| (process.id, process.part)).collect();
        for (id, part) in ids {
            let slot = self.slot(part);
            if self.draw(Draw::Sandbox, slot).percent(50) {
                self.vanish(id)?;
                self.exit(id, 137);
            }
        }
        if self.state.is_some() && !self.strikes(Trouble::EventLost, POD) {
            let delay = self.delay(POD, 500);
            self.plan_for_agent(delay, What::Tell(Event::SandboxChanged { sandbox }));
        }
        Ok(())
    }

    /// The machine goes down with all that runs, and comes up again.
    pub(super) fn reboot(&mut self) -> Judged {
        self.check.seen.saw(Happening::Reboot);
        self.agent_dies();
        let ids: Vec<u64> = self.runtime.alive().map(|process| process.id).collect();
        for id in ids {
            self.vanish(id)?;
            self.exit(id, 137);
        }
        if self.script.has_sandbox {
            self.runtime.lose_sandbox();
        }
        Ok(())
    }

    /// The runtime's event of what the process now is.
    fn tell_of(&mut self, id: u64) {
        let Some(process) = self.runtime.get(id) else { return };
        let part = &self.script.parts[process.part];
        let told = process.tell(part.name);
        self.emit(told, part.slot);
    }

    /// An event on its way: it may be lost, doubled, late.
    fn emit(&mut self, attempt: Attempt, slot: usize) {
        if self.state.is_none() {
            return;
        }
        let (lost, doubled) =
            (self.strikes(Trouble::EventLost, slot), self.strikes(Trouble::EventDoubled, slot));
        if lost {
            return self.check.seen.saw(Happening::LostEvent);
        }
        for _ in 0..=u32::from(doubled) {
            let delay = self.delay(slot, 20);
            self.plan_for_agent(delay, What::Tell(Event::Attempt(attempt.clone())));
        }
        if self.sabotage == Sabotage::RewriteLate {
            self.rewrite_late();
        }
    }

    /// The sabotage: exits still on their way are told of the newest process of their container.
    fn rewrite_late(&mut self) {
        for item in self.queue.values_mut() {
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
    pub(super) fn relist(&mut self) -> Judged {
        let Some(state) = &self.state else { return Ok(()) };
        let blind = self.sabotage == Sabotage::EmptyLook && self.life > 0 && !state.observed;
        let is_dead = self.runtime.newest_sandbox().filter(|_| self.runtime.sandbox().is_none());
        let is_first = !state.observed;
        let mut list: Vec<Attempt> = self.truth();
        list.retain(|_| !blind);
        let mut rng = self.draw(Draw::Relist, POD);
        if !list.is_empty() {
            let at = rng.below(list.len() as u64);
            list.rotate_left(usize::try_from(at).unwrap_or(0));
        }
        let next = if self.is_healed { Duration::from_secs(30) } else { rng.secs(1, 60) };
        self.plan_for_agent(next, What::Relist);
        // A dead sandbox is told of again, before the list or after it.
        let before = rng.percent(50);
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
                self.script.parts[process.part].kind != Kind::Ephemeral || process.is_alive()
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
