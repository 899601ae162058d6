//! Sandboxes that an earlier agent of this root directory left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use copepod_wasm::state::{StateError, StateFile};
use rustix::event::{PollFd, PollFlags, poll};
use thiserror::Error;

use crate::ledger::{Ledger, LedgerError};
use crate::linux;

/// How long a killed sandbox may take to be gone: the kernel has to free its memory.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why something of an earlier agent could not be ended.
#[derive(Debug, Error)]
pub(crate) enum LeftoverError {
    /// The root directory could not be read.
    #[error("cannot list what an earlier copepod left")]
    List(#[source] LedgerError),
    /// A sandbox could not be killed.
    #[error("cannot end the sandbox of {path}")]
    Kill {
        /// Its state file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It was killed and did not go.
    #[error("the sandbox of {0} does not end")]
    Stays(PathBuf),
}

/// Ends every sandbox below `ledger` and removes its socket; what is dead already is left alone.
///
/// A state file's lock tells who lives. Its process id is trusted only while the lock is held:
/// a process descriptor is opened first, and the lock looked at again before the kill.
///
/// # Errors
/// [`LeftoverError`]; nothing is removed then, so that a later try finds it again.
pub(crate) fn end_leftovers(ledger: &Ledger) -> Result<(), LeftoverError> {
    for dir in ledger.attempt_dirs().map_err(LeftoverError::List)? {
        let path = dir.join("state");
        // No state file, or half of one: no sandbox was started on it.
        let Ok(state) = StateFile::open(&path) else { continue };
        let deadline = Instant::now() + END_TIMEOUT;
        while !ended(&state, &path)? {
            if Instant::now() > deadline {
                return Err(LeftoverError::Stays(path));
            }
        }
        if let Ok(id) = state.id() {
            let _ = std::fs::remove_file(ledger.socket(&id));
        }
    }
    Ok(())
}

/// One try: whether it has ended. Waits on the process, a moment where there is none to wait on.
fn ended(state: &StateFile, path: &Path) -> Result<bool, LeftoverError> {
    let failed = |source| LeftoverError::Kill { path: path.into(), source };
    let unreadable = |error: StateError| failed(std::io::Error::other(error));
    if state.try_lock().map_err(unreadable)? {
        return Ok(true);
    }
    let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    // Not launched: its agent is gone, so it finds its connection closed and ends by itself.
    let process = match state.launched().map_err(unreadable)? {
        Some(launch) => linux::open_process(launch.pid).map_err(failed)?,
        None => None,
    };
    let wait = |fds: &mut [PollFd<'_>]| poll(fds, Some(&moment)).map_err(|e| failed(e.into()));
    match process {
        Some(process) if !state.try_lock().map_err(unreadable)? => {
            linux::kill_process(&process).map_err(failed)?;
            wait(&mut [PollFd::new(&process, PollFlags::IN)])?;
        }
        Some(_) => {}
        None => {
            wait(&mut [])?;
        }
    }
    Ok(false)
}
