//! What of an attempt outlives its agent beside the state file.
//!
//! `about` is written before the start: where the log and the termination message are. `ended` is
//! written before an end is told that the sandbox could not record by itself, or whose message comes
//! from the guest's files, `signal` before a signal is sent: an agent that comes later tells the same.
//! All are the agent's alone, so that no guest that broke out can send it to other paths. None is
//! synced, for a start waits for no disk: a loss of power may leave them empty beside an exit record,
//! which is. What `about` said is found again then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use copepod_pod::{Exit, ImageNames, container_named};
use jiff::Timestamp;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::super::{Container, TerminationMessage};
use crate::image::UsedImage;
use crate::ledger::{Ledger, write_whole};
use crate::linux;

const ABOUT: &str = "about";
const ENDED: &str = "ended";
const SIGNAL: &str = "signal";
/// Where a guest leaves its last words if its spec does not say (upstream: `terminationMessagePath`'s
/// default).
const MESSAGE: &str = "/dev/termination-log";

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
    /// The container id.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// In which boot of the kernel it was begun.
    #[serde(default)]
    boot: Option<String>,
    /// What it was made from.
    #[serde(default)]
    pub(super) image: Option<UsedImage>,
}

/// Whose an attempt is.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) pod_uid: String,
    pub(super) container: String,
    pub(super) attempt: u32,
}

impl About {
    /// What is kept of the attempt of `container` that gets this id.
    pub(super) fn of(container: &Container, id: &str) -> Self {
        Self {
            log: container.log_dir.join(format!("{}.log", container.attempt)),
            link: container.log_link.as_deref().map(|prefix| link(prefix, id)),
            message: container.termination_message.clone(),
            sandbox: container.sandbox,
            definition: container.definition,
            id: Some(id.to_owned()),
            boot: Some(linux::boot_id().to_owned()),
            image: container.image.clone(),
        }
    }

    /// What is found again of an attempt that has a state file and nothing whole beside it, by where
    /// it lies and by its pod's object or the directory of its logs.
    pub(super) fn found(ledger: &Ledger, dir: &Path, owner: &Owner, id: &str) -> Self {
        let Owner { pod_uid, container, attempt } = owner;
        let pod = ledger.kept_pod(pod_uid).unwrap_or_default();
        let names = pod.metadata.namespace.clone().zip(pod.metadata.name.clone());
        let names = names.or_else(|| ledger.named_by_logs(pod_uid));
        let (log, prefix) = match &names {
            Some((namespace, pod)) => {
                let logs = ledger.log_dir(namespace, pod, pod_uid, container);
                let log = logs.join(format!("{attempt}.log"));
                (log, ledger.log_link(namespace, pod, container))
            }
            // None that anybody reads.
            None => (dir.join("log"), None),
        };
        let spec = container_named(&pod, container);
        let spec = spec.as_deref();
        let path = spec.and_then(|spec| spec.termination_message_path.as_deref());
        let policy = spec.and_then(|spec| spec.termination_message_policy.as_deref());
        // A message in a volume is not looked for.
        let at = dir.join("root").join(path.unwrap_or(MESSAGE).trim_start_matches('/'));
        let place = at.parent().and_then(|parent| parent.canonicalize().ok());
        let place = place.zip(at.file_name()).filter(|(place, _)| Some(&**place) == at.parent());
        let (message_dir, file) =
            place.map(|(place, name)| (place, PathBuf::from(name))).unwrap_or_default();
        Self {
            log,
            link: prefix.as_deref().map(|prefix| link(prefix, id)),
            message: TerminationMessage {
                dir: message_dir,
                file,
                fallback_to_logs: policy == Some("FallbackToLogsOnError"),
            },
            sandbox: 0,
            definition: None,
            id: None,
            // One that was never written: its agent died before. One that is not whole was lost with
            // the power.
            boot: (!dir.join(ABOUT).exists()).then(|| linux::boot_id().to_owned()),
            image: None,
        }
    }

    /// Whether it was begun since the kernel was started: no power was lost since.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot.as_deref() == Some(linux::boot_id())
    }

    /// What its image is shown as.
    pub(super) fn image_names(&self) -> Option<ImageNames> {
        let UsedImage { image, image_id, .. } = self.image.as_ref()?;
        Some(ImageNames { image: image.clone(), image_id: image_id.clone() })
    }

    /// Writes it into the attempt's directory.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(ABOUT), serde_json::to_vec(self)?)
    }

    /// Reads it; `None` where it is not there or not whole.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(ABOUT)).ok()?).ok()
    }
}

/// The link to the log of the container with this id.
fn link(prefix: &Path, id: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!("-{id}.log"));
    path.into()
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
