//! The rules of probes.

use std::time::Duration;

use super::{At, Check, Judged, must, seen::Happening, told::Rank};
use crate::ProbeKind;

impl Check {
    pub(super) fn probe(&mut self, part: usize, id: u64, probe: ProbeKind, at: At<'_>) -> Judged {
        let of = &at.script.parts[part];
        let who = || format!("{probe:?} of {} ({id})", of.name);
        let spec = of.probes[probe as usize];
        must(spec.is_some(), "a probe that is not there", who)?;
        let Some(spec) = spec else { return Ok(()) };
        let is_newest = self.is_newest(id);
        let is_left_alone = self.is_left_alone();
        let told = self.life.told.get_mut(&id).filter(|told| told.rank == Rank::Running);
        let Some(told) = told.filter(|told| told.part == part) else {
            return must(false, "a probe of what does not run", who);
        };
        must(is_newest, "a probe of an old attempt", who)?;
        // The wall clock tells how long an adopted one has run.
        let launched = at.runtime.get(id).and_then(|process| process.launched);
        let initial = Duration::from_secs(spec.initial);
        let is_due = launched.is_none_or(|launched| at.now >= launched + initial);
        if probe == ProbeKind::Liveness && told.is_own {
            let tick = told.running + Duration::from_secs(spec.initial.max(spec.period));
            must(at.now >= tick, "a liveness probe before its first tick", who)?;
        }
        must(is_due || at.jumps > 0 && !told.is_own, "a probe before its initial delay", who)?;
        let started = of.probes[0].is_none() || told.kept.0 || told.probes[0].value == Some(true);
        match probe {
            ProbeKind::Startup => {
                let is_open = told.probes[0].value != Some(true);
                must(is_open, "a startup probe after its success", who)?;
            }
            ProbeKind::Liveness | ProbeKind::Readiness => {
                must(started, "a probe before the startup probe's success", who)?;
            }
        }
        if probe != ProbeKind::Readiness {
            let is_held = told.probes[probe as usize].has_failed();
            must(!is_held, "a probe after its failure", who)?;
            let is_stopping = told.stopping.is_some() || !is_left_alone;
            must(!is_stopping, "a probe of what is to end", who)?;
        }
        let probing = &mut told.probes[probe as usize];
        must(!probing.is_asked, "a probe twice at once", who)?;
        probing.is_asked = true;
        probing.given += 1;
        probing.last_given = at.now;
        let given = probing.given;
        // One at once for a manual trigger, one for a tick that was late, one for the first.
        let most = (at.now - told.running).as_millis() / (u128::from(spec.period) * 1000) + 3;
        must(u128::from(given) <= most, "more probes than periods", who)?;
        self.seen.saw(match probe {
            ProbeKind::Startup => Happening::StartupProbe,
            ProbeKind::Liveness => Happening::LivenessProbe,
            ProbeKind::Readiness if is_left_alone => Happening::ReadinessProbe,
            ProbeKind::Readiness => Happening::LateReadinessProbe,
        });
        Ok(())
    }

    /// What runs is probed, at least each second period.
    pub(in crate::sim) fn is_probed(&self, at: At<'_>) -> Judged {
        for (part, of) in at.script.parts.iter().enumerate() {
            let Some((id, told)) = self.newest(part) else { continue };
            let is_steady =
                told.rank == Rank::Running && told.stopping.is_none() && !Check::has_failed(told);
            if !is_steady || !self.is_left_alone() || self.is_done(at.script) {
                continue;
            }
            for probe in [ProbeKind::Liveness, ProbeKind::Readiness] {
                let Some(spec) = of.probes[probe as usize] else { continue };
                let probing = told.probes[probe as usize];
                // One that is late is nobody's fault.
                if probing.is_asked {
                    continue;
                }
                let since = probing.last_given.max(told.running);
                let least = Duration::from_secs(2 * spec.period + spec.initial + 1);
                must(at.now <= since + least, "not probed", || {
                    format!("{probe:?} of {} ({id}): {probing:?}", of.name)
                })?;
            }
        }
        Ok(())
    }
}
