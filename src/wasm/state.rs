//! The state file of one container attempt: who knows that it lives, and how it ended.
//!
//! The agent makes the file, locks it (`flock`) and hands the descriptor to the sandbox as its
//! standard output; the lock belongs to the open file, so it is held until the sandbox's death,
//! whoever else dies. The file is never renamed, replaced or unlocked.
//!
//! | held lock | `launched` | exit record | meaning |
//! |---|---|---|---|
//! | yes | any | any | the sandbox lives |
//! | no | no | no | the guest never ran: the same attempt starts again |
//! | no | yes | no | killed |
//! | no | any | yes | ended by itself, as the record says |
//!
//! An agent meets files of other versions, and torn ones: what they were made with is no reason to
//! know nothing. In each version the lock, the magic, the version's and the id's places, and the
//! records' places and framing are the same; what a record says may be read or not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::PROTOCOL_VERSION;

const MAGIC: &[u8; 8] = b"copepod\0";
/// A container id is 64 hex digits: log shippers match on that.
pub const ID_LEN: usize = 64;
const ID_AT: u64 = 16;
const LAUNCH_AT: u64 = 128;
const EXIT_AT: u64 = 512;
/// Room for an exit record: a message of 4 KiB, each byte of which JSON may write as six.
const RECORD_MAX: usize = 32 << 10;
/// Longest message of an exit record, in bytes (upstream's termination message limit).
pub const MESSAGE_MAX: usize = 4096;

/// Why a state file could not be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Reading or writing it failed.
    #[error("cannot {0} the state file")]
    Io(&'static str, #[source] io::Error),
    /// It is not a state file, or one of another version.
    #[error("not a state file of version {PROTOCOL_VERSION}")]
    Format,
    /// The id is not 64 hex digits.
    #[error("container id {0:?} is not 64 hex digits")]
    Id(String),
    /// A record does not fit.
    #[error("record of {0} bytes does not fit into the state file")]
    TooLong(usize),
}

/// The guest was about to be instantiated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The sandbox's process id, to be trusted only while the lock is held.
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
}

/// Why a container ended, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Any other exit code, a trap or a kill.
    Error,
    /// Ended for its memory limit.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// The guest could not be started (exit code 128); nothing of it ran.
    StartError,
}

impl Reason {
    /// Upstream's text for `state.terminated.reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
        }
    }
}

/// How a sandbox ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code as Kubernetes shows it.
    pub code: i32,
    /// Why.
    pub reason: Reason,
    /// A trap's text and backtrace, or empty; at most [`MESSAGE_MAX`] bytes.
    pub message: String,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
}

/// An open state file.
#[derive(Debug)]
pub struct StateFile(File);

