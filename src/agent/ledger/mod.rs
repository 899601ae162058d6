//! Where everything of an agent lies on disk, and that one root directory has one agent.
//!
//! Owns: the layout below, the lock of a root directory, the list of root directories of ended
//! `copepod run`s. Starts no task. What survives an agent lies in the state files of its
//! containers (room `runtime/wasm`), below the paths that this room gives.
//!
//! After a loss of power any file that is not synced may be empty or half, and is none then: a pod's
//! object is told by whoever it comes from (or its pod is an orphan that only its uid is known of), its
//! kinds are decided anew, an attempt's resources are those that are asked for. What cannot be found out
//! again and is written rarely is synced: ids of the host, resizes.
//!
//! ```text
//! ROOT/lock                                          held by the agent while it lives
//! ROOT/runtime                                       the container runtime's name
//! ROOT/pods/UID/pod.json                             the pod, for an agent that finds only this
//! ROOT/pods/UID/kinds.json                           which of its containers are Wasm
//! ROOT/pods/UID/allocation.json                      its resources, once it was resized
//! ROOT/pods/UID/actuated/NAME.json                   those of a container's newest attempt
//! ROOT/pods/UID/userns                               its ids of the host, if it has a user namespace
//! ROOT/pods/UID/containers/NAME/ATTEMPT/state        one container attempt
//! ROOT/pods/UID/containers/NAME/ATTEMPT/about        what its agent has to know of it
//! ROOT/pods/UID/containers/NAME/ATTEMPT/root/        what its guest sees as `/`
//! ROOT/pods/UID/volumes/kubernetes.io~empty-dir/NAME
//! LOGS/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log      LOGS: ROOT/logs, a node's /var/log/pods
//! LINKS/NAME_NAMESPACE_CONTAINER-ID.log              a node's /var/log/containers: links to them
//! RUN/ID.sock                                        a sandbox's socket (ID: 16 hex digits)
//! RUN/ID.json                                        what it runs, with its secrets
//! RUN/ROOTID.api                                     the agent's own socket (ROOTID: likewise)
//! RUN/ROOTID/UID/volumes/kubernetes.io~secret/NAME   what is kept off disks
//! ```

mod allocation;
mod links;
mod pods;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::linux;

/// Why a root directory could not be used.
#[derive(Debug, Error)]
pub(crate) enum LedgerError {
    /// Another agent has it.
    #[error("root directory {0} is in use by another copepod")]
    InUse(PathBuf),
    /// It could not be made or read.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else's directory stands where ours has to be.
    #[error("{path} belongs to user {owner}: expected a directory of our own")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// A socket's path would not fit into an address (108 bytes with its end).
    #[error("run directory {0} is too long a path: a socket in it needs at most 107 bytes")]
    TooLong(PathBuf),
}

/// The kernel's bound on a Unix socket's path, less the final zero byte.
const SOCKET_PATH_MAX: usize = 107;

/// The name of the file with the container runtime's name.
const RUNTIME: &str = "runtime";

/// What the names of agents' own sockets end with.
const API_SUFFIX: &str = "api";
/// Agents' sockets looked at in one run directory: more than a machine has agents.
const API_SOCKETS: usize = 1024;

/// How often a new root directory is tried: each loss takes another `run` in the same instant.
const FRESH_TRIES: u32 = 8;

fn make_private(path: &Path) -> Result<(), LedgerError> {
    let failed = |source| LedgerError::Io { verb: "make directory", path: path.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let owner = fs::metadata(path).map_err(failed)?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(LedgerError::Owner { path: path.into(), owner });
    }
    Ok(())
}

/// Directories that depend on who runs the agent.
pub(crate) mod home {
    use std::env;
    use std::path::PathBuf;

    fn own(variable: &str, under_home: &str) -> PathBuf {
        let set = env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(under_home));
        set.or_else(home).unwrap_or_else(|| env::temp_dir().join(user_name()))
    }

    fn user_name() -> String {
        format!("copepod-{}", rustix::process::geteuid().as_raw())
    }

    /// A directory that root has in the system and anybody else at home; either may say otherwise.
    fn place(variable: &str, of_root: &str, under_home: &str) -> PathBuf {
        let is_set = env::var_os(variable).is_some();
        if rustix::process::geteuid().is_root() && !is_set {
            return PathBuf::from(of_root).join("copepod");
        }
        own(variable, under_home).join("copepod")
    }

    /// Where root directories of `copepod run` are made: in `$XDG_STATE_HOME`, else in `/var/lib`
    /// for root and `~/.local/state` for others.
    pub(crate) fn state() -> PathBuf {
        place("XDG_STATE_HOME", "/var/lib", ".local/state").join("run")
    }

    /// Where compiled images are kept: in `$XDG_CACHE_HOME`, else in `/var/cache` for root and
    /// `~/.cache` for others.
    pub(crate) fn cache() -> PathBuf {
        place("XDG_CACHE_HOME", "/var/cache", ".cache")
    }

    /// Where sockets are made: `/run/copepod` for root, else below `$XDG_RUNTIME_DIR`, else a
    /// directory of our own under the temporary one.
    pub(crate) fn run() -> PathBuf {
        match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute()) {
            Some(dir) => dir.join("copepod"),
            None if rustix::process::geteuid().is_root() => PathBuf::from("/run/copepod"),
            None => env::temp_dir().join(user_name()),
        }
    }
}

