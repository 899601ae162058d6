//! The files of control groups, and the table of mounts.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{CgroupError, Setting};

/// Where the kernel tells what is mounted.
pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Bytes read of it: a node of 1,000 pods with mounts has some hundred KiB.
const MOUNTINFO_MAX: u64 = 16 << 20;
/// Bytes read of a file of a cgroup: `cgroup.procs` of the most processes that any limit allows.
const FILE_MAX: u64 = 1 << 20;
/// Largest length of a file's name.
const NAME_MAX: usize = 255;

/// What is mounted, as the kernel tells it.
pub(super) fn mountinfo() -> Result<String, CgroupError> {
    read_bounded(Path::new(MOUNTINFO), MOUNTINFO_MAX).map_err(CgroupError::Mounts)
}

/// Whether a name is one level of a path.
pub(super) fn checked(name: &str) -> Result<&str, CgroupError> {
    let plain = !name.is_empty()
        && name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0']);
    if plain { Ok(name) } else { Err(CgroupError::Name(name.into())) }
}

/// Whether the host does not let groups be made, as inside of a container.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Writes what a group's file shall have.
pub(super) fn apply(dir: &Path, setting: &Setting) -> Result<(), CgroupError> {
    let path = dir.join(&*setting.file);
    match write(&path, &setting.value) {
        Err(source) if !setting.optional => {
            Err(CgroupError::Write { path, value: setting.value.clone(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a value in one call, as the kernel takes it.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

/// All of a group's file, as far as its bound.
pub(super) fn read(path: &Path) -> io::Result<String> {
    read_bounded(path, FILE_MAX)
}

fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max).read_to_string(&mut text)?;
    Ok(text)
}

/// One line of `/proc/self/mountinfo`, as far as it matters here.
pub(super) struct MountLine<'a> {
    pub(super) mount: PathBuf,
    pub(super) writable: bool,
    pub(super) kind: &'a str,
    pub(super) options: &'a str,
}

/// Reads lines of the form `id parent dev root MOUNT OPTIONS [tags] - KIND source SUPER-OPTIONS`.
pub(super) fn mount_lines(text: &str) -> impl Iterator<Item = MountLine<'_>> {
    text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(4);
        let mount = PathBuf::from(before.next()?.replace("\\040", " "));
        let writable = !before.next()?.split(',').any(|option| option == "ro");
        let mut after = after.split(' ');
        let kind = after.next()?;
        Some(MountLine { mount, writable, kind, options: after.nth(1)? })
    })
}
