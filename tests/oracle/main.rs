//! The real kubelet as the oracle: what it makes of the pods of `scenarios.yaml`, and what this node
//! makes of them, with the same ordinary image and with a Wasm guest that acts the same.
//!
//! `make oracle` (`--full`) runs all on the kubelet (once for each scenario: what it did is kept
//! outside the checkout), then on this node as both kinds, and prints each difference. A difference
//! has to be listed in `known.txt` below its reason; one that is not, and one that is listed and not
//! there, fail the command. Further words are parts of scenarios' names, and only those are run.
//! `--kubelet` runs those on the kubelet alone, `--table` compares the last runs again, `--show`
//! prints them.
//!
//! Without these, as in `make test`, the scenarios that are marked `quick` are run on this node.
//!
//! Rooms: `scenario` (what the file says), `image` (what the pods run), `record` (what the API server
//! told, as it came), `drive` (from a scenario to its record), `shape` (from a record to what is
//! compared), `compare`, `table`.

mod compare;
mod drive;
mod image;
mod record;
mod scenario;
mod shape;
mod store;
mod table;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::kubelet::Kubelet;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Build, ControlPlane, Node, NodeOptions, Options};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use compare::Difference;
use drive::Bench;
use image::Images;
use record::Recorder;
use scenario::{Column, Scenario};
use store::Store;
use table::{Known, Table};

/// For a node to be Ready, on a machine with other work too.
const READY: Duration = Duration::from_secs(60);
/// Taints are for rejections: the controller that would delete such pods is not to be in the way.
const CONTROLLERS: &str = "--controllers=*,bootstrapsigner,tokencleaner,-taint-eviction-controller";

/// What the command line asks for.
struct Asked {
    flag: Option<String>,
    names: Vec<String>,
}

impl Asked {
    fn parse() -> Self {
        const FLAGS: [&str; 4] = ["--full", "--kubelet", "--table", "--show"];
        let words: Vec<String> = std::env::args().skip(1).collect();
        let flag = words.iter().find(|word| FLAGS.contains(&word.as_str())).cloned();
        let names = words.into_iter().filter(|word| !word.starts_with("--")).collect();
        Self { flag, names }
    }

    fn wants(&self, scenario: &Scenario) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| scenario.name.contains(part))
    }
}

