//! `--watch`: tells when the Wasm file of a container is another one, compiled and ready to run.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::load::Loaded;
use crate::image::{Place, Quiet, resolve};
use crate::runtime::Runtime;
use crate::telemetry::chain;
use crate::worker::{Shared, image_request};

/// Bytes of inotify events read at once: some hundred events.
const INOTIFY_BUFFER: usize = 16 << 10;
/// A build writes its files one after the other: so long without another one is its end.
const SETTLE: Duration = Duration::from_millis(50);
/// Files that are written all the time are looked at after so many waits all the same.
const SETTLE_MAX: u32 = 20;
/// Changes on their way to the session, which only takes.
const CHANGES: usize = 16;

/// What became of a container's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The pod's place among the pods.
    pub(super) pod: usize,
    /// The container.
    pub(super) container: String,
    /// The file.
    pub(super) file: PathBuf,
    /// Why it cannot be run as it is now.
    pub(super) broken: Option<String>,
}

/// A container whose image is a file of this host.
struct Watched {
    pod: usize,
    container: String,
    file: PathBuf,
    /// Where changes are seen: the file's folder and name, and those of what it is a link to.
    seen_at: Vec<(WatchDescriptor, PathBuf)>,
    image_id: String,
}

/// Watches the files of all containers; starts the task that tells of them, which ends with the
/// receiver.
///
/// # Errors
/// The kernel's, such as a folder that is not there.
pub(super) fn start<R: Runtime>(
    pods: &[Loaded],
    shared: Arc<Shared<R>>,
) -> io::Result<mpsc::Receiver<Change>> {
    let inotify = Inotify::init()?;
    let mut watched = Vec::new();
    for (pod, loaded) in pods.iter().enumerate() {
        for module in &loaded.modules {
            let file = match resolve(&module.image, &loaded.base) {
                Ok(Place::File(file)) => file,
                // Nothing on this disk that could change.
                Ok(Place::Registry(_)) | Err(_) => continue,
            };
            let mut seen_at = Vec::new();
            for path in [Ok(file.clone()), file.canonicalize()].into_iter().flatten() {
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                    continue;
                };
                // Written and closed, or put in its place as a whole: never half of it.
                let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
                seen_at.push((inotify.watches().add(folder, mask)?, PathBuf::from(name)));
            }
            let (container, image_id) = (module.container.clone(), module.image_id.clone());
            watched.push(Watched { pod, container, file, seen_at, image_id });
        }
    }
    let events = inotify.into_event_stream(vec![0; INOTIFY_BUFFER])?;
    let (tell, changes) = mpsc::channel(CHANGES);
    let watch = Watch { events, watched, pods: pods.to_vec(), shared, tell };
    tokio::spawn(watch.run());
    Ok(changes)
}

struct Watch<R> {
    events: EventStream<Vec<u8>>,
    watched: Vec<Watched>,
    pods: Vec<Loaded>,
    shared: Arc<Shared<R>>,
    tell: mpsc::Sender<Change>,
}

impl<R: Runtime> Watch<R> {
    async fn run(mut self) {
        while let Some(event) = self.events.next().await {
            let mut touched = BTreeSet::new();
            self.touch(event, &mut touched);
            for _ in 0..SETTLE_MAX {
                match timeout(SETTLE, self.events.next()).await {
                    Ok(Some(event)) => self.touch(event, &mut touched),
                    Ok(None) | Err(_) => break,
                }
            }
            for index in touched {
                let Some(change) = self.look(index).await else { continue };
                if self.tell.send(change).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Notes which containers' files the event is of.
    fn touch(&self, event: io::Result<Event<std::ffi::OsString>>, into: &mut BTreeSet<usize>) {
        let event = event.ok().filter(|event| !event.mask.contains(EventMask::Q_OVERFLOW));
        let is_of = |watched: &Watched| {
            let Some(event) = &event else {
                // Too many at once: any may have changed.
                return true;
            };
            let name = event.name.as_deref().map(Path::new);
            watched.seen_at.iter().any(|(wd, file)| *wd == event.wd && name == Some(file))
        };
        let touched = self.watched.iter().enumerate().filter(|(_, watched)| is_of(watched));
        into.extend(touched.map(|(index, _)| index));
    }

    /// Compiles the file if it is another one than before.
    async fn look(&mut self, index: usize) -> Option<Change> {
        let watched = self.watched.get_mut(index)?;
        let pod = self.pods.get(watched.pod)?;
        let spec = pod.containers().find(|container| container.name == watched.container);
        let prepared = self.shared.images.prepare(image_request(spec, &pod.base), &Quiet).await;
        let broken = match prepared {
            Ok(prepared) if prepared.image_id == watched.image_id => return None,
            Ok(prepared) => {
                watched.image_id = prepared.image_id;
                None
            }
            Err(error) => Some(chain(&error)),
        };
        let (container, file) = (watched.container.clone(), watched.file.clone());
        Some(Change { pod: watched.pod, container, file, broken })
    }
}
