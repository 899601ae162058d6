//! What one lifetime is made of, drawn from its seed: the pod, what is done to it from outside and
//! when, and how nasty its world is. It is data: things can be taken out of it ([`cut`]) without a
//! change to the rest.

pub(super) mod cut;
pub(super) mod pod;

use std::{collections::BTreeSet, time::Duration};

use self::cut::Strike;
use super::dice::{Rng, Trouble};

/// The containers' places, and one more for the pod: what is drawn for one place does not depend on
/// whether the others are there.
pub(super) const SLOTS: usize = 1 + INITS.len() + MAINS.len() + EPHEMERAL.len();
/// The place of the pod itself.
pub(super) const POD: usize = 0;
/// Names of the init containers, as regular ones and as sidecars, of the main ones, and of the
/// ephemeral ones that may be added.
const INITS: [(&str, &str); 3] = [("i1", "s1"), ("i2", "s2"), ("i3", "s3")];
const MAINS: [&str; 3] = ["m4", "m5", "m6"];
const EPHEMERAL: [&str; 2] = ["e7", "e8"];

/// A restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Sidecar,
    Main,
    Ephemeral,
}

impl Kind {
    /// Whether the pod is for it.
    pub(super) fn is_work(self) -> bool {
        match self {
            Kind::Init | Kind::Main => true,
            Kind::Sidecar | Kind::Ephemeral => false,
        }
    }

    /// Whether it is one of the init containers.
    pub(super) fn is_init(self) -> bool {
        match self {
            Kind::Init | Kind::Sidecar => true,
            Kind::Main | Kind::Ephemeral => false,
        }
    }
}

/// A probe of a container; times are seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSpec {
    pub(super) initial: u64,
    pub(super) period: u64,
    pub(super) successes: u32,
    pub(super) failures: u32,
    /// `terminationGracePeriodSeconds`
    pub(super) grace: Option<u64>,
}

/// A hook of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HookSpec {
    Exec,
    /// Seconds.
    Sleep(u64),
}

/// `restartPolicyRules` with one rule that restarts the container, or all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// `In`, else `NotIn`.
    pub(super) is_in: bool,
    pub(super) codes: &'static [i32],
    /// `RestartAllContainers`
    pub(super) all: bool,
}

impl Rule {
    fn is_hit(self, code: i32) -> bool {
        self.codes.contains(&code) == self.is_in
    }
}

/// One container of the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    /// Its place among all that there could be.
    pub(super) slot: usize,
    pub(super) kind: Kind,
    /// Its own restart policy.
    pub(super) policy: Option<Policy>,
    pub(super) rule: Option<Rule>,
    /// Startup, liveness, readiness.
    pub(super) probes: [Option<ProbeSpec>; 3],
    pub(super) post_start: Option<HookSpec>,
    pub(super) pre_stop: Option<HookSpec>,
}

/// Something that people or machines do to the pod from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// Deletion with this grace, in seconds.
    Delete(u64),
    Kill(u64),
    Evict,
    /// The agent is told that the definition of a container, by its slot, has changed.
    Replace(usize),
    /// The image of a container, by its slot, is another one.
    Image(usize),
    /// What the volumes are made of is changed.
    Change,
    /// The wall clock jumps by so many seconds.
    Jump(i64),
    AgentDies,
    SandboxDies,
    /// The machine starts anew, and with it the agent.
    Reboot,
    /// The same, and the runtime has forgotten everything.
    Wipe,
    /// An ephemeral container, by its slot, is added.
    Add(usize),
    /// `activeDeadlineSeconds` is set, or shortened.
    Deadline(u64),
}

impl Edit {
    /// The slot that it is about.
    fn slot(self) -> Option<usize> {
        match self {
            Edit::Replace(slot) | Edit::Image(slot) | Edit::Add(slot) => Some(slot),
            Edit::Delete(_)
            | Edit::Kill(_)
            | Edit::Evict
            | Edit::Change
            | Edit::Jump(_)
            | Edit::AgentDies
            | Edit::SandboxDies
            | Edit::Reboot
            | Edit::Wipe
            | Edit::Deadline(_) => None,
        }
    }
}

/// An edit with its number in the script as it was drawn, and its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub(super) number: usize,
    pub(super) at: Duration,
    pub(super) edit: Edit,
}

#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) policy: Policy,
    /// Its runtime has sandboxes, which can die.
    pub(super) has_sandbox: bool,
    /// An API server keeps the pod's status over a restart of the agent.
    pub(super) has_api: bool,
    pub(super) parts: Vec<Part>,
    /// The chance of each trouble, in percent.
    pub(super) chances: [u64; Trouble::ALL.len()],
    /// The troubles that strike, instead of those of chance.
    pub(super) strikes: Option<BTreeSet<Strike>>,
    pub(super) edits: Vec<Planned>,
    /// When the troubles end.
    pub(super) heal_at: Duration,
    pub(super) spec_grace: u64,
    /// `activeDeadlineSeconds` from the beginning.
    pub(super) active: Option<u64>,
}

