//! Kernel edges whose wrappers are unsafe; beside the load of an artefact the only `unsafe` here.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// Enters a mount namespace of the process's own.
#[expect(unsafe_code, reason = "the wrapper is unsafe for what other flags do")]
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: of all flags only FILES is unsafe, and this is the only thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Has the event loop watch a descriptor.
///
/// # Errors
/// What the event loop says, with the descriptor: `EPERM` for one that is never waited for.
#[expect(unsafe_code, reason = "the event loop cannot know that a descriptor is not replaced")]
pub(crate) fn watch(
    fd: OwnedFd,
    interest: Interest,
) -> Result<AsyncFd<OwnedFd>, AsyncFdRegisterError<OwnedFd>> {
    // SAFETY: it is owned by what is given, never taken out and never given another description
    // (no dup onto it), so it is the same open one until it is dropped.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
}
