//! The store of pulled images: an OCI image layout, shared by all agents of a user.
//!
//! ```text
//! oci-layout, index.json       what the layout's specification has; names are full references
//! blobs/sha256/HEX             each blob, whole: it appears by rename
//! ingest/HEX                   a blob on its way, locked by who fetches it, kept for the next try
//! files/HEX/{root/,about.json} the unpacked files of the image with that manifest
//! lock                         shared: something is looked at; alone: something may go
//! index.lock                   index.json is being changed
//! ```
//!
//! Nothing is removed while anybody is between a look and the end of a pull (`lock`), nor while an
//! image is held: whoever runs it keeps a shared lock on its manifest's blob ([`Hold`]). The locks
//! are the kernel's and end with their process, so a killed agent holds nothing.

mod collect;
mod index;
mod ingest;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::Digest;
use super::registry::MANIFEST_MAX;

pub(crate) use self::collect::Collected;
pub(super) use self::collect::Kept;
pub(super) use self::ingest::Ingest;

/// Largest index of the store: more images than fit into it.
const INDEX_MAX: u64 = 16 << 20;
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Why the store could not do something.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// A step failed.
    #[error("image store: cannot {verb} {path}", path = path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the store is not what was put there.
    #[error("image store: {path} is damaged: remove it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// What came is not what was asked for.
    #[error("blob {expected}: {got}")]
    Blob {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: String,
    },
}

/// An image that the store knows by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The full reference.
    pub(crate) name: String,
    /// The digest of its manifest or index.
    pub(crate) digest: Digest,
}

/// The store of a user.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// That somebody looks: nothing is removed while one of these lives.
#[derive(Debug)]
pub(crate) struct Presence {
    _lock: File,
}

/// That an image is in use: it is not removed while one of these lives.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    manifest: Digest,
    _lock: Arc<File>,
}

impl Hold {
    /// The digest of the image's manifest.
    pub(super) fn manifest(&self) -> &Digest {
        &self.manifest
    }
}

/// Two of one image are the same to whoever compares what was prepared.
impl PartialEq for Hold {
    fn eq(&self, other: &Self) -> bool {
        self.manifest == other.manifest
    }
}

impl Eq for Hold {}

/// What is known of unpacked files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Bytes of all its regular files.
    pub(super) bytes: u64,
    /// Its Wasm files, by their first bytes: paths from the root, with a leading slash.
    pub(super) wasm: Vec<String>,
}

impl Store {
    /// The store in `dir` for who only holds what is there: nothing is made and nothing tidied up.
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Opens the store in `dir`, made (0700) if it is not there, and tidies it up if nobody else
    /// is there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let store = Self::at(dir);
        for below in ["blobs/sha256", "ingest", "files"] {
            let path = store.dir.join(below);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(failed("make", &path))?;
        }
        let layout = store.dir.join("oci-layout");
        if fs::symlink_metadata(&layout).is_err() {
            store.write(&layout, LAYOUT.as_bytes())?;
        }
        let index = store.dir.join("index.json");
        if fs::symlink_metadata(&index).is_err() {
            store.change(|_| {})?;
        }
        store.collect()?;
        Ok(store)
    }

    /// Announces that somebody looks. Waits for who removes something just now, which is short.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn enter(&self) -> Result<Presence, StoreError> {
        let lock = self.lock_file("lock")?;
        flock(&lock, FlockOperation::LockShared)
            .map_err(|e| failed("lock", &self.dir)(e.into()))?;
        Ok(Presence { _lock: lock })
    }

    fn lock_file(&self, name: &str) -> Result<File, StoreError> {
        let path = self.dir.join(name);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        opened.map_err(failed("open", &path))
    }

    /// The file of a blob, whether it is there or not.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob of this size is here.
    pub(super) fn has(&self, digest: &Digest, bytes: u64) -> bool {
        let meta = fs::symlink_metadata(self.blob(digest));
        meta.is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
    }

    /// The bytes of a small blob; `None` if it is not here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn read(&self, digest: &Digest, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob(digest);
        match read(&path, max) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            // Digests of small things cost nothing, and a spoilt manifest would spoil more.
            Ok(bytes) if Digest::of(&bytes) != *digest => Err(StoreError::Damaged { path }),
            read => read.map(Some),
        }
    }

    /// A manifest or index; `None` if it is not here, or not as it was: then it is asked for again.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(digest, MANIFEST_MAX) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            read => read,
        }
    }

    /// Puts small bytes into the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn add(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(&self.blob(digest), bytes)
    }

    /// Marks the image of this manifest as just used, and holds it.
    ///
    /// # Errors
    /// [`StoreError`] if it is not here.
    pub(super) fn hold(&self, manifest: &Digest) -> Result<Hold, StoreError> {
        let path = self.blob(manifest);
        let file = File::open(&path).map_err(failed("open", &path))?;
        // Nobody has it alone while the caller is present.
        flock(&file, FlockOperation::LockShared).map_err(|e| failed("lock", &path)(e.into()))?;
        // On a read-only store it stays as old as it is.
        let _ = OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Hold { manifest: manifest.clone(), _lock: Arc::new(file) })
    }

    /// The unpacked files of the image with this manifest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn files(&self, manifest: &Digest) -> Result<Option<(PathBuf, About)>, StoreError> {
        let dir = self.dir.join("files").join(manifest.hex());
        let path = dir.join("about.json");
        let bytes = match read(&path, INDEX_MAX) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            read => read?,
        };
        let about = serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged { path })?;
        Ok(Some((dir.join("root"), about)))
    }

    /// A new directory to unpack into, removed when dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn unpacking(&self) -> Result<tempfile::TempDir, StoreError> {
        let ingest = self.dir.join("ingest");
        let made = tempfile::Builder::new().prefix(ingest::UNFINISHED).tempdir_in(&ingest);
        made.map_err(failed("make a directory in", &ingest))
    }

    /// Makes an unpacked directory (`root` in it) the files of the image with this manifest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn keep_files(
        &self,
        dir: tempfile::TempDir,
        manifest: &Digest,
        about: &About,
    ) -> Result<(), StoreError> {
        let path = dir.path().join("about.json");
        let bytes = serde_json::to_vec(about).unwrap_or_default();
        fs::write(&path, bytes).map_err(failed("write", &path))?;
        // On the disk before it has its name: one call for all of its files.
        let synced = File::open(dir.path()).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(failed("write", dir.path()))?;
        let path = self.dir.join("files").join(manifest.hex());
        match fs::rename(dir.path(), &path) {
            Ok(()) => {
                // It has another name now; nothing is left to remove.
                let _ = dir.keep();
                Ok(())
            }
            // Another agent was first, with the same.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(failed("make", &path)(e)),
        }
    }

    /// Writes a file whole: it appears by rename, after it is on the disk.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let ingest = self.dir.join("ingest");
        let mut file = tempfile::Builder::new()
            .prefix(ingest::UNFINISHED)
            .tempfile_in(&ingest)
            .map_err(failed("make a file in", &ingest))?;
        let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
        written.map_err(failed("write", path))?;
        file.persist(path).map_err(|e| failed("make", path)(e.error))?;
        Ok(())
    }
}

/// The whole of a file, which has at most `max` bytes.
fn read(path: &Path, max: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed("open", path))?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > max {
        return Err(StoreError::Damaged { path: path.to_owned() });
    }
    Ok(bytes)
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { verb, path: path.clone(), source }
}
