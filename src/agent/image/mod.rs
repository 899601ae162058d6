//! Images: what an image name means, and its compiled artefact.
//!
//! Owns: the meaning of an image name ([`reference`]), registries ([`registry`]) and who we are to
//! them ([`credentials`]), how much is pulled at a time ([`gate`]), the store of what
//! was pulled ([`store`]), which images go when there is no room ([`gc`]), what is in one ([`manifest`], [`unpack`], [`config`]), the cache of
//! artefacts ([`cache`]), what commands beside a container mean ([`programs`]), what a container has of its image ([`used`]), the compile job from both of its ends ([`job`] starts it, [`compiler`]
//! is it).
//! In: an image's name and the folder it counts from. Out: [`Prepared`], what a sandbox needs.
//! Starts no task; starts one process at a time, which ends with the agent's thread that started
//! it. The agent itself never reads Wasm beyond its digest and its first four bytes, and never
//! compiles.

mod cache;
pub(crate) mod compiler;
mod config;
pub(crate) mod credentials;
mod digest;
mod error;
pub(crate) mod gate;
pub(crate) mod gc;
mod input;
mod job;
mod kind;
mod manifest;
mod programs;
mod progress;
mod pull;
mod pulled;
mod push;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod unpack;
mod used;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use copepod_wasm::GuestKind;
use tokio::sync::{Mutex, OnceCell};

use self::cache::Cache;
use self::credentials::PullSecrets;
use self::gate::{Gate, PullLimits};
use self::input::Input;
use self::job::{Job, JobError};
use self::progress::Shown;
use self::pull::Puller;
use self::store::{Hold, Store};
use self::used::WasmFile;

pub(crate) use self::error::ImageError;
pub(crate) use self::kind::ImageKind;
pub(crate) use self::programs::{ImageTree, Programs};
pub(crate) use self::progress::{Progress, Quiet, Spinner, Stage};
pub(crate) use self::pulled::Listed;
pub(crate) use self::push::Pushed;
pub(crate) use self::reference::{NameError, Place, Reference, Repository, reference, resolve};
pub(crate) use self::registry::RegistryOptions;
pub(crate) use self::store::Collected;
pub(crate) use self::used::UsedImage;

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
    /// The image: a path as it was asked for, a reference in full.
    pub(crate) image: String,
    /// `sha256:` and 64 hex digits, of the Wasm file; for an image of a registry
    /// `REPOSITORY@sha256:...`, of its manifest or index, as upstream has it.
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
    /// The Wasm that is compiled.
    wasm: WasmFile,
    /// Keeps the store from removing the image as long as this or a clone of it lives.
    hold: Option<Hold>,
}

/// What an image says of how it is run. A file says nothing; a Wasm artefact has its repository's
/// name as its entrypoint, since a guest wants a name.
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
    /// The pod's own credentials; they are tried before those of the node or user.
    pub(crate) secrets: Option<&'a PullSecrets>,
}

/// The images of one agent.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    cache: Cache,
    program: PathBuf,
    /// Held by the one compile job of this agent.
    turn: Mutex<()>,
    registries: RegistryOptions,
    gate: Arc<Gate>,
    wasm_only: bool,
    /// Made when the first image of a registry is asked for.
    puller: OnceCell<Puller>,
}

impl Images {
    /// Takes the directory of artefacts, made (0700) if it is not there, and this program
    /// (`/proc/self/exe`), which compiles when run as `compile --job`.
    ///
    /// # Errors
    /// [`ImageError::Cache`] if the directory cannot be made, read or is another user's.
    pub(crate) fn open(cache_dir: PathBuf, program: PathBuf) -> Result<Self, ImageError> {
        // A sandbox has another working directory.
        let dir = std::path::absolute(&cache_dir).map_err(|source| ImageError::Cache {
            verb: "find",
            path: cache_dir,
            source,
        })?;
        Ok(Self {
            cache: Cache::open(dir.clone())?,
            dir,
            program,
            turn: Mutex::new(()),
            registries: RegistryOptions::default(),
            gate: Arc::new(Gate::new(PullLimits::default())),
            wasm_only: false,
            puller: OnceCell::new(),
        })
    }

