//! The programs that are measured or measure, each looked for before anything starts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use copepod_tests::{Home, copepod, guest, holds_within, sandbox};
use rustix::process::{Pid, Signal, kill_process};

/// wasmtime's version: that of the crates that Copepod is built with (Cargo.toml).
const WASMTIME: &str = "48.0.8";
/// How long a server may take to end once it is told to.
const END: Duration = Duration::from_secs(10);

/// Where the programs are.
pub(crate) struct Programs {
    pub(crate) wasmtime: PathBuf,
    pub(crate) wrk: PathBuf,
    pub(crate) taskset: PathBuf,
}

impl Programs {
    /// Finds them all.
    ///
    /// # Errors
    /// One that is missing or of another version, and how it is had.
    pub(crate) fn find() -> Result<Self> {
        for (name, file) in [("copepod", copepod()), ("copepod-sandbox", sandbox())] {
            ensure!(file.is_file(), "{name} is not at {}: run `make bench`", file.display());
        }
        let wasmtime = std::env::var_os("WASMTIME").map_or_else(
            || find("wasmtime"),
            |at| {
                let at = PathBuf::from(at);
                ensure!(
                    at.is_file(),
                    "WASMTIME is {}, which is no file: run `make bench`",
                    at.display()
                );
                Ok(at)
            },
        )?;
        let out = Command::new(&wasmtime).arg("--version").output().context("run wasmtime")?;
        let version = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            version.split_whitespace().nth(1) == Some(WASMTIME),
            "{} is {:?}, expected version {WASMTIME}",
            wasmtime.display(),
            version.trim(),
        );
        Ok(Self { wasmtime, wrk: find("wrk")?, taskset: find("taskset")? })
    }

    /// `copepod run FILE`.
    pub(crate) fn copepod_run(&self, home: &Home, file: &Path) -> Command {
        let mut command = home.command(copepod());
        command.arg("run").arg("--sandbox").arg(sandbox()).arg(file);
        command
    }

    /// `wasmtime run FILE`, with its cache of compiled code, which is on by default.
    pub(crate) fn wasmtime_run(&self, home: &Home, file: &Path) -> Command {
        let mut command = home.command(&self.wasmtime);
        command.arg("run").arg(file);
        command
    }

    /// `wasmtime serve` of the http guest, with what a wasi:http guest has from Copepod as well.
    pub(crate) fn wasmtime_serve(&self, home: &Home, port: u16) -> Command {
        let mut command = home.command(&self.wasmtime);
        command.args(["serve", "-S", "cli=y", "--addr", &format!("127.0.0.1:{port}")]);
        command.arg(guest("http"));
        command
    }

    /// The same command on one processor.
    pub(crate) fn pinned(&self, command: &Command, processor: usize) -> Command {
        let mut pinned = Command::new(&self.taskset);
        pinned.args(["--cpu-list", &processor.to_string()]);
        pinned.arg(command.get_program()).args(command.get_args());
        // None of these commands inherits anything: what is set is all that there is.
        pinned.env_clear();
        for (name, value) in command.get_envs() {
            pinned.env(name, value.unwrap_or(OsStr::new("")));
        }
        if let Some(dir) = command.get_current_dir() {
            pinned.current_dir(dir);
        }
        pinned
    }
}

/// A program of `PATH`.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is missing: `make bench` installs it"))
}

/// A server that is told to end when this is dropped, and killed if it does not.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it with its output thrown away.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("run {}", name(&command)))?))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Fails if it has ended.
    pub(crate) fn lives(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("the server has ended: {status}"),
            None => Ok(()),
        }
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let ended = holds_within(END, || {
            let ended = matches!(self.0.try_wait(), Ok(Some(_)));
            if !ended {
                // Copepod takes the first for a stop within the grace, the next for one at once.
                let _ = kill_process(pid, Signal::INT);
            }
            ended
        });
        if !ended {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
