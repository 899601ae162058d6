//! A real sandbox in the control groups of each driver that the host has: `make test` here, and
//! `make test-vm` where there is systemd and version 2.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{AttemptState, Exit};
use copepod_wasm::{GuestKind, Stdin};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::ledger::LogDirs;
use crate::linux::cgroup::{Cgroups, Class, Driver, Leaf, LeafSpec, Limits, Options};
use crate::runtime::TerminationMessage;

/// How long a sandbox may take on a processor that is emulated.
const SOON: Duration = Duration::from_secs(60);
/// Bytes of memory that a container may have.
const MEMORY: u64 = 24 << 20;

/// A node with one pod.
struct Node {
    cgroups: Arc<Cgroups>,
    wasm: Wasm,
    happenings: mpsc::Receiver<Happening>,
    hog: PathBuf,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(driver: Driver, [sandbox, hog]: [PathBuf; 2]) -> Self {
        let cgroup_root = format!("copepod-test-{}", uuid::Uuid::new_v4().simple());
        let options = Options { driver, cgroup_root, ..Options::default() };
        let cgroups = Arc::new(Cgroups::open(&options).expect("opens"));
        let pod = Limits { memory_bytes: Some(2 * MEMORY), pids: Some(50), ..Limits::default() };
        cgroups.make_pod("u", Class::Burstable, &pod).expect("makes");
        let dir = tempfile::tempdir().expect("a directory");
        let [root, run, logs] = ["root", "run", "logs"].map(|name| dir.path().join(name));
        let dirs = LogDirs { links: logs.join("links"), logs };
        let ledger = Ledger::of_node(&root, &run, dirs).expect("opens");
        let (wasm, happenings) = Wasm::open(Arc::new(ledger), sandbox);
        Self { cgroups, wasm, happenings, hog, dir }
    }

    /// Starts a container of `hog` that is given to the kernel to limit, and gives its id.
    async fn start(&self, name: &str, args: &[&str]) -> String {
        let limits = Limits {
            cpu_weight: Some(20),
            cpu_quota_us: Some(150_000),
            memory_bytes: Some(MEMORY),
            ..Limits::default()
        };
        let cgroups = Arc::clone(&self.cgroups);
        let container = Container {
            pod_uid: "u".into(),
            name: name.into(),
            attempt: 0,
            sandbox: 0,
            definition: None,
            stdin: Stdin::Closed,
            log_dir: self.dir.path().join("logs").join(name),
            log_link: None,
            artefact: self.hog.clone(),
            kind: GuestKind::P1Command,
            tree: None,
            image: None,
            args: ["hog"].iter().chain(args).map(ToString::to_string).collect(),
            env: Vec::new(),
            preopens: Vec::new(),
            mounts: Vec::new(),
            termination_message: TerminationMessage::default(),
            user: None,
            cgroup: Some(LeafSpec { cgroups, class: Class::Burstable, limits }),
            oom_score_adj: Some(500),
            network: None,
            memory_limit_bytes: None,
            log_limits: LogLimits::default(),
            listen: Vec::new(),
            grace_seconds: 5,
            die_with_agent: false,
        };
        self.wasm.start(Launch::Wasm(Box::new(container))).await.expect("starts").id
    }

    /// Waits until the container is as wanted.
    async fn until<T>(&mut self, wanted: impl Fn(AttemptState) -> Option<T>) -> T {
        let happens = async {
            loop {
                match self.happenings.recv().await.expect("is told").what {
                    What::Attempt(attempt) => {
                        if let Some(found) = wanted(attempt.state) {
                            return found;
                        }
                    }
                    What::NeverRan { failure, .. } => panic!("{failure:?}"),
                    What::Look | What::SandboxChanged { .. } => {}
                }
            }
        };
        timeout(SOON, happens).await.expect("in time")
    }

    async fn exited(&mut self) -> Exit {
        let exited = |state| match state {
            AttemptState::Exited(exit) => Some(exit),
            AttemptState::Starting | AttemptState::Running { .. } => None,
        };
        self.until(exited).await
    }

