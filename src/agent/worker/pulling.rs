//! How long the pull of an image takes, and word of its begin.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use copepod_pod::{Event, Pulled};
use tokio::sync::mpsc;

use crate::image::{Progress, Stage};

/// Hears of one image on its way.
pub(super) struct Pulling {
    events: mpsc::WeakSender<Event>,
    container: String,
    asked: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    stage: Option<Stage>,
    began: Option<Instant>,
    ended: Option<Instant>,
    bytes: u64,
}

impl Pulling {
    /// The image of this container is asked for now; its worker is told through `events`.
    pub(super) fn new(events: mpsc::WeakSender<Event>, container: String) -> Self {
        Self { events, container, asked: Instant::now(), seen: Mutex::default() }
    }

    /// What the pull took; none if there was none.
    pub(super) fn pulled(&self) -> Option<Pulled> {
        let seen = self.lock();
        let (began, ended) = (seen.began?, seen.ended?);
        let since = |start: Instant| ended.saturating_duration_since(start);
        Some(Pulled { took: since(began), waited: since(self.asked), bytes: seen.bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A panic elsewhere leaves it whole: each change is one assignment.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Pulling {
    fn begin(&self, stage: Stage, _what: &str, bytes: u64) {
        let mut seen = self.lock();
        seen.stage = Some(stage);
        match stage {
            Stage::Pull => {
                seen.bytes = seen.bytes.saturating_add(bytes);
                if seen.began.is_some() {
                    return;
                }
                seen.began = Some(Instant::now());
            }
            Stage::Compile => return,
        }
        drop(seen);
        if let Some(events) = self.events.upgrade() {
            // Full: a worker never waits, so that is no case; closed: the pod has ended.
            let _ = events.try_send(Event::Pulling { container: self.container.clone() });
        }
    }

    fn at(&self, _bytes: u64) {}

    fn done(&self) {
        let mut seen = self.lock();
        match seen.stage.take() {
            Some(Stage::Pull) => seen.ended = Some(Instant::now()),
            Some(Stage::Compile) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_once_and_timed() {
        let (events, mut inbox) = mpsc::channel(4);
        let pulling = Pulling::new(events.downgrade(), "c".into());
        assert_eq!(pulling.pulled(), None);
        for bytes in [100, 20] {
            pulling.begin(Stage::Pull, "x", bytes);
            pulling.done();
        }
        pulling.begin(Stage::Compile, "x", 5);
        pulling.done();
        let pulled = pulling.pulled().expect("a pull");
        assert_eq!(pulled.bytes, 120);
        assert!(pulled.took <= pulled.waited);
        assert!(matches!(inbox.try_recv(), Ok(Event::Pulling { container }) if container == "c"));
        assert!(inbox.try_recv().is_err(), "once");
    }
}
