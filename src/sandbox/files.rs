//! What a sandbox opens of the host's files before the jail: the guest's directories, the artefact.

use std::error::Error as StdError;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use copepod_wasm::Preopen;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use thiserror::Error;

use crate::jail;

/// Which file of the host could not be opened.
#[derive(Debug, Error)]
pub(crate) enum FilesError {
    #[error("cannot open the directory {host} that the guest sees as {guest}")]
    Directory {
        host: String,
        guest: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("cannot open the artefact {path}")]
    Artefact {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    /// The directory of `preopen` could not be opened.
    pub(crate) fn directory(
        preopen: &Preopen,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Directory {
            host: preopen.host.display().to_string(),
            guest: preopen.guest.clone(),
            source: source.into(),
        }
    }
}

/// A directory that the guest sees.
pub(crate) struct OpenDirectory {
    fd: OwnedFd,
    read_only: bool,
}

impl OpenDirectory {
    /// Opens the directory of a preopen.
    pub(crate) fn open(preopen: &Preopen) -> Result<Self, FilesError> {
        let fd = open_plainly(CWD, &preopen.host, OFlags::DIRECTORY, ResolveFlags::empty())
            .map_err(|e| FilesError::directory(preopen, io::Error::from(e)))?;
        Ok(Self { fd, read_only: preopen.read_only })
    }

    /// The path under which this very directory is opened again, whatever its name leads to now.
    pub(crate) fn path(&self) -> PathBuf {
        proc_path(&self.fd)
    }

    /// What the jail has to leave open.
    pub(crate) fn kept(&self) -> jail::Directory<'_> {
        jail::Directory { fd: self.fd.as_fd(), read_only: self.read_only }
    }
}

/// Opens the artefact for reading.
pub(crate) fn open_artefact(path: &Path) -> Result<OwnedFd, FilesError> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| FilesError::Artefact { path: path.display().to_string(), source: e.into() })
}

/// Opens a path without following a link: other guests may write to what lies on the way to a
/// guest's directory, and put one there meanwhile.
pub(crate) fn open_plainly(
    from: impl AsFd,
    path: &Path,
    flags: OFlags,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
    openat2(from, path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty(), resolve)
}

/// The path of an open file, for libraries that take nothing but paths.
pub(crate) fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_directory_stays_the_same_when_its_name_is_given_to_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = dir.path().join("data");
        std::fs::create_dir(&host).expect("makes");
        std::fs::write(host.join("mine"), "1").expect("writes");
        let preopen = Preopen { host: host.clone(), guest: "/data".into(), read_only: true };
        let open = OpenDirectory::open(&preopen).expect("opens");
        std::fs::rename(&host, dir.path().join("away")).expect("renames");
        std::fs::create_dir(&host).expect("makes");
        assert_eq!(std::fs::read(open.path().join("mine")).expect("reads"), b"1");
        assert!(open.kept().read_only);
        std::os::unix::fs::symlink("away", dir.path().join("link")).expect("links");
        let link = Preopen { host: dir.path().join("link"), ..preopen.clone() };
        let Err(e) = OpenDirectory::open(&link) else { panic!("a link is not followed") };
        assert!(e.to_string().contains("link"));
        let file = Preopen { host: dir.path().join("away/mine"), ..preopen };
        let Err(e) = OpenDirectory::open(&file) else { panic!("a file is no preopen") };
        assert!(e.to_string().contains("away/mine") && e.to_string().contains("/data"));
    }
}
