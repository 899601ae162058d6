//! The rules of stops and of the hooks before them, and of the hooks after a start.

use std::time::Duration;

use super::{
    At, Check, Judged, LEAST_GRACE, must,
    seen::Happening,
    told::{Rank, Told},
};
use crate::{
    HookKind,
    sim::script::{HookSpec, Kind, Policy, ProbeSpec, Script},
};

/// Why a process may be stopped.
#[derive(Clone, Copy, Debug)]
struct Reason {
    /// When it may be killed at the latest.
    due: Duration,
    /// It is a matter of this process, not of the pod.
    is_own: bool,
    /// It is to wait for nothing any more.
    is_used_up: bool,
    /// No hook is run and nothing waited for.
    at_once: bool,
}

/// The most time that a container gets which has failed this probe: the probe's own, or the pod's. One
/// that is not to run again may be the last of its pod, and end with that.
fn cull_grace(script: &Script, part: usize, spec: ProbeSpec) -> Duration {
    let spec_grace = Duration::from_secs(script.spec_grace);
    let grace = spec.grace.map_or(spec_grace, Duration::from_secs);
    let is_last = script.policy_of(part) == Policy::Never;
    if is_last { grace.max(spec_grace) } else { grace }
}

impl Check {
    /// The reason to stop a process, if there is any.
    fn reason(&self, (part, attempt, id): (usize, u32, u64), at: At<'_>) -> Option<Reason> {
        let (life, script) = (&self.life, at.script);
        let spec_grace = Duration::from_secs(script.spec_grace);
        let told = life.told.get(&id);
        let since = told.and_then(|told| told.stopping).unwrap_or(at.now);
        // One that vanished and of which the machine has not heard yet was in the oldest.
        let sandbox = at.runtime.get(id).map_or(0, |process| process.sandbox);
        let is_old = life.dead.is_some_and(|dead| sandbox <= dead)
            || life.sandbox.is_some_and(|stands| sandbox < stands);
        let has_failed =
            told.is_some_and(|told| told.post_start.answer.is_some_and(|(well, _)| !well));
        let is_past = life.past.contains(&(part, attempt));
        let mut own = Vec::new();
        if is_old || has_failed || self.replaced(part) == Some(attempt) {
            own.push(since + spec_grace);
        }
        own.extend(is_past.then_some(since));
        let probes = told.iter().flat_map(|told| told.probes.iter().zip(script.parts[part].probes));
        // One that is not to run again may be the last of its pod, and end with that.
        let is_last = script.policy_of(part) == Policy::Never;
        for (probing, spec) in probes.take(2).filter(|(probing, _)| probing.has_failed()) {
            let grace = spec.and_then(|spec| spec.grace).map_or(spec_grace, Duration::from_secs);
            own.push(probing.since.max(since) + grace);
            own.extend(is_last.then(|| probing.since.max(since) + spec_grace));
        }
        let doomed = self.doomed().chain(told.and_then(|told| told.doomed));
        let doomed: Vec<Duration> = doomed.collect();
        let by = own.iter().chain(&doomed).copied().chain(life.deadline).min();
        let own = own.into_iter().max();
        let own_reason = |due| Reason {
            due,
            is_own: true,
            is_used_up: by.is_some_and(|by| at.now >= by),
            at_once: is_past,
        };
        if let Some(ends) = life.ends {
            let by = life.done_by.into_iter().chain(by).fold(ends.by, Duration::min);
            let (due, is_used_up) = (ends.by, at.now >= by);
            let at_once = ends.at_once || is_past;
            return Some(Reason { due, is_own: own.is_some(), is_used_up, at_once });
        }
        let done_by = life.done_by.filter(|_| self.is_done(script));
        if let Some(due) = own {
            let end = life.deadline.filter(|_| done_by.is_some());
            return Some(own_reason(end.map_or(due, |end| end.max(due))));
        }
        let is_over = self.has_ended_with_sandbox || self.terminal.is_some();
        // The machine learns of it later than it is so.
        let due = since.max(life.deadline.unwrap_or(since + spec_grace));
        let all = doomed.iter().copied().chain(done_by).chain(life.deadline);
        let is_used_up = all.clone().any(|by| at.now >= by);
        (done_by.is_some() || is_over || !doomed.is_empty()).then_some(Reason {
            due,
            is_own: false,
            is_used_up,
            at_once: false,
        })
    }

    pub(super) fn stop(
        &mut self,
        (part, attempt, id): (usize, u32, u64),
        grace: Duration,
        at: At<'_>,
    ) -> Judged {
        let of = &at.script.parts[part];
        let who = || format!("{} {attempt} ({id}), grace {grace:?}", of.name);
        let reason = self.reason((part, attempt, id), at);
        let Some(reason) = reason else {
            return must(false, "a stop without a reason", who);
        };
        let (due, used_up) = (at.now + grace, reason.is_used_up);
        // Late news of one that vanished bring no harm.
        let is_there = at.runtime.get(id).is_some();
        let most = reason.due.max(at.now + LEAST_GRACE);
        must(due <= most, "more grace than was told", || format!("{}, {reason:?}", who()))?;
        if !reason.is_own && !used_up && is_there {
            self.in_order(part, at)?;
        }
        let Some(told) = self.life.told.get_mut(&id) else { return Ok(()) };
        let last = told.due.replace(due).map(|last| last.max(at.now));
        let is_least = last.is_none_or(|last| due <= last);
        must(!is_there || is_least, "the grace has grown", || format!("{}, was {last:?}", who()))?;
        let is_first = last.is_none();
        told.stopping.get_or_insert(at.now);
        let has_time = !reason.at_once && !used_up && at.script.spec_grace > 0;
        let is_hooked = is_first && told.rank == Rank::Running && has_time;
        if of.pre_stop == Some(HookSpec::Exec) && is_hooked && is_there {
            let hook = told.pre_stop;
            must(hook.asked.is_some(), "stopped without its preStop hook", who)?;
            must(hook.answer.is_some(), "stopped under its preStop hook", who)?;
        }
        let is_cut = is_first && told.pre_stop.asked.is_some() && told.pre_stop.answer.is_none();
        self.seen.saw_if(Happening::GraceUsedUp, is_cut);
        if is_first {
            self.seen.saw_if(Happening::StartupKill, told.probes[0].has_failed());
            self.seen.saw_if(Happening::LivenessKill, told.probes[1].has_failed());
            let is_last = of.kind == Kind::Sidecar && !reason.is_own && !used_up;
            self.seen.saw_if(Happening::SidecarStop, is_last);
        }
        Ok(())
    }

