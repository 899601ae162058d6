//! The directory that layers are unpacked into.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chmodat, linkat, mkdirat, openat, openat2,
    statat, symlinkat,
};
use rustix::io::Errno;

/// What the agent itself needs of a directory and of a file that it owns.
const DIRECTORY_OWN: u32 = 0o700;
const FILE_OWN: u32 = 0o400;
/// The mode of a directory that no entry names.
const DIRECTORY_MODE: u32 = 0o755;
/// Bytes of a file that are held at a time.
const CHUNK: usize = 64 << 10;
/// Most Wasm files of an image that are kept account of.
const WASM_MAX: usize = 1000;
/// What a Wasm file begins with.
const MAGIC: &[u8] = b"\0asm";

/// A directory that is the root of all that is unpacked.
pub(super) struct Tree {
    root: OwnedFd,
    /// Its path, without links.
    real: PathBuf,
    /// Wasm files that were made, from the root.
    wasm: BTreeSet<PathBuf>,
}

impl Tree {
    /// Makes the directory.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)?;
        let root =
            openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, real: fs::canonicalize(path)?, wasm: BTreeSet::new() })
    }

    /// A directory, made or given this mode.
    pub(super) fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode | DIRECTORY_OWN);
        let Some((parent, name)) = self.place(path)? else {
            let real = self.real.clone();
            return Ok(chmodat(CWD, &real, mode, AtFlags::empty())?);
        };
        match mkdirat(&parent, &name, mode) {
            Err(Errno::EXIST) if kind(&parent, &name)? == Some(FileType::Directory) => {}
            Err(Errno::EXIST) => {
                remove(&parent, &name)?;
                mkdirat(&parent, &name, mode)?;
            }
            made => made?,
        }
        // Whatever the umask took.
        Ok(chmodat(&parent, &name, mode, AtFlags::empty())?)
    }

    /// A file with these bytes.
    pub(super) fn file(
        &mut self,
        path: &Path,
        mode: u32,
        modified: SystemTime,
        data: &mut tar::Entry<'_, impl Read>,
    ) -> io::Result<()> {
        let (parent, name) = self.cleared(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut chunk = vec![0; CHUNK];
        let (mut bytes, mut first) = (0, Vec::new());
        loop {
            let read = data.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            if first.len() < MAGIC.len() {
                first.extend_from_slice(&chunk[..read.min(MAGIC.len())]);
            }
            file.write_all(&chunk[..read])?;
        }
        if bytes < data.size() {
            return Err(io::Error::other("cut off"));
        }
        file.set_modified(modified)?;
        file.set_permissions(Permissions::from_mode(mode | FILE_OWN))?;
        if first.starts_with(MAGIC) && self.wasm.len() < WASM_MAX {
            self.wasm.insert(self.below(&parent)?.join(&name));
        }
        Ok(())
    }

    /// A symbolic link. An absolute target means the root's, so it is made relative: nobody who
    /// follows it later, in a guest or on the host, has to know the root.
    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let (parent, name) = self.cleared(path)?;
        let target = match target.strip_prefix("/") {
            Ok(below) => {
                let up =
                    self.below(&parent)?.components().map(|_| Path::new("..")).collect::<PathBuf>();
                let target = up.join(below);
                if target.as_os_str().is_empty() { PathBuf::from(".") } else { target }
            }
            Err(_) => target.to_owned(),
        };
        Ok(symlinkat(&target, &parent, &name)?)
    }

    /// Another name of a file that was unpacked before.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let wrong =
            || io::Error::other(format!("a link to {target:?}, which is no file of the image"));
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(wrong());
        };
        let directory = match self.open(directory) {
            Err(Errno::NOENT) => return Err(wrong()),
            opened => opened?,
        };
        match kind(&directory, Path::new(name))? {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            Some(_) | None => return Err(wrong()),
        }
        if path == target {
            return Ok(());
        }
        let (parent, new) = self.cleared(path)?;
        linkat(&directory, name, &parent, &new, AtFlags::empty())
            .map_err(|e| if e == Errno::NOENT { wrong() } else { e.into() })
    }

    /// Removes what lies at the path, if anything does.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        match self.open(directory) {
            Ok(directory) => remove(&directory, Path::new(name)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all that lies in the directory and is not to be kept.
    pub(super) fn clear(&mut self, path: &Path, keep: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let directory = match self.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            opened => opened?,
        };
        for entry in fs::read_dir(descriptor(&directory))? {
            let entry = entry?;
            let child = path.join(entry.file_name());
            if !keep(&child) {
                remove(&directory, Path::new(&entry.file_name()))?;
            } else if entry.file_type()?.is_dir() {
                // As deep as the entries of an archive may be.
                self.clear(&child, keep)?;
            }
        }
        Ok(())
    }

    /// The Wasm files that are there now, from the root, with a leading slash.
    pub(super) fn wasm(&self) -> Vec<String> {
        let there = self.wasm.iter().filter(|path| {
            // Paths without links: none of them was followed when they were noted.
            let mut first = [0; MAGIC.len()];
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve)
                .map_err(io::Error::from)
                .and_then(|fd| File::from(fd).read_exact(&mut first))
                .is_ok_and(|()| first == MAGIC)
        });
        there.filter_map(|path| Some(format!("/{}", path.to_str()?))).collect()
    }

    /// The directory of a path, made if it is not there, and the last part of the path; `None` for
    /// the root itself.
    fn place(&self, path: &Path) -> io::Result<Option<(OwnedFd, PathBuf)>> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let parent = match self.open(directory) {
            Err(Errno::NOENT) => self.make_all(directory)?,
            opened => opened?,
        };
        Ok(Some((parent, PathBuf::from(name))))
    }

    /// As [`Tree::place`], with nothing at that place.
    fn cleared(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let place = self.place(path)?;
        let (parent, name) = place.ok_or_else(|| io::Error::other("it stands for the root"))?;
        remove(&parent, &name)?;
        Ok((parent, name))
    }

    fn make_all(&self, directory: &Path) -> io::Result<OwnedFd> {
        let mut path = PathBuf::new();
        let mut parent = self.open(&path)?;
        for part in directory.components() {
            path.push(part);
            parent = match self.open(&path) {
                Err(Errno::NOENT) => {
                    mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(DIRECTORY_MODE))?;
                    self.open(&path)?
                }
                opened => opened?,
            };
        }
        Ok(parent)
    }

    /// A directory, each link on the way to it followed as if the root were the host's.
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Where an opened directory really lies, from the root.
    fn below(&self, directory: &OwnedFd) -> io::Result<PathBuf> {
        let real = fs::read_link(descriptor(directory))?;
        let below = real.strip_prefix(&self.real);
        below.map(Path::to_owned).map_err(|_| io::Error::other("it leads out of the image"))
    }
}

/// A path by which the standard library reaches an opened directory.
fn descriptor(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// What lies at a name, links not followed.
fn kind(directory: impl AsFd, name: &Path) -> io::Result<Option<FileType>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what lies at a name, a whole directory too, without following a link.
fn remove(directory: &OwnedFd, name: &Path) -> io::Result<()> {
    match kind(directory, name)? {
        None => Ok(()),
        Some(FileType::Directory) => fs::remove_dir_all(descriptor(directory).join(name)),
        Some(_) => Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?),
    }
}
