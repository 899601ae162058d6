//! What is shown while a compile job runs.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Hears of compile jobs. Wasmtime tells nothing of how far a compile is, so there is only its
/// begin and its end.
pub(crate) trait Progress: Send + Sync {
    /// A compile of the image `what`, a file of `bytes` bytes, begins.
    fn begin(&self, what: &str, bytes: u64);
    /// It ended, well or not.
    fn done(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _what: &str, _bytes: u64) {}
    fn done(&self) {}
}

/// A spinner with size and elapsed time on standard error; nothing if that is no terminal.
#[derive(Debug, Default)]
pub(crate) struct Spinner(Mutex<Option<ProgressBar>>);

impl Spinner {
    fn put(&self, bar: Option<ProgressBar>) {
        let old =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), bar);
        if let Some(old) = old {
            old.finish_and_clear();
        }
    }
}

impl Progress for Spinner {
    fn begin(&self, what: &str, bytes: u64) {
        if !io::stderr().is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template("{spinner} compiling {msg} {elapsed}");
        let bar = ProgressBar::new_spinner()
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
            .with_message(format!("{what} ({})", HumanBytes(bytes)));
        bar.enable_steady_tick(Duration::from_millis(100));
        self.put(Some(bar));
    }

    fn done(&self) {
        self.put(None);
    }
}

/// Says `done` when the job ends in whatever way, a dropped future too.
pub(super) struct Shown<'a>(&'a dyn Progress);

impl<'a> Shown<'a> {
    pub(super) fn begin(progress: &'a dyn Progress, what: &str, bytes: u64) -> Self {
        progress.begin(what, bytes);
        Self(progress)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}
