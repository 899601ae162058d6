//! Images: what an image name means, and its compiled artefact.
//!
//! Owns: the meaning of a path as an image ([`resolve`]), the cache of artefacts ([`cache`]), the
//! compile job from both of its ends ([`job`] starts it, [`compiler`] is it).
//! In: an image's name and the folder it counts from. Out: [`Prepared`], what a sandbox needs.
//! Starts no task; starts one process at a time, which ends with the agent's thread that started
//! it. The agent itself never reads Wasm beyond its digest, and never compiles.

mod cache;
pub(crate) mod compiler;
mod error;
mod input;
mod job;
mod progress;
mod reference;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use copepod_wasm::GuestKind;
use tokio::sync::Mutex;

use self::cache::Cache;
use self::input::Input;
use self::job::JobError;

pub(crate) use self::error::ImageError;
pub(crate) use self::progress::{Progress, Quiet, Spinner};
pub(crate) use self::reference::resolve;

/// An image that can be started.
///
/// Its artefact may be evicted by another agent on the same cache: prepare again before each
/// start, which costs the digest of the file where nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// The artefact, an absolute path if the cache directory is one.
    pub(crate) artefact: PathBuf,
    /// How it is linked and entered.
    pub(crate) kind: GuestKind,
    /// The image as it was asked for.
    pub(crate) image: String,
    /// `sha256:` and 64 hex digits, of the Wasm file.
    pub(crate) image_id: String,
    /// Size of the Wasm file.
    pub(crate) bytes: u64,
    /// Whether the artefact was there already.
    pub(crate) cached: bool,
    /// The image's own files, unpacked: shared by all containers of the image and never written
    /// to. `None` for an image that is one Wasm file.
    pub(crate) files: Option<PathBuf>,
    /// What the image says of how it is run.
    pub(crate) config: ImageConfig,
}

/// What an image says of how it is run; empty for one that is one Wasm file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    /// `ENTRYPOINT`, which a container's `command` replaces.
    pub(crate) entrypoint: Vec<String>,
    /// `CMD`, which a container's `command` or `args` replaces.
    pub(crate) cmd: Vec<String>,
    /// `ENV`, which a container's environment is put on top of.
    pub(crate) env: Vec<(String, String)>,
    /// `USER` as numbers, names looked up in the image's own files.
    pub(crate) user: Option<ImageUser>,
    /// `WORKDIR`; empty if it has none.
    pub(crate) working_dir: String,
}

/// `USER` of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageUser {
    /// The user id.
    pub(crate) uid: u32,
    /// The group id, if it names one or the image's `/etc/passwd` does.
    pub(crate) gid: Option<u32>,
}

/// When an image is looked for in its registry (`imagePullPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// Each time: a tag may have moved.
    Always,
    /// When it is not here.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// Which image is wanted, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageRequest<'a> {
    /// Its name: a path or a reference.
    pub(crate) image: &'a str,
    /// The folder from which a relative path starts.
    pub(crate) base: &'a Path,
    /// When its registry is asked.
    pub(crate) policy: PullPolicy,
    /// The container's `command[0]`, which may name one of several Wasm files of the image.
    pub(crate) command: Option<&'a str>,
}

/// The images of one agent.
#[derive(Debug)]
pub(crate) struct Images {
    cache: Cache,
    program: PathBuf,
    /// Held by the one compile job of this agent.
    turn: Mutex<()>,
}

impl Images {
    /// Takes the directory of artefacts, made (0700) if it is not there, and this program
    /// (`/proc/self/exe`), which compiles when run as `compile --job`.
    ///
    /// # Errors
    /// [`ImageError::Cache`] if the directory cannot be made, read or is another user's.
    pub(crate) fn open(cache_dir: PathBuf, program: PathBuf) -> Result<Self, ImageError> {
        // A sandbox has another working directory.
        let cache_dir = std::path::absolute(&cache_dir).map_err(|source| ImageError::Cache {
            verb: "find",
            path: cache_dir,
            source,
        })?;
        Ok(Self { cache: Cache::open(cache_dir)?, program, turn: Mutex::new(()) })
    }

    /// Makes an image ready: finds its artefact or has it compiled. Of several callers with one
    /// image, one compiles.
    ///
    /// Call it from a thread that lives as long as the agent: the compile job dies with it.
    ///
    /// # Errors
    /// [`ImageError`], whose [`ImageError::reason`] is the container's waiting reason.
    pub(crate) async fn prepare(
        &self,
        request: ImageRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<Prepared, ImageError> {
        let ImageRequest { image, base, .. } = request;
        let path = resolve(image, base)?;
        let input = Input::open(image, &path).await?;
        let prepared = |(artefact, kind), cached| Prepared {
            artefact,
            kind,
            image: image.to_owned(),
            image_id: format!("sha256:{}", input.digest),
            bytes: input.bytes,
            cached,
            files: None,
            config: ImageConfig::default(),
        };
        if let Some(found) = self.cache.find(&input.digest) {
            return Ok(prepared(found, true));
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have compiled the same.
        if let Some(found) = self.cache.find(&input.digest) {
            return Ok(prepared(found, true));
        }
        let _shown = progress::Shown::begin(progress, image, input.bytes);
        let made = self.compile(image, &input).await?;
        Ok(prepared(made, false))
    }

    async fn compile(
        &self,
        image: &str,
        input: &Input,
    ) -> Result<(PathBuf, GuestKind), ImageError> {
        let failed = |source| {
            let image = image.to_owned();
            if let JobError::Refused(text) = source {
                return ImageError::NotAGuest { image, text };
            }
            ImageError::Compile { image, source }
        };
        let output = self.cache.temporary()?;
        let (wasm, artefact) = (input.again()?, self.cache.writer(&output)?);
        let report = job::run(&self.program, wasm, artefact).await.map_err(failed)?;
        if report.digest != input.digest {
            return Err(ImageError::Changed { image: image.to_owned() });
        }
        let path = self.cache.keep(output, &report.digest, report.kind)?;
        self.cache.evict()?;
        Ok((path, report.kind))
    }
}
