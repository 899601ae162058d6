//! Tells whoever follows a log that its directory has changed.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::watch;

/// Bytes of inotify events read at once: some hundred events.
const INOTIFY_BUFFER: usize = 16 << 10;

/// Watches directories of logs. All share one instance of the kernel's, of which a user has 128.
pub(crate) struct LogWatch {
    watches: Watches,
    dirs: Dirs,
}

/// Who is to be told, by directory. Locked for a look-up only.
type Dirs = Arc<Mutex<HashMap<WatchDescriptor, watch::Sender<()>>>>;

impl LogWatch {
    /// Watches nothing yet; starts the task that tells, which ends with the event loop.
    ///
    /// # Errors
    /// The kernel's, such as too many instances.
    pub(crate) fn start() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let events = inotify.into_event_stream(vec![0; INOTIFY_BUFFER])?;
        let dirs = Dirs::default();
        tokio::spawn(tell(events, Arc::clone(&dirs)));
        Ok(Self { watches, dirs })
    }

    /// Changes of a log in `dir`, from now on and until what is given is dropped.
    ///
    /// # Errors
    /// The kernel's, such as a directory that is not there.
    pub(crate) fn follow(&self, dir: &Path) -> io::Result<watch::Receiver<()>> {
        let mut dirs = lock(&self.dirs);
        let unwatched: Vec<_> =
            dirs.extract_if(|_, to| to.is_closed()).map(|(watch, _)| watch).collect();
        let mut watches = self.watches.clone();
        for watch in unwatched {
            // Gone already where its directory is.
            let _ = watches.remove(watch);
        }
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        let watch = watches.add(dir, mask)?;
        Ok(dirs.entry(watch).or_insert_with(|| watch::channel(()).0).subscribe())
    }
}

fn lock(dirs: &Dirs) -> MutexGuard<'_, HashMap<WatchDescriptor, watch::Sender<()>>> {
    // A panic elsewhere leaves the map whole: each change is one call.
    dirs.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn tell(mut events: EventStream<Vec<u8>>, dirs: Dirs) {
    while let Some(event) = events.next().await {
        let event = event.ok().filter(|event| !event.mask.contains(EventMask::Q_OVERFLOW));
        let dirs = lock(&dirs);
        match event {
            Some(event) => dirs.get(&event.wd).into_iter().for_each(changed),
            // Too many at once: any may have changed.
            None => dirs.values().for_each(changed),
        }
    }
}

fn changed(to: &watch::Sender<()>) {
    to.send_replace(());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Longer than the kernel takes to tell.
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn each_follower_hears_of_its_own_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for dir in [&a, &b] {
            std::fs::create_dir(dir).expect("makes");
        }
        let watch = LogWatch::start().expect("starts");
        assert!(watch.follow(&dir.path().join("none")).is_err());
        let mut followers = [watch.follow(&a).expect("follows"), watch.follow(&a).expect("again")];
        let other = watch.follow(&b).expect("follows");
        std::fs::write(a.join("0.log"), "x").expect("writes");
        for follower in &mut followers {
            timeout(SOON, follower.changed()).await.expect("in time").expect("is told");
        }
        assert!(!other.has_changed().expect("lives"));
        drop((followers, other));
        let _new = watch.follow(&a).expect("follows");
        assert_eq!(lock(&watch.dirs).len(), 1, "what nobody follows is not watched");
    }
}
