//! The rules of what the state says: the phase, the counts, what is started and ready, the
//! conditions and their times.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::{AHEAD, At, Check, Judged, Launched, Truth, must, seen::Happening};
use crate::{container::Container, phase::Phase, sim::script::Kind, state::State};

/// The whole status is looked at after one of so many steps: it is most of their cost.
const EACH: u32 = 12;

/// Since when a condition holds or does not, and how often at least the wall clock had jumped by
/// then.
type Since = (Option<Timestamp>, u32);

/// What was shown before.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// What the pod's status says of the containers that an earlier agent showed: of each, the id,
    /// started, ready.
    kept: BTreeMap<String, (String, bool, bool)>,
    conditions: BTreeMap<String, Since>,
    /// How often the wall clock had jumped at the last look.
    jumps: u32,
    /// Which steps are looked at.
    turn: u32,
}

/// The number of the newest attempt that is shown to have run, and its exit code: upstream's for what
/// was lost, if it is shown to run.
fn last_known(shown: &ContainerStatus) -> Option<(u32, i32)> {
    shown.container_id.as_ref()?;
    let state = shown.state.as_ref()?;
    let last = shown.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last).map(|ended| ended.exit_code);
    let code = if state.running.is_some() { Some(137) } else { ended };
    Some((u32::try_from(shown.restart_count).unwrap(), code?))
}

fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits.chain(status.container_statuses.iter().flatten())
}

impl Shown {
    /// A new agent starts from what the pod's object says.
    pub(super) fn agent_starts(&mut self, status: Option<&PodStatus>) {
        let containers = status.into_iter().flat_map(all);
        let kept = containers.filter_map(|container| {
            let id = container.container_id.clone()?;
            let started = container.started.unwrap_or(false);
            Some((container.name.clone(), (id, started, container.ready)))
        });
        self.kept = kept.collect();
        self.conditions.clear();
    }

    /// Whether the pod's status says that this process has started, and that it is ready.
    pub(super) fn kept(&self, container: &str, id: &str) -> (bool, bool) {
        let kept = self.kept.get(container).filter(|(of, _, _)| of == id);
        kept.map_or((false, false), |(_, started, ready)| (*started, *ready))
    }
}

impl Check {
    /// What nobody can know any more of what the runtime has forgotten is no truth for a new agent. What
    /// the pod's status says of a container's newest attempt still is; one that is shown to run is lost.
    pub(super) fn recall(&mut self, status: Option<&PodStatus>, at: At<'_>) {
        for (part, truth) in at.script.parts.iter().zip(&mut self.truths) {
            if truth.launched.last().is_none_or(|last| last.sandbox.is_some()) {
                continue;
            }
            let mut shown = status.into_iter().flat_map(all);
            let shown = shown.find(|shown| shown.name == part.name);
            let Some((attempt, code)) = shown.and_then(last_known) else {
                *truth = Truth::default();
                continue;
            };
            // A restart of all is counted before it is begun.
            let last = Launched { code: Some(code), ended: at.now, sandbox: None };
            truth.launched.resize(attempt as usize + 1, last);
            *truth.launched.last_mut().unwrap() = last;
            truth.shown = attempt;
            self.seen.saw(Happening::Recall);
        }
    }

    /// Judges the state after a step, with its actions already judged.
    pub(super) fn state(&mut self, state: &State, at: At<'_>) -> Judged {
        let wake = state.wake_at();
        must(wake.is_none_or(|wake| wake > at.now), "a timer in the past", || format!("{wake:?}"))?;
        if !state.observed {
            return Ok(());
        }
        let (before, deadline) = (self.life.least, state.deadline);
        let is_kept = before.is_none_or(|before| deadline.is_some_and(|by| by <= before));
        must(is_kept, "the pod's grace has grown", || format!("{before:?}, {deadline:?}"))?;
        self.life.least = deadline;
        let phase = state.phase();
        if let Some(terminal) = self.terminal {
            must(phase == terminal, "a terminal phase was left", || format!("{phase:?}"))?;
        }
        if phase == Phase::Succeeded || phase == Phase::Failed {
            let is_failed = phase == Phase::Failed || !self.is_evicted;
            must(is_failed, "evicted and not failed", String::new)?;
            let alive = at.runtime.alive().next();
            let is_quiet = alive.is_none() && self.life.starting.is_empty();
            must(is_quiet, "a terminal phase while something may run", || format!("{alive:?}"))?;
            self.terminal = Some(phase);
        }
        let is_settled = !state.is_terminated() || self.terminal.is_some();
        must(is_settled, "over without a phase", || format!("{phase:?}"))?;
        let until = self.active_until(state.pod()).filter(|_| self.terminal.is_none());
        let is_ending = state.deadline.is_some();
        let is_kept = until.is_none_or(|until| at.now + AHEAD < until || is_ending);
        must(is_kept, "the active deadline is passed", || format!("{until:?}"))?;
        self.counts(state, at)?;
        self.is_stopped_in_time(at)?;
        self.shown.turn = self.shown.turn.wrapping_add(1);
        if self.shown.turn.is_multiple_of(EACH) || state.is_terminated() {
            self.status(&state.status(), at)?;
        }
        Ok(())
    }

