//! What a lifetime must come to once the troubles have ended: a pod that runs as it should, or is
//! over and may be; then its end.

use std::time::Duration;

use super::{What, World};
use crate::{
    Event, ProbeOutcome, State,
    container::Container,
    phase::Phase,
    sim::{
        check::{Broken, Judged, must, seen::Happening},
        dice::Draw,
        runtime::Process,
        script::{Edit, Kind, POD},
    },
};

/// After the troubles have ended a pod is at rest within this time: some init containers and a main
/// one each wait for at most a process (200 s), a crash back-off (300 s), a pull back-off (300 s),
/// a startup probe and a grace.
const REST_WITHIN: Duration = Duration::from_secs(4000);
/// A pod at rest is gone so soon after its last kill: the grace, and what the queue still holds.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// So soon an end is told.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// The grace of that kill, in seconds.
const LAST_GRACE: u64 = 10;

impl World {
    pub(super) fn come_to_rest(&mut self) -> Judged {
        self.run_until(self.now + REST_WITHIN, World::is_at_rest)?;
        self.must_be("not at rest in time", World::is_at_rest)?;
        self.judge_rest()?;
        // It stays so, and is probed, for some periods of its slowest probe.
        let probes = self.script.parts.iter().flat_map(|part| part.probes.iter().flatten());
        let slowest = probes.map(|probe| probe.period).max();
        if let (Some(period), false) = (slowest, self.is_over()) {
            self.run_until(self.now + Duration::from_secs(3 * period + 12), World::is_over)?;
            // Its active deadline may have passed, or the last of it may have ended for good.
            if self.check.is_left_alone() && !self.check.is_done(&self.script) {
                // The end of one that has ended for good may still be told.
                self.run_until(self.now + TOLD_WITHIN, World::is_at_rest)?;
                self.must_be("not at rest for long", World::is_at_rest)?;
            }
            self.check.is_probed(at!(self))?;
        }
        let by_itself = self.is_over() && self.check.is_left_alone();
        self.check.seen.saw_if(Happening::EndByItself, by_itself);
        Ok(())
    }

    /// Somebody ends the pod, and it goes.
    pub(super) fn end(&mut self) -> Judged {
        if self.draw(Draw::Last, POD).percent(50) {
            self.edit(Edit::Kill(LAST_GRACE))?;
        } else {
            self.edit(Edit::Delete(LAST_GRACE))?;
        }
        self.run_until(self.now + Duration::from_secs(3), |_| false)?;
        self.run_until(self.now + GONE_WITHIN, World::is_over)?;
        self.must_be("not over in time", World::is_over)?;
        self.judge_end()
    }

    /// Over, or running and with nothing to be done.
    fn is_at_rest(&self) -> bool {
        let Some(state) = &self.state else { return false };
        if self.is_over() {
            return true;
        }
        let sandbox = self.runtime.sandbox();
        let runs = |name: &str| {
            let container = state.containers.iter().find(|container| container.name == name);
            let newest = self.runtime.newest(self.script.index(name));
            container.is_some_and(Container::is_running) && newest.is_some_and(Process::is_running)
        };
        let is_up = state.phase() == Phase::Running
            && state.deadline.is_none()
            && state.set_up.done.as_ref().map(|done| done.sandbox) == sandbox
            && self.runtime.alive().all(|process| Some(process.sandbox) == sandbox)
            && self.runtime.alive().all(|process| {
                let wanted = self.check.definition(process.part);
                wanted.is_none_or(|wanted| process.definition.is_none_or(|of| of == wanted))
            })
            && state.containers.iter().all(|container| {
                let part = self.script.index(&container.name);
                container.is_busy() == self.runtime.alive().any(|process| process.part == part)
            })
            && self.script.parts.iter().all(|part| match part.kind {
                // One that has ended for good while another runs on is at rest.
                Kind::Main => runs(part.name) || self.is_done_for_good(state, part.name),
                Kind::Sidecar => runs(part.name),
                Kind::Init | Kind::Ephemeral => true,
            })
            && self.check.is_replaced()
            && !self.check.is_failing();
        is_up && !self.is_to_change() && self.has_added(state) && self.is_ready(state)
    }

