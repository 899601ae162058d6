//! Removes directory trees that guests wrote to, however deep they nested them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Mounts on one place that are taken away; the agent makes one.
const STACKED_MOUNTS: u32 = 16;

/// Removes a file, or a directory with all that is in it; nothing there is no error.
///
/// No link is followed. What is mounted in the tree is unmounted, not emptied. Takes three
/// descriptors and no stack, whatever the depth: each directory found in a directory of the tree
/// is moved up into its top before it is emptied, so that none is ever deeper than one level.
///
/// # Errors
/// The kernel's; what is left is removed by a later call.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let name = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    if unlink(&parent, &name)? {
        return Ok(());
    }
    let mut top = Top { fd: open_directory(&parent, &name)?, moved: 0 };
    while top.pass()? {}
    remove_directory(&parent, &name)?;
    Ok(())
}

/// The directory that is being emptied.
struct Top {
    fd: OwnedFd,
    /// Directories that were moved up, which their new names count.
    moved: u64,
}

impl Top {
    /// Looks at each entry once; false if there was none.
    fn pass(&mut self) -> Result<bool, Errno> {
        let mut found = false;
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_own(name) {
                continue;
            }
            found = true;
            if !unlink(&self.fd, name)? {
                self.empty(name)?;
                remove_directory(&self.fd, name)?;
            }
        }
        Ok(found)
    }

    /// Empties a directory of the top: its directories go up.
    fn empty(&mut self, name: &CStr) -> Result<(), Errno> {
        let directory = open_directory(&self.fd, name)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_own(name) && !unlink(&directory, name)? {
                self.take(&directory, name)?;
            }
        }
        Ok(())
    }

    /// Moves a directory of `from` into the top, under a name that nothing has there.
    fn take(&mut self, from: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        loop {
            let new = format!(".removed-{}", self.moved);
            self.moved += 1;
            match renameat_with(from, name, &self.fd, &*new, RenameFlags::NOREPLACE) {
                // A guest's own name: the next one.
                Err(Errno::EXIST) => {}
                Err(Errno::BUSY) => take_mounts(from, name)?,
                other => return other,
            }
        }
    }
}

/// `.` and `..`.
fn is_own(name: &CStr) -> bool {
    [c".", c".."].contains(&name)
}

/// Removes what is no directory, or is not there; false for a directory.
fn unlink(parent: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::BUSY) => {
            take_mounts(parent, name)?;
            unlinkat(parent, name, AtFlags::empty()).map(|()| true)
        }
        Err(e) => Err(e),
    }
}

fn remove_directory(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a directory of `parent`, without what is mounted on it.
fn open_directory(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stay = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(parent, name, flags, Mode::empty(), stay) {
        Err(Errno::XDEV) => {
            take_mounts(parent, name)?;
            openat2(parent, name, flags, Mode::empty(), stay)
        }
        other => other,
    }
}

/// Takes away what is mounted on an entry of `parent`.
fn take_mounts(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let place = format!("/proc/self/fd/{}/{}", parent.as_raw_fd(), name.to_string_lossy());
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    unmount(&*place, flags)?;
    for _ in 1..STACKED_MOUNTS {
        match unmount(&*place, flags) {
            Ok(()) => {}
            // Not mounted on any more.
            Err(Errno::INVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{mkdirat, open};

    use super::*;

    #[test]
    fn files_links_and_nothing_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = dir.path().join("kept");
        fs::create_dir_all(kept.join("in")).expect("makes");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "x").expect("writes");
        symlink(&kept, &link).expect("links");
        for path in [&file, &link, &dir.path().join("none"), &dir.path().join("no/ne")] {
            remove_tree(path).expect("removes");
            assert!(fs::symlink_metadata(path).is_err(), "{}", path.display());
        }
        assert!(kept.join("in").exists(), "the link's target stays");
    }

    #[test]
    fn a_tree_with_links_and_taken_names_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::create_dir(&kept).expect("makes");
        fs::write(kept.join("file"), "x").expect("writes");
        for i in 0..300 {
            let deep = tree.join(format!("a{i}/b/c"));
            fs::create_dir_all(&deep).expect("makes");
            fs::write(deep.join("file"), "x").expect("writes");
            symlink(&kept, deep.join("link")).expect("links");
            fs::create_dir_all(tree.join(format!(".removed-{i}/d"))).expect("makes");
        }
        remove_tree(&tree).expect("removes");
        assert!(!tree.exists() && kept.join("file").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = open(dir.path(), flags, Mode::empty()).expect("opens");
        for _ in 0..20_000 {
            mkdirat(&at, "deep", Mode::RWXU).expect("makes");
            at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).expect("opens");
        }
        drop(at);
        remove_tree(&dir.path().join("deep")).expect("removes");
        assert!(!dir.path().join("deep").exists());
    }
}
