//! Errors put into the world on purpose: a runtime or an agent around the core that does not keep
//! its side. Each must be found by a rule.

use super::{SABOTAGED, live, script::Script};

/// An error put into the world on purpose, to show that the rules find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
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

/// Asserts that there is a lifetime in which the sabotage breaks this rule, and that it is the
/// sabotage that does.
fn finds(sabotage: Sabotage, rule: &str) {
    let live = |seed, sabotage| live(Script::draw(seed), sabotage).map_err(|broken| broken.rule);
    let seed = (0..SABOTAGED).find(|seed| live(*seed, sabotage) == Err(rule));
    let seed = seed.unwrap_or_else(|| panic!("no seed in which {sabotage:?} breaks \"{rule}\""));
    println!("{sabotage:?} breaks \"{rule}\" with seed {seed}");
    assert_eq!(live(seed, Sabotage::None).err(), None, "seed {seed} without it");
}

#[test]
fn a_runtime_that_forgets_exits_is_found() {
    finds(Sabotage::ForgetExits, "started again");
}

#[test]
fn a_late_event_taken_for_the_newest_attempt_is_found() {
    finds(Sabotage::RewriteLate, "started while an attempt of it lives");
}

#[test]
fn a_runtime_that_hides_old_sandboxes_is_found() {
    finds(Sabotage::HideOldSandbox, "started beside an old one");
}

#[test]
fn a_runtime_that_mixes_sandboxes_up_is_found() {
    finds(Sabotage::MixSandboxes, "started before its init containers were done");
    finds(Sabotage::MixSandboxes, "run on in a new sandbox");
}

#[test]
fn a_runtime_that_forgets_ephemeral_containers_is_found() {
    finds(Sabotage::ForgetEphemeral, "started again");
}

#[test]
fn a_first_look_that_sees_nothing_is_found() {
    finds(Sabotage::EmptyLook, "started while an attempt of it lives");
    finds(Sabotage::EmptyLook, "started again");
}
