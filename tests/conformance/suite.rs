//! Upstream's tests, run by their own runner against one cluster, and what they said.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::ControlPlane;
use copepod_tests::cluster::program::Program;
use serde_json::Value;

use crate::Programs;

/// The tests of the node that upstream wants passed by all.
pub(crate) const FOCUS: &str = r"\[sig-node\].*\[NodeConformance\]";
/// But for those that need the node alone, harm it, take long, or need a feature turned on.
pub(crate) const SKIP: &str =
    r"\[Serial\]|\[Disruptive\]|\[Slow\]|\[Feature:|\[Alpha\]|LinuxOnly.*\[Feature";
/// What is left out of a choice of tests: those that need the node alone, or harm it.
pub(crate) const ALONE: &str = r"\[Serial\]|\[Disruptive\]|\[Alpha\]";
/// Tests at once: most of their time they wait.
pub(crate) const PROCESSES: u32 = 10;
/// Longer than all of them take where each that can fail does: 5 minutes each.
const LONGEST: Duration = Duration::from_secs(90 * 60);
/// What the runner makes of it, in the folder of the results.
const REPORT: &str = "report.json";

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// With what it said first.
    Failed(String),
    /// By itself, when it saw the cluster.
    Skipped,
}

/// What one run said.
#[derive(Debug)]
pub(crate) struct Results {
    /// Each test that was run, by its full name.
    pub(crate) tests: BTreeMap<String, Verdict>,
    /// From the first to the last of them.
    pub(crate) took: Duration,
}

/// Runs the tests that `focus` and not `skip` says, and keeps what they say in the folder `into`:
/// `junit_01.xml`, the runner's `report.json`, its output in `log`.
pub(crate) fn run(
    programs: &Programs,
    plane: &ControlPlane,
    (focus, skip): (&str, &str),
    into: &Path,
) -> Result<Results> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
    let kubeconfig = plane.dir().join("admin.kubeconfig");
    let report = into.join(REPORT);
    let args = [
        format!("--procs={PROCESSES}"),
        "--no-color".into(),
        format!("--focus={focus}"),
        format!("--skip={skip}"),
        format!("--timeout={}s", LONGEST.as_secs()),
        "--flake-attempts=1".into(),
        "--silence-skips".into(),
        format!("--json-report={}", report.display()),
        programs.file("e2e.test").display().to_string(),
        "--".into(),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--provider=local".into(),
        "--num-nodes=1".into(),
        "--allowed-not-ready-nodes=0".into(),
        "--dump-logs-on-failure=false".into(),
        format!("--report-dir={}", into.display()),
    ];
    let home = ("HOME".to_owned(), plane.dir().join("home").display().to_string());
    let log = into.join("log");
    let mut ginkgo = Program::start("ginkgo", &programs.file("ginkgo"), &args, &[home], &log);
    ensure!(ginkgo.wait(LONGEST).is_some(), "not within {LONGEST:?}: see {}", log.display());
    ensure!(report.exists(), "the tests' runner made no report:\n{}", ginkgo.tail());
    read(into)
}

/// What a run has left in the folder.
pub(crate) fn read(folder: &Path) -> Result<Results> {
    let file = folder.join(REPORT);
    let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let suites: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))?;
    let suites = suites.as_array().context("the report is a list of suites")?;
    let nanoseconds = suites.iter().filter_map(|suite| suite["RunTime"].as_u64()).sum();
    let specs = suites.iter().filter_map(|suite| suite["SpecReports"].as_array()).flatten();
    let ran = specs.filter(|spec| spec["LeafNodeType"] == "It" && spec["NumAttempts"] != 0);
    let tests = ran.map(|spec| (name(spec), verdict(spec))).collect();
    Ok(Results { tests, took: Duration::from_nanos(nanoseconds) })
}

/// As the focus sees it.
fn name(spec: &Value) -> String {
    let around = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let all = around.chain(std::iter::once(&spec["LeafNodeText"]));
    let words: Vec<&str> = all.filter_map(Value::as_str).filter(|text| !text.is_empty()).collect();
    words.join(" ")
}

fn verdict(spec: &Value) -> Verdict {
    match spec["State"].as_str() {
        Some("passed") => Verdict::Passed,
        Some("skipped" | "pending") => Verdict::Skipped,
        _ => {
            let message = spec["Failure"]["Message"].as_str().unwrap_or("it did not end");
            let words: Vec<&str> = message.split_whitespace().collect();
            Verdict::Failed(words.join(" "))
        }
    }
}

/// A focus of exactly these tests.
pub(crate) fn focus_of(names: &[&str]) -> String {
    let mut pattern = String::new();
    for name in names {
        pattern.push_str(if pattern.is_empty() { "(?:" } else { "|" });
        for letter in name.chars() {
            // Punctuation is itself after a backslash, letters and digits may not be.
            if letter.is_ascii_punctuation() {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
    }
    pattern + ")$"
}

impl Results {
    /// How many passed.
    pub(crate) fn passed(&self) -> usize {
        self.tests.values().filter(|verdict| **verdict == Verdict::Passed).count()
    }

    /// How many were run to a verdict.
    pub(crate) fn ran(&self) -> usize {
        self.tests.values().filter(|verdict| **verdict != Verdict::Skipped).count()
    }
}