    /// The same images, with what the user says of registries.
    pub(crate) fn with_registries(mut self, options: RegistryOptions) -> Self {
        self.registries = options;
        self
    }

    /// The same images, pulled through this gate.
    pub(crate) fn with_gate(mut self, gate: Arc<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// The same images, of which those that are no Wasm by their configuration are refused before
    /// any layer of theirs is fetched: a node that runs Wasm alone.
    pub(crate) fn wasm_only(mut self) -> Self {
        self.wasm_only = true;
        self
    }

    /// Makes an image ready: pulls it if that is to be done, and finds its artefact or has it
    /// compiled. Of several callers with one image, one pulls and one compiles.
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
        match resolve(request.image, request.base)? {
            Place::File(path) => {
                let input = Input::open(request.image, &path).await?;
                let made = self.artefact(&input, progress).await?;
                Ok(Prepared {
                    artefact: made.artefact,
                    kind: made.kind,
                    image: request.image.to_owned(),
                    image_id: format!("sha256:{}", input.digest),
                    bytes: input.bytes,
                    cached: made.cached,
                    files: None,
                    config: ImageConfig::default(),
                    wasm: WasmFile { path: absolute(&path), digest: input.digest },
                    hold: None,
                })
            }
            Place::Registry(reference) => self.pulled(&reference, request, progress).await,
        }
    }

    /// Finds the artefact of a Wasm file or has it compiled.
    async fn artefact(
        &self,
        input: &Input,
        progress: &dyn Progress,
    ) -> Result<Artefact, ImageError> {
        let found = || {
            let (artefact, kind) = self.cache.find(&input.digest)?;
            Some(Artefact { artefact, kind, cached: true })
        };
        if let Some(found) = found() {
            return Ok(found);
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have compiled the same.
        if let Some(found) = found() {
            return Ok(found);
        }
        let _shown = Shown::begin(progress, Stage::Compile, &input.image, input.bytes);
        let (artefact, kind) = self.compile(input).await?;
        Ok(Artefact { artefact, kind, cached: false })
    }

    async fn compile(&self, input: &Input) -> Result<(PathBuf, GuestKind), ImageError> {
        let output = self.cache.temporary()?;
        let job = Job::Compile(self.cache.writer(&output)?);
        let report = self.job(input, job).await?;
        let path = self.cache.keep(output, &report.digest, report.kind)?;
        self.cache.evict()?;
        Ok((path, report.kind))
    }

    /// Runs a job on a Wasm file; the job's report is of that very file.
    async fn job(&self, input: &Input, job: Job) -> Result<compiler::Report, ImageError> {
        let image = || input.image.clone();
        let report = job::run(&self.program, input.again()?, job).await;
        let report = report.map_err(|source| {
            if let JobError::Refused(text) = source {
                return ImageError::NotAGuest { image: image(), text };
            }
            ImageError::Compile { image: image(), source }
        })?;
        if report.digest != input.digest {
            return Err(ImageError::Changed { image: image() });
        }
        Ok(report)
    }

    /// Where the store of pulled images is.
    fn store_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// What pulls, and its store.
    async fn puller(&self) -> Result<&Puller, ImageError> {
        let open = || async {
            let dir = self.store_dir();
            let store = blocking(move || Store::open(dir)).await?;
            let gate = Arc::clone(&self.gate);
            Ok(Puller::new(store, self.registries.clone(), gate, self.wasm_only))
        };
        self.puller.get_or_try_init(open).await
    }
}

/// A compiled Wasm file.
struct Artefact {
    artefact: PathBuf,
    kind: GuestKind,
    cached: bool,
}

/// The path for whoever has another working directory.
fn absolute(path: &Path) -> PathBuf {
    // Fails for an empty path alone, which was opened.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Does work that waits for a disk, off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    // The task neither panics nor is it aborted, but for an end of the whole runtime.
    done.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))
}
