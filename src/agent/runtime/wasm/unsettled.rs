//! An attempt of an earlier agent of which cannot be known yet whether its guest runs: its sandbox lives
//! and has not said so, or cannot be looked at. It is its pod's trouble alone: it is listed as starting,
//! so that nothing starts beside it, and looked at now and then until it is settled.
//!
//! Mostly a process that the kernel does not let go of (a file system that hangs), rarely a sandbox of
//! another version or a file that was lost. Nothing in it can be heard or waited for without a process,
//! which only a launch tells, so this one task looks again and again: there are few of them, if any.

use std::time::Duration;

use copepod_pod::{AttemptState, Failure};
use copepod_wasm::state::StateFile;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::super::{Happening, What};
use super::adopt::{Found, LOOK_EVERY, Left};
use super::{ORDERS, Wasm, kept, monitor};
use crate::linux;
use crate::telemetry::chain;

/// Longest time between two looks: what hangs has hung for seconds already.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long a sandbox of another version may live without a launch that can be read: longer than one
/// waits for its description, so it hangs or runs, and nobody could tell which.
pub(super) const UNREADABLE_WITHIN: Duration = Duration::from_secs(40);

impl Wasm {
    /// Lists an attempt as starting, and starts the task that settles it; one that is of another
    /// version is ended after `patience`.
    pub(super) fn wait_for(&self, left: Left, patience: Duration) {
        tracing::warn!(path = %left.dir.display(), "its sandbox lives and has not started its guest");
        let (stop, orders) = mpsc::channel(ORDERS);
        let entry = left.entry(AttemptState::Starting, stop.clone());
        self.table.lock().insert(left.id.clone(), entry);
        let task = Unsettled { wasm: self.clone(), left, patience, stop, asked: None, said: false };
        tokio::spawn(task.run(orders));
    }
}

struct Unsettled {
    wasm: Wasm,
    left: Left,
    patience: Duration,
    /// Its own: whoever watches the attempt at last is given it.
    stop: mpsc::Sender<Duration>,
    /// The least grace that it was asked to end with.
    asked: Option<Duration>,
    /// Whether it was told why it cannot be looked at.
    said: bool,
}

impl Unsettled {
    async fn run(mut self, mut orders: mpsc::Receiver<Duration>) {
        let since = Instant::now();
        let mut every = LOOK_EVERY;
        loop {
            match self.left.look() {
                Ok(Found::Living(launch, process)) => {
                    let Self { wasm, left, stop, asked, .. } = self;
                    if let Some(grace) = asked {
                        // Full: as many orders wait as anybody gave.
                        let _ = stop.try_send(grace);
                    }
                    let pod_uid = left.owner.pod_uid.clone();
                    let attempt = wasm.take_over(left, &launch, process, (stop, orders));
                    tell(&wasm, pod_uid, What::Attempt(attempt)).await;
                    return;
                }
                Ok(Found::Dead) => return self.ended().await,
                Ok(Found::Open) => {}
                Err(error) if !self.said => {
                    self.said = true;
                    let path = self.left.dir.display();
                    tracing::warn!(%path, error = chain(&error), "cannot look at an attempt");
                }
                Err(_) => {}
            }
            let is_lost = !self.left.is_ours() && since.elapsed() > self.patience;
            if self.asked.is_some() || is_lost {
                self.kill().await;
            }
            // The sender is this task's own as well: orders never end.
            tokio::select! {
                () = sleep(every) => every = (every * 2).min(LOOK_EVERY_MAX),
                Some(grace) = orders.recv() => {
                    self.asked = Some(self.asked.map_or(grace, |least| least.min(grace)));
                    every = LOOK_EVERY;
                }
            }
        }
    }

    /// Kills whoever has the state file: nothing of its guest runs that could be asked to end.
    async fn kill(&self) {
        let Some(state) = self.left.state() else { return };
        if let Err(error) = kept::keep_signal(&self.left.dir, Signal::KILL) {
            let path = self.left.dir.display();
            tracing::warn!(%path, %error, "cannot keep that a signal is sent");
        }
        let killed = spawn_blocking(move || kill_all(&state)).await;
        if let Err(error) = killed.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) {
            tracing::warn!(path = %self.left.dir.display(), %error, "cannot end a sandbox");
        }
    }

    /// It has ended, as it had left it or without ever having run.
    async fn ended(self) {
        let Self { wasm, left, .. } = self;
        let what = match wasm.end(&left).await {
            Some(exit) => {
                let Some(attempt) = wasm.table.set(&left.id, AttemptState::Exited(exit)) else {
                    return;
                };
                What::Attempt(attempt)
            }
            None => {
                wasm.table.lock().remove(&left.id);
                monitor::forget(&left.about);
                let message = "the sandbox ended before its guest ran".to_owned();
                let failure = Failure { reason: "RunContainerError".into(), message };
                let (container, attempt) = (left.owner.container.clone(), left.owner.attempt);
                What::NeverRan { container, attempt, failure }
            }
        };
        tell(&wasm, left.owner.pod_uid, what).await;
    }
}

fn kill_all(state: &StateFile) -> std::io::Result<()> {
    linux::who_writes_to(state)?.iter().try_for_each(linux::kill_process)
}

async fn tell(wasm: &Wasm, pod_uid: String, what: What) {
    // Closed: the agent ends, and nobody asks any more.
    let _ = wasm.happenings.send(Happening { pod_uid, what }).await;
}
