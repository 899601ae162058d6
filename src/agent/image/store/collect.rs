//! What goes when the store is too large, and what nobody names any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::ingest::UNFINISHED;
use super::{Named, Store, StoreError, failed};
use crate::image::digest::Digest;
use crate::image::manifest::{self, Content};

/// Most bytes that are kept: images that were not used for longest go first. Ten images of a
/// gigabyte, or thousands of ordinary Wasm.
const STORE_BYTES_MAX: u64 = 10 << 30;
/// How long the beginning of a blob waits for its next try.
const INGEST_AGE: Duration = Duration::from_secs(24 * 3600);
/// Most files of the store that are looked at.
const ENTRIES_MAX: usize = 1_000_000;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// The names of images.
    pub(crate) images: Vec<String>,
    /// All bytes.
    pub(crate) bytes: u64,
}

/// An image of the store, for who decides which go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::image) struct Kept {
    /// The digest of the manifest that is run.
    pub(in crate::image) manifest: Digest,
    /// Its names: full references, and the same with the digests that they lead to.
    pub(in crate::image) names: Vec<String>,
    /// Bytes of all that belongs to it, what it shares with others too.
    pub(in crate::image) bytes: u64,
    /// Whether an agent holds it now.
    pub(in crate::image) held: bool,
    /// For how long it was not asked for.
    pub(in crate::image) idle: Duration,
}

/// An image with all that only looking at its manifests tells.
struct Known {
    named: Named,
    /// Its manifests, configuration and layers.
    blobs: BTreeSet<String>,
    /// The manifest that is run; also the name of its unpacked files.
    manifest: Digest,
    used: SystemTime,
}

