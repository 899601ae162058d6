//! The entries of a tar archive, one after the other.
//!
//! The headers are the `tar` crate's to read. Long names are read here, since there they have no
//! bound: GNU's own entries for them, and PAX records.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{EntryType, PaxExtensions};

/// Longest path, and longest target of a link (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Longest name of one part of a path (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Deepest path: a file system's own tools have trouble past that.
const DEPTH_MAX: usize = 128;
/// Largest set of PAX records of one entry: extended attributes may be in there.
const PAX_MAX: u64 = 1 << 20;

/// What an entry makes.
pub(super) enum Kind {
    Directory,
    File,
    /// With its target as it stands.
    Symlink(PathBuf),
    /// With the path of the file that it is another name of.
    Link(PathBuf),
}

/// An entry.
pub(super) struct Entry<'a, R: Read> {
    /// From the root, without a leading slash, with no `.` and no `..` in it; empty for the root.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Permission bits alone.
    pub(super) mode: u32,
    pub(super) modified: SystemTime,
    /// A file's bytes, as many as its header says.
    pub(super) data: tar::Entry<'a, R>,
}

/// Why an archive is not read on.
#[derive(Debug)]
pub(super) enum Fault {
    /// It cannot be read.
    Read(io::Error),
    /// This entry is refused.
    Entry(PathBuf, io::Error),
    /// Whoever takes the entries wants no more.
    Enough,
}

/// What stands before an entry and is about it.
#[derive(Default)]
struct Notes {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// Gives each entry of the archive to `with`.
///
/// # Errors
/// [`Fault`], its own and that of `with`.
pub(super) fn each<R: Read>(
    reader: R,
    mut with: impl FnMut(&mut Entry<'_, R>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut archive = tar::Archive::new(reader);
    let mut notes = Notes::default();
    for data in archive.entries().map_err(Fault::Read)?.raw(true) {
        let mut data = data.map_err(Fault::Read)?;
        let kind = data.header().entry_type();
        let refused = |data: &tar::Entry<'_, R>, error: io::Error| {
            Fault::Entry(PathBuf::from(OsStr::from_bytes(&data.path_bytes())), error)
        };
        if notes.take(kind, &mut data).map_err(|e| refused(&data, e))? {
            continue;
        }
        let Notes { path, target } = std::mem::take(&mut notes);
        let path = path.unwrap_or_else(|| data.path_bytes().into_owned());
        let path = contained(&path).map_err(|e| refused(&data, e))?;
        let named = |error| Fault::Entry(path.clone(), error);
        let target = target.or_else(|| data.link_name_bytes().map(|target| target.into_owned()));
        let kind = kind_of(kind, target).map_err(named)?;
        let mode = data.header().mode().map_err(named)? & 0o777;
        let seconds = data.header().mtime().unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
        with(&mut Entry { path, kind, mode, modified, data })?;
    }
    Ok(())
}

impl Notes {
    /// Takes an entry that is about the next one; gives whether it was one.
    fn take<R: Read>(&mut self, kind: EntryType, data: &mut tar::Entry<'_, R>) -> io::Result<bool> {
        if kind.is_gnu_longname() {
            self.path = Some(name(data)?);
        } else if kind.is_gnu_longlink() {
            self.target = Some(name(data)?);
        } else if kind.is_pax_local_extensions() {
            let (size, mut bytes) = (data.size(), Vec::new());
            data.take(PAX_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > PAX_MAX || (bytes.len() as u64) < size {
                return Err(io::Error::other("its PAX records are cut off or larger than 1 MiB"));
            }
            self.records(&bytes)?;
        } else {
            // Of the whole archive: nothing that is read here.
            return Ok(kind.is_pax_global_extensions());
        }
        Ok(true)
    }

    fn records(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(bounded(value)?.to_vec()),
                b"linkpath" => self.target = Some(bounded(value)?.to_vec()),
                // The header's own field holds up to 8 GiB, more than any layer unpacks to.
                b"size" => return Err(io::Error::other("it is too large")),
                key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A long name of GNU's, which ends with a zero byte.
fn name<R: Read>(data: &mut tar::Entry<'_, R>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    data.take(PATH_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bounded(&bytes).map(<[u8]>::to_vec)
}

fn bounded(name: &[u8]) -> io::Result<&[u8]> {
    match name.len() {
        0..PATH_MAX => Ok(name),
        _ => Err(io::Error::other(format!("a path of more than {} bytes", PATH_MAX - 1))),
    }
}

fn sparse() -> io::Error {
    io::Error::other("a sparse file, which is not served")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an archive may hold any byte here")]
fn kind_of(kind: EntryType, target: Option<Vec<u8>>) -> io::Result<Kind> {
    let target = || {
        let target = target.unwrap_or_default();
        match bounded(&target)? {
            [] => Err(io::Error::other("a link to nothing")),
            bytes if bytes.contains(&0) => Err(io::Error::other("a zero byte in a path")),
            bytes => Ok(PathBuf::from(OsStr::from_bytes(bytes))),
        }
    };
    match kind {
        EntryType::Regular | EntryType::Continuous => Ok(Kind::File),
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Symlink => Ok(Kind::Symlink(target()?)),
        EntryType::Link => Ok(Kind::Link(contained(target()?.as_os_str().as_bytes())?)),
        EntryType::Block | EntryType::Char => {
            Err(io::Error::other("a device, which no guest gets"))
        }
        EntryType::Fifo => Err(io::Error::other("a fifo, which no guest gets")),
        EntryType::GNUSparse => Err(sparse()),
        _ => Err(io::Error::other("of a kind that is not served")),
    }
}

/// A path below the root, as written in an archive: from the root whether it begins with a slash
/// or not; nothing that leads upwards.
fn contained(bytes: &[u8]) -> io::Result<PathBuf> {
    let wrong = |text: &str| Err(io::Error::other(text.to_owned()));
    if bounded(bytes)?.contains(&0) {
        return wrong("a zero byte in a path");
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in Path::new(OsStr::from_bytes(bytes)).components() {
        match part {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return wrong("it leads out of the image (..)"),
            Component::Normal(name) if name.len() > NAME_MAX => {
                return wrong("a name of more than 255 bytes");
            }
            Component::Normal(_) if depth == DEPTH_MAX => {
                return wrong("deeper than 128 directories");
            }
            Component::Normal(name) => {
                depth += 1;
                path.push(name);
            }
        }
    }
    Ok(path)
}
