//! What an earlier agent of this root directory started, taken over: who lives is waited for, who has
//! ended is told of with what it left behind.
//!
//! A state file's lock tells who lives; the process id in it was written by the sandbox and is
//! trusted only for a process that has this very file open (as in [`leftovers`](super::leftovers)).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Attempt, AttemptState, Exit};
use copepod_wasm::state::{Launch, Reason, StateError, StateFile};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use super::super::Container;
use super::kept::{self, About, timestamp};
use super::monitor::{self, End, Living, Records, conclude, finish, read_state};
use super::oom::OomKills;
use super::spawn::{Socket, connect};
use super::waited::Waited;
use super::{Entry, Wasm, exec, shown};
use crate::ledger::LedgerError;
use crate::linux::cgroup::{CgroupError, Cgroups};
use crate::{linux, volume};

/// How long a sandbox that lives and is not launched may stay so: it had its description before its
/// agent died, or hears that none comes.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(40);
/// How often it is looked at meanwhile. It was cut off in the milliseconds of its start, so this is
/// for few and not for long.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why an attempt could not be taken over.
#[derive(Debug, Error)]
pub(crate) enum AdoptError {
    /// The root directory could not be read.
    #[error("cannot list what an earlier copepod left")]
    List(#[source] LedgerError),
    /// An attempt's state file could not be used.
    #[error("cannot take over {dir}")]
    State {
        /// The attempt's directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// Its control group could not be looked for.
    #[error("cannot look for an attempt's control group")]
    Cgroup(#[source] CgroupError),
    /// Its process could not be waited for.
    #[error("cannot wait for the sandbox of {dir}")]
    Wait {
        /// The attempt's directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its sandbox lives and does not start its guest.
    #[error("the sandbox of {0} does not start")]
    Stuck(PathBuf),
}

/// Whose an attempt is, as its directory's path says.
struct Owner {
    pod_uid: String,
    container: String,
    attempt: u32,
}

/// What a look at a state file finds.
enum Found {
    /// The guest runs or is about to, in this process.
    Living(Launch, Waited),
    /// The guest's process has ended, or there was none.
    Dead,
}

impl Wasm {
    /// Takes over all attempts on disk. What never ran is removed, since it starts again. Call it
    /// before anything is started.
    ///
    /// # Errors
    /// [`AdoptError`]: no agent may run pods then, or some would run twice.
    pub(crate) async fn adopt(&self, cgroups: Option<&Cgroups>) -> Result<(), AdoptError> {
        for dir in self.ledger.attempt_dirs().map_err(AdoptError::List)? {
            let Some(owner) = owner(&dir) else { continue };
            // Neither of both without the other: its agent died before it started anything.
            let about = About::read(&dir);
            let state = match StateFile::open(&dir.join("state")) {
                Ok(state) => Some(state),
                Err(StateError::Io(_, e)) if e.kind() == io::ErrorKind::NotFound => None,
                // Its agent died between making it and writing its head.
                Err(StateError::Format) if is_empty(&dir.join("state")) => None,
                Err(source) => return Err(AdoptError::State { dir, source }),
            };
            match (about, state) {
                (Some(about), Some(state)) => {
                    self.take_over((dir, owner), about, state, cgroups).await?
                }
                // An ordinary container's, which its runtime tells of.
                (None, None) if volume::message_file(&dir).exists() => {}
                (about, _) => never_ran(&dir, about.as_ref()),
            }
        }
        Ok(())
    }

    async fn take_over(
        &self,
        (dir, owner): (PathBuf, Owner),
        about: About,
        state: StateFile,
        cgroups: Option<&Cgroups>,
    ) -> Result<(), AdoptError> {
        let failed = |source| AdoptError::State { dir: dir.clone(), source };
        let id = state.id().map_err(failed)?;
        let (sandbox, definition) = (about.sandbox, about.definition);
        let attempt = |state| Attempt {
            container: owner.container.clone(),
            attempt: owner.attempt,
            sandbox,
            id: shown(&id),
            definition,
            user: None,
            image: None,
            state,
        };
        let socket = self.ledger.socket(&id);
        let leaf = cgroups.map(|cgroups| cgroups.find_leaf(&owner.pod_uid, &id)).transpose();
        let leaf = leaf.map_err(AdoptError::Cgroup)?.flatten();
        match settled(&dir, &state).await? {
            Found::Living(launch, process) => {
                let started_at = timestamp(launch.at_ns);
                let description = std::fs::read(self.ledger.description(&id)).ok();
                let container: Option<Container> =
                    description.and_then(|json| serde_json::from_slice(&json).ok());
                // A socket that is gone costs the rotation of its log, nothing else.
                let stream = connect(&socket).ok();
                let socket = Socket::kept(socket);
                let running = attempt(AttemptState::Running { started_at });
                let oom = Arc::new(OomKills::adopted(leaf, true));
                let living = Living { id: id.clone(), dir, about, process, stream, socket, oom };
                self.watch(owner.pod_uid, running, container.map(Arc::new), living);
            }
            Found::Dead => {
                Socket::kept(socket).ended();
                let oom = OomKills::adopted(leaf, false);
                let end = end_of(&dir, &about, &oom).await;
                oom.remove_leaf().await;
                match end {
                    Some(exit) => {
                        let dead = attempt(AttemptState::Exited(exit));
                        self.bury(id, owner.pod_uid, dead, about)
                    }
                    None => never_ran(&dir, Some(&about)),
                }
            }
        }
        Ok(())
    }

    /// Puts an attempt that has ended into the table.
    fn bury(&self, id: String, pod_uid: String, attempt: Attempt, about: About) {
        // Closed at once: nobody is left to be stopped.
        let (stop, _) = mpsc::channel(1);
        let execs = Arc::new(Semaphore::new(exec::AT_ONCE));
        let oom = Arc::default();
        let attached = Arc::new(Semaphore::new(0));
        let (container, programs, link) = (None, None, None);
        let entry = Entry {
            pod_uid,
            attempt,
            about,
            stop,
            container,
            programs,
            execs,
            link,
            attached,
            oom,
        };
        self.table.lock().insert(id, entry);
    }
}

/// Waits until a sandbox is dead or its guest is launched, which of one that its agent cut off at
/// its start is open for a moment.
async fn settled(dir: &Path, state: &StateFile) -> Result<Found, AdoptError> {
    let failed = |source| AdoptError::State { dir: dir.into(), source };
    let cannot_wait = |source| AdoptError::Wait { dir: dir.into(), source };
    let deadline = Instant::now() + LAUNCH_TIMEOUT;
    loop {
        if state.try_lock().map_err(failed)? {
            return Ok(Found::Dead);
        }
        if let Some(launch) = state.launched().map_err(failed)?
            && let Some(process) = linux::open_process(launch.pid).map_err(cannot_wait)?
            && linux::has_open(launch.pid, state)
        {
            let process = Waited::found(process).map_err(cannot_wait)?;
            return Ok(Found::Living(launch, process));
        }
        if Instant::now() > deadline {
            return Err(AdoptError::Stuck(dir.into()));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How a dead attempt ended; none where its guest never ran.
async fn end_of(dir: &Path, about: &About, oom: &OomKills) -> Option<Exit> {
    if let Some(exit) = kept::read_end(dir) {
        return Some(exit);
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

fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|about| about.len() == 0)
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
mod tests {
    use std::fs;

    use copepod_wasm::state::Exit as Recorded;

    use super::*;
    use crate::ledger::Ledger;
    use crate::runtime::{Runtime, TerminationMessage};

    /// An attempt's directory with what an agent writes first.
    fn begun(ledger: &Ledger, attempt: u32) -> PathBuf {
        let dir = ledger.attempt_dir("uid", "main", attempt);
        fs::create_dir_all(&dir).expect("makes");
        let (log, message) = (dir.join("log"), TerminationMessage::default());
        About { log, link: None, message, sandbox: 0, definition: None }
            .keep(&dir)
            .expect("writes");
        dir
    }

    fn of(attempt: Attempt) -> (u32, i32, String) {
        match attempt.state {
            AttemptState::Exited(exit) => (attempt.attempt, exit.code, exit.reason),
            AttemptState::Starting | AttemptState::Running { .. } => panic!("{attempt:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_death_left_half_made_starts_again_and_what_ended_is_told() {
        let temporary = tempfile::tempdir().expect("a directory");
        let (root, run) = (temporary.path().join("root"), temporary.path().join("run"));
        let ledger = Arc::new(Ledger::open(&root, &run).expect("opens"));
        let state = |dir: &Path| {
            let number = dir.file_name().and_then(|name| name.to_str()).expect("a number");
            let id = number.repeat(64);
            StateFile::create(&dir.join("state"), &id).expect("makes").expect("is free")
        };
        let ordinary = ledger.attempt_dir("uid", "other", 0);
        fs::create_dir_all(&ordinary).expect("makes");
        fs::write(volume::message_file(&ordinary), "").expect("writes");
        // Nothing yet; a file without its head; a sandbox that never launched; two that ended.
        let unmade = begun(&ledger, 0);
        let empty = begun(&ledger, 1);
        fs::write(empty.join("state"), "").expect("writes");
        let unlaunched = begun(&ledger, 2);
        drop(state(&unlaunched));
        let launch = Launch { pid: 1, at_ns: 5 };
        let killed = begun(&ledger, 3);
        state(&killed).set_launched(&launch).expect("writes");
        kept::keep_signal(&killed, rustix::process::Signal::TERM).expect("writes");
        let ended = begun(&ledger, 4);
        let record =
            Recorded { code: 3, reason: Reason::Error, message: "m".into(), finished_at_ns: 7 };
        let file = state(&ended);
        file.set_launched(&launch).expect("writes");
        file.set_exit(&record).expect("writes");
        drop(file);

        for _ in 0..2 {
            let (wasm, _happenings) = Wasm::open(Arc::clone(&ledger), "/nowhere".into());
            wasm.adopt(None).await.expect("takes over");
            assert!([&unmade, &empty, &unlaunched].iter().all(|dir| !dir.exists()));
            assert!(volume::message_file(&ordinary).exists(), "is not a guest's");
            let mut told: Vec<_> = wasm.list("uid").into_iter().map(of).collect();
            told.sort();
            let error = || "Error".to_owned();
            assert_eq!(told, [(3, 143, error()), (4, 3, error())]);
        }
    }
}
