//! The cache of compiled artefacts: one directory, one file an artefact.
//!
//! A file is called `SHA256-COMPATIBILITY.KIND.cwasm`: the digest of the Wasm, a hash of all that
//! the engine's artefacts depend on, and how the guest is entered, which is thereby known without
//! reading the Wasm again. It holds native code that a sandbox runs, so the directory is the
//! agent's user's alone. A file appears by rename, whole and on the disk.
//!
//! Several agents may share the directory: each holds a shared lock on it, and the one that gets
//! it alone removes what a killed agent left unfinished.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use copepod_wasm::{GuestKind, PROTOCOL_VERSION, engine_config};
use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, utimensat};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::error::ImageError;
use super::input::hex;

/// Most bytes of artefacts that are kept; the least recently used go first. A JS guest has
/// 33 MB, so that is a hundred of the largest and thousands of ordinary ones.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// Most entries of the directory that are looked at.
const ENTRIES_MAX: usize = 100_000;
const TEMPORARY: &str = "unfinished-";
const SUFFIX: &str = ".cwasm";
const KINDS: [GuestKind; 3] = [GuestKind::P1Command, GuestKind::P2Command, GuestKind::Http];

/// An opened cache directory.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    compatibility: String,
    _lock: File,
}

impl Cache {
    /// Opens the directory, made if it is not there, and tidies it up.
    pub(super) fn open(dir: PathBuf) -> Result<Self, ImageError> {
        own(&dir).map_err(failed("make", &dir))?;
        let lock = File::open(&dir).map_err(failed("open", &dir))?;
        let compatibility = compatibility().map_err(failed("make an engine for", &dir))?;
        let alone = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        let cache = Self { dir, compatibility, _lock: lock };
        if alone {
            cache.sweep()?;
        }
        // Without locks (some network file systems) nobody is alone, and nothing is swept.
        let _ = flock(&cache._lock, FlockOperation::LockShared);
        cache.evict()?;
        Ok(cache)
    }

    /// The artefact of the Wasm with this digest and its kind, marked as just used.
    pub(super) fn find(&self, digest: &str) -> Option<(PathBuf, GuestKind)> {
        KINDS.into_iter().find_map(|kind| {
            let path = self.path(digest, kind);
            self.has(&path).then_some((path, kind))
        })
    }

    /// Whether an artefact that was here is here still; if so, it is marked as just used.
    pub(super) fn has(&self, path: &Path) -> bool {
        if !path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0) {
            return false;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let both = Timestamps { last_access: now, last_modification: now };
        // On a read-only cache it stays as old as it is.
        let _ = utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW);
        true
    }

    /// A new file (0600) for an artefact, removed when dropped.
    pub(super) fn temporary(&self) -> Result<NamedTempFile, ImageError> {
        let made = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.dir);
        made.map_err(failed("make a file in", &self.dir))
    }

    /// The same file for whoever writes it.
    pub(super) fn writer(&self, file: &NamedTempFile) -> Result<File, ImageError> {
        file.as_file().try_clone().map_err(failed("open", file.path()))
    }

    /// Makes a written file the artefact of the Wasm with this digest.
    pub(super) fn keep(
        &self,
        file: NamedTempFile,
        digest: &str,
        kind: GuestKind,
    ) -> Result<PathBuf, ImageError> {
        let path = self.path(digest, kind);
        file.persist(&path).map_err(|e| failed("make", &path)(e.error))?;
        Ok(path)
    }

    /// Removes an artefact; one that is gone already is no error.
    pub(super) fn remove(&self, path: &Path) -> Result<(), ImageError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the least recently used artefacts until the rest is small enough.
    pub(super) fn evict(&self) -> Result<(), ImageError> {
        self.shrink_to(CACHE_BYTES_MAX)
    }

    fn shrink_to(&self, bytes_max: u64) -> Result<(), ImageError> {
        let mut artefacts = Vec::new();
        for path in self.entries(|name| name.ends_with(SUFFIX))? {
            // Gone meanwhile: another agent evicts as well.
            let Ok(meta) = path.symlink_metadata() else { continue };
            artefacts.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
        }
        artefacts.sort();
        let mut total: u64 = artefacts.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in artefacts {
            if total <= bytes_max {
                break;
            }
            self.remove(&path)?;
            total -= bytes;
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), ImageError> {
        let unfinished = self.entries(|name| name.starts_with(TEMPORARY))?;
        unfinished.iter().try_for_each(|path| self.remove(path))
    }

    fn entries(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, ImageError> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("read", &self.dir))?.take(ENTRIES_MAX) {
            let entry = entry.map_err(failed("read", &self.dir))?;
            if entry.file_name().to_str().is_some_and(&wanted) {
                paths.push(entry.path());
            }
        }
        Ok(paths)
    }

    fn path(&self, digest: &str, kind: GuestKind) -> PathBuf {
        let kind = match kind {
            GuestKind::P1Command => "p1-command",
            GuestKind::P2Command => "p2-command",
            GuestKind::Http => "http",
        };
        self.dir.join(format!("{digest}-{}.{kind}{SUFFIX}", self.compatibility))
    }
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Cache { verb, path: path.clone(), source }
}

