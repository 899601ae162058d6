//! How much an emptyDir holds, while guests write to it.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat,
};
use rustix::io::Errno;

use super::Volumes;
use super::empty_dir::size_limit;
use crate::linux;

/// Entries that are looked at of one volume: a second's work. More files than these are counted
/// as far as that, which is what a limit in bytes is for.
const ENTRIES: usize = 200_000;

/// A volume that holds more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// The volume.
    pub(crate) volume: String,
    /// Its `sizeLimit` as the pod has it.
    pub(crate) limit: String,
}

/// Whether any volume of the pod has a limit, so that it is to be measured.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    limits(pod).next().is_some()
}

/// The first volume of the pod that holds more than its limit. What cannot be measured now is
/// taken as within it: the next look tells.
pub(crate) fn over(pod: &Pod, volumes: &Volumes) -> Option<Over> {
    limits(pod).find_map(|(name, limit, text)| {
        let path = &volumes.get(name)?.path;
        let bytes = used(path).inspect_err(|error| {
            tracing::debug!(path = %path.display(), %error, "cannot measure a volume");
        });
        (bytes.ok()? > limit).then(|| Over { volume: name.into(), limit: text.into() })
    })
}

/// The volumes that have a limit: name, bytes, and the text of it.
fn limits(pod: &Pod) -> impl Iterator<Item = (&str, u64, &str)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        Some((volume.name.as_str(), size_limit(source)?, source.size_limit.as_ref()?.0.as_str()))
    })
}

/// The bytes that a directory takes on its disk, as `du` counts them: links are not followed,
/// other file systems not entered, a file of several names counts once.
///
/// Goes down by name and up by `..`, so that a guest's depth takes no descriptors. Guests may move
/// directories meanwhile: it ends there, with what it has counted.
fn used(path: &Path) -> io::Result<u64> {
    let mut walk = Walk { bytes: 0, left: ENTRIES, linked: HashSet::new() };
    let (mut at, names) = walk.enter(&linux::open_top(path)?, c".")?;
    // On the way down to `at`: each directory's identity and what of it is to be entered yet.
    let mut way = vec![(id(&at)?, names)];
    while let Some((_, names)) = way.last_mut().filter(|_| walk.left > 0) {
        if let Some(name) = names.pop() {
            match walk.enter(&at, &name) {
                Ok((directory, names)) => {
                    way.push((id(&directory)?, names));
                    at = directory;
                }
                // Gone meanwhile, or another file system.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(e) => return Err(e.into()),
            }
            continue;
        }
        way.pop();
        let Some((parent, _)) = way.last() else { break };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        at = openat(&at, c"..", flags, Mode::empty())?;
        if id(&at)? != *parent {
            break;
        }
    }
    Ok(walk.bytes)
}

fn id(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let about = fstat(fd)?;
    Ok((about.st_dev, about.st_ino))
}

struct Walk {
    bytes: u64,
    left: usize,
    /// Files of several names that were counted.
    linked: HashSet<(u64, u64)>,
}

impl Walk {
    /// Counts what is in a directory, and gives it with the names of its directories.
    fn enter(&mut self, parent: &OwnedFd, name: &CStr) -> Result<(OwnedFd, Vec<CString>), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stay = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let directory = openat2(parent, name, flags, Mode::empty(), stay)?;
        let mut directories = Vec::new();
        for entry in Dir::read_from(&directory)? {
            if self.left == 0 {
                break;
            }
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            self.left -= 1;
            let about = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                about => about?,
            };
            let is_dir = FileType::from_raw_mode(about.st_mode) == FileType::Directory;
            if is_dir {
                directories.push(name.to_owned());
            } else if about.st_nlink > 1 && !self.linked.insert((about.st_dev, about.st_ino)) {
                continue;
            }
            // Blocks are of 512 bytes, whatever the file system's are.
            self.bytes =
                self.bytes.saturating_add(u64::try_from(about.st_blocks).unwrap_or(0) * 512);
        }
        Ok((directory, directories))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_lies_in_a_directory_is_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path();
        let before = used(top).expect("counts");
        fs::create_dir_all(top.join("a/b/c")).expect("makes");
        fs::create_dir_all(top.join("a/d")).expect("makes");
        fs::write(top.join("a/b/c/file"), vec![1; 1 << 20]).expect("writes");
        fs::write(top.join("a/d/file"), vec![1; 1 << 20]).expect("writes");
        fs::hard_link(top.join("a/d/file"), top.join("same")).expect("links");
        symlink("/usr", top.join("link")).expect("links");
        let counted = used(top).expect("counts") - before;
        assert!((2 << 20..(2 << 20) + (64 << 10)).contains(&counted), "{counted}");
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = linux::open_top(dir.path()).expect("opens");
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("makes");
            at = openat(&at, "d", flags, Mode::empty()).expect("opens");
        }
        let file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("makes");
        rustix::io::write(&file, &[1; 4096]).expect("writes");
        assert!(used(dir.path()).expect("counts") >= 5000 * 4096 + 4096);
        linux::remove_tree(&dir.path().join("d")).expect("removes");
    }
}
