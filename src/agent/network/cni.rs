//! One call of one plugin: a program with a clean environment, its configuration on standard
//! input, its result or error as JSON on standard output (libcni `pkg/invoke`).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Most bytes of a result: real ones have one or two KiB.
const RESULT_MAX: usize = 1 << 20;
/// Bytes of standard error that are kept; what comes after is read and dropped.
const STDERR_MAX: usize = 4 << 10;
/// Bytes of what a plugin printed that an error shows: the message of an event has 1,024.
const SHOWN_MAX: usize = 512;
/// How often a plugin that is just being replaced is tried again, as upstream.
const BUSY_TRIES: u32 = 5;
/// The time between these tries, as upstream.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The programs that plugins may need, where the agent itself was given no path.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a call failed; texts as libcni words them.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// No directory has it.
    #[error("failed to find plugin {plugin:?} in path [{path}]")]
    NotFound {
        /// Its name.
        plugin: String,
        /// The directories, with a blank between.
        path: String,
    },
    /// It could not be started.
    #[error("netplugin failed with no error message: fork/exec {path}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its pipes failed.
    #[error("cannot speak with the plugin")]
    Pipe(#[source] io::Error),
    /// It says why.
    #[error("{}", said(msg, details))]
    Said {
        /// The specification's code.
        code: u64,
        /// Its message.
        msg: String,
        /// More of it; may be empty.
        details: String,
    },
    /// It failed and printed nothing.
    #[error("netplugin failed with no error message: {0}")]
    Silent(String),
    /// It failed and printed to standard error alone.
    #[error("netplugin failed: {stderr:?}: {status}")]
    Stderr {
        /// What.
        stderr: String,
        /// How it ended.
        status: String,
    },
    /// It failed and printed what is no error.
    #[error("netplugin failed but error parsing its diagnostic message {0:?}")]
    Garbage(String, #[source] serde_json::Error),
    /// It printed more than any result.
    #[error("plugin printed more than {RESULT_MAX} bytes")]
    TooMuch,
    /// It was killed.
    #[error("plugin did not end within {} s", .0.as_secs())]
    TimeLimit(Duration),
}

fn said(msg: &str, details: &str) -> String {
    if details.is_empty() { msg.to_owned() } else { format!("{msg}; {details}") }
}

/// What a plugin prints when it fails.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Complaint {
    code: u64,
    msg: String,
    details: String,
}

/// The program of this name in the first directory that has it.
///
/// # Errors
/// [`CallError::NotFound`].
pub(super) fn find(plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, CallError> {
    let mut found = dirs.iter().map(|dir| dir.join(plugin));
    found.find(|path| path.is_file()).ok_or_else(|| {
        let path: Vec<_> = dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        CallError::NotFound { plugin: plugin.to_owned(), path: path.join(" ") }
    })
}

/// Runs a plugin once: what it printed, if it ended well.
///
/// # Errors
/// [`CallError`]. Past `limit`, and when it prints too much, it is killed with its children.
pub(super) async fn run(
    program: &Path,
    conf: &[u8],
    environment: &[(&str, OsString)],
    limit: Duration,
) -> Result<Vec<u8>, CallError> {
    let mut child = start(program, environment).await?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let ended = match timeout(limit, speak(&mut child, conf)).await {
        Ok(ended) => ended,
        Err(_) => Err(CallError::TimeLimit(limit)),
    };
    let (status, stdout, stderr) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            // Not waited for yet, so the number is its own; the group has its children too.
            if let Some(group) = group.filter(|_| child.id().is_some()) {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait().await;
            }
            return Err(error);
        }
    };
    if !stderr.is_empty() {
        tracing::debug!(program = %program.display(), stderr = shown(&stderr), "plugin");
    }
    if status.success() { Ok(stdout) } else { Err(complaint(&stdout, &stderr, status)) }
}

async fn start(program: &Path, environment: &[(&str, OsString)]) -> Result<Child, CallError> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path).envs(environment.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut tries = 0;
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child),
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                sleep(BUSY_PAUSE).await;
            }
            Err(source) => return Err(CallError::Start { path: program.into(), source }),
        }
    }
}

async fn speak(
    child: &mut Child,
    conf: &[u8],
) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), CallError> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(CallError::Pipe(io::ErrorKind::BrokenPipe.into()));
    };
    let write = async {
        // A plugin need not read it.
        let _ = stdin.write_all(conf).await;
        drop(stdin);
        Ok(())
    };
    let read = async {
        let mut bytes = Vec::new();
        let mut stdout = stdout.take(RESULT_MAX as u64 + 1);
        stdout.read_to_end(&mut bytes).await.map_err(CallError::Pipe)?;
        if bytes.len() > RESULT_MAX { Err(CallError::TooMuch) } else { Ok(bytes) }
    };
    let complaints = async { beginning(stderr).await.map_err(CallError::Pipe) };
    let ((), stdout, stderr) = tokio::try_join!(write, read, complaints)?;
    let status = child.wait().await.map_err(CallError::Pipe)?;
    Ok((status, stdout, stderr))
}

/// Reads to the end and keeps the beginning.
async fn beginning(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut piece = vec![0; STDERR_MAX];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&piece[..read.min(STDERR_MAX - kept.len())]);
    }
}

fn complaint(stdout: &[u8], stderr: &[u8], status: ExitStatus) -> CallError {
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal.unwrap_or_default()),
    };
    match (stdout.is_empty(), stderr.is_empty()) {
        (true, true) => CallError::Silent(status),
        (true, false) => CallError::Stderr { stderr: shown(stderr), status },
        (false, _) => match serde_json::from_slice(stdout) {
            Ok(Complaint { code, msg, details }) => CallError::Said { code, msg, details },
            Err(source) => CallError::Garbage(shown(stdout), source),
        },
    }
}

/// The beginning of what a plugin printed.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned()
}
