//! What differs between two shapes of a scenario.
//!
//! Two sequences of a track are the same *but for batching* if both become the same by leaving out
//! values that were shown for less than [`BRIEF`], and then saying once what is there twice in a row:
//! a node that tells two changes in one PATCH, or that looks at its containers once a second as the
//! kubelet does, leaves out what was in between. The last value stays for ever. Where between two
//! values that both show one side shows something and the other something else, that is a difference
//! however brief they were; but not of a condition, which names what is not ready at the moment.
//!
//! The kubelet makes a status before it acts: a container that is to wait for its restart is shown as
//! ended until the kubelet looks at its pod again, 10 s and more later. This is as brief as that may be,
//! too. And so is what a track says first while its pod is being made: for how long is a matter of how
//! fast the node and its machine are, not of what it does.
//!
//! Events are compared as a set, however often each was told and in which order, but for the order in
//! which the containers are first said to have started. The main ones among each other have no order:
//! the kubelet starts one after the other, this node side by side.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::scenario::{Column, Scenario};

/// Longer than two of the kubelet's looks at its containers on a busy machine, in milliseconds.
const BRIEF: u64 = 3000;

/// One difference.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) scenario: String,
    pub(crate) column: Column,
    /// The track, or `events`, `order`, `settled`.
    pub(crate) track: String,
    /// What the one side has and the other has not.
    pub(crate) text: String,
}

/// A value of a track and for how long it was shown; the last one for ever.
struct Shown<'a> {
    value: &'a Value,
    time: u64,
}

fn shown(shape: &Value, track: &str) -> Vec<(u64, Value)> {
    let values = shape["tracks"][track].as_array().into_iter().flatten();
    values.map(|one| (one[0].as_u64().unwrap_or_default(), one[1].clone())).collect()
}

fn timed(values: &[(u64, Value)]) -> Vec<Shown<'_>> {
    let next = values.iter().skip(1).map(Some).chain(std::iter::once(None));
    let each = values.iter().zip(next).enumerate().map(|(index, ((at, value), next))| {
        let waits = |next: &Value| {
            value["state"]["terminated"].is_object()
                && next["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        };
        let time = match next {
            Some((_, next)) if waits(next) => 0,
            Some(_) if index == 0 && is_being_made(value) => 0,
            Some((end, _)) => end - at,
            None => u64::MAX,
        };
        Shown { value, time }
    });
    each.collect()
}

/// Whether a container or a condition says that the pod is not there yet.
fn is_being_made(value: &Value) -> bool {
    const WAITS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    match value["state"]["waiting"]["reason"].as_str() {
        Some(reason) => WAITS.contains(&reason),
        None => value["status"] == "False",
    }
}

/// All of them.
pub(crate) fn differences(
    scenario: &Scenario,
    column: Column,
    kubelet: &Value,
    ours: &Value,
) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut found = |track: &str, text: String| {
        all.push(Difference { scenario: scenario.name.clone(), column, track: track.into(), text });
    };
    if kubelet["settled"] != ours["settled"] {
        let text = format!("kubelet {} | ours {}", kubelet["settled"], ours["settled"]);
        found("settled", text);
    }
    let names = |shape: &Value| -> BTreeSet<String> {
        shape["tracks"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    for track in names(kubelet).union(&names(ours)) {
        let (kubelet, ours) = (shown(kubelet, track), shown(ours, track));
        let momentary = track.starts_with("condition ");
        for text in sequence(&timed(&kubelet), &timed(&ours), momentary) {
            found(track, text);
        }
    }
    let (theirs, mine) = (events(kubelet), events(ours));
    for (only, one, other) in [("kubelet", &theirs, &mine), ("ours", &mine, &theirs)] {
        for event in one.iter().filter(|event| !other.contains(event)) {
            found("events", format!("only {only}: {event}"));
        }
    }
    let (theirs, mine) = (starts(&theirs), starts(&mine));
    if theirs != mine {
        found("order", format!("kubelet {theirs:?} | ours {mine:?}"));
    }
    all
}

fn events(shape: &Value) -> Vec<String> {
    let events = shape["events"].as_array().into_iter().flatten();
    events.map(|event| event[1].as_str().unwrap_or_default().to_owned()).collect()
}

/// The containers in the order of their first starts, the main ones by name.
fn starts(events: &[String]) -> Vec<&str> {
    let started = events.iter().filter_map(|event| event.strip_prefix("Normal Started ["));
    let mut all: Vec<&str> =
        started.filter_map(|event| event.split_once(']')).map(|(about, _)| about).collect();
    let main = |about: &&str| about.starts_with("spec.containers{");
    for together in all.chunk_by_mut(|one, other| main(one) && main(other)) {
        together.sort_unstable();
    }
    all
}

/// What differs between two sequences, a text for each place.
fn sequence(kubelet: &[Shown<'_>], ours: &[Shown<'_>], momentary: bool) -> Vec<String> {
    let mut search = Search { sides: [kubelet, ours], momentary, known: HashMap::new() };
    let mut at = At::default();
    let mut texts = Vec::new();
    let mut gap = [Vec::new(), Vec::new()];
    loop {
        let (_, step) = search.best(at);
        let next = search.after(at, step);
        match step {
            Step::Skip(side) if search.counts(at, side) => {
                gap[side].push(search.sides[side][at.next[side]].value);
            }
            Step::Skip(_) => {}
            Step::Match | Step::End => texts.extend(text(&std::mem::take(&mut gap))),
        }
        if step == Step::End {
            return texts;
        }
        at = next;
    }
}

/// A gap in words.
fn text(gap: &[Vec<&Value>; 2]) -> Option<String> {
    let text = |all: &[&Value]| {
        let all: Vec<String> = all.iter().map(|value| value.to_string()).collect();
        all.join(", then ")
    };
    match gap {
        [kubelet, ours] if kubelet.is_empty() && ours.is_empty() => None,
        [kubelet, ours] if ours.is_empty() => Some(format!("only kubelet: {}", text(kubelet))),
        [kubelet, ours] if kubelet.is_empty() => Some(format!("only ours: {}", text(ours))),
        [kubelet, ours] => Some(format!("kubelet {} | ours {}", text(kubelet), text(ours))),
    }
}

/// A place in both sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct At {
    /// What comes next of each.
    next: [usize; 2],
    /// The last value of the kubelet's that both show.
    common: Option<usize>,
    /// Whether a new value of each was left out since.
    left_out: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Both show it.
    Match,
    /// It is left out of this side's.
    Skip(usize),
    End,
}

/// Finds the way through both sequences on which the fewest values count as differences.
struct Search<'a> {
    sides: [&'a [Shown<'a>]; 2],
    momentary: bool,
    known: HashMap<At, (usize, Step)>,
}

