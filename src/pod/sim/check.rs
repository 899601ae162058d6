//! The truth beside the machine, and the rules that every step is judged by.

use std::{collections::BTreeMap, time::Duration};

use super::{runtime::Runtime, script::Script};
use crate::{Action, Event, container::Role, life::Policy, phase::Phase, state::State};

/// How often what happened: shows that a test has teeth.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) steps: u64,
    pub(super) starts: u64,
    pub(super) restarts: u64,
    pub(super) agent_deaths: u64,
    pub(super) unlaunched: u64,
    pub(super) lost_events: u64,
    pub(super) forced_kills: u64,
    pub(super) ended_by_itself: u64,
    pub(super) succeeded: u64,
    pub(super) removed: u64,
    pub(super) evicted: u64,
    pub(super) replaced: u64,
    pub(super) refreshed: u64,
    pub(super) sandbox_deaths: u64,
    pub(super) begun_anew: u64,
    pub(super) ephemeral: u64,
}

impl Seen {
    pub(super) fn counts(&self) -> [(&'static str, u64); 16] {
        [
            ("a step", self.steps),
            ("a start", self.starts),
            ("a restart", self.restarts),
            ("the agent's death", self.agent_deaths),
            ("a process that dies before its launch", self.unlaunched),
            ("the loss of an event", self.lost_events),
            ("a SIGKILL", self.forced_kills),
            ("an end by itself", self.ended_by_itself),
            ("success", self.succeeded),
            ("a removal", self.removed),
            ("an eviction", self.evicted),
            ("a start in the place of a replaced attempt", self.replaced),
            ("a refresh", self.refreshed),
            ("the death of a sandbox", self.sandbox_deaths),
            ("an init container's success again in a new sandbox", self.begun_anew),
            ("the start of an ephemeral container", self.ephemeral),
        ]
    }

    pub(super) fn add(&mut self, other: &Seen) {
        self.steps += other.steps;
        self.starts += other.starts;
        self.restarts += other.restarts;
        self.agent_deaths += other.agent_deaths;
        self.unlaunched += other.unlaunched;
        self.lost_events += other.lost_events;
        self.forced_kills += other.forced_kills;
        self.ended_by_itself += other.ended_by_itself;
        self.succeeded += other.succeeded;
        self.removed += other.removed;
        self.evicted += other.evicted;
        self.replaced += other.replaced;
        self.refreshed += other.refreshed;
        self.sandbox_deaths += other.sandbox_deaths;
        self.begun_anew += other.begun_anew;
        self.ephemeral += other.ephemeral;
    }
}

/// An attempt that was launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launched {
    /// Its exit code, once it has ended.
    pub(super) code: Option<i32>,
    /// The sandbox that it ran in.
    sandbox: u32,
}

/// What really happened to one container, whatever the runtime remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    /// The attempts that were launched, in their order.
    pub(super) launched: Vec<Launched>,
    /// The highest restart count that was shown.
    shown: u32,
}

/// What the present agent life was asked and has not answered, and what it was told.
#[derive(Debug, Default)]
struct Life {
    looked: bool,
    setting_up: bool,
    /// The sandbox that stands, as far as it was told.
    sandbox: Option<u32>,
    /// The newest that does not.
    dead: Option<u32>,
    refreshing: bool,
    preparing: Vec<usize>,
    prepared: Vec<usize>,
    starting: Vec<usize>,
    tearing_down: bool,
    torn_down: bool,
    /// The least grace that was told, once the pod is to end.
    grace: Option<Duration>,
    /// The last grace of each stopped process.
    stops: BTreeMap<u64, Duration>,
    /// The attempt of each container that was to be replaced last.
    replaced: BTreeMap<usize, u32>,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) truths: Vec<Truth>,
    life: Life,
    /// The terminal phase, from when on it was claimed where it must hold.
    pub(super) terminal: Option<Phase>,
    /// The pod was evicted before its end, and that is not forgotten.
    pub(super) is_evicted: bool,
    /// Somebody has told some agent to end the pod.
    pub(super) is_told: bool,
    /// A pod that never restarts may have ended for a dead sandbox.
    has_ended_with_sandbox: bool,
    pub(super) seen: Seen,
}

type Judged = Result<(), String>;

fn must(holds: bool, rule: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(rule()) }
}

fn take(from: &mut Vec<usize>, part: usize) {
    from.retain(|other| *other != part);
}

impl Check {
    pub(super) fn new(script: &Script) -> Check {
        let truths = vec![Truth::default(); script.parts.len()];
        let (life, seen) = (Life::default(), Seen::default());
        Check {
            truths,
            life,
            terminal: None,
            is_evicted: false,
            is_told: false,
            has_ended_with_sandbox: false,
            seen,
        }
    }

