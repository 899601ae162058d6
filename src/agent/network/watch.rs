//! Whether there is a network for pods, told when it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::sleep;

use super::conf::load;
use crate::linux::watch_dir;
use crate::telemetry::chain;

/// What `status` says.
pub(super) type Status = Result<(), String>;

/// From an event to the look, for whoever makes a file and then writes it.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks where nothing can be watched, such as with too many instances.
const UNWATCHED: Duration = Duration::from_secs(5);

/// What the directory `dir` configures; the task that watches it ends with the last receiver.
/// Outside an event loop it stays as it is now.
pub(super) fn start(dir: PathBuf) -> Receiver<Status> {
    let (sender, receiver) = channel(look(&dir));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(follow(dir, sender));
    }
    receiver
}

fn look(dir: &Path) -> Status {
    load(dir).map(|_| ()).map_err(|error| chain(&error))
}

async fn follow(dir: PathBuf, sender: Sender<Status>) {
    let mut is_watched = true;
    loop {
        // First the watch, then the look: what changes between them is an event.
        let watch = match watch_dir(&dir) {
            Ok(watch) => Some(watch),
            Err(error) => {
                if is_watched {
                    tracing::warn!(dir = %dir.display(), %error, "cannot watch the CNI configuration");
                }
                None
            }
        };
        is_watched = watch.is_some();
        let of_dir = dir.clone();
        let Ok(status) = tokio::task::spawn_blocking(move || look(&of_dir)).await else { return };
        sender.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
        let changed = async {
            match watch {
                Some(mut events) => {
                    events.next().await;
                    sleep(SETTLE).await;
                }
                None => sleep(UNWATCHED).await,
            }
        };
        tokio::select! {
            () = sender.closed() => return,
            () = changed => {}
        }
    }
}
