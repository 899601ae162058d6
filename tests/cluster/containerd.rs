//! A containerd of a node's own: root, state, sockets and network configuration are the node's, and
//! so are the control groups, which who asks it for pods names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::cluster::cri::Cri;
use crate::cluster::images::{self, BUSYBOX, PAUSE};
use crate::cluster::leaks;
use crate::cluster::network::{Network, PLUGINS};
use crate::cluster::program::{Program, tail};
use crate::holds_within;

/// How long it may take to start or to end.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks whether it serves, which takes it 0.3 s.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The namespace of CRI's containers.
const NAMESPACE: &str = "k8s.io";
/// Where containerd 1 has its shims' sockets, whatever its state directory is.
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// The network by which it gives each pod its loopback.
const LOOPBACK: &str = "cni-loopback";

/// Which containerd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    /// Debian's, or that of the folder `COPEPOD_CONTAINERD`.
    #[default]
    Usual,
    /// That of `make containerd2` (the folder `COPEPOD_CONTAINERD2`), with a runc of its time.
    Second,
}

impl Build {
    /// The folder of its programs; none for those of PATH.
    fn folder(self) -> Option<PathBuf> {
        match self {
            Self::Usual => std::env::var_os("COPEPOD_CONTAINERD").map(PathBuf::from),
            Self::Second => Some(crate::variable("COPEPOD_CONTAINERD2")),
        }
    }
}

/// A containerd with its images. It is ended with this value, and so is all that it started.
#[derive(Debug)]
pub struct Containerd {
    dir: PathBuf,
    programs: Option<PathBuf>,
    results: String,
    program: Program,
}

impl Containerd {
    /// Starts one in a new directory `dir`, whose pods are attached to the network, and hands it
    /// the images, which are packed in `images` if they are not there yet.
    #[track_caller]
    pub fn start(dir: &Path, images: &Path, network: &Network, build: Build) -> Self {
        let archive = images::archive(images);
        fs::create_dir(dir).expect("made");
        let programs = build.folder();
        let config = configuration(dir, network, &version(programs.as_deref()));
        fs::write(dir.join("config.toml"), config).expect("written");
        let program = program(dir, programs.as_deref());
        let results = format!("{}-", network.name());
        let mut containerd = Self { dir: dir.into(), programs, results, program };
        containerd.wait_serves();
        containerd.import(&archive, &[PAUSE, BUSYBOX]);
        containerd
    }

    /// Hands it an archive, which has these images.
    #[track_caller]
    pub fn import(&self, archive: &Path, images: &[impl AsRef<str>]) {
        self.ctr(&["images", "import", &archive.display().to_string()]);
        // Its CRI part hears of them a moment later.
        let cri = self.cri();
        let known = || images.iter().all(|image| cri.has_image(image.as_ref()));
        assert!(holds_within(SOON, known), "its CRI part has no images\n{}", self.log());
    }

    /// Starts it again, after its end; it serves when this returns.
    #[track_caller]
    pub fn run(&mut self) {
        assert!(self.program.ended().is_some(), "it runs");
        self.program = program(&self.dir, self.programs.as_deref());
        self.wait_serves();
    }

