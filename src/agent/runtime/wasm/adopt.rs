//! What an earlier agent of this root directory started, taken over: who lives is waited for, who has
//! ended is told of with what it left behind.
//!
//! A state file's lock tells who lives; the process id in it was written by the sandbox and is
//! trusted only for a process that has this very file open (as in [`leftovers`](super::leftovers)).
//! Of an attempt that cannot be settled now, whatever the reason, the agent goes on without: it is
//! listed as starting, so that nothing starts beside it, and left to a task ([`unsettled`](super::unsettled)).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Attempt, AttemptState, Exit};
use copepod_wasm::PROTOCOL_VERSION;
use copepod_wasm::state::{Launch, Reason, StateError, StateFile};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use super::super::Container;
use super::kept::{self, About, Owner, timestamp};
use super::monitor::{self, End, Living, Records, conclude, finish, read_state};
use super::oom::OomKills;
use super::spawn::{Socket, connect};
use super::unsettled::UNREADABLE_WITHIN;
use super::waited::Waited;
use super::{Entry, Wasm, exec, shown};
use crate::image::Images;
use crate::ledger::{Ledger, LedgerError};
use crate::linux::cgroup::{Cgroups, Leaf};
use crate::telemetry::chain;
use crate::{linux, volume};

/// How long all sandboxes together that live and are not launched are waited for: an agent cut them
/// off in the milliseconds of their start, and they have their description or hear that none comes.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// How often they are looked at meanwhile.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why nothing can be taken over.
#[derive(Debug, Error)]
pub(crate) enum AdoptError {
    /// The root directory could not be read.
    #[error("cannot list what an earlier copepod left")]
    List(#[source] LedgerError),
}

/// Why a state file could not be looked at.
#[derive(Debug, Error)]
pub(super) enum LookError {
    /// It cannot be read or locked.
    #[error("cannot look at the state file")]
    State(#[source] StateError),
    /// Its process cannot be waited for.
    #[error("cannot wait for the sandbox")]
    Wait(#[source] io::Error),
}

/// An attempt that an earlier agent left.
pub(super) struct Left {
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
    pub(super) id: String,
    pub(super) about: About,
    /// None once it could not be opened: it is tried again.
    state: Option<StateFile>,
    leaf: Option<Leaf>,
}

/// What a look at a state file finds.
pub(super) enum Found {
    /// The guest runs or is about to, in this process.
    Living(Launch, Waited),
    /// The guest's process has ended, or there was none.
    Dead,
    /// It lives, and is not launched as far as can be read.
    Open,
}

impl Left {
    /// Reads what is in an attempt's directory; none where nothing was started.
    async fn read(
        (dir, owner): (PathBuf, Owner),
        ledger: &Ledger,
        cgroups: Option<&Cgroups>,
        images: &Images,
    ) -> Option<Self> {
        let about = About::read(&dir);
        let state = match StateFile::open(&dir.join("state")) {
            Ok(state) => Some(state),
            Err(StateError::Io(_, e)) if e.kind() == io::ErrorKind::NotFound => {
                // An ordinary container's, which its runtime tells of; else its agent died before it
                // started anything.
                if about.is_some() || !volume::message_file(&dir).exists() {
                    never_ran(&dir, about.as_ref());
                }
                return None;
            }
            Err(error) => {
                tracing::warn!(path = %dir.display(), error = chain(&error), "cannot take it over yet");
                None
            }
        };
        // What the agent wrote itself goes first: the state file is its sandbox's to write, too.
        let of_state = || state.as_ref().and_then(|state| state.id().ok());
        let id = about.as_ref().and_then(|about| about.id.clone()).or_else(of_state);
        let id = id.unwrap_or_else(|| made_up(&dir));
        let mut about = about.unwrap_or_else(|| {
            let about = About::found(ledger, &dir, &owner, &id);
            if let Err(error) = about.keep(&dir) {
                tracing::warn!(path = %dir.display(), %error, "cannot keep what was found again");
            }
            about
        });
        if let Some(image) = &mut about.image
            && let Err(error) = images.hold(image).await
        {
            tracing::warn!(image = image.image, error = chain(&error), "cannot hold an image");
        }
        let leaf = cgroups.and_then(|cgroups| match cgroups.find_leaf(&owner.pod_uid, &id) {
            Ok(leaf) => leaf,
            Err(error) => {
                tracing::warn!(id, error = chain(&error), "cannot look for its control group");
                None
            }
        });
        Some(Self { dir, owner, id, about, state, leaf })
    }

    /// One look.
    ///
    /// # Errors
    /// [`LookError`]: it may live.
    pub(super) fn look(&mut self) -> Result<Found, LookError> {
        if self.state.is_none() {
            self.state = match StateFile::open(&self.dir.join("state")) {
                Ok(state) => Some(state),
                Err(error) => return Err(LookError::State(error)),
            };
        }
        let Some(state) = &self.state else { return Ok(Found::Open) };
        if state.try_lock().map_err(LookError::State)? {
            return Ok(Found::Dead);
        }
        if let Some(launch) = state.launched().map_err(LookError::State)?
            && let Some(process) = linux::open_process(launch.pid).map_err(LookError::Wait)?
            && linux::has_open(launch.pid, state)
        {
            let process = Waited::found(process).map_err(LookError::Wait)?;
            return Ok(Found::Living(launch, process));
        }
        Ok(Found::Open)
    }

    /// Another descriptor of its state file, if it could be opened.
    pub(super) fn state(&self) -> Option<StateFile> {
        self.state.as_ref()?.try_clone().ok()
    }

    /// Whether its sandbox speaks as this agent does, and would say so.
    pub(super) fn is_ours(&self) -> bool {
        let version = self.state.as_ref().map(StateFile::version);
        matches!(version, Some(Ok(Some(PROTOCOL_VERSION))))
    }

    pub(super) fn attempt(&self, state: AttemptState) -> Attempt {
        Attempt {
            container: self.owner.container.clone(),
            attempt: self.owner.attempt,
            sandbox: self.about.sandbox,
            id: shown(&self.id),
            definition: self.about.definition,
            user: None,
            image: self.about.image_names(),
            state,
        }
    }

    /// What its entry has of it while nothing can be asked of its sandbox.
    pub(super) fn entry(&self, state: AttemptState, stop: mpsc::Sender<Duration>) -> Entry {
        Entry {
            pod_uid: self.owner.pod_uid.clone(),
            attempt: self.attempt(state),
            about: self.about.clone(),
            stop,
            container: None,
            programs: None,
            execs: Arc::new(Semaphore::new(exec::AT_ONCE)),
            link: None,
            attached: Arc::new(Semaphore::new(0)),
            oom: Arc::new(OomKills::new(self.leaf.clone())),
        }
    }
}

impl Wasm {
    /// Takes over all attempts on disk, and the holds on their images, which the store of `images` is
    /// not to be opened before. What never ran is removed, since it starts again. Call it before
    /// anything is started.
    ///
    /// # Errors
    /// [`AdoptError`]: no agent may run pods then, or some would run twice. One attempt's troubles are
    /// none of these.
    pub(crate) async fn adopt(
        &self,
        cgroups: Option<&Cgroups>,
        images: &Images,
    ) -> Result<(), AdoptError> {
        let mut open = Vec::new();
        for dir in self.ledger.attempt_dirs().map_err(AdoptError::List)? {
            let Some(owner) = owner(&dir) else { continue };
            let left = Left::read((dir, owner), &self.ledger, cgroups, images).await;
            if let Some(left) = left {
                open.extend(self.settle(left).await);
            }
        }
        let deadline = Instant::now() + SETTLE_WITHIN;
        while !open.is_empty() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
            for left in std::mem::take(&mut open) {
                open.extend(self.settle(left).await);
            }
        }
        for left in open {
            self.wait_for(left, UNREADABLE_WITHIN);
        }
        Ok(())
    }

    /// Looks at an attempt and takes it over if it can be known how it stands; else gives it back.
    async fn settle(&self, mut left: Left) -> Option<Left> {
        match left.look() {
            Ok(Found::Living(launch, process)) => {
                let channel = mpsc::channel(super::ORDERS);
                self.take_over(left, &launch, process, channel);
            }
            Ok(Found::Dead) => match self.end(&left).await {
                Some(exit) => {
                    // Closed at once: nobody is left to be stopped.
                    let (stop, _) = mpsc::channel(1);
                    let entry = left.entry(AttemptState::Exited(exit), stop);
                    self.table.lock().insert(left.id, entry);
                }
                None => never_ran(&left.dir, Some(&left.about)),
            },
            Ok(Found::Open) | Err(_) => return Some(left),
        }
        None
    }

    /// Puts a living attempt into the table and waits for its end; gives it as it is now.
    pub(super) fn take_over(
        &self,
        left: Left,
        launch: &Launch,
        process: Waited,
        orders: (mpsc::Sender<Duration>, mpsc::Receiver<Duration>),
    ) -> Attempt {
        let started_at = timestamp(launch.at_ns);
        let running = left.attempt(AttemptState::Running { started_at });
        let description = std::fs::read(self.ledger.description(&left.id)).ok();
        let container: Option<Container> =
            description.and_then(|json| serde_json::from_slice(&json).ok());
        let socket = self.ledger.socket(&left.id);
        // A socket that is gone costs the rotation of its log, nothing else; so does one of a sandbox
        // of another version, which would not be understood.
        let stream = if left.is_ours() { connect(&socket).ok() } else { None };
        let told = kept::read_signal(&left.dir);
        let Left { dir, owner, id, about, leaf, state: _ } = left;
        let (socket, oom) = (Socket::kept(socket), Arc::new(OomKills::adopted(leaf, true)));
        let living = Living { id, dir, about, process, stream, socket, oom, told };
        self.watch(owner.pod_uid, running.clone(), container.map(Arc::new), living, orders);
        running
    }

    /// How a dead attempt ended, which is kept; none where its guest never ran. What only a living one
    /// has goes.
    pub(super) async fn end(&self, left: &Left) -> Option<Exit> {
        Socket::kept(self.ledger.socket(&left.id)).ended();
        let oom = OomKills::adopted(left.leaf.clone(), false);
        let end = end_of(left, &oom).await;
        oom.remove_leaf().await;
        end
    }
}

/// How a dead attempt ended; none where its guest never ran.
async fn end_of(left: &Left, oom: &OomKills) -> Option<Exit> {
    let Left { dir, about, .. } = left;
    if let Some(exit) = kept::read_end(dir) {
        return Some(exit);
    }
    let version = left.state.as_ref().map(StateFile::version);
    if about.is_of_this_boot() && matches!(version, Some(Ok(None))) {
        // Its agent died between making it and writing its head.
        return None;
    }
    let records = read_state(dir);
    let recorded = records.as_ref().is_ok_and(Records::has_exit);
    let end = End::Unseen(kept::read_signal(dir));
    let concluded = conclude(None, records, Ok(end)).ok()?;
    let mut exit = oom.blame(Ok(concluded), recorded).ok()?;
    if exit.reason == Reason::OomKilled.as_str() && !recorded {
        // It is known after all how it ended.
        exit.message.clear();
    }
    Some(finish(dir, about, exit).await)
}

/// Removes what is left of an attempt whose guest never ran.
fn never_ran(dir: &Path, about: Option<&About>) {
    if let Some(about) = about {
        monitor::forget(about);
    }
    if let Err(error) = linux::remove_tree(dir) {
        tracing::warn!(path = %dir.display(), %error, "cannot remove what a start left");
    }
}

/// An id for an attempt whose own was lost: the same each time.
fn made_up(dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(dir.as_os_str().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `.../pods/UID/containers/NAME/ATTEMPT`.
fn owner(dir: &Path) -> Option<Owner> {
    let mut parts = dir.components().rev().map(|part| part.as_os_str().to_str());
    let attempt = parts.next()??.parse().ok()?;
    let container = parts.next()??.to_owned();
    let pod_uid = parts.nth(1)??.to_owned();
    Some(Owner { pod_uid, container, attempt })
}

#[cfg(test)]
#[path = "adopt_test.rs"]
mod tests;
