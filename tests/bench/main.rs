//! What Copepod costs, beside the `wasmtime` command of the same version and in the same run.
//!
//! `make bench` builds and installs what this needs, runs the criterion benches (`step.rs`,
//! `log.rs`) and then this: [`start`] (from command to first line or first answer), [`serve`]
//! (requests per second), [`memory`] (of idle sandboxes, and after many requests), [`node`] (a node
//! of a cluster, beside a kubelet, with Wasm pods and with ordinary ones), [`probes`] (many probed pods on one node). It prints a table, or with `--output json` the JSON that it always writes into a file. Arguments name the
//! parts to be run; none is all of them.
//!
//! Machines drift, so whatever is compared is measured in turn, round by round; figures are
//! medians. A machine that has other work is named in the output: only ratios mean something then.

mod criterion;
mod machine;
mod measure;
mod memory;
mod node;
mod probes;
mod program;
mod report;
mod serve;
mod start;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use machine::Machine;
use program::Programs;
use report::Report;

const USAGE: &str =
    "usage: figures [--output table|json] [--file FILE] [start|serve|memory|node|probes]...";

/// A part of the bench, by the name it has on the command line.
type Part = (&'static str, fn(&Programs, &mut Report) -> Result<()>);
const PARTS: [Part; 5] = [
    ("start", start::measure),
    ("serve", serve::measure),
    ("memory", memory::measure),
    ("node", node::measure),
    ("probes", probes::measure),
];

struct Options {
    json: bool,
    file: PathBuf,
    parts: Vec<Part>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench.json");
        let mut options = Self { json: false, file, parts: Vec::new() };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--output" => match args.next().as_deref() {
                    Some("json") => options.json = true,
                    Some("table") => options.json = false,
                    _ => bail!("--output is table or json\n{USAGE}"),
                },
                "--file" => options.file = args.next().context(USAGE)?.into(),
                name => match PARTS.iter().find(|(part, _)| *part == name) {
                    Some(part) => options.parts.push(*part),
                    None => bail!("{name:?} is no part of the bench\n{USAGE}"),
                },
            }
        }
        if options.parts.is_empty() {
            options.parts = PARTS.into();
        }
        Ok(options)
    }
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let programs = Programs::find()?;
    let begin = Instant::now();
    let machine = Machine::look()?;
    let mut report = Report::new(options.json);
    report.say(&machine.to_string());
    for (name, measure) in &options.parts {
        measure(&programs, &mut report).with_context(|| format!("the part {name:?}"))?;
    }
    criterion::read(&mut report)?;
    let after = Machine::look()?;
    if let Some(warning) = machine.warning().or_else(|| after.warning()) {
        report.say(&warning);
    }
    report.say(&format!("took {} s", begin.elapsed().as_secs()));
    let json = report.json(&machine, &after);
    fs::create_dir_all(options.file.parent().context("the file has no folder")?)?;
    fs::write(&options.file, format!("{json:#}\n"))
        .with_context(|| format!("write {}", options.file.display()))?;
    report.say(&format!("JSON: {}", options.file.canonicalize()?.display()));
    if options.json {
        println!("{json:#}");
    }
    ensure!(report.has_rows(), "nothing was measured");
    Ok(())
}
