//! For tests alone: the agent's death at each moment that matters, tried out one after the other.
//!
//! With `COPEPOD_ABORT_AT=N` in its environment the agent aborts at boundary N of all the actions that
//! its workers apply, counted from its start: boundary 2k is just before action k, 2k+1 just after it
//! was applied, which for one that takes time is when its job is done and nobody has heard of it yet.
//! Each boundary that is passed is told in the agent's log, so that a number that is never reached
//! counts them. Without the variable nothing is counted.

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use copepod_pod::Action;
use tokio::task::{JoinError, JoinSet};

/// The variable with the boundary's number.
const VARIABLE: &str = "COPEPOD_ABORT_AT";

/// The boundary to abort at, and the actions so far.
static PLAN: LazyLock<Option<(u64, AtomicU64)>> = LazyLock::new(|| {
    let at = std::env::var(VARIABLE).ok()?;
    match at.parse() {
        Ok(at) => Some((at, AtomicU64::new(0))),
        Err(_) => {
            tracing::warn!("{VARIABLE}={at} is no number of a boundary");
            None
        }
    }
});

/// Passes a boundary, or ends the process there.
fn pass(boundary: u64, what: &str) {
    let Some((at, _)) = &*PLAN else { return };
    tracing::info!("boundary {boundary}: {what}");
    if boundary == *at {
        // As by SIGKILL: nothing is written back, told or undone.
        std::process::abort();
    }
}

/// An action that is about to be applied, while there is a plan.
#[derive(Debug)]
struct Applied {
    number: u64,
    what: String,
}

impl Applied {
    fn after(self) {
        pass(2 * self.number + 1, &format!("after {}", self.what));
    }
}

/// The jobs of a worker, each of which belongs to the action that started it.
#[derive(Debug)]
pub(super) struct Jobs<T> {
    set: JoinSet<T>,
    action: Option<Applied>,
}

impl<T: Send + 'static> Jobs<T> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { set: JoinSet::new(), action: None }
    }

    /// An action is about to be applied: the boundary before it.
    pub(super) fn before(&mut self, action: &Action) {
        let Some((_, count)) = &*PLAN else { return };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let what = format!("{action:?}");
        pass(2 * number, &format!("before {what}"));
        self.action = Some(Applied { number, what });
    }

    /// The action was applied: the boundary after it, unless a job still does it.
    pub(super) fn after(&mut self) {
        if let Some(action) = self.action.take() {
            action.after();
        }
    }

    /// Starts a job of the action.
    pub(super) fn spawn(&mut self, job: impl Future<Output = T> + Send + 'static) {
        match self.action.take() {
            None => self.set.spawn(job),
            Some(action) => self.set.spawn(async move {
                let done = job.await;
                action.after();
                done
            }),
        };
    }

    /// The next job that is done; `None` if there is none.
    pub(super) async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.set.join_next().await
    }
}
