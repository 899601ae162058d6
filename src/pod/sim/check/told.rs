//! What the present agent was told of each process, and what follows from that by upstream's rules:
//! the results of probes, what has started, what is ready.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use super::{AHEAD, At, Check, Judged, must, seen::Happening, take};
use crate::{
    Attempt, AttemptState, Event, HookKind, ProbeKind, ProbeOutcome, definition,
    sim::script::{HookSpec, Kind, Part, Policy, ProbeSpec, Script},
    state::State,
};

/// How far a process is, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Starting,
    Running,
    Dead,
}

impl Rank {
    fn of(state: &AttemptState) -> Rank {
        match state {
            AttemptState::Starting => Rank::Starting,
            AttemptState::Running { .. } => Rank::Running,
            AttemptState::Exited(_) => Rank::Dead,
        }
    }
}

/// One probe of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probing {
    pub(super) is_asked: bool,
    /// How many were asked for, and when the last one was.
    pub(super) given: u32,
    pub(super) last_given: Duration,
    last: Option<bool>,
    run: u32,
    /// What its results come to: none until a threshold is reached.
    pub(super) value: Option<bool>,
    /// Since when.
    pub(super) since: Duration,
}

impl Probing {
    /// Takes a result (upstream: `worker.doProbe`).
    fn answer(&mut self, success: bool, spec: ProbeSpec, now: Duration) {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let threshold = if success { spec.successes } else { spec.failures };
        if self.run >= threshold && self.value != Some(success) {
            self.value = Some(success);
            self.since = now;
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.value == Some(false)
    }
}

/// One hook of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hooking {
    /// When it was asked for.
    pub(super) asked: Option<Duration>,
    /// Whether it went well, once it is answered, and when that was.
    pub(super) answer: Option<(bool, Duration)>,
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) part: usize,
    pub(super) attempt: u32,
    pub(super) rank: Rank,
    /// When it was told to run.
    pub(super) running: Duration,
    /// This life saw its launch: it was no running one that it adopted.
    pub(super) is_own: bool,
    /// What the pod's status said of it when this life began: started, and ready.
    pub(super) kept: (bool, bool),
    pub(super) probes: [Probing; 3],
    pub(super) post_start: Hooking,
    pub(super) pre_stop: Hooking,
    /// When it was first told to stop in any way.
    pub(super) stopping: Option<Duration>,
    /// When it will be killed at the latest by the last `Stop`.
    pub(super) due: Option<Duration>,
    /// It is to end with one that takes all of its pod with it: by then.
    pub(super) doomed: Option<Duration>,
}

impl Check {
    /// The newest process of a container that was told of: of the highest attempt that one which was
    /// launched.
    pub(super) fn newest(&self, part: usize) -> Option<(u64, &Told)> {
        let all = self.life.told.iter().filter(|(_, told)| told.part == part);
        let newest = all.max_by_key(|(id, told)| (told.attempt, told.rank > Rank::Starting, **id));
        newest.map(|(id, told)| (*id, told))
    }

    pub(super) fn is_newest(&self, id: u64) -> bool {
        let part = self.life.told.get(&id).map(|told| told.part);
        part.and_then(|part| self.newest(part)).is_some_and(|(newest, _)| newest == id)
    }

    /// Whether a process has failed a probe that it is stopped for, or its postStart hook.
    pub(super) fn has_failed(told: &Told) -> bool {
        let hook = told.post_start.answer.is_some_and(|(well, _)| !well);
        hook || told.probes[..2].iter().any(Probing::has_failed)
    }

    /// Whether the machine was told that the process is dead.
    pub(in crate::sim) fn is_told_dead(&self, id: u64) -> bool {
        self.life.told.get(&id).is_some_and(|told| told.rank == Rank::Dead)
    }