impl StateFile {
    /// Makes the file for the container `id` and locks it; one that an earlier try of the attempt
    /// left is made anew. `None` when it is locked: the attempt lives, and the file stays as it is.
    ///
    /// # Errors
    /// [`StateError::Id`] and [`StateError::Io`].
    pub fn create(path: &Path, id: &str) -> Result<Option<Self>, StateError> {
        let head = head(id)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| StateError::Io("make", e))?;
        let state = Self(file);
        if !state.try_lock()? {
            return Ok(None);
        }
        // A new file is not emptied: ext4 takes that for a file that is replaced, and has it written
        // to the disk when it is closed (70 us of each start, measured).
        let old = state.0.metadata().map_err(|e| StateError::Io("look at", e))?.len();
        if old > 0 {
            state.0.set_len(0).map_err(|e| StateError::Io("empty", e))?;
        }
        state.0.write_all_at(&head, 0).map_err(|e| StateError::Io("write", e))?;
        Ok(Some(state))
    }

    /// Makes the file in memory, without a name, for what ends with its agent anyway.
    ///
    /// # Errors
    /// [`StateError::Id`] and [`StateError::Io`].
    pub fn unnamed(id: &str) -> Result<Self, StateError> {
        let head = head(id)?;
        let fd = memfd_create("copepod-state", MemfdFlags::CLOEXEC)
            .map_err(|e| StateError::Io("make", e.into()))?;
        let state = Self(File::from(fd));
        state.0.write_all_at(&head, 0).map_err(|e| StateError::Io("write", e))?;
        Ok(state)
    }

    /// A second descriptor of the same open file.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn try_clone(&self) -> Result<Self, StateError> {
        self.0.try_clone().map(Self).map_err(|e| StateError::Io("share", e))
    }

    /// Opens an existing file, whatever its head: its lock tells who lives all the same.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let opened = File::options().read(true).write(true).open(path);
        opened.map(Self).map_err(|e| StateError::Io("open", e))
    }

    /// Takes an inherited descriptor of a state file and checks its head.
    ///
    /// # Errors
    /// [`StateError::Io`] and [`StateError::Format`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, StateError> {
        let state = Self(File::from(fd));
        match state.version()? {
            Some(PROTOCOL_VERSION) => Ok(state),
            Some(_) | None => Err(StateError::Format),
        }
    }

    /// Of which version it is; `None` for a file without a whole head: it was never written, or got
    /// lost.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn version(&self) -> Result<Option<u8>, StateError> {
        let mut head = [0; 9];
        match self.0.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(Some(head[8]).filter(|_| head[..8] == *MAGIC)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(StateError::Io("read", e)),
        }
    }

    /// The container id of 64 hex digits.
    ///
    /// # Errors
    /// [`StateError::Io`] and [`StateError::Format`].
    pub fn id(&self) -> Result<String, StateError> {
        let mut id = vec![0; ID_LEN];
        match self.0.read_exact_at(&mut id, ID_AT) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(StateError::Format),
            Err(e) => return Err(StateError::Io("read", e)),
        }
        let id = String::from_utf8(id).map_err(|_| StateError::Format)?;
        if is_id(&id) { Ok(id) } else { Err(StateError::Format) }
    }

    /// Takes the lock unless another open file has it; `true` if it is held by this one now.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn try_lock(&self) -> Result<bool, StateError> {
        match flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(e) if e == rustix::io::Errno::WOULDBLOCK => Ok(false),
            Err(e) => Err(StateError::Io("lock", e.into())),
        }
    }

    /// Writes that the guest is about to be instantiated. Not synced: it has to outlive any
    /// process, and a power cut ends the guest as well.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn set_launched(&self, launch: &Launch) -> Result<(), StateError> {
        self.put(LAUNCH_AT, (EXIT_AT - LAUNCH_AT) as usize, launch)
    }

    /// The launch record, if a whole one is there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn launched(&self) -> Result<Option<Launch>, StateError> {
        self.get(LAUNCH_AT, (EXIT_AT - LAUNCH_AT) as usize)
    }

    /// Writes how the sandbox ended; on disk when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn set_exit(&self, exit: &Exit) -> Result<(), StateError> {
        self.put(EXIT_AT, RECORD_MAX, exit)?;
        self.0.sync_data().map_err(|e| StateError::Io("sync", e))
    }

    /// The exit record, if a whole one is there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn exit(&self) -> Result<Option<Exit>, StateError> {
        self.get(EXIT_AT, RECORD_MAX)
    }

    /// A record is its length, its crc32, its JSON: half a write is no record.
    fn put(&self, at: u64, room: usize, record: &impl Serialize) -> Result<(), StateError> {
        let json = serde_json::to_vec(record).map_err(|e| StateError::Io("encode", e.into()))?;
        if json.len() + 8 > room {
            return Err(StateError::TooLong(json.len()));
        }
        let mut bytes = Vec::with_capacity(json.len() + 8);
        bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
        bytes.extend_from_slice(&json);
        self.0.write_all_at(&bytes, at).map_err(|e| StateError::Io("write", e))
    }

    fn get<T: DeserializeOwned>(&self, at: u64, room: usize) -> Result<Option<T>, StateError> {
        let mut head = [0; 8];
        match self.0.read_exact_at(&mut head, at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(StateError::Io("read", e)),
        }
        let [a, b, c, d, e, f, g, h] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len == 0 || len + 8 > room {
            return Ok(None);
        }
        let mut json = vec![0; len];
        if self.0.read_exact_at(&mut json, at + 8).is_err()
            || crc32fast::hash(&json) != u32::from_le_bytes([e, f, g, h])
        {
            return Ok(None);
        }
        Ok(serde_json::from_slice(&json).ok())
    }
}

