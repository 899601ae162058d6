//! Files that change all at once (upstream `pkg/volume/util/atomic_writer.go`).
//!
//! ```text
//! VOLUME/..2026_11_22_07_05_00.123456789/a    the files
//! VOLUME/..data -> ..2026_11_22_07_05_00.123456789
//! VOLUME/a -> ..data/a                         the first part of each file's path
//! ```
//!
//! A reader that opens `..data` once sees files of one payload; what a guest reads through the
//! links changes in one step, the rename of `..data`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::{Component, Path, PathBuf};

use copepod_pod::{Payload, PayloadFile};
use jiff::Timestamp;

use crate::linux;

/// The link that is swapped.
const DATA: &str = "..data";
/// The link that it is swapped with.
const NEW_DATA: &str = "..data_tmp";
/// Mode of the directories.
const DIRECTORY: u32 = 0o755;
/// What `fsGroup` adds to files that are only read, and to their directories (upstream
/// `volume_linux.go`).
const GROUP_FILE: u32 = 0o440;
const GROUP_DIRECTORY: u32 = 0o2550;

/// Who may read the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    /// The pod's `fsGroup`.
    pub(super) group: Option<u32>,
    /// The bits that modes may have.
    pub(super) modes: u32,
    /// Whether files may be given to other users.
    pub(super) users: bool,
}

impl Owned {
    /// Mode of a file.
    fn file(self, mode: u32) -> u32 {
        (mode | self.group.map_or(0, |_| GROUP_FILE)) & self.modes
    }

    /// User of a file.
    fn user(self, file: &PayloadFile) -> Option<u32> {
        file.owner.filter(|_| self.users)
    }

    /// Mode of a directory.
    fn directory(self) -> u32 {
        (DIRECTORY | self.group.map_or(0, |_| GROUP_DIRECTORY)) & self.modes
    }
}

/// Makes the files of the volume `dir` those of `payload`; writes nothing if they are.
///
/// # Errors
/// The kernel's; readers see the old files then, or the new ones, never some of both.
pub(super) fn write(dir: &Path, payload: &Payload, owned: Owned) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    own(dir, owned.directory(), owned)?;
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(old) => Some(dir.join(old)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if old.as_ref().is_some_and(|old| is_written(old, payload, owned)) {
        // The links may be those of a write that was cut short.
        return link(dir, payload);
    }
    let new = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    linux::remove_tree(&dir.join(NEW_DATA))?;
    match write_all(&dir.join(&new), payload, owned) {
        Ok(()) => {}
        Err(e) => {
            let _ = linux::remove_tree(&dir.join(&new));
            return Err(e);
        }
    }
    symlink(&new, dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    link(dir, payload)?;
    if let Some(old) = old {
        linux::remove_tree(&old)?;
    }
    Ok(())
}

fn write_all(dir: &Path, payload: &Payload, owned: Owned) -> io::Result<()> {
    make_directory(dir, owned)?;
    for (path, file) in payload {
        let path = relative(path)?;
        let mut parent = dir.to_path_buf();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            match make_directory(&parent, owned) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        let path = dir.join(path);
        let mut options = File::options();
        // Nobody else's until it is whole.
        options.write(true).create_new(true).mode(0o600).open(&path)?.write_all(&file.bytes)?;
        chown(&path, owned.user(file), owned.group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(owned.file(file.mode)))?;
    }
    Ok(())
}

fn make_directory(path: &Path, owned: Owned) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    own(path, owned.directory(), owned)
}

/// Gives a directory its group and its mode, whatever the umask.
fn own(path: &Path, mode: u32, owned: Owned) -> io::Result<()> {
    if owned.group.is_some() {
        chown(path, None, owned.group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A path of a payload, which leads nowhere but below.
fn relative(path: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(path);
    let below = path.components().all(|part| matches!(part, Component::Normal(_)));
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("path {path:?} leads out"));
    if below && path.file_name().is_some() { Ok(path) } else { Err(wrong()) }
}

/// Whether these very files are in the directory.
fn is_written(dir: &Path, payload: &Payload, owned: Owned) -> bool {
    let Ok(found) = files_below(dir) else { return false };
    let wanted: BTreeSet<PathBuf> = payload.keys().map(|path| dir.join(path)).collect();
    let same = |(path, file): (&String, &PayloadFile)| is_file(&dir.join(path), file, owned);
    found == wanted && payload.iter().all(same)
}

fn is_file(path: &Path, wanted: &PayloadFile, owned: Owned) -> bool {
    let read = || -> io::Result<bool> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.len() != wanted.bytes.len() as u64
            || about.mode() & 0o7777 != owned.file(wanted.mode)
            || owned.user(wanted).is_some_and(|user| user != about.uid())
        {
            return Ok(false);
        }
        let mut bytes = Vec::with_capacity(wanted.bytes.len());
        file.take(about.len()).read_to_end(&mut bytes)?;
        Ok(bytes == wanted.bytes)
    };
    read().unwrap_or(false)
}

/// All that is no directory. Only the agent writes here, so it is as small as its payload was.
fn files_below(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                files.insert(entry.path());
            }
        }
    }
    Ok(files)
}

