//! What the agent does inside of containers: probes and hooks, with answers of all kinds, some late
//! and some of what is over.

use std::time::Duration;

use super::{What, World};
use crate::{
    Event, HookKind, ProbeKind, ProbeOutcome,
    sim::{
        check::seen::Happening,
        dice::{Draw, Trouble},
    },
};

const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

fn text() -> String {
    "said so".to_owned()
}

impl World {
    pub(super) fn do_probe(&mut self, container: String, id: String, probe: ProbeKind) {
        let part = self.script.index(&container);
        let slot = self.slot(part);
        let is_running =
            self.runtime.get(id.parse().unwrap()).is_some_and(super::Process::is_running);
        let fails = self.strikes(Trouble::ProbeFails, slot);
        let errs = self.strikes(Trouble::ProbeErrs, slot);
        let warns = self.strikes(Trouble::ProbeWarns, slot);
        let outcome = match (is_running, fails, errs, warns) {
            (false, _, _, _) | (true, true, false, _) => ProbeOutcome::Failure(text()),
            (true, _, true, _) => ProbeOutcome::Error(text()),
            (true, false, false, true) => ProbeOutcome::Warning(text()),
            (true, false, false, false) => ProbeOutcome::Success,
        };
        let delay = self.delay(slot, 900);
        let event = Event::Probed { container: container.clone(), id, probe, outcome };
        self.plan_for_agent(delay, What::Tell(event));
        if self.strikes(Trouble::ProbeForged, slot) {
            self.forge(part, &container);
        }
    }

    /// An answer of an attempt that is over, as if a worker had not ended with it.
    fn forge(&mut self, part: usize, container: &str) {
        let slot = self.slot(part);
        let old = self.runtime.processes.iter();
        let old: Vec<u64> = old
            .filter(|process| process.part == part && self.check.is_told_dead(process.id))
            .map(|process| process.id)
            .collect();
        if old.is_empty() {
            return;
        }
        let mut rng = self.draw(Draw::Forged, slot);
        let (id, probe) = (rng.pick(&old), rng.pick(&KINDS));
        let fails = rng.percent(50);
        let outcome = if fails { ProbeOutcome::Failure(text()) } else { ProbeOutcome::Success };
        let (container, id) = (container.to_owned(), id.to_string());
        let delay = rng.millis(5000);
        let event = Event::Probed { container, id, probe, outcome };
        self.plan_for_agent(delay, What::Tell(event));
    }

    pub(super) fn do_hook(&mut self, part: usize, id: u64, hook: HookKind) {
        self.cut_hook(id);
        let slot = self.slot(part);
        let hangs = self.strikes(Trouble::HookHangs, slot);
        let fails = self.strikes(Trouble::HookFails, slot);
        self.hooks.insert(id, (part, hook));
        if !self.runtime.get(id).is_some_and(super::Process::is_running) {
            return self.cut_hook(id);
        }
        if !hangs {
            let delay = self.delay(slot, 3000);
            self.plan_for_agent(delay, What::HookEnds(id, hook, !fails));
        }
    }

    pub(super) fn hook_ends(&mut self, id: u64, hook: HookKind, well: bool) {
        if self.hooks.get(&id).is_some_and(|(_, runs)| *runs == hook)
            && let Some((part, _)) = self.hooks.remove(&id)
        {
            self.tell_hook(part, id, hook, well);
        }
    }

    /// A hook of a process is cut short, if one runs: it is answered nevertheless.
    pub(super) fn cut_hook(&mut self, id: u64) {
        if let Some((part, hook)) = self.hooks.remove(&id) {
            self.check.seen.saw(Happening::HookCut);
            self.tell_hook(part, id, hook, false);
        }
    }

    fn tell_hook(&mut self, part: usize, id: u64, hook: HookKind, well: bool) {
        let container = self.script.parts[part].name.to_owned();
        let result = if well { Ok(()) } else { Err(text()) };
        let delay = self.delay(self.script.parts[part].slot, 20);
        let event = Event::Hooked { container, id: id.to_string(), hook, result };
        self.plan_for_agent(delay, What::Tell(event));
    }

    /// How long a process lives once it is told to end, and its exit code, if it heeds that.
    pub(super) fn heeds(&mut self, slot: usize) -> Option<(Duration, i32)> {
        let ignores = self.strikes(Trouble::IgnoresTerm, slot);
        let mut rng = self.draw(Draw::Term, slot);
        (!ignores).then(|| (rng.millis(3000), rng.pick(&[0, 143])))
    }
}