    /// Whether a running process has started, by all that was told: its startup probe has succeeded
    /// and its postStart hook is done.
    pub(super) fn has_started(&self, told: &Told, script: &Script, now: Duration) -> bool {
        let part = &script.parts[told.part];
        let probed = part.probes[0].is_none() || told.kept.0 || told.probes[0].value == Some(true);
        let hooked = !told.is_own
            || match part.post_start {
                None => true,
                Some(HookSpec::Exec) => told.post_start.answer.is_some_and(|(well, _)| well),
                Some(HookSpec::Sleep(secs)) => now >= told.running + Duration::from_secs(secs),
            };
        told.rank == Rank::Running && probed && hooked
    }

    /// Whether a process may be shown as ready.
    pub(super) fn may_be_ready(&self, told: &Told, script: &Script, now: Duration) -> bool {
        let readiness = told.probes[ProbeKind::Readiness as usize].value.unwrap_or(told.kept.1);
        let is_probed = script.parts[told.part].probes[2].is_some();
        self.has_started(told, script, now) && (readiness || !is_probed)
    }

    /// Notes what the machine is told, before its step.
    pub(in crate::sim) fn told(&mut self, event: &Event, at: At<'_>) {
        match event {
            Event::Observed(list) => self.told_all(list, at),
            Event::Attempt(attempt) => self.told_of(attempt, at),
            Event::SetUp(result) => {
                let life = &mut self.life;
                life.setting_up = false;
                let told = result.as_ref().ok().map(|done| done.sandbox);
                life.sandbox = told.filter(|told| life.dead.is_none_or(|dead| dead < *told));
            }
            Event::NoImage { .. } => {
                self.life.setting_up = false;
                self.life.sandbox = None;
            }
            Event::SandboxChanged { sandbox } => {
                let life = &mut self.life;
                life.dead = life.dead.max(Some(*sandbox));
                life.sandbox = life.sandbox.filter(|stands| stands > sandbox);
            }
            Event::Refreshed(_) => self.life.refreshing = false,
            Event::Image { container, result } => {
                let part = at.script.index(container);
                take(&mut self.life.preparing, part);
                let is_stale = self.life.stale.contains(&part);
                take(&mut self.life.stale, part);
                self.life.prepared.extend((result.is_ok() && !is_stale).then_some(part));
            }
            Event::StartFailed { container, attempt, .. } => {
                let part = at.script.index(container);
                take(&mut self.life.starting, part);
                self.life.told.retain(|_, told| {
                    (told.part, told.attempt, told.rank) != (part, *attempt, Rank::Starting)
                });
                // It starts again under its number, with the new definition.
                self.life.replaced.retain(|of, (replaced, _)| *of != part || replaced != attempt);
            }
            Event::Probed { container: _, id, probe, outcome } => {
                self.told_of_probe(id.parse().unwrap(), *probe, outcome, at);
            }
            Event::Hooked { container: _, id, hook, result } => {
                let Some(told) = self.life.told.get_mut(&id.parse().unwrap()) else { return };
                let hooking = match hook {
                    HookKind::PostStart => &mut told.post_start,
                    HookKind::PreStop => &mut told.pre_stop,
                };
                hooking.answer = Some((result.is_ok(), at.now));
                let is_start = *hook == HookKind::PostStart && result.is_err();
                self.seen.saw_if(Happening::PostStartFailure, is_start);
            }
            Event::Desired(_)
            | Event::Kill { .. }
            | Event::Evict(_)
            | Event::Replace { .. }
            | Event::Changed
            | Event::Resize(_)
            | Event::Actuated(_)
            | Event::Resized(_)
            | Event::Pulling { .. }
            | Event::Timer => {}
            Event::TornDown(result) => {
                self.life.tearing_down = false;
                self.life.torn_down |= result.is_ok();
            }
        }
    }

