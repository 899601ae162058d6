//! Paths below a directory that a guest may write to: no link, swapped in at whatever moment, leads
//! out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, chmod, fstat, mkdirat, open, openat2, readlinkat,
};
use rustix::io::Errno;

/// What `..` and links at the top of a directory lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// An error, also for absolute links: they are the host's.
    Refused,
    /// The top itself, as if it were `/`.
    Root,
}

impl Links {
    fn flags(self) -> ResolveFlags {
        ResolveFlags::NO_MAGICLINKS
            | match self {
                Self::Refused => ResolveFlags::BENEATH,
                Self::Root => ResolveFlags::IN_ROOT,
            }
    }
}

/// Opens a directory of the host, to start from.
///
/// # Errors
/// The kernel's.
pub(crate) fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` below `top`; with [`OFlags::PATH`] only finds it.
///
/// # Errors
/// The kernel's: `EXDEV` is a link that leads out.
pub(crate) fn open_below(
    top: impl AsFd,
    path: &Path,
    flags: OFlags,
    links: Links,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(openat2(top, path, flags | OFlags::CLOEXEC, Mode::empty(), links.flags())?)
}

/// Makes the directory `path` below `top`, and those on the way to it, each with exactly this
/// mode; those that are there stay as they are. Gives the last one.
///
/// # Errors
/// The kernel's: `EXDEV` is a link that leads out.
pub(crate) fn make_below(
    top: impl AsFd,
    path: &Path,
    mode: Mode,
    links: Links,
) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_below(&top, path, flags, links) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut way = PathBuf::new();
    let mut at = open_below(&top, &way, flags, links)?;
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        way.push(part);
        // From the top each time: what `..` of a link means depends on it.
        at = match open_below(&top, &way, flags, links) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&at, part.as_os_str(), mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let made = open_below(&top, &way, flags, links)?;
                // Whatever the umask.
                chmod(proc_path(&made), mode)?;
                made
            }
            opened => opened?,
        };
    }
    Ok(at)
}

/// The path under which an open file is found now, without any link in it.
///
/// # Errors
/// The kernel's; not found if it has none any more.
pub(crate) fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    let path = readlinkat(CWD, proc_path(&fd), Vec::new())?.into_bytes();
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    if path.is_absolute() { Ok(path) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The path of an open file for calls that take nothing else.
pub(crate) fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Reads a regular file below the directory `top`, if it is there and at most `most` bytes long.
///
/// # Errors
/// The kernel's; `InvalidData` for what is no regular file, `FileTooLarge` for a longer one.
pub(crate) fn read_below(top: &Path, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let top = open_top(top)?;
    // A pipe without a writer must hold up nobody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open_below(&top, path, flags, Links::Refused) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

/// The permission bits of an open file.
///
/// # Errors
/// The kernel's.
pub(crate) fn mode_of(fd: impl AsFd) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(fstat(fd)?.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn directories_are_made_below_and_never_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let (top, out) = (dir.path().join("top"), dir.path().join("out"));
        fs::create_dir_all(top.join("a")).expect("makes");
        fs::create_dir(&out).expect("makes");
        symlink("../out", top.join("up")).expect("links");
        symlink(&out, top.join("away")).expect("links");
        symlink("a", top.join("in")).expect("links");
        let fd = open_top(&top).expect("opens");
        let mode = Mode::from_raw_mode(0o2775);
        let made = make_below(&fd, Path::new("in/b/c"), mode, Links::Refused).expect("makes");
        let top_path = path_of(&fd).expect("has one");
        assert_eq!(path_of(&made).expect("has one"), top_path.join("a/b/c"));
        assert_eq!(
            fs::metadata(top.join("a/b")).expect("is").permissions().mode() & 0o7777,
            0o2775
        );
        for path in ["up/x", "away/x", "up", "../out", "/", "a/../../out"] {
            let error = make_below(&fd, Path::new(path), mode, Links::Refused).expect_err(path);
            assert_eq!(error.raw_os_error(), Some(Errno::XDEV.raw_os_error()), "{path}: {error}");
        }
        make_below(&fd, Path::new("away/y"), mode, Links::Root).expect_err("dangles below the top");
        symlink("/a", top.join("root")).expect("links");
        let made = make_below(&fd, Path::new("root/z"), mode, Links::Root).expect("makes");
        assert_eq!(path_of(&made).expect("has one"), top_path.join("a/z"));
        assert!(fs::read_dir(&out).expect("reads").next().is_none(), "nothing outside");
    }

    #[test]
    fn only_regular_files_below_are_read_and_within_a_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path();
        fs::write(top.join("five"), "12345").expect("writes");
        fs::create_dir(top.join("dir")).expect("makes");
        symlink("/etc/passwd", top.join("away")).expect("links");
        rustix::fs::mkfifoat(CWD, top.join("pipe"), Mode::RWXU).expect("makes");
        let read = |path: &str, most| read_below(top, Path::new(path), most);
        assert_eq!(read("five", 5).expect("reads").as_deref(), Some(&b"12345"[..]));
        assert_eq!(read("five", 4).expect_err("too long").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read("none", 5).expect("reads"), None);
        for path in ["dir", "pipe"] {
            assert_eq!(read(path, 5).expect_err(path).kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(
            read("away", 5000).expect_err("leads out").kind(),
            io::ErrorKind::CrossesDevices
        );
    }
}
