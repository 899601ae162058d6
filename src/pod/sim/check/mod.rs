//! The truth beside the machine, and the rules that every step is judged by.
//!
//! [`told`] follows what the machine was told; [`start`], [`stop`] and [`probe`] judge what it gives,
//! [`shown`] what it says of itself. A rule that is broken is told by a fixed text and by what is
//! the matter.

mod probe;
pub(super) mod seen;
mod shown;
mod start;
mod stop;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use self::{
    seen::{Happening, Seen},
    shown::Shown,
    told::Told,
};
use super::{
    runtime::Runtime,
    script::{Kind, Script},
};
use crate::{Action, phase::Phase, state::State};

/// The least time between SIGTERM and SIGKILL, unless a pod is killed at once (upstream:
/// `minimumGracePeriodInSeconds`).
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Added to the moments that a wall clock gives: some lie before the simulator's own beginning.
const AHEAD: Duration = Duration::from_secs(1000 * 86_400);

/// A rule that is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.how)
    }
}

pub(super) type Judged = Result<(), Broken>;

pub(super) fn must(holds: bool, rule: &'static str, how: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(Broken { rule, how: how() }) }
}

/// What a step is judged by besides what the checker knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) script: &'a Script,
    pub(super) runtime: &'a Runtime,
    pub(super) now: Duration,
    pub(super) wall: Timestamp,
    /// How often the wall clock has jumped, and whether ever back.
    pub(super) jumps: u32,
    pub(super) life: u32,
}

/// An attempt that was launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launched {
    /// Its exit code, once it has ended.
    pub(super) code: Option<i32>,
    /// When that was.
    ended: Duration,
    /// The sandbox that it ran in; none that anybody knows of.
    sandbox: Option<u32>,
}

/// What really happened to one container, whatever the runtime remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    /// The attempts that were launched, in their order.
    pub(super) launched: Vec<Launched>,
    /// The highest restart count that was shown.
    shown: u32,
}

/// The pod is to end: when the last of its grace is used up.
#[derive(Clone, Copy, Debug)]
struct Ends {
    by: Duration,
    /// It is killed at once.
    at_once: bool,
}

/// The last start of a container that this life gave, and how long its next restart must wait.
#[derive(Clone, Copy, Debug)]
struct Served {
    at: Duration,
    attempt: u32,
    wait: Duration,
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
    /// What is being prepared of an old definition.
    stale: Vec<usize>,
    starting: Vec<usize>,
    tearing_down: bool,
    torn_down: bool,
    ends: Option<Ends>,
    /// The earliest moment when the last grace of a pod of which nothing is to run again is used up.
    done_by: Option<Duration>,
    /// When the last of the pod's grace is used up, as the machine believes.
    deadline: Option<Duration>,
    /// The same after the last step.
    least: Option<Duration>,
    /// The wall clock's start of the pod as a moment of the monotonic clock: never moved.
    started: Option<Duration>,
    /// Attempts of main containers that never run again, which are stopped for a probe, and when their
    /// grace is used up, as the machine believes: the last one takes all of its pod with it.
    doomed: BTreeMap<(usize, u32), Duration>,
    /// The attempts after which all of the pod is to run anew, as the machine believes.
    past: BTreeSet<(usize, u32)>,
    /// What each container is to be made from, by this object.
    definitions: Vec<Option<u32>>,
    definitions_of: Option<Arc<Pod>>,
    /// The attempt of each container that was to be replaced last, and since when.
    replaced: BTreeMap<usize, (u32, Duration)>,
    /// Of each process that it was told of.
    told: BTreeMap<u64, Told>,
    served: BTreeMap<usize, Served>,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) truths: Vec<Truth>,
    life: Life,
    /// The terminal phase, from when on it was claimed where it must hold.
    pub(super) terminal: Option<Phase>,
    /// The pod was evicted before its end, and that is not forgotten.
    pub(super) is_evicted: bool,
    /// Somebody has told some agent to end the pod, or its deadline has.
    pub(super) is_told: bool,
    /// A pod that never restarts may have ended for a dead sandbox.
    has_ended_with_sandbox: bool,
    shown: Shown,
    pub(super) seen: Seen,
}

fn take(from: &mut Vec<usize>, part: usize) {
    from.retain(|other| *other != part);
}

impl Check {
    pub(super) fn new(script: &Script) -> Check {
        Check {
            truths: vec![Truth::default(); script.parts.len()],
            life: Life::default(),
            terminal: None,
            is_evicted: false,
            is_told: false,
            has_ended_with_sandbox: false,
            shown: Shown::default(),
            seen: Seen::default(),
        }
    }