    /// Whether the end of anything that lives, the word of a probe that failed or that of an edit is
    /// only a matter of time.
    fn is_to_change(&self) -> bool {
        let is_of_now = |life: Option<u32>| life.is_none_or(|of| of == self.life);
        self.queue.values().filter(|item| is_of_now(item.life)).any(|item| match item.what {
            What::Sigkill(id) | What::Exit(id, _) => {
                self.runtime.get(id).is_some_and(Process::is_alive)
            }
            What::Tell(Event::Probed { outcome: ProbeOutcome::Failure(_), .. }) | What::Desire => {
                true
            }
            What::Tell(_)
            | What::Relist
            | What::Do(..)
            | What::Launch(_)
            | What::Vanish(_)
            | What::Ends(..)
            | What::HookEnds(..)
            | What::AgentStarts
            | What::Edit(_) => false,
        })
    }

    /// Whether nothing calls for another start of a container, nor is one to come: of one that its
    /// probes have ended only the machine knows.
    fn is_done_for_good(&self, state: &State, name: &str) -> bool {
        let generation = state.generation();
        let is_wanted = |of: &Container| of.name == name && of.is_wanted(generation);
        let is_over = self.check.end_for_good(self.script.index(name), &self.script).is_some();
        is_over && !state.containers.iter().any(is_wanted)
    }

    /// Each ephemeral container that was added has been started.
    fn has_added(&self, state: &State) -> bool {
        let spec = self.pod.spec.iter();
        let mut added = spec.flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        added.all(|added| {
            let mut all = state.containers.iter();
            all.any(|container| container.name == added.name && container.newest().is_some())
        })
    }

    /// All that runs is shown as started and ready.
    fn is_ready(&self, state: &State) -> bool {
        state.containers.iter().all(|container| {
            let kind = self.script.parts[self.script.index(&container.name)].kind;
            match kind {
                Kind::Init | Kind::Ephemeral => true,
                Kind::Main if self.is_done_for_good(state, &container.name) => true,
                Kind::Main | Kind::Sidecar => container.is_ready() && container.has_started(),
            }
        })
    }

    fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(State::is_terminated)
    }

    fn must_be(&self, rule: &'static str, holds: fn(&World) -> bool) -> Judged {
        must(holds(self), rule, || format!("{:?}", self.state))
    }

    /// A pod that nobody has ended is over only if its policies let it be.
    fn judge_rest(&self) -> Judged {
        let may_be_over = self.check.is_told
            || self.check.has_ended_with_sandbox()
            || self.check.is_done(&self.script);
        must(!self.is_over() || may_be_over, "over by itself", || format!("{:?}", self.state))
    }

    /// The last word: the phase is what the truth says, and the status shows it.
    fn judge_end(&mut self) -> Judged {
        let Some(state) = &self.state else {
            return Err(Broken { rule: "no agent at the end", how: String::new() });
        };
        let mains = self.script.parts.iter().zip(&self.check.truths);
        let for_good = |part| self.check.end_for_good(part, &self.script);
        let has_failed = |part: usize| for_good(part).is_some_and(|code| code != 0);
        let well = mains
            .filter(|(part, _)| part.kind == Kind::Main)
            .all(|(_, truth)| truth.launched.last().is_some_and(|last| last.code == Some(0)))
            && !self.script.of_kind(Kind::Init).any(has_failed)
            && !self.check.is_evicted;
        let status = state.status();
        let phase = if well { "Succeeded" } else { "Failed" };
        let mut launched = self.check.truths.iter().flat_map(|truth| &truth.launched);
        let is_right = status.phase.as_deref() == Some(phase)
            || status.reason.as_deref() == Some("DeadlineExceeded");
        let is_dead = launched.all(|one| one.code.is_some());
        must(is_right && is_dead, "not the right end", || {
            format!("{:?} {:?}, {:?}", status.phase, status.reason, self.check.truths)
        })?;
        let mut shown = status.container_statuses.iter().flatten();
        let is_ready = shown.any(|one| one.ready || one.started != Some(false));
        must(!is_ready, "ready at the end", || format!("{status:?}"))?;
        self.check.seen.saw_if(Happening::Success, well);
        Ok(())
    }
}
