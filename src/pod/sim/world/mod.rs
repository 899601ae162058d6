//! The run of one lifetime: a queue of what is due, and the end it must come to.

mod agent;
mod nature;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    Sabotage,
    check::{Check, Seen},
    rng::Rng,
    runtime::Runtime,
    script::{self, Faults, HEALED, Script},
};
use crate::{Action, Event, Failure, State, container::Role, life::Policy, phase::Phase};

/// After the faults have ended a pod is at rest within this time: two init containers and a main
/// one each wait for at most a process (200 s), a crash back-off (300 s), a pull back-off (300 s)
/// and a grace.
const REST_WITHIN: Duration = Duration::from_secs(3000);
/// A pod at rest is gone so soon after its last kill: the grace, and what the queue still holds.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// The grace of that kill.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// More steps than any lifetime needs: a loop that makes no headway is found.
const MOST_STEPS: u64 = 20_000;
/// The wall clock at the start, in seconds.
const EPOCH: i64 = 1_800_000_000;

/// Something that happens.
#[derive(Clone, Debug)]
enum What {
    /// The machine is told.
    Tell(Event),
    /// The machine is told of the object as it is now: a watch gives no older one.
    Desire,
    /// The runtime tells all it knows; the next relist follows.
    Relist,
    /// The agent does what the machine gave.
    Do(Action),
    Launch(u64),
    Vanish(u64),
    Exit(u64, i32),
    Sigkill(u64),
    AgentDies,
    AgentStarts,
    Delete(u64),
    Kill(u64),
    Evict,
    /// The definition of a container, by its place, is changed.
    Replace(usize),
    /// What the volumes are made of is changed.
    Change,
    /// The pod's sandbox dies.
    SandboxDies,
    /// An ephemeral container, by its place, is added.
    Add(usize),
    Jump(i64),
}

#[derive(Debug)]
struct Item {
    due: Duration,
    order: u64,
    /// It belongs to this life of the agent and dies with it.
    life: Option<u32>,
    what: What,
}