    /// A new agent knows nothing; a terminal phase holds on only if the API server keeps it.
    pub(super) fn agent_starts(&mut self, status: Option<&PodStatus>, at: At<'_>) {
        self.life = Life::default();
        self.shown.agent_starts(status);
        self.recall(status, at);
        self.terminal = self.terminal.filter(|_| at.script.has_api);
        self.is_evicted &= self.terminal.is_some();
    }

    /// The runtime has forgotten all that was launched.
    pub(super) fn forgotten(&mut self) {
        for launched in self.truths.iter_mut().flat_map(|truth| &mut truth.launched) {
            launched.sandbox = None;
        }
    }

    /// The pod is to end within `grace`, as far as the machine was told.
    pub(super) fn told_to_end(&mut self, grace: Duration, now: Duration) {
        self.is_told = true;
        let by = now + grace;
        let at_once = grace.is_zero();
        let ends = self.life.ends.get_or_insert(Ends { by, at_once });
        ends.by = ends.by.min(by);
        ends.at_once |= at_once;
    }

    /// The present agent is told that the pod is evicted.
    pub(super) fn told_to_evict(&mut self, now: Duration) {
        self.told_to_end(Duration::from_secs(1), now);
        let is_news = self.terminal.is_none() && !self.is_evicted;
        self.seen.saw_if(Happening::Eviction, is_news);
        self.is_evicted |= self.terminal.is_none();
    }

    /// The present agent is told that the definition of what it believes to live was changed.
    pub(super) fn told_to_replace(&mut self, part: usize, attempt: u32, now: Duration) {
        if self.replaced(part) != Some(attempt) {
            self.life.replaced.insert(part, (attempt, now));
        }
    }

    /// The attempt of a container that was to be replaced last.
    fn replaced(&self, part: usize) -> Option<u32> {
        self.life.replaced.get(&part).map(|(attempt, _)| *attempt)
    }

    /// The definition of a container is another one: what is known of its image is void.
    pub(super) fn image_is_void(&mut self, part: usize) {
        take(&mut self.life.prepared, part);
        if self.life.preparing.contains(&part) {
            self.life.stale.push(part);
        }
    }

    /// The definition of a container that does not run is another one: its back-offs are over.
    pub(super) fn waits_no_more(&mut self, part: usize) {
        self.life.served.remove(&part);
    }

    /// What a container is to be made from, by the object that the machine has.
    pub(super) fn definition(&self, part: usize) -> Option<u32> {
        self.life.definitions.get(part).copied().flatten()
    }

    /// Whether all that was to be replaced has been, and by exactly one process.
    pub(super) fn is_replaced(&self) -> bool {
        self.life.replaced.iter().all(|(part, (attempt, _))| {
            self.truths[*part].launched.len() > *attempt as usize + 1
                || !self.is_left_alone()
                || self.has_ended_with_sandbox
        })
    }

    pub(super) fn has_ended_with_sandbox(&self) -> bool {
        self.has_ended_with_sandbox
    }

    /// Whether all of the pod is to run anew after the last attempt of a container, as the machine
    /// believes.
    fn is_past(&self, part: usize) -> bool {
        let last = u32::try_from(self.truths[part].launched.len()).unwrap().checked_sub(1);
        last.is_some_and(|last| self.life.past.contains(&(part, last)))
    }

    /// Nobody has told the present agent to end the pod.
    pub(super) fn is_left_alone(&self) -> bool {
        self.life.ends.is_none()
    }

    /// The truth: a process has ended.
    pub(super) fn exited(&mut self, part: usize, attempt: u32, code: i32, now: Duration) {
        let launched = &mut self.truths[part].launched[attempt as usize];
        launched.code = Some(code);
        launched.ended = now;
    }

    /// The truth: a process was launched.
    pub(super) fn launched(&mut self, part: usize, attempt: u32, sandbox: u32) -> Judged {
        let truth = &mut self.truths[part];
        let next = truth.launched.len();
        must(attempt as usize == next, "an attempt is launched out of turn", || {
            format!("{attempt}, not {next}")
        })?;
        truth.launched.push(Launched { code: None, ended: Duration::MAX, sandbox: Some(sandbox) });
        // From here on it is no start under way but a process.
        take(&mut self.life.starting, part);
        self.seen.saw(Happening::Start);
        self.seen.saw_if(Happening::Restart, attempt > 0);
        Ok(())
    }

    /// The code that a container has ended with for good: nothing calls for another start.
    pub(super) fn end_for_good(&self, part: usize, script: &Script) -> Option<i32> {
        let last = self.truths[part].launched.last().filter(|_| !self.is_past(part))?;
        last.code.filter(|code| !script.restarts(part, *code))
    }

