//! The time from the first start to the last end: statuses, logs and signals as they come.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use copepod_pod::Event;
use futures_core::Stream;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::board::{Board, grace_of};
use super::load::Loaded;
use super::report;
use super::screen::{Failed, Screen, Source};
use crate::ledger::Ledger;
use crate::logs::follow::Follower;
use crate::runtime::Runtime;
use crate::worker::{Handle, Snapshot, Workers};

/// How often ages in the table are drawn anew.
const REDRAW: Duration = Duration::from_secs(1);
/// Bytes of inotify events read at once: some hundred events.
const INOTIFY_BUFFER: usize = 16 << 10;

/// One pod on its way.
struct Running {
    loaded: Loaded,
    handle: Handle,
    snapshot: Snapshot,
}

/// Everything between start and end.
pub(super) struct Session {
    pods: Vec<Running>,
    changes: mpsc::Receiver<usize>,
    writes: EventStream<Vec<u8>>,
    logs: HashMap<WatchDescriptor, (Source, Follower)>,
    /// Logs that grew since they were looked at.
    grown: HashSet<WatchDescriptor>,
    screen: Screen,
    failed: Failed,
    stops: u32,
}

impl Session {
    /// Starts the pods' workers.
    ///
    /// # Errors
    /// That of the logs' directories, before any worker is started.
    pub(super) fn new<R: Runtime>(
        mut workers: Workers<R>,
        ledger: &Ledger,
        board: &Board,
        loaded: Vec<Loaded>,
        (screen, failed): (Screen, Failed),
    ) -> Result<Self> {
        let inotify = Inotify::init().context("cannot watch logs")?;
        let mut logs = HashMap::new();
        for (pod, one) in loaded.iter().enumerate() {
            for container in one.containers() {
                let dir = ledger.log_dir_of(&one.pod, &container.name);
                let source = Source { pod, container: container.name.clone() };
                fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
                let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
                let watch = inotify.watches().add(&dir, mask).context("cannot watch logs")?;
                logs.insert(watch, (source, Follower::new(dir)));
            }
        }
        let writes =
            inotify.into_event_stream(vec![0; INOTIFY_BUFFER]).context("cannot watch logs")?;
        let (changed, changes) = mpsc::channel(1);
        let start = |(index, loaded): (usize, Loaded)| {
            let handle =
                workers.add(loaded.pod.clone(), loaded.base.clone(), loaded.objects.clone());
            tokio::spawn(forward(index, handle.clone(), changed.clone()));
            board.add(Arc::clone(&loaded.pod), handle.clone());
            let snapshot = handle.snapshot.borrow().clone();
            Running { loaded, handle, snapshot }
        };
        let pods = loaded.into_iter().enumerate().map(start).collect();
        Ok(Self { pods, changes, writes, logs, grown: HashSet::new(), screen, failed, stops: 0 })
    }

    /// Runs until every pod has ended, and gives the exit code.
    ///
    /// # Errors
    /// That of setting up signals, and of writing what was to be shown.
    pub(super) async fn run(mut self) -> Result<u8> {
        let mut signals = Signals::new().context("cannot take signals")?;
        let mut redraw = redraw();
        let mut unwritten = None;
        self.screen.start(self.pods.iter().map(|pod| &pod.loaded));
        while !self.pods.iter().all(|pod| pod.snapshot.terminated) {
            tokio::select! {
                Some(pod) = self.changes.recv() => self.changed(pod),
                Some(log) = written(&mut self.writes) => match log {
                    Some(log) => drop(self.grown.insert(log)),
                    // Too many at once (an overflow names none): any may have grown.
                    None => self.grown.extend(self.logs.keys().cloned()),
                },
                // Nobody reads: the lines wait in their files.
                () = self.screen.room(), if !self.grown.is_empty() => self.look(),
                Ok(error) = &mut self.failed, if unwritten.is_none() => {
                    unwritten = Some(error);
                    if self.stops == 0 {
                        self.stop();
                    }
                }
                () = signals.next() => self.stop(),
                _ = redraw.tick(), if self.screen.is_live() => {
                    self.screen.draw(self.pods.iter().map(|pod| &pod.snapshot.status));
                }
            }
        }
        self.grown.extend(self.logs.keys().cloned());
        let all = self.pods.iter().map(|pod| (&*pod.loaded.pod, &pod.snapshot.status));
        let code = report::exit_code(all);
        tokio::select! {
            () = self.finish() => {}
            // Nobody reads, and whoever waits has had enough.
            () = signals.next() => {}
        }
        match unwritten {
            // Nobody reads any more, as in `copepod run ... | head`.
            None => Ok(code),
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
            Some(error) => Err(error).context("cannot write to standard output"),
        }
    }

    /// Shows what is left to show.
    async fn finish(mut self) {
        while !self.grown.is_empty() {
            self.screen.room().await;
            self.look();
        }
        self.screen.draw(self.pods.iter().map(|pod| &pod.snapshot.status));
        self.screen.end().await;
    }

    /// Reads what one container's log grew by and shows it.
    fn look(&mut self) {
        let Some(watch) = self.grown.iter().next().cloned() else { return };
        self.grown.remove(&watch);
        let Some((source, follower)) = self.logs.get_mut(&watch) else { return };
        if let Err(error) = self.screen.lines(source, |each| follower.look(each)) {
            self.screen.note(&format!("cannot read the logs of {}: {error}", source.container));
        }
    }

    fn changed(&mut self, index: usize) {
        let Some(pod) = self.pods.get_mut(index) else { return };
        let new = pod.handle.snapshot.borrow_and_update().clone();
        let old = std::mem::replace(&mut pod.snapshot, new);
        let (pod_object, status) = (&pod.loaded.pod, &pod.snapshot.status);
        self.screen.status(pod_object, status);
        for line in report::news(pod.loaded.name(), &old.status, status) {
            self.screen.note(&line);
        }
        let trouble =
            pod.snapshot.trouble.as_ref().filter(|new| old.trouble.as_ref() != Some(*new));
        if let Some(failure) = trouble {
            let name = pod.loaded.name();
            self.screen.note(&format!("{name}: {}: {}", failure.reason, failure.message));
        }
        self.screen.draw(self.pods.iter().map(|pod| &pod.snapshot.status));
    }

    /// The first time within the pods' grace periods, after that at once.
    fn stop(&mut self) {
        self.stops += 1;
        if self.stops == 1 {
            self.screen.note("stopping; once more stops at once");
        }
        for pod in &self.pods {
            let grace = if self.stops == 1 { grace_of(&pod.loaded.pod) } else { Duration::ZERO };
            // Full: a worker never waits, so that is no case; closed: that pod has ended.
            let _ = pod.handle.events.try_send(Event::Kill { grace });
        }
    }
}

/// Tells on `changed` that the pod's snapshot is new, until its last one.
async fn forward(index: usize, mut handle: Handle, changed: mpsc::Sender<usize>) {
    loop {
        let terminated = handle.snapshot.borrow_and_update().terminated;
        if changed.send(index).await.is_err() || terminated {
            return;
        }
        if handle.snapshot.changed().await.is_err() {
            return;
        }
    }
}

/// The log that was written to next; an inner `None` is an event that names none.
async fn written(writes: &mut EventStream<Vec<u8>>) -> Option<Option<WatchDescriptor>> {
    let event = poll_fn(|context| Pin::new(&mut *writes).poll_next(context)).await;
    let event = event?.ok().filter(|event| !event.mask.contains(EventMask::Q_OVERFLOW));
    Some(event.map(|event| event.wd))
}

fn redraw() -> Interval {
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    redraw
}

/// The signals that ask for an end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