    /// A new agent knows nothing; a terminal phase holds on only if the API server keeps it.
    pub(super) fn agent_starts(&mut self, has_api: bool) {
        self.life = Life::default();
        self.terminal = self.terminal.filter(|_| has_api);
        self.is_evicted &= self.terminal.is_some();
    }

    /// The pod is to end within `grace`, as far as the machine was told.
    pub(super) fn told_to_end(&mut self, grace: Duration) {
        self.is_told = true;
        self.life.grace = Some(self.life.grace.map_or(grace, |told| told.min(grace)));
    }

    /// The present agent is told that the pod is evicted.
    pub(super) fn told_to_evict(&mut self) {
        self.told_to_end(Duration::from_secs(1));
        self.seen.evicted += u64::from(self.terminal.is_none() && !self.is_evicted);
        self.is_evicted |= self.terminal.is_none();
    }

    /// The present agent is told that the definition of what it believes to live was changed.
    pub(super) fn told_to_replace(&mut self, part: usize, attempt: u32) {
        self.life.replaced.insert(part, attempt);
    }

    /// Whether all that was to be replaced has been, and by exactly one process.
    pub(super) fn is_replaced(&self) -> bool {
        self.life.replaced.iter().all(|(part, attempt)| {
            self.truths[*part].launched.len() > *attempt as usize + 1
                || !self.is_left_alone()
                || self.has_ended_with_sandbox
        })
    }

    /// Nobody has told the present agent to end the pod.
    pub(super) fn is_left_alone(&self) -> bool {
        self.life.grace.is_none()
    }

    pub(super) fn exited(&mut self, part: usize, attempt: u32, code: i32) {
        self.truths[part].launched[attempt as usize].code = Some(code);
    }

    pub(super) fn launched(&mut self, part: usize, attempt: u32, sandbox: u32) -> Judged {
        let truth = &mut self.truths[part];
        let next = truth.launched.len();
        must(attempt as usize == next, || format!("attempt {attempt} launched, not {next}"))?;
        truth.launched.push(Launched { code: None, sandbox });
        // From here on it is no start under way but a process.
        take(&mut self.life.starting, part);
        self.seen.starts += 1;
        self.seen.restarts += u64::from(attempt > 0);
        Ok(())
    }

    /// Notes what the machine is told: an answer ends what was asked for.
    pub(super) fn told(&mut self, event: &Event, script: &Script) {
        let life = &mut self.life;
        match event {
            Event::Observed(list) => {
                life.looked = true;
                let (starting, truths) = (&life.starting, &self.truths);
                let is_gone = |part: usize, attempt: u32| {
                    let name = script.parts[part].name;
                    truths[part].launched.len() <= attempt as usize
                        && !starting.contains(&part)
                        && !list.iter().any(|a| a.container == name && a.attempt == attempt)
                };
                life.replaced.retain(|part, attempt| !is_gone(*part, *attempt));
            }
            Event::SetUp(result) => {
                life.setting_up = false;
                let told = result.as_ref().ok().map(|done| done.sandbox);
                life.sandbox = told.filter(|told| life.dead.is_none_or(|dead| dead < *told));
            }
            Event::SandboxChanged { sandbox } => {
                life.dead = life.dead.max(Some(*sandbox));
                life.sandbox = life.sandbox.filter(|stands| stands > sandbox);
            }
            Event::Refreshed(_) => life.refreshing = false,
            Event::Image { container, result } => {
                let part = script.index(container);
                take(&mut life.preparing, part);
                life.prepared.extend(result.is_ok().then_some(part));
            }
            Event::StartFailed { container, attempt, .. } => {
                let part = script.index(container);
                take(&mut life.starting, part);
                // It starts again under its number, with the new definition.
                life.replaced.retain(|of, replaced| *of != part || replaced != attempt);
            }
            Event::Attempt(_)
            | Event::Resize(_)
            | Event::Actuated(_)
            | Event::Resized(_)
            | Event::Desired(_)
            | Event::Kill { .. }
            | Event::Evict(_)
            | Event::Replace { .. }
            | Event::Changed
            | Event::Pulling { .. }
            | Event::Probed { .. }
            | Event::Hooked { .. }
            | Event::Timer => {}
            Event::TornDown(result) => {
                life.tearing_down = false;
                life.torn_down |= result.is_ok();
            }
        }
    }