/// What the file starts with.
fn head(id: &str) -> Result<[u8; EXIT_AT as usize], StateError> {
    if !is_id(id) {
        return Err(StateError::Id(id.into()));
    }
    let mut head = [0; EXIT_AT as usize];
    head[..8].copy_from_slice(MAGIC);
    head[8] = PROTOCOL_VERSION;
    head[ID_AT as usize..][..ID_LEN].copy_from_slice(id.as_bytes());
    Ok(head)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<StateFile> for OwnedFd {
    fn from(state: StateFile) -> Self {
        state.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[test]
    fn records_come_back_and_half_a_record_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let state = StateFile::create(&path, &id()).expect("makes").expect("is free");
        assert_eq!(state.launched().expect("reads"), None);
        assert_eq!(state.exit().expect("reads"), None);
        let launch = Launch { pid: 7, at_ns: 42 };
        state.set_launched(&launch).expect("writes");
        let exit = Exit {
            code: 137,
            reason: Reason::OomKilled,
            message: "\u{1}".repeat(MESSAGE_MAX),
            finished_at_ns: 43,
        };
        state.set_exit(&exit).expect("writes");

        let again = StateFile::open(&path).expect("opens");
        assert_eq!(again.id().expect("reads"), id());
        assert_eq!(again.launched().expect("reads"), Some(launch));
        assert_eq!(again.exit().expect("reads"), Some(exit));

        again.0.write_all_at(b"x", EXIT_AT + 20).expect("writes");
        assert_eq!(again.exit().expect("reads"), None, "a broken record counts as none");
    }

    #[test]
    fn the_lock_is_the_open_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let first = StateFile::create(&path, &id()).expect("makes").expect("is free");
        first.set_launched(&Launch { pid: 7, at_ns: 42 }).expect("writes");
        assert!(StateFile::create(&path, &id()).expect("asks").is_none(), "it lives");
        let kept = first.as_fd().try_clone_to_owned().expect("a second descriptor");
        let other = StateFile::open(&path).expect("opens");
        assert!(!other.try_lock().expect("asks"));
        drop(first);
        assert!(!other.try_lock().expect("asks"), "the other descriptor holds it");
        drop(kept);
        assert!(other.try_lock().expect("asks"));
        assert!(other.launched().expect("reads").is_some(), "it was left as it was");
        drop(other);
        let anew = StateFile::create(&path, &id()).expect("makes").expect("is free");
        assert_eq!(anew.launched().expect("reads"), None);
    }

    #[test]
    fn an_unnamed_file_is_read_through_a_second_descriptor() {
        let state = StateFile::unnamed(&id()).expect("makes");
        let other = state.try_clone().expect("shares");
        let sandbox = StateFile::from_fd(state.into()).expect("is one");
        let launch = Launch { pid: 1, at_ns: 2 };
        sandbox.set_launched(&launch).expect("writes");
        assert_eq!(other.launched().expect("reads"), Some(launch));
        assert_eq!((other.id().expect("reads"), other.exit().expect("reads")), (id(), None));
        assert!(matches!(StateFile::unnamed("short"), Err(StateError::Id(_))));
    }

    #[test]
    fn what_is_no_state_file_of_this_version_is_refused_by_who_serves_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        assert!(matches!(StateFile::create(&path, "short"), Err(StateError::Id(_))));
        let taken = || StateFile::from_fd(StateFile::open(&path).expect("opens").into());
        for text in ["", "hello", "hello, nobody wrote a head here"] {
            std::fs::write(&path, text).expect("writes");
            assert!(matches!(taken(), Err(StateError::Format)), "{text}");
        }
        std::fs::remove_file(&path).expect("removes");
        drop(StateFile::create(&path, &id()).expect("makes").expect("is free"));
        taken().expect("is one");
        StateFile::open(&path).expect("opens").0.write_all_at(b"\xff", 8).expect("writes");
        assert!(matches!(taken(), Err(StateError::Format)));
    }

    #[test]
    fn of_any_file_the_lock_and_what_is_whole_are_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let held = StateFile::create(&path, &id()).expect("makes").expect("is free");
        let launch = Launch { pid: 7, at_ns: 42 };
        held.set_launched(&launch).expect("writes");
        held.0.write_all_at(&[PROTOCOL_VERSION + 1], 8).expect("writes");
        let other = StateFile::open(&path).expect("opens");
        assert_eq!(other.version().expect("reads"), Some(PROTOCOL_VERSION + 1));
        assert_eq!(other.id().expect("reads"), id());
        assert_eq!(other.launched().expect("reads"), Some(launch));
        assert!(!other.try_lock().expect("asks"), "it lives");
        held.0.set_len(70).expect("cuts");
        assert!(matches!(other.id(), Err(StateError::Format)), "half an id");
        held.0.set_len(0).expect("cuts");
        assert_eq!((other.version().expect("reads"), other.exit().expect("reads")), (None, None));
        assert!(!other.try_lock().expect("asks"), "it lives");
        drop(held);
        assert!(other.try_lock().expect("asks"));
    }
}