pub(super) struct World {
    rng: Rng,
    script: Script,
    sabotage: Sabotage,
    runtime: Runtime,
    check: Check,
    state: Option<State>,
    pod: Arc<Pod>,
    life: u32,
    /// The sandbox that this life of the agent starts containers in.
    ready: u32,
    now: Duration,
    wall_offset: i64,
    faults: Faults,
    queue: Vec<Item>,
    order: u64,
    log: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Sabotage, logs: bool) -> World {
        let mut rng = Rng::new(seed);
        let script = Script::draw(&mut rng);
        World {
            check: Check::new(&script),
            pod: script.pod(),
            faults: script.faults,
            rng,
            script,
            sabotage,
            runtime: Runtime::default(),
            state: None,
            life: 0,
            ready: 0,
            now: Duration::ZERO,
            wall_offset: 0,
            queue: Vec::new(),
            order: 0,
            log: logs.then(Vec::new),
        }
    }

    pub(super) fn log(self) -> Vec<String> {
        self.log.unwrap_or_default()
    }

    /// The whole lifetime; what was broken, if anything was.
    pub(super) fn live(&mut self) -> Result<Seen, String> {
        self.note(|world| format!("{:?}", world.script));
        self.foresee();
        self.agent_starts()?;
        self.run_until(self.script.heal_at, |_| false)?;
        self.heal()?;
        self.run_until(self.now + REST_WITHIN, World::is_at_rest)?;
        self.must_be("at rest", World::is_at_rest)?;
        if !self.check.is_replaced() {
            return Err("an attempt of an old definition was not replaced".to_owned());
        }
        self.judge_rest()?;
        self.check.seen.ended_by_itself += u64::from(self.is_over() && self.check.is_left_alone());
        self.tell(Event::Kill { grace: LAST_GRACE })?;
        self.run_until(self.now + GONE_WITHIN, World::is_over)?;
        self.must_be("over", World::is_over)?;
        self.judge_end()?;
        Ok(self.check.seen.clone())
    }

    /// Draws what people and machines do to the pod from outside.
    fn foresee(&mut self) {
        let horizon = self.script.heal_at.as_secs();
        let parts = self.script.parts.len() as u64;
        let mut some = |chance: u64, what: &dyn Fn(&mut Rng) -> What| {
            while self.rng.percent(chance) {
                let due = self.rng.secs(0, horizon);
                let what = what(&mut self.rng);
                self.order += 1;
                self.queue.push(Item { due, order: self.order, life: None, what });
            }
        };
        some(25, &|rng| What::Delete(rng.pick(&[0, 1, 10, 30, 90])));
        some(20, &|rng| What::Kill(rng.pick(&[0, 1, 10, 30, 90])));
        some(10, &|_| What::Evict);
        some(40, &|rng| What::Replace(usize::try_from(rng.below(parts)).unwrap_or(0)));
        some(40, &|_| What::Change);
        some(25, &|rng| What::Jump(rng.pick(&[-86_400, -61, 61, 86_400])));
        some(40, &|_| What::AgentDies);
        if self.script.has_sandbox {
            some(45, &|_| What::SandboxDies);
        }
        let ephemeral: Vec<usize> = self.script.of_role(Role::Ephemeral).collect();
        if !ephemeral.is_empty() {
            some(60, &|rng| What::Add(rng.pick(&ephemeral)));
        }
    }

    fn heal(&mut self) -> Result<(), String> {
        self.note(|_| "the faults end".to_owned());
        self.faults = HEALED;
        if self.state.is_none() { self.agent_starts() } else { Ok(()) }
    }

    /// Runs what is due until a time or until it is enough.
    fn run_until(&mut self, end: Duration, enough: fn(&World) -> bool) -> Result<(), String> {
        while !enough(self) {
            if self.check.seen.steps > MOST_STEPS {
                return Err("no end of steps".to_owned());
            }
            let life = self.life;
            self.queue.retain(|item| item.life.is_none_or(|of| of == life));
            let first = (0..self.queue.len())
                .min_by_key(|index| (self.queue[*index].due, self.queue[*index].order));
            let due = first.map(|index| self.queue[index].due);
            let timer = self.state.as_ref().and_then(State::wake_at);
            let next = [due, timer].into_iter().flatten().min().unwrap_or(end);
            if next >= end {
                self.now = end;
                return Ok(());
            }
            self.now = self.now.max(next);
            match first {
                Some(index) if due == Some(next) => {
                    let what = self.queue.swap_remove(index).what;
                    self.happens(what)?;
                }
                Some(_) | None => self.tell(Event::Timer)?,
            }
        }
        Ok(())
    }

    fn happens(&mut self, what: What) -> Result<(), String> {
        self.note(|_| format!("{what:?}"));
        match what {
            What::Tell(event) => self.tell(event)?,
            What::Desire => self.tell(Event::Desired(self.pod.clone()))?,
            What::Relist => self.relist()?,
            What::Do(action) => self.act(action),
            What::Launch(id) => self.launch(id)?,
            What::Vanish(id) => self.vanish(id)?,
            What::Exit(id, code) => self.exit(id, code),
            What::Sigkill(id) => self.sigkill(id)?,
            What::AgentDies => self.agent_dies(),
            What::AgentStarts => self.agent_starts()?,
            What::Delete(grace) => {
                self.pod = script::deleted(&self.pod, grace, self.wall());
                let lag = self.rng.millis(2000);
                self.plan_for_agent(lag, What::Desire);
            }
            What::Kill(grace) => {
                if self.state.is_some() {
                    self.tell(Event::Kill { grace: Duration::from_secs(grace) })?;
                }
            }
            What::Evict => self.tell(Event::Evict(failure()))?,
            What::Replace(part) => {
                let container = self.script.parts[part].name.to_owned();
                self.tell(Event::Replace { container })?;
            }
            What::Change => self.tell(Event::Changed)?,
            What::SandboxDies => self.sandbox_dies()?,
            What::Add(part) => {
                self.pod = script::with_ephemeral(&self.pod, self.script.parts[part].name);
                let lag = self.rng.millis(2000);
                self.plan_for_agent(lag, What::Desire);
            }
            What::Jump(secs) => self.wall_offset += secs,
        }
        Ok(())
    }

    // --- the end

    /// Over, or running and with nothing to be done.
    fn is_at_rest(&self) -> bool {
        let Some(state) = &self.state else { return false };
        let sandbox = self.runtime.sandbox();
        let added =
            self.pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let has_started = |name: &str| {
            let mut all = state.of_role(Role::Ephemeral);
            all.any(|container| container.name == name && container.newest().is_some())
        };
        let runs = state.phase() == Phase::Running
            && state.deadline.is_none()
            && state.set_up.done.as_ref().map(|done| done.sandbox) == sandbox
            && state.of_role(Role::Main).all(|container| container.is_running())
            && self.runtime.alive().all(|process| Some(process.sandbox) == sandbox)
            && added.into_iter().all(|container| has_started(&container.name));
        self.is_over() || runs && self.check.is_replaced()
    }

    fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(State::is_terminated)
    }

    fn must_be(&self, what: &str, holds: fn(&World) -> bool) -> Result<(), String> {
        if holds(self) { Ok(()) } else { Err(format!("not {what} in time: {:?}", self.state)) }
    }

    /// A pod that nobody has ended is over only if its policy lets it be.
    fn judge_rest(&self) -> Result<(), String> {
        let may_be_over = match self.script.policy {
            Policy::Always => false,
            Policy::OnFailure => self.check.terminal == Some(Phase::Succeeded),
            Policy::Never => true,
        };
        if self.is_over() && !self.check.is_told && !may_be_over {
            return Err(format!("over by itself under {:?}", self.script.policy));
        }
        Ok(())
    }

    /// The last word: the phase is what the truth says, and the status shows it.
    fn judge_end(&mut self) -> Result<(), String> {
        let Some(state) = &self.state else { return Err("no agent at the end".to_owned()) };
        let mains = self.script.parts.iter().zip(&self.check.truths);
        let well = mains
            .filter(|(part, _)| part.role == Role::Main)
            .all(|(_, truth)| truth.launched.last().is_some_and(|last| last.code == Some(0)))
            && !self.check.is_evicted;
        let status = state.status();
        let phase = if well { "Succeeded" } else { "Failed" };
        let shown = status.container_statuses.iter().flatten();
        let mut launched = self.check.truths.iter().flat_map(|truth| &truth.launched);
        if launched.any(|one| one.code.is_none()) || status.phase.as_deref() != Some(phase) {
            return Err(format!("{:?}, {:?} at the end", status.phase, self.check.truths));
        }
        if shown.clone().any(|one| one.ready || one.started != Some(false)) {
            return Err(format!("ready at the end: {status:?}"));
        }
        self.check.seen.succeeded += u64::from(well);
        Ok(())
    }

    // --- time

    fn wall(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.now).unwrap_or_default();
        Timestamp::from_second(EPOCH + self.wall_offset).unwrap() + elapsed
    }

    /// A short delay, and now and then a long one.
    fn delay(&mut self, millis: u64) -> Duration {
        let long = self.rng.percent(self.faults.event_late);
        if long { self.rng.millis(40_000) } else { self.rng.millis(millis) }
    }

    /// Something that happens whatever becomes of the agent.
    fn plan(&mut self, delay: Duration, what: What) {
        self.push(delay, None, what);
    }

    /// Something that this life of the agent does or hears.
    fn plan_for_agent(&mut self, delay: Duration, what: What) {
        self.push(delay, Some(self.life), what);
    }

    fn push(&mut self, delay: Duration, life: Option<u32>, what: What) {
        self.order += 1;
        self.queue.push(Item { due: self.now + delay, order: self.order, life, what });
    }

    fn note(&mut self, text: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:>10.3} {}", self.now.as_secs_f64(), text(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }
}

fn failure() -> Failure {
    Failure { reason: "ErrImagePull".to_owned(), message: String::new() }
}
