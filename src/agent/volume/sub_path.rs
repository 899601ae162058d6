//! A part of a volume, which its guests write to: found or made without leaving it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, fstat};

use super::{Kind, Volume};
use crate::linux::{self, Links};

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its path on the host, without any link in it.
    pub(super) path: PathBuf,
    /// A directory, else a file.
    pub(super) is_dir: bool,
}

/// Finds `path` in a volume; as upstream, makes it a directory with the mode of the volume where
/// there is nothing (but not in a volume of the agent's own making, where a name is missing). What
/// is given is the file itself, wherever guests move it.
///
/// # Errors
/// The kernel's: `EXDEV` is a link that leads out of the volume.
pub(super) fn open(volume: &Volume, path: &Path) -> io::Result<OwnedFd> {
    let top = linux::open_top(&volume.path)?;
    let found = match linux::open_below(&top, path, OFlags::PATH, Links::Refused) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match volume.kind {
            Kind::EmptyDir | Kind::HostPath => {
                linux::make_below(&top, path, linux::mode_of(&top)?, Links::Refused)
            }
            Kind::Payload { .. } => Err(e),
        },
        opened => opened,
    };
    found.map_err(|e| {
        // As the kernel says it.
        if e.kind() != io::ErrorKind::CrossesDevices {
            return e;
        }
        io::Error::new(e.kind(), format!("{} leads out of the volume", path.display()))
    })
}

/// As [`open`], for who takes directories and regular files by their paths.
///
/// # Errors
/// The same, and what it is instead.
pub(super) fn resolve(volume: &Volume, path: &Path) -> io::Result<Source> {
    if path.as_os_str().is_empty() {
        return Ok(Source { path: volume.path.clone(), is_dir: volume.path.is_dir() });
    }
    let found = open(volume, path)?;
    let is_dir = match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(io::Error::other("neither a directory nor a file")),
    };
    Ok(Source { path: linux::path_of(&found)?, is_dir })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_part_is_found_or_made_and_never_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().canonicalize().expect("exists");
        let top = home.join("v");
        fs::create_dir_all(top.join("..data")).expect("makes");
        fs::write(top.join("..data/key"), "x").expect("writes");
        symlink("..data/key", top.join("key")).expect("links");
        symlink("../..", top.join("up")).expect("links");
        symlink("/etc", top.join("etc")).expect("links");
        fs::set_permissions(&top, fs::Permissions::from_mode(0o2770)).expect("sets");
        let volume = |kind| Volume { path: top.clone(), kind };
        let empty = volume(Kind::EmptyDir);

        let found = resolve(&empty, Path::new("key")).expect("is there");
        assert_eq!(found, Source { path: top.join("..data/key"), is_dir: false });
        let made = resolve(&empty, Path::new("a/b")).expect("is made");
        assert_eq!(made, Source { path: top.join("a/b"), is_dir: true });
        let mode = fs::metadata(top.join("a")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2770, "the volume's own");
        for path in ["up", "etc/passwd", "etc", "up/new", "../x"] {
            let error = resolve(&empty, Path::new(path)).expect_err("leads out");
            assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{path}: {error}");
        }
        let payload = volume(Kind::Payload { secret: true });
        let error = resolve(&payload, Path::new("none")).expect_err("no such key");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(&home).expect("reads").count(), 1, "nothing outside");
    }
}
