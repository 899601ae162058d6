//! What is asked of a runtime beside starting and stopping: commands, the streams of a container,
//! the ports of a pod.

use std::error::Error as StdError;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use copepod_pod::go_duration;
use copepod_wasm::GuestKind;
use thiserror::Error;

/// A command to run beside a running container, with the same files, environment, user, network and
/// limits.
#[derive(Debug)]
pub(crate) struct Exec {
    /// The arguments, the command's own name first.
    pub(crate) command: Vec<String>,
    /// The artefact to run and what it holds: another Wasm file of the image; `None` is the
    /// container's own.
    pub(crate) artefact: Option<(PathBuf, GuestKind)>,
    /// Its standard input, output and error, of any kind.
    pub(crate) streams: [OwnedFd; 3],
}

/// How the command of an [`Exec`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecExit {
    /// The exit code; 126 where the container has no command, 137 where it was killed, as it is
    /// with its container.
    pub(crate) code: i32,
    /// Why, where the command did not end by itself: a trap's text, or empty.
    pub(crate) message: String,
}

/// What a command wrote that nobody watched, and its exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExecOutput {
    /// The exit code.
    pub(crate) code: i32,
    /// What it wrote, cut off at the limit that was asked for.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote of errors, cut off as well.
    pub(crate) stderr: Vec<u8>,
}

/// The ends of pipes that a running container's own streams are connected to from now on.
#[derive(Debug)]
pub(crate) struct Attach {
    /// What it reads, if it reads at all (`stdin: true`).
    pub(crate) stdin: Option<OwnedFd>,
    /// A copy of what it writes; must not block.
    pub(crate) stdout: Option<OwnedFd>,
    /// A copy of what it writes of errors; must not block.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What a client wants to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// A command that is run for it.
    Exec(Vec<String>),
    /// The container itself.
    Attach,
}

/// A request for streams, as CRI has it (`ExecRequest`, `AttachRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamRequest {
    /// To what.
    pub(crate) kind: StreamKind,
    /// Whether the client sends what is read.
    pub(crate) stdin: bool,
    /// Whether it takes what is written.
    pub(crate) stdout: bool,
    /// Whether it takes what is written of errors; never with a terminal.
    pub(crate) stderr: bool,
    /// Whether there is a terminal.
    pub(crate) tty: bool,
}

/// The kinds of a runtime's refusal that a client is told by a code (upstream's
/// `streaming.WriteError`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// gRPC's `NotFound`.
    NotFound,
    /// gRPC's `ResourceExhausted`.
    Exhausted,
    /// All others.
    Other,
}

/// Why an [`Exec`] did not run, or a container's streams cannot be had.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    /// No arguments.
    #[error("you must specify at least one command for the container")]
    NoCommand,
    /// The container is not there, has not started or has ended.
    #[error("container not running ({0})")]
    NotRunning(String),
    /// As many run in the container as may.
    #[error("too many commands run in the container: at most {0} at a time")]
    TooMany(usize),
    /// The runtime could not start it.
    #[error("cannot start the command")]
    Start(#[source] Box<dyn StdError + Send + Sync>),
    /// It was started and ended before anything of the guest ran.
    #[error("the command did not start: {0}")]
    NotStarted(String),
    /// It took longer than it may, and was killed; upstream's words (`ExecSync` of its CRI client).
    #[error("command timed out: {command:?} timed out after {within}")]
    TimedOut {
        /// Its words, with spaces between them.
        command: String,
        /// What it may take, as Go prints it.
        within: String,
    },
    /// The container's streams cannot be connected to.
    #[error("cannot connect to the streams of the container")]
    Connect(#[source] io::Error),
    /// The container runtime refuses it, in its own words.
    #[error("{message}")]
    Runtime {
        /// Its code.
        kind: RefusalKind,
        /// Its words.
        message: String,
    },
}

impl ExecError {
    /// `command` took longer than it may.
    pub(crate) fn timed_out(command: &[String], within: Duration) -> Self {
        Self::TimedOut { command: command.join(" "), within: go_duration(within) }
    }
}
