//! Chance from a seed: a stream of numbers (splitmix64), and single draws that do not depend on each
//! other, so that what is taken out of a script leaves the chance of the rest as it was.

use std::time::Duration;

use super::script::SLOTS;

/// A stream of numbers.
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// Up to so many milliseconds.
    pub(super) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most + 1))
    }

    pub(super) fn secs(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least * 1000 + self.below((most - least) * 1000 + 1))
    }
}

/// Gives an enum of plain variants its list and its names.
macro_rules! listed {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(in crate::sim) enum $name { $($(#[$of])* $variant),* }

        #[allow(dead_code, reason = "not every list is walked")]
        impl $name {
            pub(in crate::sim) const ALL: &[$name] = &[$($name::$variant),*];

            pub(in crate::sim) fn parse(text: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|one| format!("{one:?}") == text)
            }
        }
    };
}
pub(super) use listed;

listed! {
    /// What may go wrong in the world, each time with its chance. It strikes a slot: a container's
    /// place in the script, or the pod.
    Trouble {
        /// A step of the agent fails.
        StepFails,
        /// A sandbox is made, and the agent is told that it was not.
        SetUpUnheard,
        StartFails,
        DiesUnlaunched,
        IgnoresTerm,
        EventLost,
        EventDoubled,
        /// Something comes up to 40 s too late.
        Late,
        StopLost,
        /// The agent dies before, between or after the actions of a step.
        AgentDies,
        ProbeFails,
        ProbeErrs,
        ProbeWarns,
        /// An answer is given of a probe that nobody asked for, of an attempt that is over.
        ProbeForged,
        HookFails,
        /// A hook does not come back until it is cut short.
        HookHangs,
        /// The runtime does not know what an attempt was made from.
        DefinitionUnknown,
    }
}

listed! {
    /// What is drawn besides.
    Draw {
        Delay,
        Long,
        Exit,
        Term,
        KillTimer,
        Away,
        Look,
        Relist,
        Lag,
        Death,
        Sandbox,
        Probe,
        Forged,
        Status,
        Last,
    }
}

const KINDS: usize = Trouble::ALL.len() + Draw::ALL.len();

/// The draws of one lifetime: each is a number of the seed, of what it is for, of the slot that it
/// is about, and of how many such draws there were.
#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    drawn: [[u32; SLOTS]; KINDS],
}

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice { seed, drawn: [[0; SLOTS]; KINDS] }
    }

    /// Draws whether a trouble strikes; also which of its kind this one is.
    pub(super) fn trouble(&mut self, trouble: Trouble, slot: usize) -> (u32, Rng) {
        self.roll(trouble as usize, slot)
    }

    pub(super) fn draw(&mut self, draw: Draw, slot: usize) -> Rng {
        self.roll(Trouble::ALL.len() + draw as usize, slot).1
    }

    fn roll(&mut self, kind: usize, slot: usize) -> (u32, Rng) {
        let drawn = &mut self.drawn[kind][slot];
        let number = *drawn;
        *drawn += 1;
        let place = (kind as u64) << 48 | (slot as u64) << 32 | u64::from(number);
        (number, Rng::new(Rng::new(self.seed ^ place.rotate_left(17)).next() ^ place))
    }
}
