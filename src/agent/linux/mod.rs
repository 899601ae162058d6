//! The kernel's edges that no other room should spell out: descriptors over sockets, process
//! descriptors, paths below directories that guests write to, their binds and removal, memory as a
//! directory, network namespaces, watched directories, the jail of a compile job, control groups, systemd's units; and what
//! this machine is: its facts and its addresses.
//!
//! The only room of the agent where `unsafe` may stand. Starts no task.

pub(crate) mod addresses;
mod beneath;
mod bind;
pub(crate) mod cgroup;
pub(crate) mod compile_jail;
pub(crate) mod listener;
pub(crate) mod machine;
pub(crate) mod network;
mod remove;
pub(crate) mod systemd;
pub(crate) mod terminal;
mod tmpfs;
mod watch;

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::fs::{fstat, stat};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use beneath::{
    Links, make_below, mode_of, open_below, open_top, path_of, proc_path, read_below,
};
pub(crate) use bind::bind;
pub(crate) use remove::remove_tree;
pub(crate) use tmpfs::{can_mount, is_memory, mount_memory};
pub(crate) use watch::watch_dir;

/// This process's place in the kernel's order of whom it kills for memory.
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// Most descriptors that go with one frame: the standard streams of an exec.
const SENT_FDS_MAX: usize = 3;

/// Sets the `oom_score_adj` of this process, and of what it starts from now on.
///
/// # Errors
/// The kernel's: who may not (`CAP_SYS_RESOURCE`) goes no lower than it ever was.
pub(crate) fn set_oom_score_adj(score: i32) -> io::Result<()> {
    fs::write(OOM_SCORE_ADJ, score.to_string())
}

/// Sends `bytes` with the descriptors `fds`, three at most, over a Unix stream socket, all or
/// nothing.
///
/// # Errors
/// The socket's error; `WriteZero` when the socket took less than all of `bytes` (never for a
/// frame's few bytes), `InvalidInput` for more descriptors.
pub(crate) fn send_with_fds(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SENT_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// A descriptor of the process `pid`; `None` if there is no such process.
///
/// # Errors
/// The kernel's, such as a table of descriptors that is full.
pub(crate) fn open_process(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether the process `pid` has this very file open. `false` where that cannot be seen.
pub(crate) fn has_open(pid: u32, file: impl AsFd) -> bool {
    let Ok(wanted) = fstat(file) else { return false };
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut same = open.flatten().filter_map(|entry| stat(entry.path()).ok());
    same.any(|file| (file.st_dev, file.st_ino) == (wanted.st_dev, wanted.st_ino))
}

/// The processes whose standard output is this very file; those that cannot be looked at are left
/// out. Blocks for a look at each process of the machine.
pub(crate) fn who_writes_to(file: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let wanted = fstat(file)?;
    processes(|pid| {
        stat(format!("/proc/{pid}/fd/1"))
            .is_ok_and(|file| (file.st_dev, file.st_ino) == (wanted.st_dev, wanted.st_ino))
    })
}

/// The processes that were started with this variable (`NAME=value`); those that cannot be looked at
/// are left out. Blocks for a look at each process of the machine.
pub(crate) fn who_was_given(variable: &str) -> io::Result<Vec<OwnedFd>> {
    processes(|pid| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == variable.as_bytes()))
    })
}

fn processes(is_meant: impl Fn(u32) -> bool) -> io::Result<Vec<OwnedFd>> {
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Looked at again once its number cannot go to another process any more.
    let found = pids.filter(|pid| is_meant(*pid)).map(|pid| Ok((pid, open_process(pid)?)));
    let found: Vec<_> = found.collect::<io::Result<_>>()?;
    Ok(found.into_iter().filter_map(|(pid, process)| process.filter(|_| is_meant(pid))).collect())
}

/// What this boot of the kernel is called; empty where the kernel does not say.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

/// Kills the process behind a process descriptor; one that is gone already is no error.
///
/// # Errors
/// The kernel's, such as a process of another user.
pub(crate) fn kill_process(process: impl AsFd) -> io::Result<()> {
    signal_process(process, Signal::KILL)
}

/// Signals the process behind a process descriptor; one that is gone already is no error.
///
/// # Errors
/// As [`kill_process`].
pub(crate) fn signal_process(process: impl AsFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Has the event loop watch a process descriptor: it is readable once the process has ended.
///
/// # Errors
/// The event loop's.
#[expect(unsafe_code, reason = "the event loop cannot know that a descriptor is not replaced")]
pub(crate) fn watch_process(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it is owned by what is given, never taken out and never given another description
    // (no dup onto it), so it is the same open one until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    watched.map_err(Into::into)
}

/// Gives back to the kernel what the heap holds and nothing uses: after a burst of pods that is most
/// of it. Takes about a millisecond.
#[expect(unsafe_code, reason = "the allocator's own call has no safe wrapper")]
pub(crate) fn trim_heap() {
    // SAFETY: it takes the allocator's own locks and moves nothing that is in use; any thread may
    // call it at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Raises the number of files that this process and its children may open to what they may ask
/// for: an http guest has one a connection.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused: it stays as it is, which serves all but the largest.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Whether this kernel restricts files by landlock (5.13 and built in), by which a guest's process
/// sees its volumes alone.
pub(crate) fn has_landlock() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .is_ok()
}

/// Whether this kernel enforces AppArmor profiles.
pub(crate) fn has_apparmor() -> bool {
    // A file of one letter; absent where the kernel lacks it.
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether this kernel labels files for SELinux.
pub(crate) fn has_selinux() -> bool {
    fs::exists("/sys/fs/selinux/enforce").unwrap_or(false)
}