    fn counts(&mut self, state: &State, at: At<'_>) -> Judged {
        // What nothing is known of is shown as the pod's object says, once that says that all is over.
        let is_told = |container: &&Container| {
            !(container.attempts.is_empty() && state.reported_end().is_some())
        };
        for container in state.containers.iter().filter(is_told) {
            let truth = &mut self.truths[at.script.index(&container.name)];
            let count = container.newest().map_or(0, |(attempt, _)| attempt);
            let (name, shown) = (&container.name, truth.shown);
            must(count >= shown, "a restart count fell", || format!("{name}: {shown}, {count}"))?;
            let is_past = (count as usize) < truth.launched.len().max(1);
            must(is_past, "a count of the future", || format!("{name}: {count}"))?;
            truth.shown = count;
        }
        Ok(())
    }

    /// Judges a whole status.
    pub(in crate::sim) fn status(&mut self, status: &PodStatus, at: At<'_>) -> Judged {
        for shown in all(status) {
            let part = at.script.index(&shown.name);
            let kind = at.script.parts[part].kind;
            let newest = self.newest(part).map(|(_, told)| told);
            let has_started = newest.is_some_and(|told| self.has_started(told, at.script, at.now));
            let may_be_ready =
                newest.is_some_and(|told| self.may_be_ready(told, at.script, at.now));
            let is_kept = newest.is_some_and(|told| told.kept.1);
            let who = || format!("{} {newest:?}", shown.name);
            if kind != Kind::Init {
                must(shown.started != Some(true) || has_started, "started too early", who)?;
                must(!shown.ready || may_be_ready, "ready without a reason", who)?;
                must(!shown.ready || shown.started == Some(true), "ready and not started", who)?;
                self.seen.saw_if(Happening::Ready, shown.ready);
                self.seen.saw_if(Happening::ReadyKept, shown.ready && is_kept);
            }
        }
        self.conditions(status, at)
    }

    fn conditions(&mut self, status: &PodStatus, at: At<'_>) -> Judged {
        let looked = std::mem::replace(&mut self.shown.jumps, at.jumps);
        let sidecars = at.script.parts.iter().filter(|part| part.kind == Kind::Sidecar);
        let sidecars: Vec<&str> = sidecars.map(|part| part.name).collect();
        let mains = status.container_statuses.iter().flatten();
        let inits = status.init_container_statuses.iter().flatten();
        let inits = inits.filter(|init| sidecars.contains(&init.name.as_str()));
        let unready = mains.chain(inits).find(|container| !container.ready);
        for condition in status.conditions.iter().flatten() {
            let (kind, holds) = (&condition.type_, condition.status == "True");
            let is_told = matches!(kind.as_str(), "Ready" | "ContainersReady") && holds;
            must(!is_told || unready.is_none(), "the pod is ready and a container is not", || {
                format!("{unready:?}")
            })?;
            let since = condition.last_transition_time.as_ref().map(|time| time.0);
            let is_past = since.is_none_or(|since| since <= at.wall);
            must(is_past || at.jumps > 0, "a transition to come", || format!("{condition:?}"))?;
            // It was set since the last look.
            let before = self.shown.conditions.insert(kind.clone(), (since, looked));
            let Some((before, jumps)) = before else {
                // An earlier agent may have set it long ago.
                self.shown.conditions.insert(kind.clone(), (since, u32::MAX));
                continue;
            };
            if since == before {
                self.shown.conditions.insert(kind.clone(), (since, jumps));
            }
            must(at.jumps != jumps || before <= since, "a transition before the last", || {
                format!("{kind}: {before:?}, {since:?}")
            })?;
        }
        Ok(())
    }
}