impl Script {
    pub(super) fn draw(seed: u64) -> Script {
        let mut rng = Rng::new(seed);
        // A short and quick life, or a long and slow one: probes are most of its steps.
        let pace = rng.pick(&[1, 4, 4, 20]);
        let parts = draw_parts(&mut rng, pace);
        let heal_at = rng.secs(8, 40 + 13 * pace);
        let has_sandbox = rng.percent(60);
        Script {
            seed,
            policy: rng.pick(&[Policy::Always, Policy::OnFailure, Policy::Never]),
            has_sandbox,
            has_api: rng.percent(50),
            chances: draw_chances(&mut rng),
            strikes: None,
            edits: draw_edits(&mut rng, &parts, heal_at, has_sandbox),
            parts,
            heal_at,
            spec_grace: rng.pick(&[0, 1, 5, 30, 60]),
            active: rng.percent(15).then(|| rng.pick(&[1, 20, 60, 300, 1000])),
        }
    }

    pub(super) fn index(&self, name: &str) -> usize {
        self.parts.iter().position(|part| part.name == name).unwrap()
    }

    /// The place of a slot's container, if it is in the script.
    pub(super) fn at_slot(&self, slot: usize) -> Option<usize> {
        self.parts.iter().position(|part| part.slot == slot)
    }

    /// The places of the containers of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = usize> {
        let parts = self.parts.iter().enumerate();
        parts.filter(move |(_, part)| part.kind == kind).map(|(at, _)| at)
    }

    /// The policy that holds for a container where no rule does.
    pub(super) fn policy_of(&self, part: usize) -> Policy {
        match self.parts[part].kind {
            Kind::Sidecar => Policy::Always,
            Kind::Init | Kind::Main | Kind::Ephemeral => {
                self.parts[part].policy.unwrap_or(self.policy)
            }
        }
    }

    /// Whether a container that ended with this code has all of the pod run anew (upstream:
    /// `ShouldAllContainersRestart`).
    pub(super) fn restarts_all(&self, part: usize, code: i32) -> bool {
        self.parts[part].rule.is_some_and(|rule| rule.all && rule.is_hit(code))
    }

    /// Whether a container that ended with this code is to run again (upstream:
    /// `ContainerShouldRestart`).
    pub(super) fn restarts(&self, part: usize, code: i32) -> bool {
        let is_hit = |rule: Rule| rule.is_hit(code);
        match (self.parts[part].kind, self.policy_of(part)) {
            (Kind::Sidecar, _) => true,
            (Kind::Ephemeral, _) => false,
            (Kind::Init, _) if code == 0 => false,
            (Kind::Init | Kind::Main, _) if self.parts[part].rule.is_some_and(is_hit) => true,
            (Kind::Init | Kind::Main, Policy::Always) => true,
            (Kind::Init | Kind::Main, Policy::OnFailure) => code != 0,
            (Kind::Init | Kind::Main, Policy::Never) => false,
        }
    }
}

fn draw_parts(rng: &mut Rng, pace: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let inits = rng.pick(&[0, 0, 1, 1, 1, 2, 3]);
    for (at, (init, sidecar)) in INITS.into_iter().enumerate().take(inits) {
        let is_sidecar = rng.percent(50);
        let (name, kind) = if is_sidecar { (sidecar, Kind::Sidecar) } else { (init, Kind::Init) };
        parts.push(draw_part(rng, name, 1 + at, kind, pace));
    }
    for (at, name) in MAINS.into_iter().enumerate().take(rng.pick(&[1, 1, 1, 2, 3])) {
        parts.push(draw_part(rng, name, 1 + INITS.len() + at, Kind::Main, pace));
    }
    for (at, name) in EPHEMERAL.into_iter().enumerate().take(rng.pick(&[0, 0, 1, 2])) {
        let slot = 1 + INITS.len() + MAINS.len() + at;
        parts.push(draw_part(rng, name, slot, Kind::Ephemeral, pace));
    }
    parts
}

