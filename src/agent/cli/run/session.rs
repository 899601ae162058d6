//! The time from the first start to the last end: statuses, logs and signals as they come.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use copepod_pod::{Event, spec_grace};
use futures_core::Stream;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::board::Board;
use super::load::Loaded;
use super::report;
use super::screen::{Failed, Screen, Source};
use super::watch::Change;
use crate::ledger::Ledger;
use crate::logs::follow::Follower;
use crate::runtime::Runtime;
use crate::worker::{Given, Handle, Snapshot, Workers};

/// How often ages in the table are drawn anew.
const REDRAW: Duration = Duration::from_secs(1);
/// So long the last lines are written for whoever asked twice for an end: a reader that stalls holds
/// nobody up.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Bytes of inotify events read at once: some hundred events.
const INOTIFY_BUFFER: usize = 16 << 10;

/// One pod on its way.
struct Running {
    loaded: Loaded,
    handle: Handle,
    snapshot: Snapshot,
}

/// Everything between start and end.
pub(super) struct Session<R> {
    workers: Workers<R>,
    ledger: Arc<Ledger>,
    board: Board<R>,
    pods: Vec<Running>,
    changed: mpsc::Sender<usize>,
    changes: mpsc::Receiver<usize>,
    /// With `--watch`: files that are others now.
    files: Option<mpsc::Receiver<Change>>,
    watches: Watches,
    writes: EventStream<Vec<u8>>,
    logs: HashMap<WatchDescriptor, (Source, Follower)>,
    /// Logs that grew since they were looked at.
    grown: HashSet<WatchDescriptor>,
    screen: Screen,
    failed: Failed,
    stops: u32,
}

impl<R: Runtime> Session<R> {
    /// A session without pods, which runs anew what ends and `files` tells of.
    ///
    /// # Errors
    /// That of watching logs.
    pub(super) fn new(
        workers: Workers<R>,
        ledger: Arc<Ledger>,
        board: Board<R>,
        (screen, failed): (Screen, Failed),
        files: Option<mpsc::Receiver<Change>>,
    ) -> Result<Self> {
        let inotify = Inotify::init().context("cannot watch logs")?;
        let watches = inotify.watches();
        let writes =
            inotify.into_event_stream(vec![0; INOTIFY_BUFFER]).context("cannot watch logs")?;
        let (changed, changes) = mpsc::channel(1);
        let (pods, logs, grown) = (Vec::new(), HashMap::new(), HashSet::new());
        Ok(Self {
            workers,
            ledger,
            board,
            pods,
            changed,
            changes,
            files,
            watches,
            writes,
            logs,
            grown,
            screen,
            failed,
            stops: 0,
        })
    }

    /// Starts the pods' workers.
    ///
    /// # Errors
    /// That of the logs' directories, before any worker is started.
    pub(super) fn start(mut self, loaded: Vec<Loaded>) -> Result<Self> {
        for (place, one) in loaded.iter().enumerate() {
            self.watch_logs(place, one)?;
        }
        for (place, one) in loaded.into_iter().enumerate() {
            let running = self.start_pod(place, one);
            self.pods.push(running);
        }
        Ok(self)
    }

    fn watch_logs(&mut self, pod: usize, loaded: &Loaded) -> Result<()> {
        for container in loaded.containers() {
            let dir = self.ledger.log_dir_of(&loaded.pod, &container.name);
            let source = Source { pod, container: container.name.clone() };
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
            let watch = self.watches.add(&dir, mask).context("cannot watch logs")?;
            self.logs.insert(watch, (source, Follower::new(dir)));
        }
        Ok(())
    }

