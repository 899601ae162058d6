//! A file shown at a second place.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Shows an open file or directory at `place`, where one of the same kind is: this very file,
/// whatever its path leads to by now. What is mounted below it is not shown. `remove_tree` takes it
/// away.
///
/// # Errors
/// The kernel's.
pub(crate) fn bind(file: impl AsFd, place: &Path) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(file, "", flags)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = open(place, flags, Mode::empty())?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &place, "", both)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::symlink;

    use super::super::remove_tree;
    use super::*;

    #[test]
    fn an_open_file_is_bound_and_removed_with_its_tree() {
        let dir = tempfile::tempdir().expect("a directory");
        let [source, other, tree] = ["source", "other", "tree"].map(|name| dir.path().join(name));
        for (dir, text) in [(&source, "source"), (&other, "other")] {
            fs::create_dir(dir).expect("makes");
            fs::write(dir.join("file"), text).expect("writes");
        }
        fs::create_dir_all(tree.join("deep/dir")).expect("makes");
        fs::write(tree.join("deep/file"), "").expect("writes");
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let [dir_fd, file_fd] =
            [source.clone(), source.join("file")].map(|path| open(path, flags, Mode::empty()));
        // Swapped after it was opened.
        fs::rename(&source, dir.path().join("moved")).expect("moves");
        symlink(&other, &source).expect("links");
        bind(dir_fd.expect("opens"), &tree.join("deep/dir")).expect("binds");
        bind(file_fd.expect("opens"), &tree.join("deep/file")).expect("binds");
        for path in ["deep/dir/file", "deep/file"] {
            assert_eq!(fs::read_to_string(tree.join(path)).expect("reads"), "source");
        }
        remove_tree(&tree).expect("removes");
        assert!(!tree.exists());
        let kept = fs::read_to_string(dir.path().join("moved/file")).expect("is kept");
        assert_eq!(kept, "source");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(&*dir.path().to_string_lossy()));
    }
}
