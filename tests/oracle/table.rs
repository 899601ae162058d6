//! The differences beside what is said of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::compare::Difference;
use crate::scenario::{Column, Scenario};

pub(crate) const KNOWN: &str = include_str!("known.txt");
/// Letters shown of a difference.
const SHOWN: usize = 600;

/// Differences that are as they should be, or are left for a reason.
pub(crate) struct Known(Vec<Entry>);

struct Entry {
    reason: String,
    line: String,
    /// `ordinary`, `wasm`, or `both`.
    column: String,
    /// A name, or `*`, or the start of names and `*`.
    scenario: String,
    track: String,
    /// A part of its text; empty for all.
    part: String,
}

impl Entry {
    fn matches(&self, difference: &Difference) -> bool {
        let name = match self.scenario.strip_suffix('*') {
            Some(start) => difference.scenario.starts_with(start),
            None => difference.scenario == self.scenario,
        };
        name && (self.column == "both" || self.column == difference.column.to_string())
            && self.track == difference.track
            && difference.text.contains(&self.part)
    }
}

impl Known {
    /// Reads `known.txt`: a line at the left edge is the reason of all indented lines below it, each
    /// `COLUMN SCENARIO TRACK`, or that and `: PART OF THE TEXT`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut reason = None;
        let mut known = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if !line.starts_with(' ') {
                reason = Some(line.trim().to_owned());
                continue;
            }
            let reason: &String = reason.as_ref().context("a difference before any reason")?;
            let (which, part) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
            let mut words = which.splitn(3, ' ').map(str::to_owned);
            let mut word = || words.next().with_context(|| format!("too few words: {line}"));
            let (column, scenario, track) = (word()?, word()?, word()?);
            ensure!(["both", "ordinary", "wasm"].contains(&&*column), "no such kind: {line}");
            known.push(Entry {
                reason: reason.clone(),
                line: line.trim().to_owned(),
                column,
                scenario,
                track,
                part: part.to_owned(),
            });
        }
        Ok(Self(known))
    }

    fn of(&self, difference: &Difference) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.matches(difference))
    }
}

/// All of it.
pub(crate) struct Table<'a> {
    differences: &'a [Difference],
    known: &'a Known,
    scenarios: &'a [Scenario],
}

impl<'a> Table<'a> {
    pub(crate) fn new(
        differences: &'a [Difference],
        known: &'a Known,
        scenarios: &'a [Scenario],
    ) -> Self {
        Self { differences, known, scenarios }
    }

    /// For people: the figures, then each difference below its reason.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{:<34}{:>10}{:>10}\n", "", "ordinary", "wasm");
        let columns = [Column::Ordinary, Column::Wasm];
        let mut row = |title: &str, figures: [usize; 2]| {
            let _ = writeln!(text, "{title:<34}{:>10}{:>10}", figures[0], figures[1]);
        };
        let of = |column: Column| {
            self.scenarios.iter().filter(move |scenario| scenario.columns().contains(&column))
        };
        row("scenarios", columns.map(|column| of(column).count()));
        let same = |column: Column| {
            let differs = |scenario: &&Scenario| {
                let mut all = self.differences.iter();
                all.any(|one| one.column == column && one.scenario == scenario.name)
            };
            of(column).filter(|scenario| !differs(scenario)).count()
        };
        row("as on the kubelet", columns.map(same));
        let count = |column: Column, listed: bool| {
            let of = self.differences.iter().filter(|one| one.column == column);
            of.filter(|one| self.known.of(one).is_some() == listed).count()
        };
        row("differences that are listed", columns.map(|column| count(column, true)));
        row("differences that are not", columns.map(|column| count(column, false)));
        let mut by_reason: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
        for difference in self.differences {
            let reason = self.known.of(difference).map_or("NOT LISTED", |entry| &entry.reason);
            by_reason.entry(reason).or_default().push(difference);
        }
        for (reason, all) in by_reason {
            let _ = writeln!(text, "\n{reason} ({}):", all.len());
            for one in all {
                let _ = writeln!(text, "  {}", line(one));
            }
        }
        text
    }

    /// Those that are not listed, a line each that begins with the scenario.
    pub(crate) fn unlisted(&self) -> Vec<String> {
        let unlisted = self.differences.iter().filter(|one| self.known.of(one).is_none());
        unlisted.map(|one| format!("{}: {}", one.scenario, line(one))).collect()
    }

    /// What must not be: unlisted ones, and if `all` was run what is listed and not there.
    pub(crate) fn faults(&self, all: bool) -> Vec<String> {
        let unlisted = self.differences.iter().filter(|one| self.known.of(one).is_none());
        let mut faults: Vec<String> = unlisted
            .map(|one| format!("not listed: {} {} {}", one.column, one.scenario, one.track))
            .collect();
        let stale = |entry: &&Entry| !self.differences.iter().any(|one| entry.matches(one));
        if all {
            let stale = self.known.0.iter().filter(stale);
            faults.extend(stale.map(|entry| format!("listed and not there: {}", entry.line)));
        }
        faults
    }
}

fn line(one: &Difference) -> String {
    let text: String = one.text.chars().take(SHOWN).collect();
    format!("{} {} {}: {text}", one.column, one.scenario, one.track)
}
