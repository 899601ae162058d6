//! Upstream's own tests of a node, run against this one.
//!
//! `make conformance` (`--full`) runs all that upstream wants every node to pass, on the
//! kubelet of the same version (once: what it said is kept outside the checkout) and on this node,
//! each with a containerd of the same kind, and prints who passes what. A test that the kubelet
//! alone passes has to be listed in `known.txt`, below what it waits for. `--table` prints that
//! again of the last runs.
//!
//! `--focus PATTERN` runs those tests alone on this node, whatever features they need, and prints what
//! they said; with `--kubelet` on the kubelet instead.
//!
//! Without these, as in `make test`, those of `subset.txt` are run on this node: each must
//! pass.

mod images;
mod suite;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::containerd::Build;
use copepod_tests::cluster::images::hex;
use copepod_tests::cluster::kubelet::Kubelet;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{ControlPlane, Node, NodeOptions, Options};
use libtest_mimic::{Arguments, Failed, Trial};

use images::Archive;
use suite::{ALONE, FOCUS, PROCESSES, Results, SKIP, Verdict};
use table::{KUBELET_PASSES, Known, Table};

/// For a node to be Ready, on a machine with other work too.
const READY: Duration = Duration::from_secs(60);
/// For the last pods to be gone: the tests delete namespaces and do not wait for it.
const GONE: Duration = Duration::from_secs(180);
/// The folder of the last results of this node.
const OURS: &str = "copepod";
const KNOWN: &str = include_str!("known.txt");
const SUBSET: &str = include_str!("subset.txt");

/// Where the programs are that `make` built, and what is kept outside the checkout.
pub(crate) struct Programs {
    folder: PathBuf,
    kept: PathBuf,
}

impl Programs {
    fn find() -> Result<Self> {
        let variable = |name: &str| {
            let value = std::env::var_os(name);
            value.map(PathBuf::from).with_context(|| format!("{name} is not set: see the Makefile"))
        };
        Ok(Self { folder: variable("COPEPOD_E2E")?, kept: variable("COPEPOD_CONFORMANCE")? })
    }