fn main() -> ExitCode {
    let asked = Asked::parse();
    let Some(flag) = &asked.flag else { return quick() };
    match full(&asked, flag) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn full(asked: &Asked, flag: &str) -> Result<()> {
    let mut scenarios = scenario::all()?;
    scenarios.retain(|scenario| asked.wants(scenario));
    let store = Store::find()?;
    if flag == "--full" || flag == "--kubelet" {
        let plane = plane();
        kubelet(&plane, &store, &scenarios)?;
        if flag == "--full" {
            ours(&plane, &store, &scenarios, || Ok(Vec::new()))?;
        }
        plane.finish();
    }
    if flag == "--kubelet" {
        return Ok(());
    }
    if flag == "--show" {
        return show(&store, &scenarios);
    }
    let differences = differences(&store, &scenarios)?;
    let known = Known::parse(table::KNOWN)?;
    let table = Table::new(&differences, &known, &scenarios);
    println!("{}", table.text());
    let faults = table.faults(asked.names.is_empty());
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn plane() -> ControlPlane {
    let controller_manager = vec![CONTROLLERS.to_owned()];
    ControlPlane::start(&Options { controller_manager, ..Options::default() })
}

/// What differs between the kept runs.
fn differences(store: &Store, scenarios: &[Scenario]) -> Result<Vec<Difference>> {
    let mut all = Vec::new();
    for scenario in scenarios {
        let kubelet = store.kubelet(scenario)?.context("the kubelet's run is kept")?;
        for column in scenario.columns() {
            let ours = store.ours(scenario, column)?;
            all.extend(compare::differences(
                scenario,
                column,
                &shape::of(scenario, &kubelet),
                &shape::of(scenario, &ours),
            ));
        }
    }
    Ok(all)
}

fn show(store: &Store, scenarios: &[Scenario]) -> Result<()> {
    for scenario in scenarios {
        if let Some(kubelet) = store.kubelet(scenario)? {
            println!("{}: kubelet\n{}", scenario.name, shape::text(&shape::of(scenario, &kubelet)));
        }
        for column in scenario.columns() {
            if let Ok(ours) = store.ours(scenario, column) {
                println!(
                    "{}: {column}\n{}",
                    scenario.name,
                    shape::text(&shape::of(scenario, &ours))
                );
            }
        }
    }
    Ok(())
}

/// Runs on the kubelet what is not kept of it.
fn kubelet(plane: &ControlPlane, store: &Store, scenarios: &[Scenario]) -> Result<()> {
    let mut missing = Vec::new();
    for scenario in scenarios {
        if store.kubelet(scenario)?.is_none() {
            missing.push((scenario, Column::Kubelet));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("{} scenarios on the kubelet, once", missing.len());
    let images = Images::push(plane, scenarios);
    let kubelet = Kubelet::start(plane, "kubelet", |containerd| images.import(containerd));
    plane.wait(READY, "the kubelet is Ready", || kubelet.log(), || ready(plane, kubelet.name()));
    let recorder = Recorder::start(plane.api());
    let bench = Bench {
        plane,
        node: kubelet.name(),
        static_pods: kubelet.static_pods(),
        images: &images,
        recorder: &recorder,
    };
    bench.prepare(&[Column::Kubelet])?;
    bench.run(&missing, |scenario, _, kept| store.keep_kubelet(scenario, kept))?;
    bench.clear(|| kubelet.log());
    drop(recorder);
    drop(kubelet);
    plane.api().delete("nodes", "", "kubelet");
    Ok(())
}

/// Runs all on this node, as both kinds; and then once more what `again` names, each alone.
fn ours<'a>(
    plane: &ControlPlane,
    store: &Store,
    scenarios: &'a [Scenario],
    again: impl FnOnce() -> Result<Vec<&'a Scenario>>,
) -> Result<()> {
    let images = Images::push(plane, scenarios);
    let static_pods = plane.dir().join("static");
    std::fs::create_dir(&static_pods)?;
    let config = json!({"staticPodPath": static_pods, "fileCheckFrequency": "2s"});
    let options = NodeOptions { containerd: Some(Build::Usual), config, ..NodeOptions::default() };
    let mut node = Node::prepare(plane, options);
    images.import(node.containerd());
    node.run();
    node.wait_ready(READY);
    let recorder = Recorder::start(plane.api());
    let bench =
        Bench { plane, node: node.name(), static_pods, images: &images, recorder: &recorder };
    let columns = [Column::Ordinary, Column::Wasm];
    bench.prepare(&columns)?;
    let each = |scenario: &'a Scenario| {
        scenario.columns().into_iter().map(move |column| (scenario, column))
    };
    let all: Vec<(&Scenario, Column)> = scenarios.iter().flat_map(each).collect();
    let keep =
        |scenario: &Scenario, column: Column, kept: &Value| store.keep_ours(scenario, column, kept);
    bench.run(&all, keep)?;
    bench.clear(|| node.log());
    for one in again()?.into_iter().flat_map(each) {
        // Without what was told of the pod of the same name.
        let recorder = Recorder::start(plane.api());
        Bench { recorder: &recorder, ..bench.clone() }.run(&[one], keep)?;
        bench.clear(|| node.log());
    }
    drop(recorder);
    std::fs::write(store.file("agent.log"), node.whole_log())?;
    node.finish();
    Ok(())
}

fn ready(plane: &ControlPlane, node: &str) -> Option<()> {
    let node: Value = plane.api().get("nodes", "", node)?;
    (condition(&node, "Ready")?["status"] == "True").then_some(())
}

/// The quick ones as tests of `cargo test`: the first that is asked for has all of them run.
fn quick() -> ExitCode {
    let arguments = Arguments::from_args();
    let scenarios = scenario::all().unwrap_or_else(|error| panic!("{error:#}"));
    let quick: Vec<Scenario> = scenarios.into_iter().filter(|scenario| scenario.quick).collect();
    let names: Vec<String> = quick.iter().map(|scenario| scenario.name.clone()).collect();
    let wanted = |name: &String| arguments.filter.as_ref().is_none_or(|part| name.contains(part));
    let asked: Arc<Vec<Scenario>> =
        Arc::new(quick.into_iter().filter(|scenario| wanted(&scenario.name)).collect());
    let results: Arc<OnceLock<Result<Vec<String>, String>>> = Arc::default();
    let trials = names.into_iter().map(|name| {
        let (results, asked, its) = (Arc::clone(&results), Arc::clone(&asked), name.clone());
        Trial::test(name, move || {
            let faults = results.get_or_init(|| run_quick(&asked)).as_ref()?;
            let start = format!("{its}: ");
            let its: Vec<&str> =
                faults.iter().filter(|f| f.starts_with(&start)).map(String::as_str).collect();
            if its.is_empty() { Ok(()) } else { Err(Failed::from(its.join("\n"))) }
        })
    });
    let rule = Trial::test("what_is_brief_may_be_left_out_and_nothing_else", || {
        compare::what_is_brief_may_be_left_out_and_nothing_else();
        Ok(())
    });
    let trials = trials.chain(std::iter::once(rule));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// All of them on one node: what differs and is not listed. A panic is a result too: without one,
/// each test would run them again.
fn run_quick(scenarios: &[Scenario]) -> Result<Vec<String>, String> {
    let run = || -> Result<Vec<String>> {
        let store = Store::find()?.beside("quick");
        let plane = plane();
        let known = Known::parse(table::KNOWN)?;
        let faults = || -> Result<Vec<String>> {
            let differences = differences(&store, scenarios)?;
            Ok(Table::new(&differences, &known, scenarios).unlisted())
        };
        kubelet(&plane, &store, scenarios)?;
        // What a busy machine made of it does not come twice.
        let again = || {
            let faults = faults()?;
            let differs = |one: &&Scenario| {
                let start = format!("{}: ", one.name);
                let its: Vec<&String> = faults.iter().filter(|f| f.starts_with(&start)).collect();
                its.iter().for_each(|fault| println!("once more, alone: {fault}"));
                !its.is_empty()
            };
            Ok(scenarios.iter().filter(differs).collect())
        };
        ours(&plane, &store, scenarios, again)?;
        plane.finish();
        faults()
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(faults)) => Ok(faults),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("the run panicked, see above".into()),
    }
}
