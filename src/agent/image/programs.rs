//! The Wasm files of a running container's image: what a command beside it may run, its own Wasm if it
//! names none of them. They are looked for among the very files that the container was started with,
//! whatever its image's name means by now, and what a word means is found out once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use copepod_wasm::GuestKind;
use serde::{Deserialize, Serialize};

use super::config::Root;
use super::input::Input;
use super::progress::Quiet;
use super::pulled::failed;
use super::used::{UsedImage, WasmFile};
use super::{ImageError, Images, blocking};

/// Words whose meaning is kept: a container's probes and hooks have four at the most, the others are
/// people's.
const WORDS_MAX: usize = 32;

/// A Wasm file that a command means: its artefact, and how it is entered.
pub(crate) type Program = (PathBuf, GuestKind);

/// The unpacked files of an image, and where its commands are looked for among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageTree {
    /// The image, for people.
    image: String,
    /// The directory of its files, which nobody writes to.
    root: PathBuf,
    /// Its `PATH`, if it sets one.
    path: Option<String>,
    /// Its `WORKDIR`; may be empty.
    working_dir: String,
}

impl ImageTree {
    /// That of an image of this name, whose files are below `root`, with its `PATH` and `WORKDIR`.
    pub(super) fn new(image: &str, root: PathBuf, path: Option<&str>, working_dir: &str) -> Self {
        let path = path.map(str::to_owned);
        Self { image: image.to_owned(), root, path, working_dir: working_dir.to_owned() }
    }
}

/// What the commands of one container attempt mean; goes with the attempt.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The files of its image; `None` for an image that is one Wasm file.
    tree: Option<ImageTree>,
    /// The image's name and its own Wasm; `None` where an older agent has not kept them.
    own: Option<(String, WasmFile)>,
    /// By a command's first word; `None` is a word that means no Wasm file of the image.
    known: Mutex<HashMap<String, Option<Program>>>,
}

impl Programs {
    /// Those of an attempt that was started from this image and with these files.
    pub(crate) fn of(used: Option<&UsedImage>, tree: Option<ImageTree>) -> Self {
        let own = used.map(|used| (used.image.clone(), used.wasm.clone()));
        Self { tree, own, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Program>>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, word: &str, program: Option<Program>) {
        let mut known = self.lock();
        if known.len() >= WORDS_MAX {
            // What is asked for each second is back at once.
            known.clear();
        }
        known.insert(word.to_owned(), program);
    }
}

impl Images {
    /// What a command beside a container runs: the Wasm file that its first word means, as a shell in
    /// the container's image would find it, else the container's own. It is compiled if its artefact is
    /// not there, or is of another version's engine. No registry and no list of the store is asked.
    /// `None`: what was started, of which no more is known.
    ///
    /// # Errors
    /// [`ImageError`]; the image's files are gone, or the file cannot be compiled.
    pub(crate) async fn program(
        &self,
        programs: &Programs,
        word: &str,
    ) -> Result<Option<Program>, ImageError> {
        let named = match &programs.tree {
            Some(tree) => self.named(programs, tree, word).await?,
            None => None,
        };
        if named.is_some() {
            return Ok(named);
        }
        let Some((image, wasm)) = &programs.own else { return Ok(None) };
        self.own(image, wasm, programs.tree.as_ref()).await.map(Some)
    }

    /// The Wasm file of the image that a command's first word means; `None` if it has no such file.
    async fn named(
        &self,
        programs: &Programs,
        tree: &ImageTree,
        word: &str,
    ) -> Result<Option<Program>, ImageError> {
        let known = programs.lock().get(word).cloned();
        match known {
            Some(None) => return Ok(None),
            Some(Some(program)) if self.cache.has(&program.0) => return Ok(Some(program)),
            // Never looked for, or its artefact went since: for want of room, or as it could not be
            // loaded.
            Some(Some(_)) | None => {}
        }
        let (place, wanted) = (tree.clone(), word.to_owned());
        let found = blocking(move || {
            let root = Root::open(&place.root)?;
            Ok(root.command(&wanted, (&place.working_dir, place.path.as_deref())))
        });
        let image = &tree.image;
        let program = match found.await.map_err(|e| failed(image, e))? {
            None => None,
            Some((path, file)) => {
                let input = Input::take(image, &path, file).await?;
                let made = self.artefact(&input, &Quiet).await?;
                Some((made.artefact, made.kind))
            }
        };
        programs.learn(word, program.clone());
        Ok(program)
    }

    /// A container's own Wasm: mostly its artefact is there and but marked as used.
    async fn own(
        &self,
        image: &str,
        wasm: &WasmFile,
        tree: Option<&ImageTree>,
    ) -> Result<Program, ImageError> {
        if let Some(found) = self.cache.find(&wasm.digest) {
            return Ok(found);
        }
        let input = match tree {
            None => Input::open(image, &wasm.path).await?,
            Some(tree) => {
                let (root, path) = (tree.root.clone(), wasm.path.clone());
                let found = blocking(move || Ok(Root::open(&root)?.wasm(&path)));
                let file = found.await.map_err(|e| failed(image, e))?;
                let gone = || ImageError::Changed { image: image.to_owned() };
                Input::take(image, &wasm.path, file.ok_or_else(gone)?).await?
            }
        };
        if input.digest != wasm.digest {
            return Err(ImageError::Changed { image: image.to_owned() });
        }
        let made = self.artefact(&input, &Quiet).await?;
        Ok((made.artefact, made.kind))
    }
}
