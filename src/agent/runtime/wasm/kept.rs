//! What of an attempt outlives its agent beside the state file.
//!
//! `about` is written before the start: where the log and the termination message are. `ended` is
//! written before an end is told that the sandbox could not record by itself, or whose message comes
//! from the guest's files, `signal` before a signal is sent: an agent that comes later tells the same.
//! All are the agent's alone, so that no guest that broke out can send it to other paths.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use copepod_pod::Exit;
use jiff::Timestamp;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::super::{Container, TerminationMessage};
use crate::ledger::write_whole;

const ABOUT: &str = "about";
const ENDED: &str = "ended";
const SIGNAL: &str = "signal";

/// Where an attempt's traces are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Its log.
    pub(super) log: PathBuf,
    /// The link to its log.
    pub(super) link: Option<PathBuf>,
    /// Where its guest leaves its last words.
    pub(super) message: TerminationMessage,
    /// The generation of its pod's sandbox.
    #[serde(default)]
    pub(super) sandbox: u32,
    /// The definition that it was made from.
    #[serde(default)]
    pub(super) definition: Option<u32>,
}

impl About {
    /// What is kept of the attempt of `container` that gets this id.
    pub(super) fn of(container: &Container, id: &str) -> Self {
        let link = container.log_link.as_ref().map(|prefix| {
            let mut path = prefix.as_os_str().to_owned();
            path.push(format!("-{id}.log"));
            path.into()
        });
        Self {
            log: container.log_dir.join(format!("{}.log", container.attempt)),
            link,
            message: container.termination_message.clone(),
            sandbox: container.sandbox,
            definition: container.definition,
        }
    }

    /// Writes it into the attempt's directory.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(ABOUT), serde_json::to_vec(self)?)
    }

    /// Reads it; `None` where it is not there or not whole: nothing was started then.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(ABOUT)).ok()?).ok()
    }
}

/// How an attempt ended, as it was told; times in nanoseconds since the epoch.
#[derive(Serialize, Deserialize)]
struct Ended {
    started_at: Option<i64>,
    finished_at: i64,
    code: i32,
    reason: String,
    message: String,
}

/// Writes how the attempt ended into its directory.
///
/// # Errors
/// The kernel's.
pub(super) fn keep_end(dir: &Path, exit: &Exit) -> io::Result<()> {
    let Exit { started_at, finished_at, code, reason, message } = exit.clone();
    let started_at = started_at.map(nanoseconds);
    let finished_at = nanoseconds(finished_at);
    let json = serde_json::to_vec(&Ended { started_at, finished_at, code, reason, message })?;
    write_whole(&dir.join(ENDED), &json)
}

/// How the attempt ended, if that was written.
pub(super) fn read_end(dir: &Path) -> Option<Exit> {
    let json = fs::read(dir.join(ENDED)).ok()?;
    let Ended { started_at, finished_at, code, reason, message } =
        serde_json::from_slice(&json).ok()?;
    let started_at = started_at.map(timestamp);
    Some(Exit { started_at, finished_at: timestamp(finished_at), code, reason, message })
}

fn nanoseconds(time: Timestamp) -> i64 {
    // In range for years 1677 to 2262.
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// The time that a record has, in nanoseconds since the epoch.
pub(super) fn timestamp(ns: i64) -> Timestamp {
    // In range for every i64: years 1677 to 2262.
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Writes that the attempt's process is sent a signal now: should the agent die before it hears of
/// the end, another one knows what ended it. A later signal takes the place of an earlier one.
///
/// # Errors
/// The kernel's.
pub(super) fn keep_signal(dir: &Path, signal: Signal) -> io::Result<()> {
    fs::write(dir.join(SIGNAL), signal.as_raw().to_string())
}

/// The last signal that the attempt's process was sent, if any was.
pub(super) fn read_signal(dir: &Path) -> Option<Signal> {
    let number: i32 = fs::read_to_string(dir.join(SIGNAL)).ok()?.parse().ok()?;
    [Signal::TERM, Signal::KILL].into_iter().find(|signal| signal.as_raw() == number)
}

/// Forgets what an earlier try of the same attempt left.
pub(super) fn forget_end(dir: &Path) {
    // Mostly there is nothing.
    let _ = fs::remove_file(dir.join(ENDED));
    let _ = fs::remove_file(dir.join(SIGNAL));
}
