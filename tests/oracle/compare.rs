//! What differs between two shapes of a scenario.
//!
//! Two sequences of a track are the same *but for batching* if they end with the same value and one
//! gets from either to the other by leaving out values, each of which was shown for less than
//! [`BRIEF`]: a node that tells two changes in one PATCH, or that looks at its containers once a second
//! as the kubelet does, leaves out what was in between. Where one side shows values and the
//! other shows other ones instead, that is a difference however brief they were; but not of a condition
//! if all of them were brief, which name what is not ready at the moment.
//!
//! Events are compared as a set, however often each was told and in which order, but for the order in
//! which the containers are first said to have started.

use std::collections::BTreeSet;

use serde_json::Value;

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
    let ends = values.iter().skip(1).map(|(at, _)| *at).chain(std::iter::once(u64::MAX));
    values.iter().zip(ends).map(|((at, value), end)| Shown { value, time: end - at }).collect()
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

/// The containers in the order of their first starts.
fn starts(events: &[String]) -> Vec<&str> {
    let started = events.iter().filter_map(|event| event.strip_prefix("Normal Started ["));
    started.filter_map(|event| event.split_once(']')).map(|(about, _)| about).collect()
}

/// What differs between two sequences, a text for each place.
fn sequence(kubelet: &[Shown<'_>], ours: &[Shown<'_>], momentary: bool) -> Vec<String> {
    let pairs = common(kubelet, ours);
    let mut texts = Vec::new();
    let (mut i, mut j) = (0, 0);
    let ends = (kubelet.len(), ours.len());
    for (next_i, next_j) in pairs.into_iter().chain(std::iter::once(ends)) {
        let (theirs, mine) = (&kubelet[i..next_i], &ours[j..next_j]);
        texts.extend(gap(theirs, mine, momentary));
        (i, j) = (next_i + 1, next_j + 1);
    }
    texts
}

/// What the sides show between two values that both show.
fn gap(kubelet: &[Shown<'_>], ours: &[Shown<'_>], momentary: bool) -> Option<String> {
    let brief = |all: &[Shown<'_>]| all.iter().all(|one| one.time < BRIEF);
    let text = |all: &[Shown<'_>]| {
        let all: Vec<String> = all.iter().map(|one| one.value.to_string()).collect();
        all.join(", then ")
    };
    match (kubelet, ours) {
        ([], []) => None,
        (only, []) | ([], only) if brief(only) => None,
        (kubelet, ours) if momentary && brief(kubelet) && brief(ours) => None,
        (only, []) => Some(format!("only kubelet: {}", text(only))),
        ([], only) => Some(format!("only ours: {}", text(only))),
        (kubelet, ours) => Some(format!("kubelet {} | ours {}", text(kubelet), text(ours))),
    }
}

/// The longest sequence of values that both show, as pairs of places.
fn common(one: &[Shown<'_>], other: &[Shown<'_>]) -> Vec<(usize, usize)> {
    let (n, m) = (one.len(), other.len());
    // The length for what is left from (i, j) on.
    let mut length = vec![vec![0_usize; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            length[i][j] = if one[i].value == other[j].value {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let mut pairs = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < n && j < m {
        if one[i].value == other[j].value {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}
