//! Which images go and in which order: values in, values out (upstream
//! `pkg/kubelet/images/image_gc_manager.go`). Times are steady ones, since the collector's start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Percent of a disk in use from which images go (`imageGCHighThresholdPercent`).
    pub(crate) high: u32,
    /// Percent to which they go (`imageGCLowThresholdPercent`).
    pub(crate) low: u32,
    /// An image that is known for less long stays: it was pulled to be run (`imageMinimumGCAge`).
    pub(crate) min_age: Duration,
    /// An image that was not used for longer goes, however empty the disk is; zero: none does
    /// (`imageMaximumGCAge`).
    pub(crate) max_age: Duration,
}

impl Policy {
    /// Whether any image ever goes.
    pub(crate) fn is_off(&self) -> bool {
        self.high >= 100 && self.max_age.is_zero()
    }
}

/// An image, as a store lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// What it is removed by.
    pub(crate) id: String,
    /// What else it is called: tags and digests.
    pub(crate) names: Vec<String>,
    /// Its bytes on the disk.
    pub(crate) bytes: u64,
    /// It is never to go.
    pub(crate) pinned: bool,
    /// Its store knows that somebody uses it.
    pub(crate) in_use: bool,
    /// For how long its store has not seen it used; `None`: the store does not know.
    pub(crate) idle: Option<Duration>,
}

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its store, as it is counted.
    pub(crate) store: usize,
    /// What it is removed by.
    pub(crate) id: String,
    /// Its bytes on the disk.
    pub(crate) bytes: u64,
    /// For how long it was not used; `None`: not since anybody looked.
    pub(crate) idle: Option<Duration>,
    /// For how long it is known.
    pub(crate) known: Duration,
}

#[derive(Clone, Debug)]
struct Record {
    first: Duration,
    used: Option<Duration>,
}

/// What is remembered of images between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records(BTreeMap<(usize, String), Record>);

impl Records {
    /// Learns what a store has now, at `now`, and gives what of it may go. `in_use` holds what
    /// containers and sandboxes use, by any name.
    pub(crate) fn look(
        &mut self,
        store: usize,
        found: &[Found],
        in_use: &BTreeSet<String>,
        now: Duration,
    ) -> Vec<Candidate> {
        let here: BTreeSet<&str> = found.iter().map(|image| image.id.as_str()).collect();
        self.0.retain(|(of, id), _| *of != store || here.contains(id.as_str()));
        let mut candidates = Vec::new();
        for image in found {
            let key = (store, image.id.clone());
            let record = self.0.entry(key).or_insert(Record { first: now, used: None });
            let mut names = [&image.id].into_iter().chain(&image.names);
            if image.in_use || names.any(|name| in_use.contains(name)) {
                record.used = Some(now);
                continue;
            }
            let seen = record.used.map(|used| now.saturating_sub(used));
            let idle = match (seen, image.idle) {
                (Some(seen), Some(told)) => Some(seen.min(told)),
                (seen, told) => seen.or(told),
            };
            if !image.pinned {
                candidates.push(Candidate {
                    store,
                    id: image.id.clone(),
                    bytes: image.bytes,
                    idle,
                    known: now.saturating_sub(record.first),
                });
            }
        }
        candidates
    }
}

/// Puts them in the order in which they go: the least recently used first, and before them all
/// what was never used; of those with the same use, what is known for longest.
pub(crate) fn order(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        let idle = one.idle.unwrap_or(Duration::MAX);
        std::cmp::Reverse((idle, one.known))
    });
}

/// Whether an image goes for its age alone. `running` is how long the agent runs: only after the
/// maximum age can it know what was not used for so long.
pub(crate) fn is_too_old(policy: &Policy, candidate: &Candidate, running: Duration) -> bool {
    let most = policy.max_age;
    !most.is_zero() && running > most && candidate.idle.is_none_or(|idle| idle > most)
}

/// A disk that images lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Equal for stores on one disk.
    pub(crate) id: u64,
    /// Its bytes.
    pub(crate) capacity: u64,
    /// Those of them that anybody may still use.
    pub(crate) available: u64,
}

/// What a disk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It has no bytes at all: what was said of it is wrong.
    NoCapacity,
    /// Nothing has to go.
    Nothing,
    /// So much has to go.
    Free {
        /// Percent in use.
        used: u64,
        /// Bytes.
        bytes: u64,
    },
}