impl Store {
    /// Removes what nobody names, and the least recently used images while all is too large.
    /// Nothing at all is removed while anybody looks or pulls.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::image) fn collect(&self) -> Result<Collected, StoreError> {
        self.shrink_to(STORE_BYTES_MAX, false)
    }

    /// Removes every image that nobody uses, and all that was begun.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn prune(&self) -> Result<Collected, StoreError> {
        self.shrink_to(0, true)
    }

    /// All images, each once whatever its names are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::image) fn kept(&self) -> Result<Vec<Kept>, StoreError> {
        let _presence = self.enter()?;
        let mut all: BTreeMap<Digest, Kept> = BTreeMap::new();
        for Known { named, blobs, manifest, used } in self.known()? {
            let size = |hex: &String| {
                fs::symlink_metadata(self.dir.join("blobs/sha256").join(hex)).map_or(0, |m| m.len())
            };
            let unpacked = self.files(&manifest).ok().flatten().map_or(0, |(_, about)| about.bytes);
            let kept = all.entry(manifest.clone()).or_insert_with(|| Kept {
                names: Vec::new(),
                bytes: blobs.iter().map(size).sum::<u64>() + unpacked,
                held: self.is_held(&manifest),
                idle: used.elapsed().unwrap_or_default(),
                manifest,
            });
            kept.names.extend([by_digest(&named), named.name]);
        }
        Ok(all.into_values().collect())
    }

    /// Removes the image with this manifest under all of its names, unless it is held; gives
    /// whether it is gone. Nothing is removed while anybody looks or pulls.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::image) fn evict(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let lock = self.lock_file("lock")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || self.is_held(manifest)
        {
            return Ok(false);
        }
        let (gone, known): (Vec<_>, Vec<_>) =
            self.known()?.into_iter().partition(|image| image.manifest == *manifest);
        for image in gone {
            self.unname(&image.named.name)?;
        }
        self.remove_unnamed(&known)?;
        Ok(true)
    }

    /// Whether somebody holds the image with this manifest.
    fn is_held(&self, manifest: &Digest) -> bool {
        File::open(self.blob(manifest))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    pub(super) fn shrink_to(&self, max: u64, all: bool) -> Result<Collected, StoreError> {
        let lock = self.lock_file("lock")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Collected::default());
        }
        let before = self.size()?;
        self.sweep(if all { Duration::ZERO } else { INGEST_AGE })?;
        let mut known = self.known()?;
        known.sort_by_key(|image| std::cmp::Reverse(image.used));
        self.remove_unnamed(&known)?;
        let mut gone = Vec::new();
        // From the least recently used; one that is in use is passed over.
        let mut at = known.len();
        while at > 0 && self.size()? > max {
            at -= 1;
            let manifest = self.blob(&known[at].manifest);
            let free = File::open(&manifest)
                .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            // Without its manifest it is not in use either: nobody could hold it.
            if free || fs::symlink_metadata(&manifest).is_err() {
                let image = known.remove(at);
                self.unname(&image.named.name)?;
                gone.push(image.named.name);
                self.remove_unnamed(&known)?;
            }
        }
        let bytes = before.saturating_sub(self.size()?);
        Ok(Collected { images: gone, bytes })
    }

    /// The images that the index names and all that belongs to them.
    fn known(&self) -> Result<Vec<Known>, StoreError> {
        let mut known = Vec::new();
        for named in self.list()? {
            let (blobs, manifest) = self.of_manifest(&named.digest);
            let used = fs::metadata(self.blob(&manifest)).and_then(|meta| meta.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            known.push(Known { named, blobs, manifest, used });
        }
        Ok(known)
    }

    /// All blobs that belong to a manifest or index, and the manifest that is run.
    fn of_manifest(&self, digest: &Digest) -> (BTreeSet<String>, Digest) {
        let mut blobs = BTreeSet::from([digest.hex().to_owned()]);
        let mut manifest = digest.clone();
        let mut nested = false;
        // A manifest that is damaged or gone leads to nothing.
        while let Ok(Some(bytes)) = self.manifest(&manifest) {
            match manifest::read(&bytes, nested) {
                Ok(Content::Index(chosen)) => {
                    blobs.insert(chosen.digest.hex().to_owned());
                    manifest = chosen.digest;
                    nested = true;
                }
                Ok(Content::Image(shape)) => {
                    let each = shape.blobs().into_iter();
                    blobs.extend(each.map(|blob| blob.digest.hex().to_owned()));
                    break;
                }
                Err(_) => break,
            }
        }
        (blobs, manifest)
    }

    /// Removes the blobs and unpacked files of images that are not among these, nor held.
    fn remove_unnamed(&self, known: &[Known]) -> Result<(), StoreError> {
        let mut blobs: BTreeSet<String> =
            known.iter().flat_map(|image| image.blobs.iter().cloned()).collect();
        let all = self.entries("blobs/sha256")?;
        // One that somebody holds, whose name went to another image meanwhile, stays whole: what runs
        // may have to be compiled again.
        for (name, _) in &all {
            let digest = Digest::parse(&format!("sha256:{name}"));
            if let Some(manifest) =
                digest.filter(|digest| !blobs.contains(name) && self.is_held(digest))
            {
                blobs.extend(self.of_manifest(&manifest).0);
            }
        }
        for (name, path) in all {
            if !blobs.contains(&name) {
                remove(&path)?;
            }
        }
        for (name, path) in self.entries("files")? {
            let manifest = self.dir.join("blobs/sha256").join(&name);
            if !blobs.contains(&name) && fs::symlink_metadata(manifest).is_err() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what killed agents left, and beginnings that are too old to be gone on with.
    fn sweep(&self, age: Duration) -> Result<(), StoreError> {
        for (name, path) in self.entries("ingest")? {
            let modified = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
            let old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= age));
            if old || name.starts_with(UNFINISHED) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Bytes of all that is here.
    fn size(&self) -> Result<u64, StoreError> {
        let mut sizes = BTreeMap::new();
        for below in ["blobs/sha256", "ingest"] {
            for (name, path) in self.entries(below)? {
                let bytes = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
                sizes.insert(format!("{below}/{name}"), bytes);
            }
        }
        for (name, _) in self.entries("files")? {
            let about = Digest::parse(&format!("sha256:{name}")).map(|digest| self.files(&digest));
            let bytes = match about {
                Some(Ok(Some((_, about)))) => about.bytes,
                Some(_) | None => 0,
            };
            sizes.insert(format!("files/{name}"), bytes);
        }
        Ok(sizes.values().sum())
    }

    fn entries(&self, below: &str) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let dir = self.dir.join(below);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))?.take(ENTRIES_MAX) {
            let entry = entry.map_err(failed("read", &dir))?;
            entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        Ok(entries)
    }
}

/// `REPOSITORY@DIGEST`, as statuses show an image.
fn by_digest(named: &Named) -> String {
    let name = named.name.split('@').next().unwrap_or_default();
    // A colon before the last slash is a port's.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[last..].find(':').map_or(name.len(), |colon| last + colon);
    format!("{}@{}", &name[..end], named.digest)
}

/// Removes a file or a whole directory; one that is gone already is no error.
fn remove(path: &Path) -> Result<(), StoreError> {
    let directory = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let removed = if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}
