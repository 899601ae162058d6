//! The file of an image, opened once: what is hashed is what is compiled.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::blocking;
use super::error::ImageError;

/// Largest Wasm file: a Python guest has 18 MiB, and a compiler needs several times its input.
pub(super) const BYTES_MAX: u64 = 256 << 20;
/// Bytes of a file that the agent holds at a time.
const CHUNK: usize = 64 << 10;

/// An opened Wasm file.
pub(super) struct Input {
    file: File,
    path: PathBuf,
    /// The image that it is of.
    pub(super) image: String,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Its sha256 in hex digits.
    pub(super) digest: String,
}

impl Input {
    /// Opens the file `path` of the image `image` and hashes it, off the event loop.
    pub(super) async fn open(image: &str, path: &Path) -> Result<Self, ImageError> {
        let (image, path) = (image.to_owned(), path.to_owned());
        blocking(move || {
            // Not blocking: a fifo would wait for its writer, and is refused in `read`.
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(&path)
                .map_err(|source| ImageError::File {
                    image: image.clone(),
                    verb: "open",
                    path: path.clone(),
                    source,
                })?;
            Self::read(image, path, file)
        })
        .await
    }

    /// Takes an opened file, which lies at `path`, and hashes it, off the event loop.
    pub(super) async fn take(image: &str, path: &Path, file: File) -> Result<Self, ImageError> {
        let (image, path) = (image.to_owned(), path.to_owned());
        blocking(move || Self::read(image, path, file)).await
    }

    fn read(image: String, path: PathBuf, mut file: File) -> Result<Self, ImageError> {
        let failed = |verb| {
            let (image, path) = (image.clone(), path.clone());
            move |source| ImageError::File { image, verb, path, source }
        };
        let meta = file.metadata().map_err(failed("read"))?;
        if !meta.is_file() {
            return Err(ImageError::NotAFile { image, path, what: kind(meta.file_type()) });
        }
        let read = digest(&mut file).map_err(failed("read"))?;
        let Some((digest, bytes)) = read else { return Err(ImageError::TooLarge { image }) };
        Ok(Self { file, path, image, bytes, digest })
    }

    /// The file from its start, for the compiler.
    pub(super) fn again(&self) -> Result<File, ImageError> {
        let rewound = self.file.try_clone().and_then(|mut file| {
            file.rewind()?;
            Ok(file)
        });
        rewound.map_err(|source| ImageError::File {
            image: self.image.clone(),
            verb: "read",
            path: self.path.clone(),
            source,
        })
    }
}

/// The sha256 and length of the rest of a file; `None` if it is longer than [`BYTES_MAX`].
fn digest(file: &mut File) -> io::Result<Option<(String, u64)>> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok(Some((hex(&hasher.finalize()), bytes))),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        bytes += read as u64;
        if bytes > BYTES_MAX {
            return Ok(None);
        }
        hasher.update(&chunk[..read]);
    }
}

/// Bytes as lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        k if k.is_dir() => "a directory",
        k if k.is_fifo() => "a fifo",
        k if k.is_socket() => "a socket",
        k if k.is_char_device() || k.is_block_device() => "a device",
        _ => "not a file",
    }
}