    fn told_all(&mut self, list: &[Attempt], at: At<'_>) {
        if !std::mem::replace(&mut self.life.looked, true) {
            // Nothing is done before.
            self.life.replaced.values_mut().for_each(|(_, since)| *since = at.now);
        }
        for attempt in list {
            self.told_of(attempt, at);
        }
        let is_listed = |id: u64| list.iter().any(|attempt| attempt.id.parse() == Ok(id));
        let starting = &self.life.starting;
        self.life.told.retain(|id, told| {
            let is_listed = is_listed(*id);
            if !is_listed && told.rank == Rank::Running {
                told.rank = Rank::Dead;
            }
            is_listed || told.rank != Rank::Starting || starting.contains(&told.part)
        });
        let truths = &self.truths;
        self.life.replaced.retain(|part, (attempt, _)| {
            let name = at.script.parts[*part].name;
            truths[*part].launched.len() > *attempt as usize
                || starting.contains(part)
                || list.iter().any(|a| a.container == name && a.attempt == *attempt)
        });
    }

    fn told_of(&mut self, attempt: &Attempt, at: At<'_>) {
        let (part, id) = (at.script.index(&attempt.container), attempt.id.parse().unwrap());
        let rank = Rank::of(&attempt.state);
        if rank == Rank::Starting && at.runtime.get(id).is_none() {
            // Late news of one that vanished.
            return;
        }
        let kept = self.shown.kept(at.script.parts[part].name, &attempt.id);
        let is_own_start = at.runtime.get(id).is_none_or(|process| process.life == at.life);
        let told = self.life.told.entry(id).or_insert_with(|| Told {
            part,
            attempt: attempt.attempt,
            rank,
            running: at.now,
            is_own: is_own_start || rank == Rank::Starting,
            kept,
            probes: [Probing::default(); 3],
            post_start: Hooking::default(),
            pre_stop: Hooking::default(),
            stopping: None,
            due: None,
            doomed: None,
        });
        if rank == Rank::Running && told.rank == Rank::Starting {
            told.running = at.now;
        }
        told.rank = told.rank.max(rank);
    }