    /// Whether nothing of the pod is to run again, whatever may still live: each main container has
    /// ended for good, or an init container has.
    pub(super) fn is_done(&self, script: &Script) -> bool {
        let for_good = |part| self.end_for_good(part, script);
        let failed = |part: usize| for_good(part).is_some_and(|code| code != 0);
        let is_starting = script.of_kind(Kind::Main).any(|p| self.life.starting.contains(&p));
        let mains = !is_starting && script.of_kind(Kind::Main).all(|p| for_good(p).is_some());
        mains || script.of_kind(Kind::Init).any(failed)
    }

    /// The moment of the pod's active deadline on the monotonic clock, as the present agent was told,
    /// by [`AHEAD`] late.
    fn active_until(&self, pod: &Pod) -> Option<Duration> {
        let secs = pod.spec.as_ref()?.active_deadline_seconds?;
        Some(self.life.started? + Duration::from_secs(u64::try_from(secs).ok()?))
    }

    /// Judges the actions of one step, then what the state says after it.
    pub(super) fn step(&mut self, state: &State, actions: &[Action], at: At<'_>) -> Judged {
        self.has_ended_with_sandbox |= state.ends_with_sandbox();
        self.believe(state, at)?;
        self.seen.saw(Happening::Step);
        for action in actions {
            self.action(action, at)?;
        }
        self.state(state, at)
    }

    /// Judges one action that the machine gives, before it is done.
    fn action(&mut self, action: &Action, at: At<'_>) -> Judged {
        must(self.life.looked, "an action before the first look", || format!("{action:?}"))?;
        let is_up = self.is_left_alone() && !self.life.torn_down;
        match action {
            Action::SetUp => self.set_up(is_up, at),
            Action::Refresh => {
                must(is_up, "volumes written after the end", String::new)?;
                must(self.life.sandbox.is_some(), "refreshed before the set-up", String::new)?;
                must(!self.life.refreshing, "refreshed twice at once", String::new)?;
                self.life.refreshing = true;
                self.seen.saw(Happening::Refresh);
                Ok(())
            }
            Action::Record(_) => Ok(()),
            Action::Resize { .. } => must(is_up, "resized after the end", String::new),
            Action::PrepareImage { container } => {
                let part = at.script.index(container);
                must(is_up, "image prepared after the end", || container.clone())?;
                let is_asked = self.life.preparing.contains(&part);
                must(!is_asked, "image asked twice", || container.clone())?;
                self.life.preparing.push(part);
                Ok(())
            }
            Action::Start { container, attempt } => {
                must(is_up, "start after deletion or kill", || container.clone())?;
                self.start(at.script.index(container), *attempt, at)
            }
            Action::Probe { container, id, probe } => {
                self.probe(at.script.index(container), id.parse().unwrap(), *probe, at)
            }
            Action::Hook { container, id, hook } => {
                self.hook(at.script.index(container), id.parse().unwrap(), *hook, at)
            }
            Action::Stop { container, attempt, id, grace } => {
                let part = at.script.index(container);
                self.stop((part, *attempt, id.parse().unwrap()), *grace, at)
            }
            Action::Remove { container, attempt, id } => {
                let newest = self.truths[at.script.index(container)].launched.len();
                let is_old = *attempt as usize + 2 < newest;
                must(is_old, "a kept attempt is removed", || format!("{container} {attempt}"))?;
                let is_alive = at.runtime.alive().any(|process| process.id.to_string() == *id);
                must(!is_alive, "a living attempt is removed", || {
                    format!("{container} {attempt}")
                })?;
                self.seen.saw(Happening::Removal);
                Ok(())
            }
            Action::TearDown => self.tear_down(at),
        }
    }

    fn set_up(&mut self, is_up: bool, at: At<'_>) -> Judged {
        must(is_up, "set up after the end", String::new)?;
        let life = &mut self.life;
        must(!life.setting_up, "set up twice at once", String::new)?;
        must(life.sandbox.is_none(), "set up while it stands", String::new)?;
        must(!life.refreshing, "set up under a refresh", String::new)?;
        let is_old = |sandbox| life.dead.is_some_and(|dead| sandbox <= dead);
        let is_quiet = !at.runtime.alive().any(|process| is_old(process.sandbox));
        must(is_quiet && life.starting.is_empty(), "set up beside an old one", String::new)?;
        life.setting_up = true;
        Ok(())
    }

    fn tear_down(&mut self, at: At<'_>) -> Judged {
        let life = &mut self.life;
        must(at.runtime.alive().next().is_none(), "torn down under a process", String::new)?;
        must(life.starting.is_empty(), "torn down under a start", String::new)?;
        must(!life.setting_up, "torn down under the set-up", String::new)?;
        must(!life.refreshing, "torn down under a refresh", String::new)?;
        must(!life.tearing_down, "torn down twice at once", String::new)?;
        life.tearing_down = true;
        Ok(())
    }
}
