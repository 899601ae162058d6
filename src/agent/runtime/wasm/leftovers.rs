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
/// A state file's lock tells who lives. The process id in it was written by the sandbox and is not
/// trusted: a process descriptor is opened first, then that process must have this very file open,
/// and only then is it killed.
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
        Some(launch) => {
            let process = linux::open_process(launch.pid).map_err(failed)?;
            process.filter(|_| linux::has_open(launch.pid, state))
        }
        None => None,
    };
    let wait = |fds: &mut [PollFd<'_>]| poll(fds, Some(&moment)).map_err(|e| failed(e.into()));
    match process {
        Some(process) => {
            linux::kill_process(&process).map_err(failed)?;
            wait(&mut [PollFd::new(&process, PollFlags::IN)])?;
        }
        None => {
            wait(&mut [])?;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use copepod_wasm::state::Launch;

    use super::*;

    struct Scene {
        _dir: tempfile::TempDir,
        ledger: Ledger,
        path: PathBuf,
        state: StateFile,
    }

    fn scene() -> Scene {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&dir.path().join("r"), &dir.path().join("run")).expect("opens");
        let attempt = ledger.attempt_dir("uid", "main", 0);
        std::fs::create_dir_all(&attempt).expect("makes");
        let path = attempt.join("state");
        let id = "0123456789abcdef".repeat(4);
        let state = StateFile::create(&path, &id).expect("makes").expect("is free");
        Scene { _dir: dir, ledger, path, state }
    }

    fn sleeper(stdout: Stdio) -> Child {
        Command::new("sleep").arg("600").stdout(stdout).spawn().expect("starts")
    }

    #[test]
    fn a_living_sandbox_is_ended() {
        let Scene { _dir, ledger, path, state } = scene();
        let held = state.as_fd().try_clone_to_owned().expect("a second descriptor");
        let mut child = sleeper(Stdio::from(held));
        state.set_launched(&Launch { pid: child.id(), at_ns: 1 }).expect("writes");
        drop(state);
        end_leftovers(&ledger).expect("ends it");
        assert_eq!(child.wait().expect("ours").signal(), Some(9));
        let state = StateFile::open(&path).expect("opens");
        // A process that another test forks has the lock, too, until it becomes its program.
        let deadline = Instant::now() + END_TIMEOUT;
        while !state.try_lock().expect("asks") {
            assert!(Instant::now() < deadline, "nobody holds it");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_a_sandbox_names_falsely_is_left_alone() {
        let Scene { _dir, ledger: _ledger, path, state } = scene();
        let mut stranger = sleeper(Stdio::null());
        state.set_launched(&Launch { pid: stranger.id(), at_ns: 1 }).expect("writes");
        let other = StateFile::open(&path).expect("opens");
        assert!(!ended(&other, &path).expect("looks"), "its lock is held");
        assert!(stranger.try_wait().expect("ours").is_none(), "it lives");
        stranger.kill().expect("kills");
        stranger.wait().expect("ours");
    }
}