impl Search<'_> {
    /// Whether the side's next value says the last common one again.
    fn repeats(&self, at: At, side: usize) -> bool {
        let value = self.sides[side][at.next[side]].value;
        at.common.is_some_and(|common| self.sides[0][common].value == value)
    }

    /// Whether leaving out the side's next value is a difference.
    fn counts(&self, at: At, side: usize) -> bool {
        let instead = !self.momentary && at.left_out[1 - side];
        let brief = self.sides[side][at.next[side]].time < BRIEF;
        !self.repeats(at, side) && (instead || !brief)
    }

    fn after(&self, at: At, step: Step) -> At {
        let [i, j] = at.next;
        match step {
            Step::End => at,
            Step::Match => At { next: [i + 1, j + 1], common: Some(i), left_out: [false; 2] },
            Step::Skip(side) => {
                let mut next = at;
                next.next[side] += 1;
                next.left_out[side] |= !self.repeats(at, side);
                next
            }
        }
    }

    /// The fewest differences from there on, and the first step to them.
    fn best(&mut self, at: At) -> (usize, Step) {
        if let Some(known) = self.known.get(&at) {
            return *known;
        }
        let left = [0, 1].map(|side| at.next[side] < self.sides[side].len());
        let mut steps = Vec::new();
        if left == [true, true]
            && self.sides[0][at.next[0]].value == self.sides[1][at.next[1]].value
        {
            steps.push((Step::Match, 0));
        }
        for side in [0, 1].into_iter().filter(|side| left[*side]) {
            steps.push((Step::Skip(side), usize::from(self.counts(at, side))));
        }
        let mut best = (0, Step::End);
        for (index, (step, cost)) in steps.into_iter().enumerate() {
            let all = cost + self.best(self.after(at, step)).0;
            if index == 0 || all < best.0 {
                best = (all, step);
            }
        }
        self.known.insert(at, best);
        best
    }
}

/// The rule of this comparison, tried on sequences of a few letters.
#[track_caller]
pub(crate) fn what_is_brief_may_be_left_out_and_nothing_else() {
    let long = BRIEF + 1;
    assert!(differ(&[("a", 9), ("c", 0)], &[("a", 9), ("b", 9), ("c", 0)]).is_empty());
    assert!(differ(&[("a", 9), ("b", 9), ("c", 0)], &[("c", 0)]).is_empty());
    let merged = [("a", 9), ("t", long), ("f", 9), ("t", 0)];
    assert!(differ(&[("a", 9), ("t", 0)], &merged).is_empty());
    assert!(differ(&merged, &[("a", 9), ("t", 0)]).is_empty());
    let only = differ(&[("a", 9), ("c", 0)], &[("a", 9), ("b", long), ("c", 0)]);
    assert_eq!(only, [r#"only ours: "b""#]);
    let instead = differ(&[("a", 9), ("x", 9), ("c", 0)], &[("a", 9), ("y", 9), ("c", 0)]);
    assert_eq!(instead.len(), 1, "{instead:?}");
    assert_eq!(differ(&[("a", 0)], &[("a", 9), ("b", 0)]), [r#"only ours: "b""#]);
    let made = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
    let slowly = [(0, made.clone()), (long, Value::from("runs")), (2 * long, made.clone())];
    assert!(sequence(&timed(&slowly), &timed(&slowly[1..]), false).is_empty());
    let never = [(0, Value::from("runs"))];
    assert_eq!(sequence(&timed(&slowly), &timed(&never), false).len(), 1);
}

/// The differences of letters, each shown for so many milliseconds; the last stays.
fn differ(kubelet: &[(&str, u64)], ours: &[(&str, u64)]) -> Vec<String> {
    let values = |all: &[(&str, u64)]| -> Vec<(u64, Value)> {
        let mut at = 0;
        let each = all.iter().map(|(value, time)| {
            at += time;
            (at - time, Value::from(*value))
        });
        each.collect()
    };
    let (kubelet, ours) = (values(kubelet), values(ours));
    sequence(&timed(&kubelet), &timed(&ours), false)
}