/// The directories of one agent, its root directory locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Ledger {
    root: PathBuf,
    run: PathBuf,
    logs: PathBuf,
    links: Option<PathBuf>,
    _lock: File,
}

/// Where log shippers look for a node's logs.
#[derive(Clone, Debug)]
pub(crate) struct LogDirs {
    /// The directory of the logs themselves (upstream: `podLogsDir`).
    pub(crate) logs: PathBuf,
    /// The directory of the links to them (upstream: `legacyContainerLogsDir`).
    pub(crate) links: PathBuf,
}

impl Ledger {
    /// Makes and locks the root directory `root` and makes the run directory `run`.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] when another agent has the root directory, else as the variants say.
    pub(crate) fn open(root: &Path, run: &Path) -> Result<Self, LedgerError> {
        make_private(root)?;
        make_private(run)?;
        // An absolute path: a guest's directories are named by it in places with no folder of
        // their own to start from.
        let absolute = |path: &Path| {
            path.canonicalize().map_err(|source| LedgerError::Io {
                verb: "find",
                path: path.into(),
                source,
            })
        };
        let (root, run) = (absolute(root)?, absolute(run)?);
        let logs = root.join("logs");
        let ledger = Self { _lock: lock(&root)?, root, run, logs, links: None };
        let socket = ledger.socket(&"0".repeat(64));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(LedgerError::TooLong(ledger.run));
        }
        Ok(ledger)
    }

    /// The same for a node, whose logs lie where log shippers look for them.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub(crate) fn of_node(root: &Path, run: &Path, dirs: LogDirs) -> Result<Self, LedgerError> {
        let ledger = Self::open(root, run)?;
        for path in [&dirs.logs, &dirs.links] {
            fs::create_dir_all(path).map_err(|source| LedgerError::Io {
                verb: "make directory",
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self { logs: dirs.logs, links: Some(dirs.links), ..ledger })
    }

    /// A new root directory below `base`, which is made if need be.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub(crate) fn fresh(base: &Path, run: &Path) -> Result<Self, LedgerError> {
        let mut tries = 0;
        loop {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let opened = Self::open(&base.join(&name[..8]), run);
            tries += 1;
            // Between its making and its lock a directory looks abandoned to another `run`.
            let lost = match &opened {
                Ok(ledger) => !ledger.root.join("lock").exists(),
                Err(LedgerError::InUse(_) | LedgerError::Io { .. }) => true,
                Err(LedgerError::Owner { .. } | LedgerError::TooLong(_)) => false,
            };
            if !lost || tries == FRESH_TRIES {
                return opened;
            }
        }
    }

    /// All directories of this pod but its logs.
    pub(crate) fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        self.root.join("pods").join(pod_uid)
    }

    /// The directory of what of this pod is kept off disks; in memory where the run directory is.
    pub(crate) fn pod_memory_dir(&self, pod_uid: &str) -> PathBuf {
        self.memory_dir().join(pod_uid)
    }

    /// The directory in which this agent keeps off disks what ought to be.
    fn memory_dir(&self) -> PathBuf {
        self.run.join(self.id())
    }

    /// The root directory's name in the run directory, which all agents of a user share.
    fn id(&self) -> String {
        let digest = Sha256::digest(self.root.as_os_str().as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The directory of an attempt: its state file, and what its guest sees.
    pub(crate) fn attempt_dir(&self, pod_uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(pod_uid).join("containers").join(container).join(attempt.to_string())
    }

    /// The directory of a container's logs, as a kubelet lays it out below `/var/log/pods`.
    pub(crate) fn log_dir(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        container: &str,
    ) -> PathBuf {
        self.logs.join(format!("{namespace}_{pod}_{uid}")).join(container)
    }

    /// What the sandbox with this container id runs: it may hold secrets, so it lies where its
    /// socket does.
    pub(crate) fn description(&self, container_id: &str) -> PathBuf {
        self.socket(container_id).with_extension("json")
    }

    /// Keeps the container runtime's name, which its containers' ids begin with.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_runtime(&self, name: &str) -> Result<(), LedgerError> {
        let path = self.root.join(RUNTIME);
        write_whole(&path, name.as_bytes()).map_err(|source| LedgerError::Io {
            verb: "write",
            path,
            source,
        })
    }

    /// The name that the container runtime had when it last answered.
    pub(crate) fn runtime(&self) -> Option<String> {
        fs::read_to_string(self.root.join(RUNTIME)).ok().filter(|name| !name.is_empty())
    }

    /// The socket of the sandbox with this container id.
    pub(crate) fn socket(&self, container_id: &str) -> PathBuf {
        let short = container_id.get(..16).unwrap_or(container_id);
        self.run.join(format!("{short}.sock"))
    }

    /// The directory of the logs of a container of this pod.
    pub(crate) fn log_dir_of(&self, pod: &Pod, container: &str) -> PathBuf {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.log_dir(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid), container)
    }

    /// The socket of this root directory's agent: whoever has the lock may remove it.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run.join(format!("{}.{API_SUFFIX}", self.id()))
    }

    /// The directories of all attempts on disk, of whichever pod.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn attempt_dirs(&self) -> Result<Vec<PathBuf>, LedgerError> {
        let mut level = vec![self.root.join("pods")];
        // pods/UID/containers/NAME/ATTEMPT: four levels below, `containers` alone on its own.
        for named in [None, Some("containers"), None, None] {
            let mut next = Vec::new();
            for dir in level {
                match named {
                    Some(name) => next.push(dir.join(name)),
                    None => next.extend(entries(&dir)?),
                }
            }
            level = next;
        }
        Ok(level)
    }

    /// Removes the whole root directory: the end of a `copepod run`.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn remove(&self) -> Result<(), LedgerError> {
        // The lock last: without it the directory is nobody's.
        self.clear()?;
        let failed = |source| LedgerError::Io { verb: "remove", path: self.root.clone(), source };
        match fs::remove_file(self.api_socket()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            Ok(()) | Err(_) => {}
        }
        fs::remove_file(self.root.join("lock")).map_err(failed)?;
        fs::remove_dir(&self.root).map_err(failed)
    }

    /// Removes what the root directory holds, but not itself and its lock.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn clear(&self) -> Result<(), LedgerError> {
        for path in [self.memory_dir(), self.root.join("pods"), self.logs.clone()] {
            linux::remove_tree(&path).map_err(|source| LedgerError::Io {
                verb: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

fn lock(root: &Path) -> Result<File, LedgerError> {
    let path = root.join("lock");
    let failed = |source| LedgerError::Io { verb: "lock", path: path.clone(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::InUse(root.into())),
        Err(e) => Err(failed(e.into())),
    }
}

/// Replaces a file in one step, readable by its owner alone: a reader finds the old one or the new.
/// Not synced: after a loss of power it may be empty or half, so whoever reads it takes that for none.
///
/// # Errors
/// The kernel's.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, false)
}

/// The same, its bytes on the disk before it has its name: for what is written rarely and cannot be
/// found out again.
///
/// # Errors
/// The kernel's.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, true)
}

fn replace(path: &Path, bytes: &[u8], synced: bool) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    if synced {
        file.as_file().sync_data()?;
    }
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// The paths in a directory, none if there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let failed = |source| LedgerError::Io { verb: "read", path: dir.into(), source };
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        // Nor is there one where a stranger's file lies.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    listed.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect()
}

/// The sockets of all agents that use the run directory `run`, of ended ones too.
///
/// # Errors
/// [`LedgerError::Io`] when it cannot be read.
pub(crate) fn api_sockets(run: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let mut found = entries(run)?;
    found.retain(|path| path.extension().is_some_and(|suffix| suffix == API_SUFFIX));
    found.sort();
    found.truncate(API_SOCKETS);
    Ok(found)
}

/// The root directories below `base` whose agents are gone, each locked by the caller now.
///
/// # Errors
/// [`LedgerError::Io`] when `base` cannot be read; a directory that another agent has, or that
/// vanishes meanwhile, is left out.
pub(crate) fn abandoned(base: &Path, run: &Path) -> Result<Vec<Ledger>, LedgerError> {
    let mut found = Vec::new();
    for root in entries(base)? {
        if root.join("lock").exists() {
            found.extend(Ledger::open(&root, run));
        } else {
            // Just made, or all but removed: empty, or somebody is at work in it.
            let _ = fs::remove_dir(&root);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