    #[track_caller]
    fn wait_serves(&mut self) {
        let cri = self.cri();
        let serves = holds_within(SOON, || {
            std::thread::park_timeout(ASK_EVERY);
            self.program.ended().is_some() || cri.serves()
        });
        let ended = self.program.ended();
        assert!(serves && ended.is_none(), "containerd does not serve: {ended:?}\n{}", self.log());
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    /// Its socket as a node names it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A client of it.
    #[track_caller]
    pub fn cri(&self) -> Cri {
        Cri::new(&self.socket())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// Ends it by SIGTERM; its containers go on.
    #[track_caller]
    pub fn stop(&mut self) {
        assert!(self.program.stop(SOON), "containerd did not end when asked\n{}", self.log());
    }

    /// Kills it; its containers go on.
    pub fn kill9(&mut self) {
        self.program.kill();
    }

    /// Its machine goes down, with all that it started and what lay in memory.
    pub fn go_down(&mut self) {
        let outside = outside(&self.dir);
        self.program.kill();
        leaks::remove_below(&self.dir);
        for file in outside {
            let _ = fs::remove_file(file);
        }
        fs::remove_dir_all(self.dir.join("state")).expect("removed");
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.program.signal(signal);
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.dir.join("containerd.log"))
    }

    fn ctr_command(&self, args: &[&str]) -> Command {
        let ctr = match &self.programs {
            Some(folder) => folder.join("ctr"),
            None => "ctr".into(),
        };
        let mut command = Command::new(ctr);
        command.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]).args(args);
        command
    }

    /// `ctr --namespace k8s.io ARGS` to its good end; its output.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> String {
        let output = self.ctr_command(args).output().expect("ctr of `make test-setup`");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "ctr {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Whether it forgets how a container ended that did so while it was away: from version 2 on, it
    /// takes a shim without processes for one that was never used (`core/runtime/v2/shim_load.go`).
    #[track_caller]
    pub fn forgets_ends(&self) -> bool {
        is_second(&version(self.programs.as_deref()))
    }

    /// Its shims' processes: one for each pod.
    pub fn shims(&self) -> Vec<Pid> {
        let all = leaks::processes(&self.dir).into_iter().map(|(pid, _)| pid);
        all.filter(|pid| *pid != self.pid()).collect()
    }

    /// What is left of its pods, a line each: containers and pods (if it runs), shims and whatever
    /// else names it but its `client`, mounts, what its CNI library remembers.
    pub fn leaks(&mut self, client: Option<Pid>) -> Vec<String> {
        let mut left = Vec::new();
        let running = self.program.ended().is_none();
        if running {
            let listed = self.ctr(&["containers", "ls"]);
            left.extend(listed.lines().skip(1).map(|line| format!("container: {line}")));
        }
        let known = [running.then(|| self.pid()), client];
        let processes = leaks::processes(&self.dir).into_iter();
        left.extend(
            processes.filter(|(pid, _)| !known.contains(&Some(*pid))).map(|(_, about)| about),
        );
        left.extend(leaks::mounts(&self.dir));
        left.extend(leaks::results(&self.results).iter().map(|f| format!("file: {}", f.display())));
        left
    }
}

/// What the pods of the containerd in this directory have outside it, which stays if they are killed:
/// the sockets of shims, and what its CNI library remembers of their loopback.
pub(super) fn outside(dir: &Path) -> Vec<PathBuf> {
    let tasks = dir.join("state/io.containerd.runtime.v2.task").join(NAMESPACE);
    let mut found = Vec::new();
    for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
        let id = task.file_name().to_string_lossy().into_owned();
        found.extend(leaks::results(&format!("{LOOPBACK}-{id}")));
        let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
        let socket = address.strip_prefix("unix://").map(PathBuf::from);
        found.extend(socket.filter(|socket| socket.starts_with(SHIM_SOCKETS)));
    }
    found
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let mut outside = outside(&self.dir);
        outside.extend(leaks::results(&self.results));
        self.program.stop(SOON);
        leaks::remove_below(&self.dir);
        for file in outside {
            let _ = fs::remove_file(file);
        }
    }
}

/// Whether what it says of itself is version 2.
fn is_second(version: &str) -> bool {
    version.split_whitespace().any(|word| word.starts_with("v2."))
}

/// What its program says it is.
#[track_caller]
fn version(programs: Option<&Path>) -> String {
    let program = programs.map_or_else(|| "containerd".into(), |folder| folder.join("containerd"));
    let output = Command::new(&program).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn program(dir: &Path, programs: Option<&Path>) -> Program {
    let args = [format!("--config={}", dir.join("config.toml").display())];
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    let mut program = PathBuf::from("containerd");
    if let Some(folder) = programs {
        program = folder.join(program);
        // Its shim and runc too.
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        path = std::env::join_paths(folders).expect("a folder without a colon");
    }
    let env = [("PATH".to_owned(), path.into_string().expect("a PATH in UTF-8"))];
    Program::start("containerd", &program, &args, &env, &dir.join("containerd.log"))
}

fn configuration(dir: &Path, network: &Network, version: &str) -> String {
    // Its first and its second line name their sections differently. The tests' machines have not
    // the capability to lower OOM scores; sockets, network namespaces and NRI's socket have
    // machine-wide places that runs beside one another would share.
    let second = is_second(version);
    let (format, sections) =
        if second { (3, second_sections(dir, network)) } else { (2, first_sections(network)) };
    format!(
        "version = {format}
root = '{dir}/root'
state = '{dir}/state'
[grpc]
  address = '{dir}/c.sock'
[ttrpc]
  address = '{dir}/c.sock.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
  path = '{dir}/opt'
{sections}",
        dir = dir.display(),
    )
}

fn first_sections(network: &Network) -> String {
    format!(
        "[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = '{PAUSE}'
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.grpc.v1.cri'.cni]
    bin_dir = '{PLUGINS}'
    conf_dir = '{conf}'
  [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
",
        conf = network.conf().display(),
    )
}

fn second_sections(dir: &Path, network: &Network) -> String {
    format!(
        "[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{PLUGINS}']
    conf_dir = '{conf}'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '{dir}/s'
",
        conf = network.conf().display(),
        dir = dir.display(),
    )
}