/// What a disk asks for.
pub(crate) fn need(policy: &Policy, disk: &Disk) -> Need {
    if disk.capacity == 0 {
        return Need::NoCapacity;
    }
    let (capacity, available) = (u128::from(disk.capacity), u128::from(disk.available));
    let available = available.min(capacity);
    let used = 100 - available * 100 / capacity;
    if used < u128::from(policy.high) {
        return Need::Nothing;
    }
    let wanted = capacity * u128::from(100_u32.saturating_sub(policy.low)) / 100;
    let bytes = wanted.saturating_sub(available);
    // Both are below what they come from.
    let narrow = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    Need::Free { used: narrow(used), bytes: narrow(bytes) }
}

/// Bytes for people (upstream `formatSize`).
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let step = (1..UNITS.len()).take_while(|step| bytes >> (10 * (step + 1)) > 0).last();
    let step = step.unwrap_or(0);
    // One digit after the point, as Go rounds it.
    let unit = 1_u128 << (10 * (step + 1));
    let bytes = u128::from(bytes);
    let tenths = (bytes * 20 + unit) / (unit * 2);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high: 85, low: 80, min_age: Duration::from_secs(120), max_age: Duration::ZERO };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn found(id: &str) -> Found {
        Found { id: id.into(), bytes: 10, ..Found::default() }
    }

    fn ids(candidates: &[Candidate]) -> Vec<&str> {
        candidates.iter().map(|one| one.id.as_str()).collect()
    }

    fn used(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_in_use_or_pinned_is_none_of_them() {
        let mut records = Records::default();
        let named = Found { names: vec!["h.io/x:1".into()], ..found("by-name") };
        let all = [
            found("free"),
            found("by-id"),
            named,
            Found { pinned: true, ..found("pinned") },
            Found { in_use: true, ..found("held") },
        ];
        let in_use = used(&["by-id", "h.io/x:1"]);
        assert_eq!(ids(&records.look(0, &all, &in_use, s(1))), ["free"]);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut records = Records::default();
        let first = ["a", "b", "c"].map(found);
        records.look(0, &first, &used(&["a", "b"]), s(0));
        records.look(0, &first, &used(&["a"]), s(10));
        let told = Found { idle: Some(s(15)), ..found("told") };
        let all = [first.to_vec(), vec![found("new"), told]].concat();
        let mut candidates = records.look(0, &all, &used(&[]), s(30));
        // Of another store, and seen before all of these.
        candidates.extend(records.look(1, &[found("c")], &used(&[]), s(30)));
        order(&mut candidates);
        assert_eq!(ids(&candidates), ["c", "new", "c", "b", "a", "told"]);
        assert_eq!(candidates[3].idle, Some(s(30)));
        // What its store saw used later than we counts.
        let b = Found { idle: Some(s(1)), ..found("b") };
        assert_eq!(records.look(0, &[b], &used(&[]), s(31))[0].idle, Some(s(1)));
        // One that was gone is new.
        let again = records.look(0, &[found("a")], &used(&[]), s(40));
        assert_eq!((again[0].idle, again[0].known), (None, Duration::ZERO));
    }

    #[test]
    fn age_counts_once_the_agent_runs_for_so_long() {
        let policy = Policy { max_age: s(100), ..POLICY };
        let one =
            |idle| Candidate { store: 0, id: "a".into(), bytes: 1, idle, known: Duration::ZERO };
        for (policy, idle, running, old) in [
            (&policy, Some(s(101)), s(101), true),
            (&policy, Some(s(100)), s(500), false),
            (&policy, Some(s(500)), s(100), false),
            (&policy, None, s(101), true),
            (&POLICY, None, s(1000), false),
        ] {
            assert_eq!(is_too_old(policy, &one(idle), running), old, "{idle:?} {running:?}");
        }
        assert!(!policy.is_off());
        assert!(Policy { high: 100, ..POLICY }.is_off());
        assert!(!Policy { high: 100, ..policy }.is_off());
    }

    #[test]
    fn a_disk_is_freed_from_the_high_to_the_low_mark() {
        let disk = |capacity, available| Disk { id: 0, capacity, available };
        for (disk, expected) in [
            (disk(0, 0), Need::NoCapacity),
            (disk(100, 16), Need::Nothing),
            (disk(100, 15), Need::Free { used: 85, bytes: 5 }),
            (disk(1000, 0), Need::Free { used: 100, bytes: 200 }),
            (disk(100, 500), Need::Nothing),
            (disk(u64::MAX, 0), Need::Free { used: 100, bytes: u64::MAX / 5 }),
        ] {
            assert_eq!(need(&POLICY, &disk), expected, "{disk:?}");
        }
    }

    #[test]
    fn sizes_are_shown_as_upstream_does() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (1 << 40, "1.0 TiB"),
            (5 << 50, "5120.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
