//! A blob on its way into the store.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;

use super::{Store, StoreError, failed};
use crate::image::digest::Digest;

/// What the names of files begin with that are of no use to anybody but their maker.
pub(super) const UNFINISHED: &str = "unfinished-";
/// Bytes of a file that are held at a time.
const CHUNK: usize = 64 << 10;

/// A blob on its way: what came of it is in a file, which the next try goes on with.
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    /// Removes a file that nobody would go on with.
    _own: Option<TempPath>,
    target: PathBuf,
    hasher: Sha256,
    have: u64,
    bytes: u64,
    digest: Digest,
}

impl Store {
    /// Begins to fetch a blob, or goes on where an earlier try was cut off. Reads what is there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(in crate::image) fn ingest(
        &self,
        digest: &Digest,
        bytes: u64,
    ) -> Result<Ingest, StoreError> {
        let dir = self.dir.join("ingest");
        let path = dir.join(digest.hex());
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = open.map_err(failed("open", &path))?;
        let ours = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Whoever had it before us may have finished it meanwhile: then it has another name.
        let (held, named) = (file.metadata(), fs::symlink_metadata(&path));
        let same = match (held, named) {
            (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
            (_, _) => false,
        };
        let (file, path, own) = if ours && same {
            (file, path, None)
        } else {
            // Another agent fetches it: twice is dearer than once, and never wrong.
            let other = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&dir);
            let (file, path) = other.map_err(failed("make a file in", &dir))?.into_parts();
            (file, path.to_path_buf(), Some(path))
        };
        let target = self.blob(digest);
        let hasher = Sha256::new();
        let digest = digest.clone();
        let mut ingest = Ingest { file, path, _own: own, target, hasher, have: 0, bytes, digest };
        ingest.resume().map_err(failed("read", &ingest.path))?;
        Ok(ingest)
    }
}

impl Ingest {
    /// How many bytes are here.
    pub(in crate::image) fn have(&self) -> u64 {
        self.have
    }

    /// Whether all bytes are here.
    pub(in crate::image) fn is_whole(&self) -> bool {
        self.have == self.bytes
    }

    /// Reads what an earlier try left; nothing of it counts if it is too long.
    fn resume(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.bytes {
            return self.restart();
        }
        let mut chunk = vec![0; CHUNK];
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            match self.file.read(&mut chunk)? {
                0 => return Ok(()),
                read => {
                    self.hasher.update(&chunk[..read]);
                    self.have += read as u64;
                }
            }
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Sha256::new();
        self.have = 0;
        Ok(())
    }

    /// Goes on at `from`: where it stands, or at the beginning, since nothing else can be asked
    /// for.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(in crate::image) fn go_on_at(&mut self, from: u64) -> Result<(), StoreError> {
        if from != self.have {
            self.restart().map_err(failed("write", &self.path))?;
        }
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError::Blob`] for more than there may be; [`StoreError::Io`].
    pub(in crate::image) fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.have + chunk.len() as u64 > self.bytes {
            self.give_up();
            let got = format!("more than its {} bytes", self.bytes);
            return Err(StoreError::Blob { expected: self.digest.clone(), got });
        }
        self.file.write_all(chunk).map_err(failed("write", &self.path))?;
        self.hasher.update(chunk);
        self.have += chunk.len() as u64;
        Ok(())
    }

    /// Makes it a blob of the store, if it is what it should be; else nothing is left of it.
    ///
    /// # Errors
    /// [`StoreError::Blob`], [`StoreError::Io`].
    pub(in crate::image) fn finish(self) -> Result<(), StoreError> {
        let got = Digest::taken(self.hasher.clone());
        if !self.is_whole() || got != self.digest {
            self.give_up();
            let got = match self.is_whole() {
                true => format!("its bytes have the digest {got}"),
                false => format!("{} bytes, expected {}", self.have, self.bytes),
            };
            return Err(StoreError::Blob { expected: self.digest, got });
        }
        self.file.sync_all().map_err(failed("write", &self.path))?;
        fs::rename(&self.path, &self.target).map_err(failed("make", &self.target))
    }

    fn give_up(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}
