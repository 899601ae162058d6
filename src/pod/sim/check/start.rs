//! The rules of starts.

use std::time::Duration;

use super::{At, Check, Judged, Launched, Served, must, seen::Happening, take, told::Rank};
use crate::sim::script::{Kind, Part, Policy};

/// The first wait of a restart, and the longest (upstream: `backOffPeriod`, `MaxContainerBackOff`).
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Less than the time without a restart after which the waits begin anew (600 s): what ran so long is
/// expected to wait no more.
const LONG_RUN: Duration = Duration::from_secs(550);

impl Check {
    /// Nothing is begun beside an old sandbox, nor anything in a new one that had its only run.
    fn begins(&self, sandbox: u32, at: At<'_>) -> Judged {
        let old = at.runtime.alive().find(|process| process.sandbox < sandbox);
        must(old.is_none(), "started beside an old one", || format!("{old:?}"))?;
        let work = at
            .script
            .parts
            .iter()
            .zip(&self.truths)
            .filter(|(part, _)| part.kind != Kind::Ephemeral);
        let mut launched = work.flat_map(|(_, truth)| &truth.launched);
        let has_run = launched.any(|launched| launched.sandbox < Some(sandbox));
        let may = at.script.policy != Policy::Never || !has_run;
        must(may, "run on in a new sandbox", || format!("{sandbox}"))
    }

    pub(super) fn start(&mut self, part: usize, attempt: u32, at: At<'_>) -> Judged {
        let script = at.script;
        let name = script.parts[part].name;
        let who = || format!("{name} {attempt}");
        let sandbox = self.life.sandbox;
        must(sandbox.is_some(), "started before the set-up", who)?;
        let sandbox = sandbox.unwrap_or(0);
        self.begins(sandbox, at)?;
        let is_alive = at.runtime.alive().any(|process| process.part == part);
        must(!is_alive, "started while an attempt of it lives", who)?;
        let life = &mut self.life;
        must(!life.starting.contains(&part), "started twice at once", who)?;
        must(life.prepared.contains(&part), "started without its image", who)?;
        take(&mut life.prepared, part);
        self.may_restart(part, sandbox, attempt, at)?;
        let launched = &self.truths[part].launched;
        must(attempt as usize == launched.len(), "not the next attempt", who)?;
        self.in_turn(part, sandbox, at)?;
        self.serves(part, attempt, at)?;
        self.life.starting.push(part);
        let kind = script.parts[part].kind;
        self.seen.saw_if(Happening::EphemeralStart, kind == Kind::Ephemeral);
        self.seen.saw_if(Happening::SidecarStart, kind == Kind::Sidecar);
        self.seen.saw_if(Happening::SidecarRestart, kind == Kind::Sidecar && attempt > 0);
        Ok(())
    }

    /// Whether the end of the last attempt calls for another.
    fn may_restart(&mut self, part: usize, sandbox: u32, attempt: u32, at: At<'_>) -> Judged {
        let script = at.script;
        let Some(last) = self.truths[part].launched.last().copied() else { return Ok(()) };
        let is_replaced = attempt > 0 && self.replaced(part) == Some(attempt - 1);
        let Part { kind, policy, .. } = script.parts[part];
        let is_past = self.is_past(part) && kind != Kind::Ephemeral;
        let is_anew = is_past || last.sandbox < Some(sandbox) && script.policy != Policy::Never;
        // A container that failed a probe or its postStart hook is run again whatever its exit code,
        // unless it never is.
        let newest = self.newest(part).map(|(_, told)| told.clone());
        let is_killed = newest.as_ref().is_some_and(Check::has_failed);
        let is_killed = is_killed && script.policy_of(part) != Policy::Never;
        let calls = |code: i32| match kind {
            Kind::Ephemeral => false,
            Kind::Sidecar => true,
            Kind::Init => script.restarts(part, code) || is_anew,
            Kind::Main => {
                script.restarts(part, code) || is_killed || is_past || is_anew && policy.is_some()
            }
        };
        let may = last.code.is_some_and(|code| is_replaced || calls(code));
        self.seen.saw_if(Happening::Replacement, is_replaced);
        let by_pod = match script.policy {
            Policy::Always => true,
            Policy::OnFailure => last.code != Some(0),
            Policy::Never => false,
        };
        let is_own = kind.is_work() && !by_pod && !(is_replaced || is_killed || is_anew);
        self.seen.saw_if(Happening::RestartByOwnPolicy, is_own);
        let how = || format!("{} after {:?}", script.parts[part].name, self.truths[part].launched);
        must(may, "started again", how)?;
        // Its end was to have all of the pod run anew, unless it was told to end.
        let is_told = is_replaced
            || newest.is_none_or(|told| told.stopping.is_some() || Check::has_failed(&told));
        let asks = last.code.is_some_and(|code| script.restarts_all(part, code));
        let is_alone = asks && !is_told && last.sandbox == Some(sandbox) && !is_past;
        self.seen.saw_if(Happening::RestartOfAll, is_past && asks);
        must(!is_alone, "started again alone", how)
    }

