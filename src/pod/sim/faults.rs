//! Errors put into the core on purpose: each must be found by the rule that it breaks.

use super::{
    SABOTAGED, live,
    sabotage::Sabotage,
    script::{Kind, Script, cut::Cut},
    shrink::shrink,
};
use crate::fault::Fault;

/// Each error with the rule that finds it.
const FOUND: &[(Fault, &str)] = &[
    (Fault::LookNotAwaited, "an action before the first look"),
    (Fault::StartedTwice, "started twice at once"),
    (Fault::GoesOnAfterDeletion, "start after deletion or kill"),
    (Fault::NeverRestarts, "started again"),
    (Fault::EphemeralRestarts, "started again"),
    (Fault::BackOffNotServed, "a back-off is not served"),
    (Fault::InitsNotAwaited, "started before its init containers were done"),
    (Fault::InitsNotAwaited, "started before a sidecar"),
    (Fault::OldImageCounts, "started without its image"),
    (Fault::OthersNotBegunAnew, "started again alone"),
    (Fault::StaleProbeCounts, "a probe twice at once"),
    (Fault::ThresholdShort, "a stop without a reason"),
    (Fault::StartupNotAwaited, "a probe before the startup probe's success"),
    (Fault::ProbedToTheEnd, "a probe of what is to end"),
    (Fault::ProbeForgotten, "not probed"),
    (Fault::ReadinessKept, "ready without a reason"),
    (Fault::AdoptedHookRun, "a postStart hook of an adopted attempt"),
    (Fault::PreStopRepeated, "a preStop hook twice"),
    (Fault::PreStopNotAwaited, "stopped under its preStop hook"),
    (Fault::SidecarsNotLast, "a sidecar is stopped out of order"),
    (Fault::GraceGrows, "the pod's grace has grown"),
    (Fault::DeadlineByWallClock, "the active deadline is passed"),
    (Fault::TerminalEarly, "a terminal phase while something may run"),
    (Fault::ForgottenNotRecalled, "a restart count fell"),
];

/// What a seed's lifetime breaks with the error put in.
fn broken(fault: Fault, script: Script) -> Option<&'static str> {
    fault.put_in(|| live(script, Sabotage::None)).err().map(|broken| broken.rule)
}

/// The first seed in which the error breaks the rule.
fn seed(fault: Fault, rule: &str) -> Option<u64> {
    (0..SABOTAGED).find(|seed| broken(fault, Script::draw(*seed)) == Some(rule))
}

#[test]
fn each_error_in_the_core_is_found_by_its_rule() {
    let mut missed = Vec::new();
    for (fault, rule) in FOUND {
        match seed(*fault, rule) {
            Some(seed) => {
                println!("{fault:?} breaks \"{rule}\" with seed {seed}");
                let without = live(Script::draw(seed), Sabotage::None).err();
                assert_eq!(without, None, "seed {seed} without {fault:?}");
            }
            None => missed.push((fault, rule)),
        }
    }
    assert!(missed.is_empty(), "not found in {SABOTAGED} lifetimes: {missed:#?}");
}

/// A lifetime is made small: an error that needs little to show is told by little, and what is told
/// can be given back.
#[test]
fn a_lifetime_is_shrunk_to_what_matters() {
    for (fault, rule, parts, edits, strikes) in [
        (Fault::BackOffNotServed, "a back-off is not served", 2, 0, 0),
        (Fault::NeverRestarts, "started again", 2, 0, 0),
        (Fault::SidecarsNotLast, "a sidecar is stopped out of order", 2, 1, 0),
        (Fault::AdoptedHookRun, "a postStart hook of an adopted attempt", 3, 1, 1),
        (Fault::ThresholdShort, "a stop without a reason", 2, 0, 1),
    ] {
        let seed = seed(fault, rule).unwrap();
        let cut = fault.put_in(|| shrink(seed, Sabotage::None, rule));
        let script = Cut::parse(&cut.to_string()).unwrap().of(Script::draw(seed));
        println!("{fault:?}, seed {seed}: {cut}");
        assert_eq!(broken(fault, script.clone()), Some(rule));
        let named = script.strikes.as_ref().map_or(usize::MAX, std::collections::BTreeSet::len);
        let is_small =
            script.parts.len() <= parts && script.edits.len() <= edits && named <= strikes;
        assert!(is_small, "{fault:?}, seed {seed}: {script:?}");
        assert!(script.of_kind(Kind::Main).count() > 0);
        assert_eq!(broken(fault, Script::draw(seed)), Some(rule), "the whole one still does");
    }
}
