//! Makes a script that breaks a rule small: what can be left out while the same rule still breaks is
//! left out, then of the troubles that struck all but those that matter, then time.

use std::{collections::BTreeSet, time::Duration};

use super::{
    sabotage::Sabotage,
    script::{
        Kind, Script,
        cut::{Cut, Strike, Thing, things},
    },
    world::World,
};

/// More tries than a shrinking needs.
const MOST_TRIES: u32 = 5000;

/// One that is being made small.
struct Shrink {
    seed: u64,
    sabotage: Sabotage,
    rule: &'static str,
    cut: Cut,
    tries: u32,
}

/// The smallest cut that was found of a seed's script in which the rule still breaks.
pub(super) fn shrink(seed: u64, sabotage: Sabotage, rule: &'static str) -> Cut {
    let mut shrink = Shrink { seed, sabotage, rule, cut: Cut::default(), tries: 0 };
    shrink.things();
    shrink.name_strikes();
    loop {
        let before = shrink.cut.clone();
        shrink.strikes();
        shrink.things();
        shrink.time();
        if shrink.cut == before {
            return before;
        }
    }
}

impl Shrink {
    /// Takes the cut if the same rule breaks with it.
    fn try_cut(&mut self, cut: Cut) -> bool {
        let script = cut.of(Script::draw(self.seed));
        let has_mains = script.parts.iter().any(|part| part.kind == Kind::Main);
        self.tries += 1;
        if !has_mains || self.tries > MOST_TRIES || cut == self.cut {
            return false;
        }
        let broken = World::new(script, self.sabotage).live().err();
        let is_same = broken.is_some_and(|broken| broken.rule == self.rule);
        if is_same {
            self.cut = cut;
        }
        is_same
    }

    /// Leaves out things, one after the other.
    fn things(&mut self) {
        for thing in things(&self.cut.of(Script::draw(self.seed))) {
            let mut cut = self.cut.clone();
            cut.out.insert(thing);
            // What a part has goes with it.
            if let Thing::Part(slot) = thing {
                cut.out.retain(|of| !matches!(of, Thing::Trait(at, _) if *at == slot));
                cut.strikes.iter_mut().for_each(|all| all.retain(|Strike(_, at, _)| *at != slot));
            }
            self.try_cut(cut);
        }
    }

    /// Names the troubles that strike instead of leaving them to chance: those that did.
    fn name_strikes(&mut self) {
        let script = self.cut.of(Script::draw(self.seed));
        let mut world = World::new(script, self.sabotage).with_strikes();
        let _ = world.live();
        let cut = Cut { strikes: Some(world.struck()), ..self.cut.clone() };
        self.try_cut(cut);
    }

    /// Leaves out strikes: halves of them, quarters, …, single ones.
    fn strikes(&mut self) {
        let Some(strikes) = &self.cut.strikes else { return };
        let mut size = strikes.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            loop {
                let all: Vec<Strike> = self.cut.strikes.iter().flatten().copied().collect();
                if from >= all.len() {
                    break;
                }
                let to = (from + size).min(all.len());
                let left: BTreeSet<Strike> =
                    all[..from].iter().chain(&all[to..]).copied().collect();
                if !self.try_cut(Cut { strikes: Some(left), ..self.cut.clone() }) {
                    from = to;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Lets the troubles end earlier.
    fn time(&mut self) {
        let script = self.cut.of(Script::draw(self.seed));
        let (mut low, mut high) = (Duration::ZERO, script.heal_at);
        while high - low > Duration::from_millis(500) {
            let middle = low + (high - low) / 2;
            let middle = Duration::from_millis(u64::try_from(middle.as_millis()).unwrap());
            if self.try_cut(Cut { heal_at: Some(middle), ..self.cut.clone() }) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }
}