    /// Judges one action that the machine gives, before it is done.
    pub(super) fn action(&mut self, action: &Action, script: &Script, runtime: &Runtime) -> Judged {
        must(self.life.looked, || "an action before the first look".to_owned())?;
        let is_up = |life: &Life| life.grace.is_none() && !life.torn_down;
        match action {
            Action::SetUp => {
                must(is_up(&self.life), || "set up after the end".to_owned())?;
                must(!self.life.setting_up, || "set up twice at once".to_owned())?;
                must(self.life.sandbox.is_none(), || "set up while it stands".to_owned())?;
                must(!self.life.refreshing, || "set up under a refresh".to_owned())?;
                let is_old = |sandbox| self.life.dead.is_some_and(|dead| sandbox <= dead);
                let is_quiet = !runtime.alive().any(|process| is_old(process.sandbox));
                must(is_quiet && self.life.starting.is_empty(), || {
                    "set up beside an old one".to_owned()
                })?;
                self.life.setting_up = true;
            }
            Action::Refresh => {
                must(is_up(&self.life), || "volumes written after the end".to_owned())?;
                must(self.life.sandbox.is_some(), || "refreshed before the set-up".to_owned())?;
                must(!self.life.refreshing, || "refreshed twice at once".to_owned())?;
                self.life.refreshing = true;
                self.seen.refreshed += 1;
            }
            Action::Resize { .. } => {
                must(is_up(&self.life), || "resized after the end".to_owned())?;
            }
            Action::Record(_) | Action::Probe { .. } | Action::Hook { .. } => {}
            Action::PrepareImage { container } => {
                let part = script.index(container);
                must(is_up(&self.life), || "image prepared after the end".to_owned())?;
                must(!self.life.preparing.contains(&part), || "image asked twice".to_owned())?;
                self.life.preparing.push(part);
            }
            Action::Start { container, attempt } => {
                must(is_up(&self.life), || "start after deletion or kill".to_owned())?;
                let part = script.index(container);
                self.start(part, *attempt, script, runtime)
                    .map_err(|rule| format!("{container} {attempt}: {rule}"))?;
            }
            Action::Stop { container, attempt, id, grace } => {
                let id = id.parse().unwrap();
                let is_called_for = self.is_left_alone()
                    && self.is_to_stop((script.index(container), *attempt, id), script, runtime);
                let most = Some(Duration::from_secs(script.spec_grace)).filter(|_| is_called_for);
                self.stop(id, *grace, most.or(self.life.grace), runtime)?;
            }
            Action::Remove { container, attempt, id } => {
                let newest = self.truths[script.index(container)].launched.len();
                must(*attempt as usize + 2 < newest, || "a kept attempt is removed".to_owned())?;
                let is_alive = runtime.alive().any(|process| process.id.to_string() == *id);
                must(!is_alive, || "a living attempt is removed".to_owned())?;
                self.seen.removed += 1;
            }
            Action::TearDown => {
                must(runtime.alive().next().is_none(), || "torn down under a process".to_owned())?;
                must(self.life.starting.is_empty(), || "torn down under a start".to_owned())?;
                must(!self.life.setting_up, || "torn down under the set-up".to_owned())?;
                must(!self.life.refreshing, || "torn down under a refresh".to_owned())?;
                must(!self.life.tearing_down, || "torn down twice at once".to_owned())?;
                self.life.tearing_down = true;
            }
        }
        Ok(())
    }

    /// Whether there is a reason to stop the process, though nobody has ended the pod: it is to be
    /// replaced, its sandbox is dead, or it is ephemeral and the others are done.
    fn is_to_stop(
        &self,
        (part, attempt, id): (usize, u32, u64),
        script: &Script,
        runtime: &Runtime,
    ) -> bool {
        let life = &self.life;
        // One that vanished and of which the machine has not heard yet was in the oldest.
        let sandbox = runtime.processes.iter().find(|process| process.id == id);
        let sandbox = sandbox.map_or(0, |process| process.sandbox);
        let is_old = life.dead.is_some_and(|dead| sandbox <= dead)
            || life.sandbox.is_some_and(|stands| sandbox < stands);
        let is_work = |part: usize| script.parts[part].role.is_work();
        let is_last = !is_work(part)
            && !runtime.alive().any(|process| is_work(process.part))
            && !life.starting.iter().any(|part| is_work(*part));
        is_old || is_last || life.replaced.get(&part) == Some(&attempt)
    }

    /// Nothing is begun beside an old sandbox, nor anything in a new one that had its only run.
    fn begins(&self, sandbox: u32, script: &Script, runtime: &Runtime) -> Judged {
        let is_old = runtime.alive().any(|process| process.sandbox < sandbox);
        must(!is_old, || "started beside an old one".to_owned())?;
        let work = script.parts.iter().zip(&self.truths).filter(|(part, _)| part.role.is_work());
        let mut launched = work.flat_map(|(_, truth)| &truth.launched);
        let has_run = launched.any(|launched| launched.sandbox < sandbox);
        must(!(script.policy == Policy::Never && has_run), || "run on in a new sandbox".to_owned())
    }