fn draw_part(rng: &mut Rng, name: &'static str, slot: usize, kind: Kind, pace: u64) -> Part {
    let bare = Part {
        name,
        slot,
        kind,
        policy: None,
        rule: None,
        probes: [None; 3],
        post_start: None,
        pre_stop: None,
    };
    match kind {
        Kind::Ephemeral => return bare,
        Kind::Init => return Part { ..with_policy(rng, bare) },
        Kind::Sidecar | Kind::Main => {}
    }
    let part = if kind == Kind::Main { with_policy(rng, bare) } else { bare };
    let mut probe = |chance: u64, is_readiness: bool| {
        rng.percent(chance).then(|| ProbeSpec {
            initial: rng.pick(&[0, 0, 1, 10]),
            period: rng.pick(&[1, 2, 3]) * pace,
            successes: if is_readiness { rng.pick(&[1, 1, 3]) } else { 1 },
            failures: rng.pick(&[1, 1, 2, 3]),
            grace: if is_readiness { None } else { rng.pick(&[None, None, Some(2), Some(90)]) },
        })
    };
    let probes = [probe(25, false), probe(30, false), probe(30, true)];
    let mut hook = || {
        rng.percent(35).then(|| {
            match rng.pick(&[None, None, None, None, Some(0), Some(2), Some(50)]) {
                Some(secs) => HookSpec::Sleep(secs),
                None => HookSpec::Exec,
            }
        })
    };
    let (post_start, pre_stop) = (hook(), hook());
    Part { probes, post_start, pre_stop, ..part }
}

/// A restart policy and rules of its own, for some.
fn with_policy(rng: &mut Rng, part: Part) -> Part {
    let policy = rng
        .percent(30)
        .then(|| rng.pick(&[Policy::Always, Policy::OnFailure, Policy::Never, Policy::Never]));
    // An init container that is always restarted is a sidecar.
    let policy = policy.filter(|policy| part.kind == Kind::Main || *policy != Policy::Always);
    let rule = policy.and_then(|_| {
        rng.percent(75).then(|| {
            let codes: &[i32] = rng.pick(&[&[1], &[1, 2]]);
            // No init container calls for all of the pod when it succeeds.
            let is_in = rng.percent(60) || part.kind == Kind::Init;
            Rule { is_in, codes, all: rng.percent(50) }
        })
    });
    Part { policy, rule, ..part }
}

/// Each trouble is absent in some lifetimes, so that none always hides another.
fn draw_chances(rng: &mut Rng) -> [u64; Trouble::ALL.len()] {
    let mut chances = [0; Trouble::ALL.len()];
    for trouble in Trouble::ALL {
        let of: &[u64] = match trouble {
            Trouble::StepFails | Trouble::StopLost => &[0, 10, 40],
            Trouble::SetUpUnheard => &[50],
            Trouble::StartFails | Trouble::DiesUnlaunched => &[0, 10, 30],
            Trouble::IgnoresTerm => &[0, 30, 100],
            Trouble::EventLost => &[0, 10, 50],
            Trouble::EventDoubled => &[0, 20, 50],
            Trouble::Late => &[0, 20, 60],
            Trouble::AgentDies => &[0, 2, 10],
            Trouble::ProbeFails => &[0, 20, 70],
            Trouble::ProbeErrs | Trouble::ProbeWarns => &[0, 0, 10, 30],
            Trouble::ProbeForged => &[0, 50],
            Trouble::HookFails => &[0, 30],
            Trouble::HookHangs => &[0, 70, 70],
            Trouble::DefinitionUnknown => &[0, 0, 50],
        };
        chances[*trouble as usize] = rng.pick(of);
    }
    chances
}

/// Draws what people and machines do to the pod from outside.
fn draw_edits(rng: &mut Rng, parts: &[Part], heal_at: Duration, has_sandbox: bool) -> Vec<Planned> {
    let mut edits = Vec::new();
    let mut some = |chance: u64, what: &dyn Fn(&mut Rng) -> Edit| {
        while rng.percent(chance) {
            let at = rng.millis(u64::try_from(heal_at.as_millis()).unwrap());
            let (number, edit) = (edits.len(), what(rng));
            edits.push(Planned { number, at, edit });
        }
    };
    let slots: Vec<usize> = parts.iter().map(|part| part.slot).collect();
    let ephemeral = parts.iter().filter(|part| part.kind == Kind::Ephemeral);
    let ephemeral: Vec<usize> = ephemeral.map(|part| part.slot).collect();
    some(20, &|rng| Edit::Delete(rng.pick(&[0, 1, 10, 30, 90])));
    some(12, &|rng| Edit::Kill(rng.pick(&[0, 1, 10, 30, 90])));
    some(8, &|_| Edit::Evict);
    some(20, &|rng| Edit::Replace(rng.pick(&slots)));
    some(25, &|rng| Edit::Image(rng.pick(&slots)));
    some(30, &|_| Edit::Change);
    let jumps = [-864_000, -3600, -61, -5, 5, 61, 3600, 86_400, 864_000];
    some(30, &|rng| Edit::Jump(rng.pick(&jumps)));
    some(40, &|_| Edit::AgentDies);
    some(8, &|rng| Edit::Deadline(rng.pick(&[5, 20, 60, 300])));
    if has_sandbox {
        some(55, &|_| Edit::SandboxDies);
    }
    if !ephemeral.is_empty() {
        some(60, &|rng| Edit::Add(rng.pick(&ephemeral)));
    }
    some(15, &|rng| rng.pick(&[Edit::Reboot, Edit::Wipe]));
    edits
}
