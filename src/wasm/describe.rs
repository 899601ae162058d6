//! What a sandbox is told to run.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What kind of guest an artefact holds, which decides how it is linked and entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKind {
    /// A core module of WASI preview 1, entered at `_start`.
    P1Command,
    /// A component that exports `wasi:cli/run@0.2`.
    P2Command,
    /// A component that exports `wasi:http/incoming-handler@0.2`.
    Http,
}

/// A directory of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preopen {
    /// Absolute path on the host. No link is followed on the way to it.
    pub host: PathBuf,
    /// Absolute path that the guest sees.
    pub guest: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A file or directory of the host that is bound over one below a [`Preopen`], in a mount namespace
/// of the sandbox's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the host of what is bound. No link is followed on the way to it.
    pub source: PathBuf,
    /// Absolute path on the host of what it covers, of the same kind (file or directory): below the
    /// host's path of a [`Preopen`], or that path itself. No link is followed on the way to it.
    pub target: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// What a guest reads as its standard input, where the description brings no streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// Its end.
    #[default]
    Closed,
    /// What clients that are attached send, one after the other; it waits for them.
    Open,
    /// What clients that are attached send, until the first that ends.
    Once,
}

/// Whom the sandbox becomes before it runs the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// All that one sandbox needs to know, sent to it as its first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The compiled artefact (`.cwasm`), made by this host's agent.
    pub artefact: PathBuf,
    /// How to link and enter it.
    pub kind: GuestKind,
    /// The guest's arguments, its own name first.
    pub args: Vec<String>,
    /// The guest's environment, in order.
    pub env: Vec<(String, String)>,
    /// Directories the guest sees; nothing else of the host's files is open to it.
    pub preopens: Vec<Preopen>,
    /// What is bound below the preopens, in this order; empty: no mount namespace is made. Only an
    /// agent that is root asks for any.
    pub mounts: Vec<Mount>,
    /// Whether the guest's standard streams are three descriptors that came with this frame (an
    /// exec: input, output, error), and not end of file and the log.
    pub streams: bool,
    /// What the guest reads where it has no such streams.
    pub stdin: Stdin,
    /// Whom to become; `None` stays who the agent is (an ordinary user cannot change).
    pub user: Option<User>,
    /// Files of control groups by which the sandbox enters them, writing `0` to each; empty: it
    /// stays in its agent's.
    pub cgroups: Vec<PathBuf>,
    /// Its `oom_score_adj`; `None` keeps its agent's. One that it may not have is no error.
    pub oom_score_adj: Option<i32>,
    /// The network namespace that it joins (a file of `nsfs`); `None`: it stays in its agent's.
    pub network: Option<PathBuf>,
    /// Bytes that all linear memories of the container may hold together; `None` is no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Size of the log in bytes past which a new log is asked for.
    pub log_limit_bytes: u64,
    /// Addresses an http guest is served on; empty for a command.
    pub listen: Vec<SocketAddr>,
    /// Seconds between SIGTERM and SIGKILL as the pod's spec has them.
    pub grace_seconds: u64,
    /// Whether the sandbox ends when its agent does (`copepod run`).
    pub die_with_agent: bool,
}