/// Makes the directory, this user's and nobody else's.
fn own(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let meta = fs::metadata(dir)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("it belongs to user {}, who could put any code there", meta.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A hash of all that artefacts depend on beside the Wasm: wasmtime's version, its configuration,
/// this processor; and our protocol's version, for what we hold to be the kinds.
fn compatibility() -> io::Result<String> {
    /// A hasher whose result is the same in every build.
    struct Stable(Sha256);
    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finalize();
            digest.iter().take(8).fold(0, |all, &byte| all << 8 | u64::from(byte))
        }
    }
    let engine = wasmtime::Engine::new(&engine_config()).map_err(io::Error::other)?;
    let mut hasher = Stable(Sha256::new());
    PROTOCOL_VERSION.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hex(&hasher.finish().to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(cache: &Cache, digest: &str, bytes: usize, age_s: u64) -> PathBuf {
        let file = cache.temporary().unwrap();
        fs::write(file.path(), vec![1; bytes]).unwrap();
        let path = cache.keep(file, digest, GuestKind::Http).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age_s);
        File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        path
    }

    #[test]
    fn the_directory_is_the_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        drop(Cache::open(path.clone()).unwrap());
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let cache = Cache::open(path.clone()).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&put(&cache, "aa", 1, 0)), 0o600);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Cache::open(file), Err(ImageError::Cache { .. })));
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().into()).unwrap();
        let (old, middle, new) =
            (put(&cache, "aa", 10, 300), put(&cache, "bb", 10, 200), put(&cache, "cc", 10, 100));
        assert_eq!(cache.find("aa"), Some((old.clone(), GuestKind::Http)));
        cache.shrink_to(20).unwrap();
        assert_eq!((old.exists(), middle.exists(), new.exists()), (true, false, true));
        assert_eq!(cache.find("bb"), None);
        cache.shrink_to(0).unwrap();
        assert_eq!(cache.find("aa"), None);
    }

    #[test]
    fn what_a_killed_agent_left_goes_when_nobody_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("unfinished-x");
        fs::write(&left, "half").unwrap();
        let other = Cache::open(dir.path().into()).unwrap();
        assert!(!left.exists());
        let busy = other.temporary().unwrap();
        let second = Cache::open(dir.path().into()).unwrap();
        assert!(busy.path().exists(), "the other agent's file was swept");
        std::mem::forget(busy);
        drop((other, second));
        drop(Cache::open(dir.path().into()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_empty_file_or_a_link_is_no_artefact() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().into()).unwrap();
        let path = put(&cache, "aa", 0, 0);
        assert_eq!(cache.find("aa"), None);
        cache.remove(&path).unwrap();
        cache.remove(&path).unwrap();
        std::os::unix::fs::symlink("/bin/sh", &path).unwrap();
        assert_eq!(cache.find("aa"), None);
    }

    #[test]
    fn the_compatibility_is_the_same_each_time() {
        assert_eq!(compatibility().unwrap(), compatibility().unwrap());
    }
}
