//! What was recorded, outside the checkout (`COPEPOD_ORACLE`): the kubelet's by all that it depends
//! on, ours by scenario and kind, of the last run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use copepod_tests::cluster::images::hex;
use serde_json::Value;

use crate::scenario::{Column, Scenario};

/// How records are made: another number whenever what is recorded is not what it was.
const RECIPE: u32 = 3;
/// Letters of a digest that tell records apart.
const KEY: usize = 16;
/// What the pods run is part of what they do.
const ACTOR: &str = include_str!("../../wasm-examples/actor/src/main.rs");

/// Where it is kept.
pub(crate) struct Store {
    folder: PathBuf,
    ours: PathBuf,
    programs: String,
}

impl Store {
    /// The folder that the Makefile names.
    pub(crate) fn find() -> Result<Self> {
        let variable = |name: &str| {
            let value = std::env::var_os(name);
            value.map(PathBuf::from).with_context(|| format!("{name} is not set: see the Makefile"))
        };
        let folder = variable("COPEPOD_ORACLE")?;
        let mut programs = format!("{RECIPE}\n{ACTOR}\n");
        for program in [&*variable("COPEPOD_KUBELET")?, Path::new("containerd"), Path::new("runc")]
        {
            let output = Command::new(program).arg("--version").output();
            let output = output.with_context(|| format!("run {}", program.display()))?;
            programs.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        let ours = folder.join("copepod");
        Ok(Self { folder, ours, programs })
    }

    /// The same with ours in another folder.
    pub(crate) fn beside(mut self, name: &str) -> Self {
        self.ours = self.folder.join(name);
        self
    }

    /// A file beside our records.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.ours.join(name)
    }

    fn kubelet_file(&self, scenario: &Scenario) -> PathBuf {
        let key = hex(format!("{}{}", self.programs, scenario.text()).as_bytes());
        self.folder.join("kubelet").join(format!("{}-{}.json", scenario.name, &key[..KEY]))
    }

    /// What the kubelet did, if that is known.
    pub(crate) fn kubelet(&self, scenario: &Scenario) -> Result<Option<Value>> {
        let file = self.kubelet_file(scenario);
        if file.exists() { read(&file).map(Some) } else { Ok(None) }
    }

    /// Keeps it, in the place of what it did with the scenario as it was before.
    pub(crate) fn keep_kubelet(&self, scenario: &Scenario, kept: &Value) -> Result<()> {
        let file = self.kubelet_file(scenario);
        let folder = file.parent().context("a folder")?;
        fs::create_dir_all(folder)?;
        for old in fs::read_dir(folder)?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            let of = name.len().checked_sub(KEY + ".json".len() + 1).map(|end| &name[..end]);
            if of == Some(&scenario.name) {
                fs::remove_file(old.path())?;
            }
        }
        write(&file, kept)
    }

    fn our_file(&self, scenario: &Scenario, column: Column) -> PathBuf {
        self.ours.join(format!("{}-{column}.json", scenario.name))
    }

    /// What this node did in its last run.
    pub(crate) fn ours(&self, scenario: &Scenario, column: Column) -> Result<Value> {
        read(&self.our_file(scenario, column))
    }

    /// Keeps it.
    pub(crate) fn keep_ours(
        &self,
        scenario: &Scenario,
        column: Column,
        kept: &Value,
    ) -> Result<()> {
        fs::create_dir_all(&self.ours)?;
        write(&self.our_file(scenario, column), kept)
    }
}

fn read(file: &Path) -> Result<Value> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))
}

fn write(file: &Path, value: &Value) -> Result<()> {
    // In one step: a run that is ended leaves a whole record or none.
    let new = file.with_extension("new");
    fs::write(&new, value.to_string()).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("write {}", file.display()))
}
