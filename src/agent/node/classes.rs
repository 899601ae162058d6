//! What RuntimeClasses mean, remembered: a class's handler never changes, so that a node without a
//! link, rebooted or not, goes on to run its pods of a class.

use std::path::{Path, PathBuf};

use copepod_pod::is_object_name;
use kube::Client;
use tokio::task::spawn_blocking;

use crate::cluster::classes::{self, ClassError};
use crate::ledger::write_whole;
use crate::telemetry::chain;

/// Longest handler that is remembered: it is a DNS label.
const HANDLER_MAX: u64 = 63;

/// The classes that were asked for, each a file with its handler.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    dir: PathBuf,
}

impl Classes {
    /// Those of the node with this root directory.
    pub(super) fn new(root: &Path) -> Self {
        Self { dir: root.join("runtimeclasses") }
    }

    /// The handler of the class of this name: as the API server has it; where that cannot be asked, as
    /// it last had it.
    ///
    /// # Errors
    /// [`ClassError`].
    pub(super) async fn handler(&self, client: Client, name: &str) -> Result<String, ClassError> {
        let asked = classes::handler(client, name).await;
        if !is_object_name(name) {
            return asked;
        }
        let path = self.dir.join(name);
        match asked {
            Ok(handler) => {
                let kept = handler.clone();
                blocking(move || keep(&path, &kept)).await;
                Ok(handler)
            }
            Err(error @ ClassError::Read { .. }) => {
                blocking(move || read(&path)).await.ok_or(error)
            }
            Err(error @ ClassError::Missing(_)) => Err(error),
        }
    }
}

/// Keeps a handler; without that it is asked for again.
fn keep(path: &Path, handler: &str) {
    if read(path).as_deref() == Some(handler) {
        return;
    }
    let dir = path.parent().unwrap_or(path);
    let kept = std::fs::create_dir_all(dir).and_then(|()| write_whole(path, handler.as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(path = %path.display(), error = chain(&error), "cannot keep a class");
    }
}

fn read(path: &Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    let handler = (length <= HANDLER_MAX).then(|| std::fs::read_to_string(path).ok()).flatten();
    handler.filter(|handler| !handler.is_empty())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = spawn_blocking(work).await;
    // It is not aborted, but for an end of the whole event loop.
    done.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runtimeclasses/wasm");
        assert_eq!(read(&path), None);
        for handler in ["wasm", "wasm", "other"] {
            keep(&path, handler);
            assert_eq!(read(&path).as_deref(), Some(handler));
        }
        std::fs::write(&path, "x".repeat(64)).expect("written");
        assert_eq!(read(&path), None, "it is none of ours");
    }
}