    /// One of upstream's programs.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn main() -> ExitCode {
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    let compared = if asked("--full") {
        compare(both_runs)
    } else if asked("--table") {
        compare(last_runs)
    } else if let Some(focus) = std::env::args().skip_while(|arg| arg != "--focus").nth(1) {
        focused(&focus, asked("--kubelet"))
    } else {
        return subset();
    };
    match compared {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs chosen tests on this node, or on the kubelet, and shows what they said; fails if one has failed.
fn focused(focus: &str, on_the_kubelet: bool) -> Result<()> {
    let programs = Programs::find()?;
    let archive = Archive::make(&programs)?;
    let plane = ControlPlane::start(&Options::default());
    let results = if on_the_kubelet {
        let into = programs.kept.join("focus-kubelet");
        on_a_kubelet(&programs, &plane, &archive, (focus, ALONE), &into)?
    } else {
        let into = programs.kept.join("focus");
        on_our_node(&programs, &plane, &archive, (focus, ALONE), &into)?
    };
    plane.finish();
    let mut failed = Vec::new();
    for (name, verdict) in &results.tests {
        if let Verdict::Failed(message) = verdict {
            failed.push(format!("{name}\n    {message}"));
        }
    }
    println!("{} of {} passed in {:?}", results.passed(), results.ran(), results.took);
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// The kubelet's results, whether they were kept, and ours.
type Both = (Results, bool, Results);

/// Shows both results; fails for what must not be.
fn compare(results: fn(&Programs) -> Result<Both>) -> Result<()> {
    let known = Known::parse(KNOWN)?;
    let programs = Programs::find()?;
    let (kubelet, kept, ours) = results(&programs)?;
    let table = Table::new(&kubelet, &ours, &known);
    println!("{}\nJUnit files: {}", table.text(kept), programs.kept.display());
    let faults = table.faults();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn both_runs(programs: &Programs) -> Result<Both> {
    let archive = Archive::make(programs)?;
    let plane = ControlPlane::start(&Options::default());
    let (kubelet, kept) = kubelet_results(programs, &plane, &archive)?;
    let into = programs.kept.join(OURS);
    let ours = on_our_node(programs, &plane, &archive, (FOCUS, SKIP), &into)?;
    plane.finish();
    Ok((kubelet, kept, ours))
}

fn last_runs(programs: &Programs) -> Result<Both> {
    let kubelet = kubelet_folder(programs, &Archive::make(programs)?)?;
    let ours = suite::read(&programs.kept.join(OURS))?;
    Ok((suite::read(&kubelet)?, true, ours))
}

/// Where the kubelet's results are kept, named by all that they depend on.
fn kubelet_folder(programs: &Programs, archive: &Archive) -> Result<PathBuf> {
    let mut about = format!("{FOCUS} {SKIP} {PROCESSES} {}", archive.key);
    for program in [&programs.file("kubelet"), Path::new("containerd"), Path::new("runc")] {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("run {}", program.display()))?;
        about.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(programs.kept.join(format!("kubelet-{}", &hex(about.as_bytes())[..16])))
}

/// What the kubelet's tests said: kept, or of a run that is made now.
fn kubelet_results(
    programs: &Programs,
    plane: &ControlPlane,
    archive: &Archive,
) -> Result<(Results, bool)> {
    let folder = kubelet_folder(programs, archive)?;
    if folder.exists() {
        return Ok((suite::read(&folder)?, true));
    }
    eprintln!("the kubelet's run, 11 minutes on 2 processors, once");
    let new = programs.kept.join("kubelet-new");
    let results = on_a_kubelet(programs, plane, archive, (FOCUS, SKIP), &new)?;
    ensure!(
        results.passed() >= KUBELET_PASSES,
        "the kubelet passed {}, not at least {KUBELET_PASSES}: see {}",
        results.passed(),
        new.display()
    );
    std::fs::rename(&new, &folder)?;
    Ok((results, false))
}

/// Runs tests on a kubelet, which is gone afterwards.
fn on_a_kubelet(
    programs: &Programs,
    plane: &ControlPlane,
    archive: &Archive,
    which: (&str, &str),
    into: &Path,
) -> Result<Results> {
    let kubelet = Kubelet::start(plane, "kubelet", |containerd| archive.import(containerd));
    plane.wait(
        READY,
        "the kubelet is Ready",
        || kubelet.log(),
        || {
            let node = plane.api().get("nodes", "", kubelet.name())?;
            (condition(&node, "Ready")?["status"] == "True").then_some(())
        },
    );
    let results = suite::run(programs, plane, which, into)?;
    plane.wait(
        GONE,
        "all pods are gone",
        || kubelet.log(),
        || plane.api().list("pods", "").is_empty().then_some(()),
    );
    drop(kubelet);
    plane.api().delete("nodes", "", "kubelet");
    Ok(results)
}

/// Runs tests on a node of ours, which must leave nothing behind.
fn on_our_node(
    programs: &Programs,
    plane: &ControlPlane,
    archive: &Archive,
    which: (&str, &str),
    into: &Path,
) -> Result<Results> {
    let options = NodeOptions { containerd: Some(Build::Usual), ..NodeOptions::default() };
    let mut node = Node::prepare(plane, options);
    archive.import(node.containerd());
    node.run();
    node.wait_ready(READY);
    let results = suite::run(programs, plane, which, into)?;
    node.wait(GONE, "all pods are gone", || node.pods().is_empty().then_some(()));
    std::fs::write(into.join("agent.log"), node.whole_log())?;
    node.finish();
    Ok(results)
}

/// The subset as tests of `cargo test`: the first one that is asked for has all of them run.
fn subset() -> ExitCode {
    let arguments = Arguments::from_args();
    let names: Vec<&str> = SUBSET.lines().filter(|line| line.starts_with("[sig-")).collect();
    let asked: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter)))
        .collect();
    let focus = suite::focus_of(&asked);
    let results: Arc<OnceLock<Result<Results, String>>> = Arc::default();
    let trials = names.iter().map(|&name| {
        let (results, focus) = (Arc::clone(&results), focus.clone());
        Trial::test(name, move || {
            let results = results.get_or_init(|| run_subset(&focus)).as_ref()?;
            match results.tests.get(name) {
                Some(Verdict::Passed) => Ok(()),
                Some(Verdict::Failed(message)) => Err(Failed::from(message)),
                Some(Verdict::Skipped) => Err("skipped by itself".into()),
                None => Err("upstream has no test by this name".into()),
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// All of them on one node. A panic is a result too: without one, each test would run them again.
fn run_subset(focus: &str) -> Result<Results, String> {
    let run = || {
        let programs = Programs::find()?;
        let archive = Archive::make(&programs)?;
        let plane = ControlPlane::start(&Options::default());
        let into = programs.kept.join("subset");
        let results = on_our_node(&programs, &plane, &archive, (focus, SKIP), &into);
        plane.finish();
        results
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(results)) => Ok(results),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("the run panicked, see above".into()),
    }
}
