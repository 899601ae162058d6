//! The mounts below a guest's directories, in a mount namespace of the sandbox's own.
//!
//! Made before the directories are opened, so that what is opened lies on top of them, and before
//! the jail, which allows no mount. Other guests may write below a target's directory while this
//! runs, and a guest may have left anything there before: every source and target is opened link
//! by link without following one, and from then on only its descriptor is used.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use copepod_wasm::{Mount, Preopen};
use rustix::fs::{CWD, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use thiserror::Error;

use crate::files::{open_plainly, proc_path};
use crate::linux;

/// Which mount could not be made. The guest is not started then.
#[derive(Debug, Error)]
pub(crate) enum MountError {
    #[error("cannot make a mount namespace")]
    Namespace(#[source] Errno),
    #[error("cannot keep the host's mounts apart from the sandbox's")]
    Propagation(#[source] Errno),
    #[error("mount target {0} is not below a directory that the guest sees")]
    Outside(PathBuf),
    #[error("cannot open {path}, which is to be mounted at {target}")]
    Source {
        path: PathBuf,
        target: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the mount target {path}")]
    Target {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {path} at {target}")]
    Bind {
        path: PathBuf,
        target: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("cannot restrict the mount at {target}")]
    Restrict {
        target: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Makes the mounts, in order, and the namespace for them; without any, nothing is done.
///
/// # Errors
/// [`MountError`]; the process must end then, since some may be made.
pub(crate) fn make(mounts: &[Mount], preopens: &[Preopen]) -> Result<(), MountError> {
    if mounts.is_empty() {
        return Ok(());
    }
    enter_namespace()?;
    mounts.iter().try_for_each(|mount| bind(mount, preopens))
}

fn enter_namespace() -> Result<(), MountError> {
    linux::unshare_mounts().map_err(MountError::Namespace)?;
    // What is unmounted on the host goes here too, and is not kept busy; nothing goes back.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(MountError::Propagation)
}

fn bind(mount: &Mount, preopens: &[Preopen]) -> Result<(), MountError> {
    let Mount { source: path, target, read_only } = mount;
    let source =
        open_plainly(CWD, path, OFlags::empty(), ResolveFlags::empty()).map_err(|source| {
            MountError::Source { path: path.clone(), target: target.clone(), source: source.into() }
        })?;
    let below = open_target(target, preopens)?;
    let failed = |source| MountError::Bind { path: path.clone(), target: target.clone(), source };
    // With what is mounted below the source, as for a directory that is opened without a mount.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&source, "", clone).map_err(failed)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &below, "", both).map_err(failed)?;
    restrict(&tree, *read_only)
        .map_err(|source| MountError::Restrict { target: target.clone(), source })
}

/// Sets the flags of a mount that is attached; those that its source has are kept.
fn restrict(tree: &OwnedFd, read_only: bool) -> Result<(), Errno> {
    let has = fstatvfs(tree)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, read_only || has.contains(StatVfsMountFlags::RDONLY));
    flags.set(MountFlags::NOEXEC, has.contains(StatVfsMountFlags::NOEXEC));
    mount_remount(proc_path(tree), flags, "")
}

/// Opens what is covered, from the directory of the guest that it lies below; the directory itself
/// may be covered as well.
fn open_target(target: &Path, preopens: &[Preopen]) -> Result<OwnedFd, MountError> {
    let failed = |source: Errno| MountError::Target { path: target.into(), source: source.into() };
    let over = preopens.iter().filter(|preopen| target.starts_with(&preopen.host));
    let over = over.max_by_key(|preopen| preopen.host.as_os_str().len());
    let Some(Preopen { host, .. }) = over else { return Err(MountError::Outside(target.into())) };
    let directory =
        open_plainly(CWD, host, OFlags::DIRECTORY, ResolveFlags::empty()).map_err(failed)?;
    match target.strip_prefix(host) {
        Ok(rest) if !rest.as_os_str().is_empty() => {
            open_plainly(directory, rest, OFlags::empty(), ResolveFlags::BENEATH).map_err(failed)
        }
        Ok(_) | Err(_) => Ok(directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_opened_below_a_directory_of_the_guest_and_through_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("exists").join("root");
        std::fs::create_dir_all(root.join("etc")).expect("makes");
        std::fs::write(root.join("etc/hosts"), "").expect("writes");
        std::os::unix::fs::symlink("/etc", root.join("link")).expect("links");
        let preopens = [Preopen { host: root.clone(), guest: "/".into(), read_only: false }];
        let open = |path: &str| open_target(&root.join(path), &preopens);
        open("etc/hosts").expect("a file");
        open_target(&root, &preopens).expect("the directory itself");
        for path in ["link/passwd", "link", "etc/../../outside", "nowhere"] {
            let Err(e) = open(path) else { panic!("{path} was opened") };
            assert!(matches!(e, MountError::Target { .. }), "{path}: {e}");
        }
        let Err(e) = open_target(Path::new("/etc/hosts"), &preopens) else { panic!("opened") };
        assert!(matches!(e, MountError::Outside(_)), "{e}");
        let Err(e) = open_target(&dir.path().join("root-2"), &preopens) else { panic!("opened") };
        assert!(matches!(e, MountError::Outside(_)), "{e}");
    }
}
