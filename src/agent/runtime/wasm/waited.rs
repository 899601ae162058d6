//! A sandbox's process: a child of this agent, or one that an earlier agent left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::linux;

/// A process that is waited for.
pub(super) enum Waited {
    /// It tells its parent how it ended.
    Child(Child),
    /// A descriptor of the process, which tells that it has ended and not how.
    Found(AsyncFd<OwnedFd>),
}

impl Waited {
    /// The process behind a process descriptor, to be waited for on the event loop.
    ///
    /// # Errors
    /// The event loop's.
    pub(super) fn found(process: OwnedFd) -> io::Result<Self> {
        linux::watch_process(process).map(Self::Found)
    }

    /// Waits for the end; may be dropped and asked again.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Child(child) => child.wait().await.map(Some),
            Self::Found(process) => process.readable().await.map(|_| None),
        }
    }

    /// Sends a signal; one that has ended already hears nothing.
    pub(super) fn signal(&self, signal: Signal) {
        let sent = match self {
            // `id` is there until the child was waited for, so the number is still its own.
            Self::Child(child) => {
                let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                pid.map_or(Ok(()), |pid| kill_process(pid, signal)).map_err(io::Error::from)
            }
            Self::Found(process) => linux::signal_process(process.as_fd(), signal),
        };
        if let Err(error) = sent {
            tracing::warn!(?signal, %error, "cannot signal a sandbox");
        }
    }
}