    fn start_pod(&mut self, place: usize, loaded: Loaded) -> Running {
        let Loaded { pod, base, objects, .. } = &loaded;
        let handle =
            self.workers.add(Arc::clone(pod), base.clone(), Arc::new(Given(Arc::clone(objects))));
        tokio::spawn(forward(place, handle.clone(), self.changed.clone()));
        self.board.show(place, &loaded, handle.clone());
        let snapshot = handle.snapshot.borrow().clone();
        Running { loaded, handle, snapshot }
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
        while !self.is_over() {
            tokio::select! {
                Some(pod) = self.changes.recv() => self.changed(pod),
                Some(change) = next(&mut self.files) => self.file(&change),
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
        let has_had_enough = self.stops > 1;
        tokio::select! {
            () = self.finish() => {}
            // Nobody reads, and whoever waits has had enough, now or before.
            () = signals.next() => {}
            () = sleep(LAST_LINES), if has_had_enough => {}
        }
        match unwritten {
            // Nobody reads any more, as in `copepod run ... | head`.
            None => Ok(code),
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
            Some(error) => Err(error).context("cannot write to standard output"),
        }
    }

    /// Whether nothing runs any more, and nothing will.
    fn is_over(&self) -> bool {
        let for_good =
            |place: usize| self.files.is_none() || self.stops > 0 || self.board.is_stopped(place);
        let mut pods = self.pods.iter().enumerate();
        pods.all(|(place, pod)| pod.snapshot.terminated && for_good(place))
    }

    /// A container's Wasm file is another one: it is restarted with that, and its pod run anew
    /// where that has ended.
    fn file(&mut self, change: &Change) {
        let Change { pod: place, container, file, broken } = change;
        let Some(pod) = self.pods.get(*place) else { return };
        let (pod_name, file) = (pod.loaded.name(), file.display());
        let about = format!("{pod_name}/{container}: {file}");
        if let Some(error) = broken {
            self.screen.note(&format!("{about} has changed and is not used: {error}"));
            return;
        }
        // Whoever has stopped it wants no more of it.
        if self.stops > 0 || self.board.is_stopped(*place) {
            return;
        }
        if pod.snapshot.terminated {
            self.screen.note(&format!("{about} has changed: the pod runs anew"));
            self.run_anew(*place);
            return;
        }
        self.screen.note(&format!("{about} has changed: the container restarts"));
        let event = Event::Replace { container: container.clone() };
        // The end of one that has ended is told in a moment, and then it is looked at whether it ran
        // with this file.
        let _ = pod.handle.events.tell(event);
    }

    /// Starts a pod that has ended once more, as another one of the same name.
    fn run_anew(&mut self, place: usize) {
        let Some(pod) = self.pods.get(place) else { return };
        let old = pod.loaded.clone();
        // What it wrote last is shown before its logs go.
        let of_pod =
            |(_, (source, _)): &(&WatchDescriptor, &(Source, Follower))| source.pod == place;
        let logs: Vec<_> = self.logs.iter().filter(of_pod).map(|(log, _)| log.clone()).collect();
        for log in logs {
            self.look_at(&log);
            self.logs.remove(&log);
        }
        for container in old.containers() {
            // What cannot be removed now goes with the run.
            let _ = fs::remove_dir_all(self.ledger.log_dir_of(&old.pod, &container.name));
        }
        let mut new = old;
        new.renew();
        if let Err(error) = self.watch_logs(place, &new) {
            self.screen.note(&format!("{}: {error:#}", new.name()));
        }
        let running = self.start_pod(place, new);
        if let Some(pod) = self.pods.get_mut(place) {
            *pod = running;
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
        let Some(log) = self.grown.iter().next().cloned() else { return };
        self.grown.remove(&log);
        self.look_at(&log);
    }

    fn look_at(&mut self, log: &WatchDescriptor) {
        let Some((source, follower)) = self.logs.get_mut(log) else { return };
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
            let grace = if self.stops == 1 { spec_grace(&pod.loaded.pod) } else { Duration::ZERO };
            // Or that pod has ended.
            let _ = pod.handle.events.tell(Event::Kill { grace });
        }
    }
}

/// The next change of a file; never one without `--watch`.
async fn next(files: &mut Option<mpsc::Receiver<Change>>) -> Option<Change> {
    match files {
        Some(files) => files.recv().await,
        None => std::future::pending().await,
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