    /// Init containers run one after the other and sidecars start in their turn, before the main
    /// containers; once a later one has run in the sandbox, its turn was.
    fn in_turn(&mut self, part: usize, sandbox: u32, at: At<'_>) -> Judged {
        let script = at.script;
        if script.parts[part].kind == Kind::Ephemeral {
            return Ok(());
        }
        let who = || script.parts[part].name.to_owned();
        let has_run = |part: usize| {
            let launched = &self.truths[part].launched;
            !self.is_past(part) && launched.last().is_some_and(|last| last.sandbox == Some(sandbox))
        };
        let is_main = script.parts[part].kind == Kind::Main;
        let mut others = script.parts.iter().enumerate();
        let had_turn = others.any(|(other, of)| {
            let is_later = other >= part && of.kind != Kind::Ephemeral;
            (is_later || is_main && of.kind == Kind::Main) && has_run(other)
        });
        let is_done =
            |launched: &Launched| launched.code == Some(0) && launched.sandbox == Some(sandbox);
        let mut is_anew = false;
        for init in script.of_kind(Kind::Init).filter(|init| *init < part) {
            // A sidecar may start again while a later init container runs; the earlier ones are done.
            let launched = &self.truths[init].launched;
            let is_done = !self.is_past(init) && launched.last().is_some_and(is_done);
            let is_passed = had_turn || is_done || (init + 1..part).any(has_run);
            must(is_passed, "started before its init containers were done", who)?;
            let succeeded = launched.iter().filter(|launched| launched.code == Some(0)).count();
            is_anew |= succeeded > 1;
        }
        let mut sidecars = script.of_kind(Kind::Sidecar).filter(|sidecar| *sidecar < part);
        let waiting = sidecars.find(|sidecar| {
            let newest = self.newest(*sidecar);
            // It had started before one between them ran.
            let had_started = (*sidecar + 1..part).any(has_run);
            !had_started && !newest.is_some_and(|(_, told)| self.has_started(told, script, at.now))
        });
        must(had_turn || waiting.is_none(), "started before a sidecar", who)?;
        must(!is_main || self.is_held_by_none(at), "started before a sidecar", who)?;
        self.seen.saw_if(Happening::InitBegunAnew, is_anew);
        Ok(())
    }

    /// Whether a main container runs, or the last init container is no sidecar or is up.
    fn is_held_by_none(&self, at: At<'_>) -> bool {
        let script = at.script;
        let mut inits = (0..script.parts.len()).rev();
        let last =
            inits.find(|part| matches!(script.parts[*part].kind, Kind::Init | Kind::Sidecar));
        let Some(last) = last.filter(|last| script.parts[*last].kind == Kind::Sidecar) else {
            return true;
        };
        let newest = |part: usize| self.newest(part).map(|(_, told)| told);
        let runs = |part| newest(part).is_some_and(|told| told.rank == Rank::Running);
        newest(last).is_some_and(|told| self.has_started(told, script, at.now))
            || script.of_kind(Kind::Main).any(runs)
    }

    /// A restart after a crash waits for as long as the back-off says: the first not at all, the
    /// others twice as long each time. Nothing is expected where there is another reason to start.
    fn serves(&mut self, part: usize, attempt: u32, at: At<'_>) -> Judged {
        let Some(last) = self.truths[part].launched.last().copied() else { return Ok(()) };
        let served = self.life.served.get(&part).copied();
        // It could not be started: what there was to be waited for is served.
        if let Some(again) = served.filter(|served| served.attempt == attempt) {
            self.life.served.insert(part, Served { at: at.now, ..again });
            return Ok(());
        }
        let newest = self.newest(part).map(|(_, told)| told);
        // Only a crash that this life has seen from its start on is judged.
        let is_crash = newest.is_some_and(|told| {
            let is_told = told.stopping.is_some() || Check::has_failed(told);
            told.attempt + 1 == attempt && told.rank == Rank::Dead && !is_told
        }) && self.replaced(part) != Some(attempt - 1);
        let is_here =
            last.sandbox.is_some() && self.life.sandbox == last.sandbox && !self.is_past(part);
        let served = served.filter(|served| served.attempt + 1 == attempt && is_crash && is_here);
        let wait = match served {
            Some(served) if last.ended.saturating_sub(served.at) < LONG_RUN => {
                let until = last.ended + served.wait;
                must(at.now >= until, "a back-off is not served", || {
                    let ended = last.ended;
                    format!("{} {attempt}: ended {ended:?}, {until:?}", at.script.parts[part].name)
                })?;
                self.seen.saw_if(Happening::BackOffServed, !served.wait.is_zero());
                (served.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
            }
            // The first restart that this life gives: the next one is to wait.
            Some(_) | None if is_crash && is_here => FIRST_WAIT,
            Some(_) | None => Duration::ZERO,
        };
        self.life.served.insert(part, Served { at: at.now, attempt, wait });
        Ok(())
    }
}
