//! The probes of one attempt: when each is made and what is made of its results (upstream:
//! `prober/worker.go`).

use std::time::Duration;

use crate::{
    ProbeKind,
    backoff::Wake,
    life::{Life, Timing},
};

/// All kinds, in the order in which they are asked for.
pub(crate) const KINDS: [ProbeKind; 3] =
    [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

/// A container that is not ready is asked again after so long at most, however long the period is
/// (upstream asks with each look at the pod, which comes at least so often: `syncFrequency`).
const UNREADY_AGAIN: Duration = Duration::from_secs(60);

/// One probe.
#[derive(Clone, Debug, Default)]
struct Probe {
    /// Asked for and not answered yet.
    doing: bool,
    /// From when on its failures count (monotonic). The first tick of upstream comes a period after the
    /// container was seen: an earlier success is welcome, an earlier failure is nobody's fault.
    counts_from: Duration,
    /// What was asked for is earlier than that.
    is_early: bool,
    /// When the next one is due (monotonic).
    due: Duration,
    /// What the last one said, and how many on end have said so.
    last: Option<bool>,
    run: u32,
    /// What is believed.
    result: Option<bool>,
}

impl Probe {
    /// Takes one result; whether what is believed has changed.
    fn take(&mut self, is_success: bool, timing: &Timing) -> bool {
        if self.last == Some(is_success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(is_success);
            self.run = 1;
        }
        let enough = if is_success { timing.success } else { timing.failure };
        let enough = if fault!(ThresholdShort) { enough.saturating_sub(1) } else { enough };
        if self.run < enough || self.result == Some(is_success) {
            return false;
        }
        self.result = Some(is_success);
        true
    }
}

/// The probes of an attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes([Probe; KINDS.len()]);

/// What was known of an attempt before this agent (upstream:
/// `ChangeContainerStatusOnKubeletRestart`, which is off).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

impl Probes {
    /// Those of an attempt that was just launched. Liveness has no success to hurry for.
    pub(crate) fn new(life: &Life, now: Duration) -> Probes {
        Probes(KINDS.map(|kind| {
            let Some(timing) = life.timing(kind) else { return Probe::default() };
            let soon = now.saturating_add(timing.initial_delay);
            let tick = now.saturating_add(timing.initial_delay.max(timing.period));
            let (due, counts_from) = match kind {
                ProbeKind::Startup => (soon, tick),
                ProbeKind::Liveness => (tick, tick),
                ProbeKind::Readiness => (soon, soon),
            };
            let result = (kind == ProbeKind::Readiness && fault!(ReadinessKept)).then_some(true);
            Probe { due, counts_from, result, ..Probe::default() }
        }))
    }

    /// Those of an attempt that an earlier agent started `age` ago. Their first turn comes within a
    /// period, spread by `seed`, so that all of a node's do not come at once (upstream:
    /// `worker.run`).
    pub(crate) fn adopted(
        life: &Life,
        before: Before,
        age: Duration,
        seed: u64,
        now: Duration,
    ) -> Probes {
        Probes(KINDS.map(|kind| {
            let Some(timing) = life.timing(kind) else { return Probe::default() };
            let held = timing.initial_delay.saturating_sub(age);
            let millis = u64::try_from(timing.period.as_millis()).unwrap_or(u64::MAX).max(1);
            let spread = Duration::from_millis(seed.wrapping_mul(kind as u64 + 1) % millis);
            let result = match kind {
                ProbeKind::Startup => before.started.then_some(true),
                ProbeKind::Readiness => before.ready.then_some(true),
                ProbeKind::Liveness => None,
            };
            Probe { due: now + held + spread, result, ..Probe::default() }
        }))
    }

    fn get(&self, kind: ProbeKind) -> &Probe {
        &self.0[kind as usize]
    }

    fn get_mut(&mut self, kind: ProbeKind) -> &mut Probe {
        &mut self.0[kind as usize]
    }

    fn passed(&self, life: &Life, kind: ProbeKind) -> bool {
        life.timing(kind).is_none() || self.get(kind).result == Some(true)
    }

    pub(crate) fn has_started(&self, life: &Life) -> bool {
        self.passed(life, ProbeKind::Startup)
    }

    pub(crate) fn is_ready(&self, life: &Life) -> bool {
        self.passed(life, ProbeKind::Readiness)
    }

    /// The probe for which the container is to be stopped.
    pub(crate) fn failed(&self, life: &Life) -> Option<ProbeKind> {
        [ProbeKind::Liveness, ProbeKind::Startup]
            .into_iter()
            .find(|kind| life.timing(*kind).is_some() && self.get(*kind).result == Some(false))
    }

    /// Takes the result of one that was asked for; `None` if it was none. Gives whether anybody waits
    /// for it: one that is not asked for counts for nothing.
    pub(crate) fn take(&mut self, life: &Life, kind: ProbeKind, is_success: Option<bool>) -> bool {
        let probe = self.get_mut(kind);
        let is_early = std::mem::take(&mut probe.is_early);
        if !std::mem::take(&mut probe.doing) || is_early && is_success != Some(true) {
            return false;
        }
        if let (Some(is_success), Some(timing)) = (is_success, life.timing(kind)) {
            let is_final = probe.result == Some(false) && kind != ProbeKind::Readiness;
            // On hold until another attempt.
            if !is_final {
                probe.take(is_success, timing);
            }
        }
        true
    }

    /// The kinds that are to be made now; each counts as asked for. `is_ending`: the attempt is being
    /// stopped, so that only its readiness still matters.
    pub(crate) fn ask(
        &mut self,
        life: &Life,
        is_ending: bool,
        now: Duration,
        wake: &mut Wake,
    ) -> Vec<ProbeKind> {
        let has_started = self.has_started(life) || fault!(StartupNotAwaited);
        let mut asked = Vec::new();
        for kind in KINDS {
            let Some(timing) = life.timing(kind) else { continue };
            let probe = self.get_mut(kind);
            let is_its_time = match kind {
                ProbeKind::Startup => !is_ending && probe.result.is_none(),
                ProbeKind::Liveness => !is_ending && has_started && probe.result != Some(false),
                ProbeKind::Readiness => has_started,
            };
            if !is_its_time || probe.doing {
                continue;
            }
            if probe.due > now {
                if !fault!(ProbeForgotten) {
                    wake.at(probe.due);
                }
                continue;
            }
            let is_unready = kind == ProbeKind::Readiness && probe.result != Some(true);
            let pause = if is_unready { timing.period.min(UNREADY_AGAIN) } else { timing.period };
            probe.doing = true;
            probe.is_early = now < probe.counts_from;
            let again = now.saturating_add(pause);
            probe.due = if probe.is_early { probe.counts_from } else { again };
            asked.push(kind);
        }
        asked
    }
}
