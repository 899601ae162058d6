//! The simulator: one seed is one pod's lifetime, in virtual time, on a runtime that is nastier
//! than the world.
//!
//! [`script`] draws the pod, what is done to it and its troubles, as data; [`dice`] gives the chance
//! of each trouble by itself; [`runtime`] is the fake runtime, whose durable attempts and live
//! processes outlive the agent; [`world`] runs the events; [`check`] knows the truth and judges every
//! step. Then the troubles end, and the pod must come to rest and go away in bounded time.
//!
//! A lifetime that breaks a rule is told by its seed and its log, then [`shrink`] leaves out of it
//! what does not matter, and what is left is told with its log. Both are replayed: `COPEPOD_SIM_SEED=N
//! cargo test --release --locked -p copepod-pod sim::every -- --nocapture`, with `COPEPOD_SIM_CUT` for
//! what is left out. `make sim` runs a million of them, from the seed `COPEPOD_SIM_FROM` on.
//!
//! What the rules find is shown by errors put in on purpose: [`sabotage`] into the world, [`faults`]
//! into the core.

mod check;
mod dice;
mod faults;
mod runtime;
mod sabotage;
mod script;
mod shrink;
mod world;

use std::{collections::BTreeMap, time::Instant};

use self::{
    check::{
        Broken,
        seen::{Seen, Total},
    },
    sabotage::Sabotage,
    script::{Script, cut::Cut},
    shrink::shrink,
    world::World,
};

/// Lifetimes of the main test, unless `COPEPOD_SIM_LIFETIMES` says otherwise.
const LIFETIMES: u64 = 100_000;
/// In so many lifetimes each error put in on purpose must be found.
const SABOTAGED: u64 = 10_000;
/// Lines of a log that are shown: its end, where a rule broke.
const SHOWN: usize = 400;

fn live(script: Script, sabotage: Sabotage) -> Result<Seen, Broken> {
    World::new(script, sabotage).live()
}

/// Runs the lifetime again with a log, and gives that and what was broken.
fn tell(seed: u64, cut: &Cut, sabotage: Sabotage) -> String {
    let mut world = World::new(cut.of(Script::draw(seed)), sabotage).with_log();
    let end =
        world.live().map_or_else(|broken| broken.to_string(), |seen| format!("well: {seen:?}"));
    let log = world.log();
    let log = &log[log.len().saturating_sub(SHOWN)..];
    format!("{}\nseed {seed} {cut}: {end}", log.join("\n"))
}

/// All of a lifetime that breaks a rule: as it was, and as little of it as still breaks the rule.
fn tell_all(seed: u64, sabotage: Sabotage, rule: &'static str) -> String {
    let cut = shrink(seed, sabotage, rule);
    format!(
        "{}\n\n=== shrunk ===\n{}\n\nreplay: COPEPOD_SIM_SEED={seed}\nshrunk: COPEPOD_SIM_SEED={seed} \
         COPEPOD_SIM_CUT='{cut}'",
        tell(seed, &Cut::default(), sabotage),
        tell(seed, &cut, sabotage)
    )
}

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_lifetime_keeps_the_rules_and_ends() {
    if let Some(seed) = number("COPEPOD_SIM_SEED") {
        let cut = std::env::var("COPEPOD_SIM_CUT").unwrap_or_default();
        let cut = Cut::parse(&cut).expect("COPEPOD_SIM_CUT as it was printed");
        println!("{}", tell(seed, &cut, Sabotage::None));
        assert_eq!(live(cut.of(Script::draw(seed)), Sabotage::None).err(), None);
        return;
    }
    let lifetimes = number("COPEPOD_SIM_LIFETIMES").unwrap_or(LIFETIMES);
    let first = number("COPEPOD_SIM_FROM").unwrap_or(0);
    let (mut total, began) = (Total::default(), Instant::now());
    // Of each rule that is broken: the first seed, and how many do.
    let mut broken = BTreeMap::<&str, (u64, u64)>::new();
    for seed in first..first + lifetimes {
        match live(Script::draw(seed), Sabotage::None) {
            Ok(one) => total.add(&one),
            Err(Broken { rule, how: _ }) => broken.entry(rule).or_insert((seed, 0)).1 += 1,
        }
    }
    let took = began.elapsed();
    for (rule, (seed, _)) in &broken {
        println!("=== {rule} ===\n{}\n", tell_all(*seed, Sabotage::None, rule));
    }
    assert!(
        broken.is_empty(),
        "rules broken, by which seed first, in how many lifetimes: {broken:#?}"
    );
    println!("{lifetimes} lifetimes, {:.0} each second", lifetimes as f64 / took.as_secs_f64());
    for (what, often, lives) in total.counts() {
        println!("{what:?}: {often} times in {lives} lifetimes");
    }
    for (what, _, lives) in total.counts() {
        assert!(
            lives > lifetimes / 200,
            "{what:?} happened only in {lives} lifetimes: the test has no teeth"
        );
    }
}

#[test]
fn a_seed_is_one_lifetime() {
    let tell = |seed| tell(seed, &Cut::default(), Sabotage::None);
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}
