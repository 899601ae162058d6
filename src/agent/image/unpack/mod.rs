//! Layers made into one directory of files.
//!
//! Archives are hostile. Every path is resolved by the kernel within the new directory, links
//! included (`openat2` with `RESOLVE_IN_ROOT`), and nothing but files, directories and links is
//! made; the agent owns all of it, no file is setuid, and each count and size has a bound.
//! [`archive`] reads entries, [`tree`] makes them.

mod archive;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use self::archive::{Entry, Fault, Kind};
use self::tree::Tree;
use super::digest::Digest;
use super::manifest::Compression;
use super::store::About;

/// Most bytes of all layers, unpacked. A Python or a JS image has tens of megabytes.
const BYTES_MAX: u64 = 4 << 30;
/// How much larger than its archive a layer may be, past [`RATIO_FREE`]: files of zeros compress a
/// thousand times, real ones less than twenty.
const RATIO_MAX: u64 = 128;
/// So much is unpacked of any layer.
const RATIO_FREE: u64 = 64 << 20;
/// Most entries of all layers.
const ENTRIES_MAX: u32 = 100_000;
/// Largest window of a zstd layer, as a power of two: what its own tool takes by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What hides a file of a layer below.
const WHITEOUT: &str = ".wh.";
/// What hides all of a directory of the layers below.
const OPAQUE: &str = ".wh..wh..opq";
/// What other whiteout files begin with: notes of a union file system, of no meaning here.
const WHITEOUT_META: &str = ".wh..wh.";

/// Why an image was not unpacked.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    /// A layer cannot be read, or is damaged.
    #[error("layer {layer}: cannot {verb}")]
    Layer {
        /// Its digest.
        layer: Digest,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A layer's bytes are not those that the configuration names.
    #[error("layer {layer}: its files have the digest {got}, expected {expected}")]
    Digest {
        /// Its digest.
        layer: Digest,
        /// Of the unpacked archive.
        got: Digest,
        /// What the configuration says.
        expected: String,
    },
    /// An entry that is refused.
    #[error("layer {layer}: entry {entry:?}: {text}")]
    Entry {
        /// Its digest.
        layer: Digest,
        /// The entry's path.
        entry: String,
        /// Why.
        text: String,
    },
    /// More than is taken.
    #[error("layer {layer}: {text}")]
    TooMuch {
        /// Its digest.
        layer: Digest,
        /// Of what.
        text: String,
    },
}

/// A layer to unpack.
pub(super) struct Layer {
    /// Of its file.
    pub(super) digest: Digest,
    /// Its file.
    pub(super) path: PathBuf,
    /// How it is packed.
    pub(super) compression: Compression,
    /// The digest of what it unpacks to, from the configuration.
    pub(super) diff_id: String,
}

/// Unpacks the layers, the lowest first, into `root`, which is made.
///
/// # Errors
/// [`UnpackError`]; what was made by then is left to the caller.
pub(super) fn unpack(layers: &[Layer], root: &Path) -> Result<About, UnpackError> {
    let mut left = Left { entries: ENTRIES_MAX, bytes: BYTES_MAX };
    let mut tree = None;
    for layer in layers {
        let failed = |verb| {
            let layer = layer.digest.clone();
            move |source| UnpackError::Layer { layer, verb, source }
        };
        let tree = match &mut tree {
            Some(tree) => tree,
            None => tree.insert(Tree::make(root).map_err(failed("make its directory"))?),
        };
        one(layer, tree, &mut left)?;
    }
    let wasm = tree.map(|tree| tree.wasm()).unwrap_or_default();
    Ok(About { bytes: BYTES_MAX - left.bytes, wasm })
}

/// What may still come.
struct Left {
    entries: u32,
    bytes: u64,
}

fn one(layer: &Layer, tree: &mut Tree, left: &mut Left) -> Result<(), UnpackError> {
    let failed = |verb| {
        let layer = layer.digest.clone();
        move |source| UnpackError::Layer { layer, verb, source }
    };
    let file = File::open(&layer.path).map_err(failed("open"))?;
    let packed = file.metadata().map_err(failed("open"))?.len();
    let max = left.bytes.min(RATIO_FREE + packed.saturating_mul(RATIO_MAX));
    let unpacked = decompress(BufReader::new(file), layer.compression);
    let inner = unpacked.map_err(failed("unpack"))?;
    let mut counted = Counted { inner, hasher: Sha256::new(), left: max, over: false };
    // What this layer made is not hidden by its own whiteouts, wherever they stand.
    let mut own = HashSet::new();
    let entries = &mut left.entries;
    let taken = archive::each(&mut counted, |entry| {
        *entries = entries.checked_sub(1).ok_or(Fault::Enough)?;
        put(entry, tree, &mut own).map_err(|error| Fault::Entry(entry.path.clone(), error))
    });
    // What comes after the archive's end belongs to the digest.
    let taken =
        taken.and_then(|()| io::copy(&mut counted, &mut io::sink()).map(drop).map_err(Fault::Read));
    let layer_digest = || layer.digest.clone();
    match taken {
        Ok(()) => {}
        Err(Fault::Enough) => {
            let text = format!("more than {ENTRIES_MAX} files in the image");
            return Err(UnpackError::TooMuch { layer: layer_digest(), text });
        }
        Err(_) if counted.over => {
            let text = format!("its {packed} bytes unpack to more than {max}");
            return Err(UnpackError::TooMuch { layer: layer_digest(), text });
        }
        Err(Fault::Entry(entry, error)) => {
            let entry = super::registry::shown(&entry.to_string_lossy());
            let text = error.to_string();
            return Err(UnpackError::Entry { layer: layer_digest(), entry, text });
        }
        Err(Fault::Read(error)) => return Err(failed("unpack")(error)),
    }
    left.bytes -= max - counted.left;
    let got = Digest::taken(counted.hasher);
    if got.to_string() != layer.diff_id {
        let expected = super::registry::shown(&layer.diff_id);
        return Err(UnpackError::Digest { layer: layer.digest.clone(), got, expected });
    }
    Ok(())
}

/// Makes what one entry asks for.
fn put<R: Read>(
    entry: &mut Entry<'_, R>,
    tree: &mut Tree,
    own: &mut HashSet<PathBuf>,
) -> io::Result<()> {
    let path = entry.path.clone();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new(""));
    if name == OPAQUE {
        return tree.clear(parent, &|path| own.contains(path));
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(());
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        let hidden = match hidden {
            "" | "." | ".." => return Err(io::Error::other("a whiteout of nothing")),
            hidden => parent.join(hidden),
        };
        return if own.contains(&hidden) { Ok(()) } else { tree.remove(&hidden) };
    }
    match &entry.kind {
        Kind::Directory => tree.directory(&path, entry.mode)?,
        Kind::File => tree.file(&path, entry.mode, entry.modified, &mut entry.data)?,
        Kind::Symlink(target) => tree.symlink(&path, target)?,
        Kind::Link(target) => tree.link(&path, target)?,
    }
    // With the directories above it, which an opaque whiteout must not take away either.
    for made in path.ancestors() {
        if !own.insert(made.to_owned()) {
            break;
        }
    }
    Ok(())
}

fn decompress(
    file: impl io::BufRead + 'static,
    compression: Compression,
) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// A reader that counts down and hashes.
struct Counted<R> {
    inner: R,
    hasher: Sha256,
    left: u64,
    /// Whether there was more than might be.
    over: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let Some(left) = self.left.checked_sub(read as u64) else {
            self.over = true;
            return Err(io::Error::other("too large"));
        };
        self.left = left;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
