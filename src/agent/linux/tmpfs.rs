//! Memory as a directory.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open, statfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::thread::{CapabilitySet, capabilities};

/// `f_type` of a tmpfs (`TMPFS_MAGIC` of linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// The same of a ramfs.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Whether what is written below `path` stays in memory (or its swap).
pub(crate) fn is_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|about| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&about.f_type))
}

/// Whether this process may mount.
pub(crate) fn can_mount() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Mounts a new tmpfs on the directory `path`, never swapped where the kernel can say so (6.4).
/// Without a size it may hold half of the machine's memory, as the kernel has it.
///
/// # Errors
/// The kernel's.
pub(crate) fn mount_memory(path: &Path, mode: u32, size: Option<u64>) -> io::Result<()> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "copepod")?;
    fsconfig_set_string(fs.as_fd(), "mode", format!("{mode:o}"))?;
    if let Some(size) = size {
        fsconfig_set_string(fs.as_fd(), "size", size.to_string())?;
    }
    match fsconfig_set_flag(fs.as_fd(), "noswap") {
        // An older kernel, or one of a user namespace.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let place = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&mount, "", &place, "", both)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::remove_tree;
    use super::*;

    #[test]
    fn memory_is_mounted_with_a_size_and_removed_with_its_tree() {
        assert!(can_mount(), "the tests run as root");
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("tree/in/it");
        fs::create_dir_all(&place).expect("makes");
        for _ in 0..2 {
            mount_memory(&place, 0o777, Some(1 << 20)).expect("mounts");
        }
        assert!(is_memory(&place) && !is_memory(Path::new("/proc")));
        fs::write(place.join("small"), vec![0; 1 << 19]).expect("fits");
        let error = fs::write(place.join("large"), vec![0; 1 << 20]).expect_err("does not fit");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        remove_tree(&dir.path().join("tree")).expect("removes");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(&*dir.path().to_string_lossy()));
        assert!(!dir.path().join("tree").exists());
    }
}
