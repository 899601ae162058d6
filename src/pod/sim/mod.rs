//! The simulator: one seed is one pod's lifetime, in virtual time, on a runtime that is nastier
//! than the world.
//!
//! [`script`] draws the pod and the faults; [`runtime`] is the fake runtime, whose durable attempts
//! and live processes outlive the agent; [`world`] runs the events; [`check`] knows the truth and
//! judges every step. Then the faults end, and the pod must come to rest and go away in bounded
//! time. A lifetime that breaks a rule is told by its seed and its log; one seed is replayed by
//! `COPEPOD_SIM_SEED=N cargo test --release -p copepod-pod sim -- --nocapture`.

mod check;
mod rng;
mod runtime;
mod script;
mod world;

use check::Seen;
use world::World;

/// A fault put into the harness on purpose, to show that the rules find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    None,
    /// The runtime loses the exit records when the agent restarts.
    ForgetExits,
    /// A late exit is told of the newest attempt instead of its own.
    RewriteLate,
    /// The first look after a restart of the agent sees nothing.
    EmptyLook,
    /// The runtime lists what lives in an old sandbox no more.
    HideOldSandbox,
    /// The runtime tells of all attempts as if they were in the newest sandbox.
    MixSandboxes,
    /// The runtime forgets ephemeral containers when they end.
    ForgetEphemeral,
}

/// Lifetimes of the main test.
const LIFETIMES: u64 = 100_000;
/// In so many lifetimes each sabotage must be found.
const SABOTAGED: u64 = 10_000;

fn live(seed: u64, sabotage: Sabotage) -> Result<Seen, String> {
    World::new(seed, sabotage, false).live()
}

/// Runs the lifetime again with a log, and gives that and what was broken.
fn tell(seed: u64, sabotage: Sabotage) -> String {
    let mut world = World::new(seed, sabotage, true);
    let end = world.live().map_or_else(|broken| broken, |seen| format!("well: {seen:?}"));
    format!("{}\nseed {seed}: {end}", world.log().join("\n"))
}

#[test]
fn every_lifetime_keeps_the_rules_and_ends() {
    if let Some(seed) = std::env::var("COPEPOD_SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        println!("{}", tell(seed, Sabotage::None));
        assert_eq!(live(seed, Sabotage::None).err(), None);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..LIFETIMES {
        match live(seed, Sabotage::None) {
            Ok(one) => seen.add(&one),
            Err(_) => panic!("{}", tell(seed, Sabotage::None)),
        }
    }
    println!("{LIFETIMES} lifetimes: {seen:?}");
    for (what, count) in seen.counts() {
        assert!(
            count > LIFETIMES / 100,
            "{what} happened only {count} times: the test has no teeth"
        );
    }
}

#[test]
fn a_seed_is_one_lifetime() {
    assert_eq!(tell(7, Sabotage::None), tell(7, Sabotage::None));
    assert_ne!(tell(7, Sabotage::None), tell(8, Sabotage::None));
}

/// Asserts that there is a lifetime in which the sabotage breaks this rule, and that it is the
/// sabotage that does.
fn finds(sabotage: Sabotage, rule: &str) {
    let breaks = |seed| live(seed, sabotage).is_err_and(|why| why.contains(rule));
    let seed = (0..SABOTAGED).find(|seed| breaks(*seed));
    let seed = seed.unwrap_or_else(|| panic!("no seed in which {sabotage:?} breaks \"{rule}\""));
    println!("{sabotage:?} breaks \"{rule}\" with seed {seed}");
    assert_eq!(live(seed, Sabotage::None).err(), None, "seed {seed} without it");
}

#[test]
fn a_runtime_that_forgets_exits_is_found() {
    finds(Sabotage::ForgetExits, "started again after");
}

#[test]
fn a_late_event_taken_for_the_newest_attempt_is_found() {
    finds(Sabotage::RewriteLate, "started while an attempt of it lives");
}

#[test]
fn a_runtime_that_hides_old_sandboxes_is_found() {
    finds(Sabotage::HideOldSandbox, "beside an old one");
}

#[test]
fn a_runtime_that_mixes_sandboxes_up_is_found() {
    finds(Sabotage::MixSandboxes, "started before its init containers were done");
    finds(Sabotage::MixSandboxes, "run on in a new sandbox");
}

#[test]
fn a_runtime_that_forgets_ephemeral_containers_is_found() {
    finds(Sabotage::ForgetEphemeral, "started again after");
}

#[test]
fn a_first_look_that_sees_nothing_is_found() {
    finds(Sabotage::EmptyLook, "started while an attempt of it lives");
    finds(Sabotage::EmptyLook, "started again after");
}
