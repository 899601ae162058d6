//! The kubelet's results beside ours, and what is said of each difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::suite::{Results, Verdict};

/// How many the kubelet passes on a machine of the usual kind: not PrivilegedPod where the kernel
/// has no dummy network device, not the one that compares the words of busybox's own shell. With
/// fewer, the comparison says nothing.
pub(crate) const KUBELET_PASSES: usize = 138;
/// Letters shown of what a failed test says.
const SHOWN: usize = 200;

/// The tests that only the kubelet passes as they are expected, each with what it waits for.
pub(crate) struct Known(BTreeMap<String, String>);

impl Known {
    /// Reads `known.txt`: a line at the left edge is what all indented lines below it, the names of
    /// tests, wait for.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut reason = None;
        let mut known = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if line.starts_with(' ') {
                let reason: &String = reason.as_ref().context("a test before any reason")?;
                let name = line.trim().to_owned();
                ensure!(known.insert(name, reason.clone()).is_none(), "listed twice: {line}");
            } else {
                reason = Some(line.trim().to_owned());
            }
        }
        Ok(Self(known))
    }
}

/// Both results by who passed.
pub(crate) struct Table<'a> {
    kubelet: &'a Results,
    ours: &'a Results,
    known: &'a Known,
    both: Vec<&'a str>,
    only_kubelet: Vec<&'a str>,
    only_ours: Vec<&'a str>,
    neither: Vec<&'a str>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(kubelet: &'a Results, ours: &'a Results, known: &'a Known) -> Self {
        let mut table = Self {
            kubelet,
            ours,
            known,
            both: Vec::new(),
            only_kubelet: Vec::new(),
            only_ours: Vec::new(),
            neither: Vec::new(),
        };
        let names: BTreeSet<&String> = kubelet.tests.keys().chain(ours.tests.keys()).collect();
        for name in names {
            let passed = |of: &Results| of.tests.get(name) == Some(&Verdict::Passed);
            let list = match (passed(kubelet), passed(ours)) {
                (true, true) => &mut table.both,
                (true, false) => &mut table.only_kubelet,
                (false, true) => &mut table.only_ours,
                (false, false) => &mut table.neither,
            };
            list.push(name);
        }
        table
    }

    /// For people: the figures, then each test that is not passed by both.
    pub(crate) fn text(&self, kept: bool) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            let _ = writeln!(text, "{line}");
        };
        let minutes = |of: &Results| format!("{:.1} min", of.took.as_secs_f64() / 60.0);
        let kept = if kept { " (kept from an earlier run)" } else { "" };
        line(format!("{:<22}{:>10}{:>10}", "", "kubelet", "copepod"));
        line(format!("{:<22}{:>10}{:>10}", "run", self.kubelet.ran(), self.ours.ran()));
        line(format!("{:<22}{:>10}{:>10}", "passed", self.kubelet.passed(), self.ours.passed()));
        line(format!(
            "{:<22}{:>10}{:>10}{kept}",
            "took",
            minutes(self.kubelet),
            minutes(self.ours)
        ));
        line(String::new());
        line(format!("{:<22}{:>10}", "passed by both", self.both.len()));
        line(format!("{:<22}{:>10}", "only by the kubelet", self.only_kubelet.len()));
        line(format!("{:<22}{:>10}", "only by copepod", self.only_ours.len()));
        line(format!("{:<22}{:>10}", "by neither", self.neither.len()));
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for &name in &self.only_kubelet {
            by_reason.entry(self.reason(name).unwrap_or("NOT LISTED")).or_default().push(name);
        }
        for (reason, names) in by_reason {
            line(format!("\nonly by the kubelet, {reason} ({}):", names.len()));
            names.iter().for_each(|name| line(format!("  {name}\n    {}", said(self.ours, name))));
        }
        for (title, names, of) in [
            ("only by copepod", &self.only_ours, self.kubelet),
            ("by neither", &self.neither, self.ours),
        ] {
            if !names.is_empty() {
                line(format!("\n{title}:"));
            }
            names.iter().for_each(|name| line(format!("  {name}\n    {}", said(of, name))));
        }
        let stale = self.stale();
        if !stale.is_empty() {
            line("\nin known.txt, though this node passes it or it is no test: take it out".into());
            stale.iter().for_each(|name| line(format!("  {name}")));
        }
        text
    }

    fn reason(&self, name: &str) -> Option<&'a str> {
        self.known.0.get(name).map(String::as_str)
    }

    /// What is listed as expected and did not happen.
    fn stale(&self) -> Vec<&str> {
        let names = self.known.0.keys().map(String::as_str);
        names.filter(|name| !self.only_kubelet.contains(name)).collect()
    }

    /// What must not be, a line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.kubelet.passed() < KUBELET_PASSES {
            let passed = self.kubelet.passed();
            faults.push(format!("the kubelet passed {passed}, not at least {KUBELET_PASSES}"));
        }
        for (name, verdict) in &self.kubelet.tests {
            let ran = |verdict: Option<&Verdict>| verdict.is_some_and(|v| *v != Verdict::Skipped);
            if ran(Some(verdict)) && !ran(self.ours.tests.get(name)) {
                faults.push(format!("skipped here and not on the kubelet: {name}"));
            }
        }
        let unlisted = self.only_kubelet.iter().filter(|name| self.reason(name).is_none());
        faults.extend(unlisted.map(|name| format!("only the kubelet passes, unlisted: {name}")));
        faults
    }
}

/// How a test failed, in short.
fn said(results: &Results, name: &str) -> String {
    match results.tests.get(name) {
        Some(Verdict::Passed) => "passed".into(),
        Some(Verdict::Failed(message)) => message.chars().take(SHOWN).collect(),
        Some(Verdict::Skipped) => "skipped by itself".into(),
        None => "not run".into(),
    }
}
