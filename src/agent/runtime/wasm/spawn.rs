//! The start of one sandbox process.
//!
//! Three descriptors are all that it inherits, so that the standard library's own spawn serves
//! (no code of ours runs between fork and exec): 0 is its listening socket, 1 its locked state
//! file, 2 its log.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use copepod_wasm::Description;
use copepod_wasm::frame::{FrameError, ToSandbox};
use copepod_wasm::state::{StateError, StateFile};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::super::Container;
use super::kept::{self, About};
use super::oom;
use crate::ledger::{Ledger, write_whole};
use crate::linux::cgroup::{CgroupError, Leaf};

/// How long a sandbox may take to hear its description: it reads nothing else first.
pub(super) const TELL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a sandbox could not be started.
#[derive(Debug, Error)]
pub(super) enum SpawnError {
    /// A directory or file of the attempt.
    #[error("cannot make {path}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The attempt's state file.
    #[error("state file {path}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// Its control group.
    #[error(transparent)]
    Cgroup(CgroupError),
    /// Another process holds the attempt: it lives.
    #[error("state file {0} is locked: this attempt runs already")]
    Locked(PathBuf),
    /// The program could not be run.
    #[error("cannot run the sandbox program {program}")]
    Exec {
        /// Which.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The description does not fit into a frame.
    #[error("the container's description (arguments, environment, mounts) is too large")]
    Describe(#[source] FrameError),
}

/// A socket's name, removed when this is dropped, unless its sandbox is to outlive the agent: then
/// only once it has ended.
pub(super) struct Socket {
    path: PathBuf,
    kept: bool,
}

impl Socket {
    /// The socket of a sandbox that may live.
    pub(super) fn kept(path: PathBuf) -> Self {
        Self { path, kept: true }
    }

    /// Its sandbox has ended.
    pub(super) fn ended(mut self) {
        self.kept = false;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.kept {
            // Either may be gone already with its directory.
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(self.path.with_extension("json"));
        }
    }
}

/// A process of the sandbox program, and the connection to it.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) stream: UnixStream,
    pub(super) socket: Socket,
}

/// A sandbox that was just started.
pub(super) struct Spawned {
    /// The container id.
    pub(super) id: String,
    /// The process.
    pub(super) process: Process,
    /// The attempt's directory.
    pub(super) dir: PathBuf,
    /// Where its traces are.
    pub(super) about: About,
    /// Its control group.
    pub(super) leaf: Option<Leaf>,
}

/// Starts the sandbox `program` for one container attempt and tells it what to run.
pub(super) async fn spawn(
    ledger: &Ledger,
    program: &Path,
    container: &Container,
) -> Result<Spawned, SpawnError> {
    let id = new_id();
    let leaf = make_leaf(container, &id).await?;
    let spawned = spawn_in(ledger, program, container, (id, leaf.clone())).await;
    if let (Err(_), Some(leaf)) = (&spawned, leaf) {
        oom::remove(leaf).await;
    }
    spawned
}

async fn make_leaf(container: &Container, id: &str) -> Result<Option<Leaf>, SpawnError> {
    let Some(spec) = container.cgroup.clone() else { return Ok(None) };
    let (uid, id) = (container.pod_uid.clone(), id.to_owned());
    let made = spawn_blocking(move || spec.make(&uid, &id)).await;
    let made = made.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
    made.map(Some).map_err(SpawnError::Cgroup)
}

/// Has systemd take the process into its group, where systemd makes them.
async fn admit(leaf: Option<&Leaf>, pid: Option<u32>) -> Result<(), SpawnError> {
    let Some((leaf, pid)) = leaf.filter(|leaf| leaf.admits()).cloned().zip(pid) else {
        return Ok(());
    };
    let admitted = spawn_blocking(move || leaf.admit(pid)).await;
    let admitted = admitted.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
    admitted.map_err(SpawnError::Cgroup)
}

async fn spawn_in(
    ledger: &Ledger,
    program: &Path,
    container: &Container,
    (id, leaf): (String, Option<Leaf>),
) -> Result<Spawned, SpawnError> {
    let cgroups = leaf.as_ref().map(Leaf::own_entries).unwrap_or_default();
    let frame = frame(Description { cgroups, ..describe(container, leaf.as_ref()) })?;
    let dir = ledger.attempt_dir(&container.pod_uid, &container.name, container.attempt);
    fs::create_dir_all(&dir).map_err(made(&dir))?;
    fs::create_dir_all(&container.log_dir).map_err(made(&container.log_dir))?;
    let about = About::of(container, &id);
    let log_file = open_log(&about.log).map_err(made(&about.log))?;
    let state = dir.join("state");
    // First of all: where an earlier try of the attempt lives, what is kept of that stays.
    let state_file = make_state(&state, &id)?;
    if !container.die_with_agent {
        keep(ledger, container, &about, &id)?;
    }
    kept::forget_end(&dir);
    let mut command = Command::new(program);
    command.stderr(Stdio::from(log_file));
    let mut process = launch(command, ledger.socket(&id), state_file)?;
    // Told nothing yet, it does nothing that counts; dropped with its socket, it ends.
    admit(leaf.as_ref(), process.child.id()).await?;
    process.socket.kept = !container.die_with_agent;
    // An error means that it has ended already, as it does when it hears no more; the monitor sees
    // how. One that does not listen is left to its own patience.
    let _ = timeout(TELL_TIMEOUT, process.stream.write_all(&frame)).await;
    Ok(Spawned { id, process, dir, about, leaf })
}

/// Writes what another agent has to know of the attempt, and makes the link to its log.
fn keep(ledger: &Ledger, container: &Container, about: &About, id: &str) -> Result<(), SpawnError> {
    let dir = ledger.attempt_dir(&container.pod_uid, &container.name, container.attempt);
    about.keep(&dir).map_err(made(&dir))?;
    let description = ledger.description(id);
    let json = serde_json::to_vec(container).map_err(|e| made(&description)(e.into()))?;
    write_whole(&description, &json).map_err(made(&description))?;
    if let Some(link) = &about.link {
        symlink(&about.log, link).map_err(made(link))?;
    }
    Ok(())
}

/// The frame that tells a sandbox what to run.
pub(super) fn frame(description: Description) -> Result<Vec<u8>, SpawnError> {
    ToSandbox::Describe(Box::new(description)).encode().map_err(SpawnError::Describe)
}

fn made(path: &Path) -> impl Fn(io::Error) -> SpawnError {
    move |source| SpawnError::Make { path: path.to_path_buf(), source }
}

/// Starts the program of `command`, which has its log already, with a socket of this path and the
/// state file.
pub(super) fn launch(
    mut command: Command,
    socket: PathBuf,
    state: StateFile,
) -> Result<Process, SpawnError> {
    let listener = UnixListener::bind(&socket).map_err(made(&socket))?;
    let socket = Socket { path: socket, kept: false };
    // Queued at once: the sandbox finds the agent there when it looks.
    let stream = connect(&socket.path).map_err(made(&socket.path))?;
    let program = command.as_std().get_program().into();
    let child = command
        .env_clear()
        .current_dir("/")
        // Ctrl-C in a terminal is for the agent to hear, not for its guests.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(OwnedFd::from(state)))
        .spawn()
        .map_err(|source| SpawnError::Exec { program, source })?;
    Ok(Process { child, stream, socket })
}

/// Connects to a sandbox's socket.
///
/// # Errors
/// The kernel's.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = StdStream::connect(socket)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// What the sandbox of the container in this control group is told.
pub(super) fn describe(container: &Container, leaf: Option<&Leaf>) -> Description {
    let container = container.clone();
    Description {
        artefact: container.artefact,
        kind: container.kind,
        args: container.args,
        env: container.env,
        preopens: container.preopens,
        mounts: container.mounts,
        streams: false,
        stdin: container.stdin,
        user: container.user,
        cgroups: leaf.map(Leaf::entries).unwrap_or_default(),
        oom_score_adj: container.oom_score_adj,
        network: container.network,
        memory_limit_bytes: container.memory_limit_bytes,
        log_limit_bytes: container.log_limits.bytes,
        listen: container.listen,
        grace_seconds: container.grace_seconds,
        die_with_agent: container.die_with_agent,
    }
}

/// Opens a log to append to, made with the mode that a kubelet's have.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o640).open(path)
}

/// The attempt's state file, locked, made anew; what an earlier try of the same attempt left is no
/// record of this one.
fn make_state(path: &Path, id: &str) -> Result<StateFile, SpawnError> {
    let made = StateFile::create(path, id);
    let made = made.map_err(|source| SpawnError::State { path: path.into(), source })?;
    made.ok_or_else(|| SpawnError::Locked(path.into()))
}

/// A container id: 64 hex digits, as log shippers expect.
pub(super) fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}