    fn leaf(&self, id: &str) -> Option<Leaf> {
        self.cgroups.find_leaf("u", own(id).expect("ours")).expect("looks")
    }
}

/// What a file of the group says, or of the slice that its scope is in.
fn read(leaf: &Leaf, names: [&str; 2]) -> String {
    let entries = leaf.entries();
    let mut dirs = entries.iter().flat_map(|entry| entry.ancestors().skip(1).take(2));
    let text =
        dirs.find_map(|dir| names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok()));
    text.unwrap_or_else(|| panic!("{names:?} of {leaf:?}")).trim().into()
}

async fn runs_and_ends(mut node: Node) {
    // A container that lives, and a command beside it.
    let id = node.start("lives", &["4", "--hold", "600000"]).await;
    let running = |state| matches!(state, AttemptState::Running { .. }).then_some(());
    node.until(running).await;
    let leaf = node.leaf(&id).expect("is there");
    assert_eq!(read(&leaf, ["memory.max", "memory.limit_in_bytes"]), MEMORY.to_string());
    assert!(read(&leaf, ["cpu.max", "cpu.cfs_quota_us"]).starts_with("150000"));
    for entry in leaf.entries() {
        let within = fs::read_to_string(&entry).expect("reads");
        assert_eq!(within.lines().count(), 1, "{}: {within:?}", entry.display());
    }
    let null = || File::options().read(true).write(true).open("/dev/null").expect("opens").into();
    let command = ["hog", "1"].map(str::to_owned).into();
    let exec = Exec { command, artefact: None, streams: [null(), null(), null()] };
    let ended = timeout(SOON, node.wasm.exec(&id, exec)).await.expect("in time").expect("runs");
    assert_eq!((ended.code, ended.message.as_str()), (0, ""));
    node.wasm.stop(&id, Duration::from_secs(5));
    let exit = node.exited().await;
    assert_eq!((exit.code, exit.reason.as_str()), (143, "Error"));
    node.wasm.remove(&id).await;
    assert_eq!(node.leaf(&id), None, "it goes with its container");

    // One that takes more than it may have.
    let id = node.start("hog", &["64"]).await;
    let exit = node.exited().await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    node.wasm.remove(&id).await;
    assert_eq!(node.leaf(&id), None, "it goes with its container");

    // One that is left when its pod goes.
    let id = node.start("left", &["4", "--hold", "600000"]).await;
    node.until(running).await;
    let cgroups = Arc::clone(&node.cgroups);
    let removed = tokio::task::spawn_blocking(move || cgroups.remove_pod("u"));
    removed.await.expect("runs").expect("removes");
    assert_eq!(node.exited().await.code, 137);
    assert_eq!(node.leaf(&id), None);
    node.cgroups.remove_all().expect("removes");
}

/// A file that `make` names.
fn named(variable: &str) -> PathBuf {
    let file = std::env::var_os(variable);
    file.unwrap_or_else(|| panic!("{variable} is not set: see the Makefile")).into()
}

/// The guest `hog`, compiled for this host: already, or by the program under test.
fn hog() -> PathBuf {
    if let Some(artefact) = std::env::var_os("COPEPOD_HOG") {
        return artefact.into();
    }
    let guest = named("COPEPOD_GUESTS").join("hog/hog.wasm");
    let mut compile = std::process::Command::new(named("COPEPOD"));
    let output = compile.args(["compile", "-o", "json"]).arg(guest).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let start = text.find("\"artefact\"").expect("an artefact");
    let path = text[start..].split('"').nth(3).expect("its path");
    path.into()
}

#[tokio::test]
async fn a_sandbox_has_its_limits_and_leaves_no_group() {
    let programs = [named("COPEPOD_SANDBOX"), hog()];
    runs_and_ends(Node::new(Driver::Cgroupfs, programs.clone())).await;
    if Path::new("/run/systemd/private").exists() {
        runs_and_ends(Node::new(Driver::Systemd, programs)).await;
    }
}