    fn told_of_probe(&mut self, id: u64, probe: ProbeKind, outcome: &ProbeOutcome, at: At<'_>) {
        let is_newest = self.is_newest(id);
        let Some(told) = self.life.told.get_mut(&id) else { return };
        let probing = &mut told.probes[probe as usize];
        let is_asked = std::mem::take(&mut probing.is_asked);
        let counts = is_newest && told.rank == Rank::Running;
        self.seen.saw_if(Happening::StaleAnswer, is_asked && !counts);
        self.seen.saw_if(Happening::ForgedAnswer, !is_asked);
        if !(is_asked && counts) {
            return;
        }
        let success = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => true,
            ProbeOutcome::Failure(_) => false,
            ProbeOutcome::Error(_) | ProbeOutcome::Broken(_) => return,
        };
        let Some(spec) = at.script.parts[told.part].probes[probe as usize] else { return };
        // Upstream's first tick is a period after the start.
        let tick = told.running + Duration::from_secs(spec.initial.max(spec.period));
        let is_early = probe == ProbeKind::Startup && told.is_own && probing.last_given < tick;
        self.seen.saw_if(Happening::EarlyFailure, is_early && !success);
        if success || !is_early {
            probing.answer(success, spec, at.now);
        }
    }

    /// What the machine believes after a step shows which attempts are of an old definition; and when
    /// the pod's deadline is, or nothing of it is to run again.
    pub(super) fn believe(&mut self, state: &State, at: At<'_>) -> Judged {
        self.believe_deadline(state, at);
        self.believe_past(state, at)?;
        self.believe_endings(state, at);
        if !self.is_left_alone() {
            return Ok(());
        }
        if self.life.done_by.is_none() && self.is_done(at.script) {
            self.life.done_by = Some(at.now + Duration::from_secs(at.script.spec_grace));
        }
        if self.life.definitions_of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, state.pod())) {
            self.life.definitions = definitions(state.pod(), at.script);
            self.life.definitions_of = Some(state.pod().clone());
        }
        let mut old_ones = Vec::new();
        for (part, wanted) in self.life.definitions.iter().enumerate() {
            let name = at.script.parts[part].name;
            let known = state.containers.iter().find(|container| container.name == name);
            let (Some(wanted), Some(container)) = (wanted, known) else { continue };
            // One that is starting may never run, or end before anybody sees it run.
            let old = container.attempts.iter().rev().find(|(_, known)| {
                known.is_running() && known.definition.is_some_and(|of| of != *wanted)
            });
            if let Some((number, _)) = old {
                old_ones.push((part, *number));
            }
        }
        for (part, number) in old_ones {
            self.told_to_replace(part, number, at.now);
        }
        Ok(())
    }

    /// What is to end, though nothing is done yet but to wait.
    fn believe_endings(&mut self, state: &State, at: At<'_>) {
        let mut ends = Vec::new();
        for known in state.containers.iter().flat_map(|container| container.attempts.values()) {
            let id = known.id.parse().unwrap_or(u64::MAX);
            let Some((told, ending)) = self.life.told.get_mut(&id).zip(known.ending.as_ref())
            else {
                continue;
            };
            told.stopping.get_or_insert(at.now);
            ends.push(id);
            let is_last = at.script.parts[told.part].kind == Kind::Main
                && at.script.policy_of(told.part) == Policy::Never;
            if is_last && told.probes[..2].iter().any(Probing::has_failed) {
                self.life.doomed.insert((told.part, told.attempt), ending.deadline);
            }
        }
        let by = self.doomed().min();
        for id in ends {
            if let Some(told) = self.life.told.get_mut(&id).filter(|_| by.is_some()) {
                told.doomed = told.doomed.into_iter().chain(by).min();
            }
        }
    }

    /// When what takes all of its pod with it is to have ended.
    pub(super) fn doomed(&self) -> impl Iterator<Item = Duration> {
        let doomed = self.life.doomed.iter().filter(|((part, attempt), _)| {
            self.newest(*part).is_some_and(|(_, newest)| newest.attempt == *attempt)
        });
        doomed.map(|(_, by)| *by)
    }

    fn believe_past(&mut self, state: &State, at: At<'_>) -> Judged {
        let mut past = BTreeSet::new();
        for container in &state.containers {
            let part = at.script.index(&container.name);
            let of_it = container.attempts.iter().filter(|(_, known)| known.is_past);
            past.extend(of_it.map(|(number, _)| (part, *number)));
        }
        let is_news = !past.is_subset(&self.life.past);
        self.life.past = past;
        must(!is_news || self.has_asked(at), "begun anew without a reason", || {
            format!("{:?}", self.life.past)
        })
    }

    /// Whether any container has ever ended so that all of the pod was to run anew.
    fn has_asked(&self, at: At<'_>) -> bool {
        self.truths.iter().enumerate().any(|(part, truth)| {
            let mut codes = truth.launched.iter().filter_map(|launched| launched.code);
            codes.any(|code| at.script.restarts_all(part, code))
        })
    }

    fn believe_deadline(&mut self, state: &State, at: At<'_>) {
        let now = at.now + AHEAD;
        self.life.deadline = state.deadline;
        if self.life.started.is_none()
            && let Some(start) = state.start_time
        {
            // A start to come is one now.
            let age = Duration::try_from(at.wall.duration_since(start)).unwrap_or_default();
            self.life.started = Some(now - age);
        }
        if self.active_until(state.pod()).is_some_and(|until| now >= until)
            && self.is_left_alone()
            && self.life.looked
            && self.terminal.is_none()
        {
            self.told_to_end(Duration::from_secs(at.script.spec_grace), at.now);
            self.seen.saw(Happening::DeadlinePassed);
        }
    }
}

/// What each main container and sidecar is to be made from.
fn definitions(pod: &Pod, script: &Script) -> Vec<Option<u32>> {
    let of = |part: &Part| {
        let spec = pod.spec.as_ref()?;
        let all = match part.kind {
            Kind::Main => &spec.containers,
            Kind::Sidecar => spec.init_containers.as_ref()?,
            Kind::Init | Kind::Ephemeral => return None,
        };
        all.iter().find(|container| container.name == part.name).map(definition)
    };
    script.parts.iter().map(of).collect()
}