    fn start(&mut self, part: usize, attempt: u32, script: &Script, runtime: &Runtime) -> Judged {
        let sandbox = self.life.sandbox.ok_or("started before the set-up")?;
        self.begins(sandbox, script, runtime)?;
        let life = &mut self.life;
        let is_alive = runtime.alive().any(|process| process.part == part);
        must(!is_alive, || "started while an attempt of it lives".to_owned())?;
        must(!life.starting.contains(&part), || "started twice at once".to_owned())?;
        must(life.prepared.contains(&part), || "started without its image".to_owned())?;
        take(&mut life.prepared, part);
        life.starting.push(part);
        let launched = &self.truths[part].launched;
        let role = script.parts[part].role;
        let is_replaced = attempt > 0 && life.replaced.get(&part) == Some(&(attempt - 1));
        self.seen.replaced += u64::from(is_replaced);
        let may_restart = match (launched.last(), role, script.policy) {
            (None, _, _) => true,
            (Some(last), _, _) if is_replaced => last.code.is_some(),
            (Some(_), _, Policy::Never) | (Some(_), Role::Ephemeral, _) => false,
            (Some(_), Role::Main | Role::Sidecar, Policy::Always) => true,
            (Some(last), Role::Init, _) => last.code != Some(0) || last.sandbox < sandbox,
            (Some(last), Role::Main | Role::Sidecar | Role::Unwanted, _) => last.code != Some(0),
        };
        must(may_restart, || format!("started again after {launched:?}"))?;
        must(attempt as usize == launched.len(), || {
            format!("not {}: {launched:?}", launched.len())
        })?;
        self.seen.ephemeral += u64::from(role == Role::Ephemeral);
        if !role.is_work() {
            return Ok(());
        }
        let is_done = |launched: &Launched| launched.code == Some(0) && launched.sandbox == sandbox;
        let inits = script.of_role(Role::Init).filter(|init| *init < part);
        for init in inits {
            let launched = &self.truths[init].launched;
            must(launched.last().is_some_and(is_done), || {
                "started before its init containers were done".to_owned()
            })?;
            let succeeded = launched.iter().filter(|launched| launched.code == Some(0)).count();
            self.seen.begun_anew += u64::from(succeeded > 1);
        }
        Ok(())
    }

    fn stop(
        &mut self,
        id: u64,
        grace: Duration,
        most: Option<Duration>,
        runtime: &Runtime,
    ) -> Judged {
        let most = most.ok_or("a stop without a reason")?;
        let least = Duration::from_secs(2);
        must(grace <= most.max(least), || format!("grace {grace:?}, told {most:?}"))?;
        let last = self.life.stops.insert(id, grace);
        // Late news of one that vanished bring no harm.
        let is_there = runtime.processes.iter().any(|process| process.id == id);
        must(!is_there || last.is_none_or(|last| grace <= last), || {
            "the grace has grown".to_owned()
        })
    }

    /// Judges the state after a step, with its actions already judged.
    pub(super) fn state(
        &mut self,
        state: &State,
        now: Duration,
        (script, runtime): (&Script, &Runtime),
    ) -> Judged {
        self.has_ended_with_sandbox |= state.ends_with_sandbox();
        self.seen.steps += 1;
        must(state.wake_at().is_none_or(|at| at > now), || "a timer in the past".to_owned())?;
        if !state.observed {
            return Ok(());
        }
        let phase = state.phase();
        if let Some(terminal) = self.terminal {
            must(phase == terminal, || format!("{terminal:?} was left for {phase:?}"))?;
        }
        if phase == Phase::Succeeded || phase == Phase::Failed {
            let is_failed = phase == Phase::Failed || !self.is_evicted;
            must(is_failed, || "evicted and not failed".to_owned())?;
            let is_quiet = runtime.alive().next().is_none() && self.life.starting.is_empty();
            must(is_quiet, || format!("{phase:?} while something may run"))?;
            self.terminal = Some(phase);
        }
        must(!state.is_terminated() || self.terminal.is_some(), || "over without a phase".into())?;
        for container in &state.containers {
            let truth = &mut self.truths[script.index(&container.name)];
            let count = container.newest().map_or(0, |(attempt, _)| attempt);
            must(count >= truth.shown, || format!("restart count fell from {}", truth.shown))?;
            must((count as usize) < truth.launched.len().max(1), || {
                "a count of the future".into()
            })?;
            truth.shown = count;
        }
        Ok(())
    }
}
