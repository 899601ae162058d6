//! The Wasm files of a running container's image: what a command beside it may run. They are looked
//! for among the very files that the container was started with, whatever its image's name means by
//! now, and what a word means is found out once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use copepod_wasm::GuestKind;
use serde::{Deserialize, Serialize};

use super::config::Root;
use super::input::Input;
use super::progress::Quiet;
use super::pulled::failed;
use super::{ImageError, Images, Prepared, blocking};

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

impl Prepared {
    /// The image's files; `None` for an image that is one Wasm file.
    pub(crate) fn tree(&self) -> Option<ImageTree> {
        Some(ImageTree {
            image: self.image.clone(),
            root: self.files.clone()?,
            path: self.config.path().map(str::to_owned),
            working_dir: self.config.working_dir.clone(),
        })
    }
}

/// What the commands of one container attempt mean; goes with the attempt.
#[derive(Debug)]
pub(crate) struct Programs {
    tree: ImageTree,
    /// By a command's first word; `None` is a word that means no Wasm file of the image.
    known: Mutex<HashMap<String, Option<Program>>>,
}

impl Programs {
    /// Those of an attempt that was started with these files.
    pub(crate) fn of(tree: ImageTree) -> Self {
        Self { tree, known: Mutex::default() }
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
    /// The Wasm file that a command's first word means, as a shell in the container's image would find
    /// it; `None` if the image has no such Wasm file. It is compiled if its artefact is not there. No
    /// registry and no list of the store is asked.
    ///
    /// # Errors
    /// [`ImageError`]; the image's files are gone, or the file cannot be compiled.
    pub(crate) async fn program(
        &self,
        programs: &Programs,
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
        let (tree, wanted) = (programs.tree.clone(), word.to_owned());
        let found = blocking(move || {
            let root = Root::open(&tree.root)?;
            Ok(root.command(&wanted, (&tree.working_dir, tree.path.as_deref())))
        });
        let image = &programs.tree.image;
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
}
