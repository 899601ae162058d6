//! What the criterion benches found, for the same table.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::{Aim, Report, Row};

/// Reads the medians that criterion has left in `CRITERION_HOME`; nothing without that variable.
pub(crate) fn read(report: &mut Report) -> Result<()> {
    let Some(home) = std::env::var_os("CRITERION_HOME").map(PathBuf::from) else { return Ok(()) };
    report.head("criterion");
    let mut found = Vec::new();
    estimates(&home, &mut found);
    found.sort();
    for dir in found {
        let name = parse(&dir.join("benchmark.json"))?;
        let estimates = parse(&dir.join("estimates.json"))?;
        let name = name["full_id"].as_str().context("a benchmark without a name")?.to_owned();
        let ns = estimates["median"]["point_estimate"].as_f64().context("no median")?;
        report.row(Row::alone(name, "us", ns / 1e3, Aim::None));
    }
    Ok(())
}

/// The folders `…/new` of each benchmark.
fn estimates(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.ends_with("new") && path.join("estimates.json").is_file() {
            into.push(path);
        } else if path.is_dir() {
            estimates(&path, into);
        }
    }
}

fn parse(file: &Path) -> Result<Value> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}