/// Makes the links that users see, and removes those of files that are gone.
fn link(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first =
        |path: &String| Path::new(path).components().next().map(|part| part.as_os_str().to_owned());
    let wanted: BTreeSet<_> = payload.keys().filter_map(first).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !wanted.contains(&name) && !name.as_encoded_bytes().starts_with(b"..") {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Owned = Owned { group: None, modes: u32::MAX, users: true };

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |(path, text, mode): &(&str, &str, u32)| {
            (
                (*path).to_owned(),
                PayloadFile { bytes: text.as_bytes().to_vec(), mode: *mode, owner: None },
            )
        };
        files.iter().map(file).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("reads")
            .map(|entry| entry.expect("reads").file_name().into_string().expect("UTF-8"))
            .filter(|name| !name.starts_with("..2"))
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("is there").mode() & 0o7777
    }

    #[test]
    fn files_are_linked_and_change_in_one_step() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("volumes/v");
        let first = payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o400), ("d/g", "3", 0o666)]);
        write(&dir, &first, ALL).expect("writes");
        assert_eq!(names(&dir), ["..data", "a", "d"]);
        assert_eq!(fs::read_link(dir.join("d")).expect("a link"), Path::new("..data/d"));
        assert_eq!(fs::read_to_string(dir.join("d/e/f")).expect("reads"), "2");
        let modes = ["", "..data", "a", "d/e", "d/e/f", "d/g"].map(|path| mode(&dir.join(path)));
        assert_eq!(modes, [0o755, 0o755, 0o644, 0o755, 0o400, 0o666]);

        let data = |dir: &Path| fs::read_link(dir.join(DATA)).expect("a link");
        let old = data(&dir);
        write(&dir, &first, ALL).expect("writes");
        assert_eq!(data(&dir), old, "nothing changed, so nothing is written");

        let open = File::open(dir.join("a")).expect("opens");
        let second = payload(&[("a", "new", 0o600), ("h", "4", 0o644)]);
        write(&dir, &second, ALL).expect("writes");
        assert_ne!(data(&dir), old);
        assert!(!dir.join(old).exists());
        assert_eq!(names(&dir), ["..data", "a", "h"]);
        assert_eq!(io::read_to_string(open).expect("reads"), "1", "who has the old one keeps it");
        assert_eq!(fs::read_to_string(dir.join("a")).expect("reads"), "new");
        assert_eq!(mode(&dir.join("a")), 0o600);

        for change in [
            payload(&[("a", "new", 0o644), ("h", "4", 0o644)]),
            payload(&[("a", "old", 0o644), ("h", "4", 0o644)]),
            payload(&[]),
        ] {
            let old = data(&dir);
            write(&dir, &change, ALL).expect("writes");
            assert_ne!(data(&dir), old, "mode, text or presence changed");
        }
        assert_eq!(names(&dir), ["..data"]);
    }

    #[test]
    fn what_an_agent_left_half_written_is_no_hindrance() {
        let home = tempfile::tempdir().expect("a directory");
        symlink("..nowhere", home.path().join(NEW_DATA)).expect("links");
        symlink("..nowhere", home.path().join(DATA)).expect("links");
        write(home.path(), &payload(&[("a", "1", 0o644)]), ALL).expect("writes");
        assert_eq!(fs::read_to_string(home.path().join("a")).expect("reads"), "1");
        assert_eq!(names(home.path()), ["..data", "a"]);
    }

    #[test]
    fn a_group_may_read_and_masked_bits_are_off() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("v");
        let files = payload(&[("a/b", "1", 0o400)]);
        write(&dir, &files, Owned { group: Some(4321), ..ALL }).expect("writes");
        let about = fs::metadata(dir.join("a/b")).expect("is there");
        assert_eq!((about.mode() & 0o7777, about.gid()), (0o440, 4321));
        let about = fs::metadata(dir.join("a")).expect("is there");
        assert_eq!((about.mode() & 0o7777, about.gid()), (0o2755, 4321));
        let files = payload(&[("a/b", "1", 0o644)]);
        write(&dir, &files, Owned { modes: 0o700, ..ALL }).expect("writes");
        assert_eq!((mode(&dir.join("a/b")), mode(&dir)), (0o600, 0o700));
    }

    #[test]
    fn a_file_may_be_a_users_own() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("v");
        let mut files = payload(&[("a", "1", 0o600), ("b", "2", 0o644)]);
        let about = |name: &str| fs::metadata(dir.join(name)).expect("is there");
        let data = || fs::read_link(dir.join(DATA)).expect("a link");
        for owner in [1000, 1001] {
            files.get_mut("a").expect("is there").owner = Some(owner);
            write(&dir, &files, ALL).expect("writes");
            assert_eq!((about("a").uid(), mode(&dir.join("a"))), (owner, 0o600));
            assert_eq!((about("b").uid(), about("").uid()), (0, 0));
            let written = data();
            write(&dir, &files, ALL).expect("writes");
            assert_eq!(data(), written, "nothing is written twice");
        }
        write(&dir, &files, Owned { group: Some(4321), ..ALL }).expect("writes");
        let found = about("a");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1001, 4321, 0o640));
        let dir = home.path().join("w");
        write(&dir, &files, Owned { users: false, ..ALL }).expect("writes");
        assert_eq!(fs::metadata(dir.join("a")).expect("is there").uid(), 0);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        for path in ["../a", "/a", "a/../../b", ""] {
            let dir = home.path().join("v");
            let error = write(&dir, &payload(&[(path, "1", 0o644)]), ALL).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(names(home.path()), ["v"]);
            assert_eq!(fs::read_dir(&dir).expect("reads").count(), 0, "nothing is left");
        }
    }
}
