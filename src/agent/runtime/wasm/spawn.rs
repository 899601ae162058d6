//! The start of one sandbox process.
//!
//! Three descriptors are all that it inherits, so that the standard library's own spawn serves
//! (no code of ours runs between fork and exec): 0 is its listening socket, 1 its locked state
//! file, 2 its log.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
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
use tokio::time::timeout;

use super::super::Container;
use crate::ledger::Ledger;

/// Bytes of a log after which it is rotated (upstream's `containerLogMaxSize`).
pub(super) const LOG_LIMIT_BYTES: u64 = 10 << 20;

/// How long a sandbox may take to hear its description: it reads nothing else first.
const TELL_TIMEOUT: Duration = Duration::from_secs(30);

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

/// A socket's name, removed when this is dropped.
pub(super) struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already with its directory.
        let _ = fs::remove_file(&self.0);
    }
}

/// A sandbox that was just started.
pub(super) struct Spawned {
    /// The container id.
    pub(super) id: String,
    /// The process.
    pub(super) child: Child,
    /// The connection to it.
    pub(super) stream: UnixStream,
    /// Its socket.
    pub(super) _socket: Socket,
    /// Its state file.
    pub(super) state: PathBuf,
    /// Its log.
    pub(super) log: PathBuf,
}

/// Starts the sandbox `program` for one container attempt and tells it what to run.
pub(super) async fn spawn(
    ledger: &Ledger,
    program: &Path,
    container: &Container,
) -> Result<Spawned, SpawnError> {
    let frame = ToSandbox::Describe(Box::new(describe(container)))
        .encode()
        .map_err(SpawnError::Describe)?;
    let made = |path: &Path| {
        let path = path.to_path_buf();
        |source| SpawnError::Make { path, source }
    };
    let dir = ledger.attempt_dir(&container.pod_uid, &container.name, container.attempt);
    fs::create_dir_all(&dir).map_err(made(&dir))?;
    fs::create_dir_all(&container.log_dir).map_err(made(&container.log_dir))?;
    let log = container.log_dir.join(format!("{}.log", container.attempt));
    let log_file = open_log(&log).map_err(made(&log))?;
    let (id, state) = (new_id(), dir.join("state"));
    let state_file = make_state(&state, &id)?;
    let socket = ledger.socket(&id);
    let listener = UnixListener::bind(&socket).map_err(made(&socket))?;
    let socket = Socket(socket);
    // Queued at once: the sandbox finds the agent there when it looks.
    let mut stream = UnixStream::connect(&socket.0).await.map_err(made(&socket.0))?;
    let child = Command::new(program)
        .env_clear()
        .current_dir("/")
        // Ctrl-C in a terminal is for the agent to hear, not for its guests.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(OwnedFd::from(state_file)))
        .stderr(Stdio::from(log_file))
        .spawn()
        .map_err(|source| SpawnError::Exec { program: program.into(), source })?;
    // An error means that it has ended already, as it does when it hears no more; the monitor sees
    // how. One that does not listen is left to its own patience.
    let _ = timeout(TELL_TIMEOUT, stream.write_all(&frame)).await;
    Ok(Spawned { id, child, stream, _socket: socket, state, log })
}

fn describe(container: &Container) -> Description {
    let container = container.clone();
    Description {
        artefact: container.artefact,
        kind: container.kind,
        args: container.args,
        env: container.env,
        preopens: container.preopens,
        mounts: container.mounts,
        streams: false,
        user: container.user,
        memory_limit_bytes: container.memory_limit_bytes,
        log_limit_bytes: LOG_LIMIT_BYTES,
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
fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}
