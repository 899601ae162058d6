//! The jail: what a sandbox gives up before the first instruction of its guest.
//!
//! Owns: the order of giving up, the landlock rules, the application of the seccomp filter that
//! `build.rs` assembles. Everything here holds for the calling thread and can never be undone; a
//! sandbox has no other thread.

use std::os::fd::BorrowedFd;

use copepod_wasm::User;
use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};
use rustix::io::Errno;
use rustix::process::{Gid, Signal, Uid, getpid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{apply_filter_all_threads, sock_filter};
use thiserror::Error;

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// The newest landlock that these rules were written and tested against; an older kernel enforces
/// what it knows, one before 5.13 nothing (the agent names that at its start).
const LANDLOCK: ABI = ABI::V6;

/// What a guest may do below a directory that it may only read.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What a guest may do below a directory that it may write: all that WASI has a call for, so no
/// devices, pipes and sockets, and nothing is executed. `Refer` is renaming and linking across
/// preopens, which WASI allows.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg
        | MakeSym | Refer
});

/// A directory that stays open to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// The directory; `O_PATH` is enough.
    pub fd: BorrowedFd<'a>,
    /// Whether nothing below it may be changed.
    pub read_only: bool,
}

/// What is kept in the jail; all else is given up.
#[derive(Clone, Copy, Debug)]
pub struct Jail<'a> {
    /// Whom to become; `None` stays who the process is, without capabilities all the same.
    pub user: Option<&'a User>,
    /// Directories that stay open.
    pub directories: &'a [Directory<'a>],
    /// Whether the process is killed with its parent. Asked for here because a change of
    /// credentials clears it.
    pub die_with_parent: bool,
}

/// Which step of the jail the kernel refused. The guest is not started then.
#[derive(Debug, Error)]
pub enum JailError {
    /// Changing groups, group or user.
    #[error("cannot become user {uid} of group {gid}")]
    User {
        /// The user id.
        uid: u32,
        /// The group id.
        gid: u32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Dropping capabilities.
    #[error("cannot drop the capabilities")]
    Capabilities(#[source] Errno),
    /// Asking for the end with the parent.
    #[error("cannot ask for a signal at the parent's death")]
    ParentDeath(#[source] Errno),
    /// Giving up new privileges.
    #[error("cannot set no_new_privs")]
    NoNewPrivs(#[source] Errno),
    /// Restricting files.
    #[error("cannot enter landlock")]
    Landlock(#[source] Box<RulesetError>),
    /// Restricting system calls.
    #[error("cannot apply the seccomp filter")]
    Seccomp(#[source] Box<seccompiler::Error>),
}

/// Enters the jail, for good: user and groups, no capability, no_new_privs, landlock, seccomp.
///
/// Call it on the only thread of the process, when everything that needs more is done: files
/// opened, artefact mapped, listeners bound, event loop made. No thread can be started after it.
///
/// # Errors
/// [`JailError`] with the step; the process must end then, since it may be half in.
pub fn enter(jail: &Jail<'_>) -> Result<(), JailError> {
    drop_bounding_set();
    if let Some(user) = jail.user {
        become_user(user)?;
    }
    drop_capabilities()?;
    if jail.die_with_parent {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(JailError::ParentDeath)?;
    }
    set_no_new_privs(true).map_err(JailError::NoNewPrivs)?;
    restrict_files(jail.directories).map_err(|e| JailError::Landlock(Box::new(e)))?;
    apply_filter_all_threads(&filter()).map_err(|e| JailError::Seccomp(Box::new(e)))
}

/// What is not in the bounding set cannot come back by an execve, which the filter refuses anyway.
/// Without the right to do it (an ordinary user) there is nothing to drop.
fn drop_bounding_set() {
    for bit in 0..u64::BITS {
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err() {
            break;
        }
    }
}

fn become_user(user: &User) -> Result<(), JailError> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .map_err(|source| JailError::User { uid: user.uid, gid: user.gid, source })
}

fn drop_capabilities() -> Result<(), JailError> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    clear_ambient_capability_set()
        .and_then(|()| set_capabilities(None, none))
        .map_err(JailError::Capabilities)
}

fn restrict_files(directories: &[Directory<'_>]) -> Result<(), RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    for directory in directories {
        let access = if directory.read_only { READ } else { WRITE };
        rules = rules.add_rule(PathBeneath::new(directory.fd, access))?;
    }
    rules.restrict_self().map(drop)
}

/// The filter with the own process id in the marker's place.
fn filter() -> [sock_filter; FILTER.len()] {
    let own = getpid().as_raw_nonzero().get().cast_unsigned();
    let mut program = FILTER;
    for instruction in &mut program {
        if instruction.k == PID_MARKER {
            instruction.k = own;
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_names_the_own_process_once() {
        assert!(FILTER.len() > 100, "an allow-list of {} instructions", FILTER.len());
        assert_eq!(FILTER.iter().filter(|i| i.k == PID_MARKER).count(), 1);
        let own = std::process::id();
        let changed: Vec<_> =
            FILTER.iter().zip(filter()).filter(|(a, b)| **a != *b).map(|(_, b)| b.k).collect();
        assert_eq!(changed, [own]);
    }

    #[test]
    fn a_guest_never_executes_and_a_reader_never_writes() {
        assert!(!(READ | WRITE).contains(AccessFs::Execute));
        assert_eq!(READ & AccessFs::from_write(LANDLOCK), BitFlags::EMPTY);
        assert!(WRITE.contains(READ));
        let devices =
            make_bitflags!(AccessFs::{MakeChar | MakeBlock | MakeSock | MakeFifo | IoctlDev});
        assert_eq!(WRITE & devices, BitFlags::EMPTY);
    }
}