    /// Sidecars go after the main containers, the last one first.
    fn in_order(&self, part: usize, at: At<'_>) -> Judged {
        if at.script.parts[part].kind != Kind::Sidecar {
            return Ok(());
        }
        let is_before = |of: usize| match at.script.parts[of].kind {
            Kind::Main => true,
            Kind::Sidecar => of > part,
            Kind::Init | Kind::Ephemeral => false,
        };
        let before = at.runtime.alive().find(|process| is_before(process.part));
        must(before.is_none(), "a sidecar is stopped out of order", || {
            format!("{}, {before:?}", at.script.parts[part].name)
        })
    }

    pub(super) fn hook(&mut self, part: usize, id: u64, hook: HookKind, at: At<'_>) -> Judged {
        let of = &at.script.parts[part];
        let who = || format!("{} ({id})", of.name);
        let is_newest = self.is_newest(id);
        let attempt = self.life.told.get(&id).map(|told| told.attempt);
        let reason = attempt.and_then(|attempt| self.reason((part, attempt, id), at));
        let told = self.life.told.get_mut(&id).filter(|told| told.part == part);
        let told = told.filter(|told| told.rank == Rank::Running);
        let Some(told) = told else { return must(false, "a hook of what does not run", who) };
        match hook {
            HookKind::PostStart => {
                let is_there = of.post_start == Some(HookSpec::Exec);
                must(is_there, "a hook that is not there", who)?;
                must(is_newest, "a hook of an old attempt", who)?;
                must(told.is_own, "a postStart hook of an adopted attempt", who)?;
                must(told.post_start.asked.is_none(), "a postStart hook twice", who)?;
                let is_stopping = told.stopping.is_some() || told.due.is_some();
                must(!is_stopping, "a postStart hook of what is stopped", who)?;
                told.post_start.asked = Some(at.now);
                self.seen.saw(Happening::PostStart);
            }
            HookKind::PreStop => {
                must(of.pre_stop == Some(HookSpec::Exec), "a hook that is not there", who)?;
                must(told.pre_stop.asked.is_none(), "a preStop hook twice", who)?;
                must(told.due.is_none(), "a preStop hook after the stop", who)?;
                let is_called_for = reason.is_some_and(|reason| !reason.at_once);
                must(is_called_for, "a preStop hook without a reason", || {
                    format!("{}, {reason:?}", who())
                })?;
                told.pre_stop.asked = Some(at.now);
                told.stopping.get_or_insert(at.now);
                self.seen.saw(Happening::PreStop);
            }
        }
        Ok(())
    }

    /// Whether anything runs that is to be stopped for a probe or a hook.
    pub(in crate::sim) fn is_failing(&self) -> bool {
        let failing = |told: &Told| told.rank == Rank::Running && Check::has_failed(told);
        self.life.told.values().any(failing)
    }

    /// What has failed a probe or its postStart hook, or is of an old definition, is stopped in time.
    pub(super) fn is_stopped_in_time(&self, at: At<'_>) -> Judged {
        // The end of the pod has an order of its own.
        if !self.is_left_alone() || self.is_done(at.script) {
            return Ok(());
        }
        let spec_grace = Duration::from_secs(at.script.spec_grace);
        for (id, told) in &self.life.told {
            if told.rank != Rank::Running || told.due.is_some() || !self.is_newest(*id) {
                continue;
            }
            let hook = told.post_start.answer.filter(|(well, _)| !well);
            let hook = hook.map(|(_, since)| (since, spec_grace));
            let specs = at.script.parts[told.part].probes;
            let probes = told.probes[..2].iter().zip(specs).filter(|(p, _)| p.has_failed());
            let probes = probes.map(|(probing, spec)| {
                let grace = spec.map_or(spec_grace, |spec| cull_grace(at.script, told.part, spec));
                (probing.since, grace)
            });
            let replaced = self.life.replaced.get(&told.part);
            let replaced = replaced.filter(|(attempt, _)| *attempt == told.attempt);
            let replaced = replaced.map(|(_, since)| ((*since).max(told.running), spec_grace));
            let all = probes.chain(hook).chain(replaced);
            let first = all.map(|(since, grace)| since + grace.max(LEAST_GRACE)).min();
            // What was being stopped already has its time.
            let begun = told.stopping.map(|begun| begun + spec_grace.max(LEAST_GRACE));
            let first = first.map(|by| begun.map_or(by, |begun| begun.max(by)));
            must(first.is_none_or(|by| at.now <= by), "what is to be stopped runs on", || {
                format!("{} {} ({id})", at.script.parts[told.part].name, told.attempt)
            })?;
        }
        Ok(())
    }
}
