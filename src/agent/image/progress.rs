//! What is shown while an image is pulled or compiled.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// What takes time with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its bytes come over the network.
    Pull,
    /// It is compiled. Wasmtime tells nothing of how far that is, so there is only its begin and
    /// its end.
    Compile,
}

/// Hears of what takes time.
pub(crate) trait Progress: Send + Sync {
    /// A stage of the image `what` begins, over `bytes` bytes.
    fn begin(&self, stage: Stage, what: &str, bytes: u64);
    /// So many bytes of it are done; fewer than before where something began anew.
    fn at(&self, bytes: u64);
    /// It ended, well or not.
    fn done(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _stage: Stage, _what: &str, _bytes: u64) {}
    fn at(&self, _bytes: u64) {}
    fn done(&self) {}
}

/// A bar or a spinner on standard error; nothing if that is no terminal.
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
    fn begin(&self, stage: Stage, what: &str, bytes: u64) {
        if !io::stderr().is_terminal() {
            return;
        }
        let (bar, template, what) = match stage {
            Stage::Pull => (
                ProgressBar::new(bytes),
                "pulling {msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                what.to_owned(),
            ),
            Stage::Compile => (
                ProgressBar::new_spinner(),
                "{spinner} compiling {msg} {elapsed}",
                format!("{what} ({})", HumanBytes(bytes)),
            ),
        };
        // The templates are ours: another bar is shown if one is wrong.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        self.put(Some(bar));
    }

    fn at(&self, bytes: u64) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(bytes);
        }
    }

    fn done(&self) {
        self.put(None);
    }
}

/// Says `done` when the stage ends in whatever way, a dropped future too.
pub(super) struct Shown<'a>(&'a dyn Progress);

impl<'a> Shown<'a> {
    pub(super) fn begin(progress: &'a dyn Progress, stage: Stage, what: &str, bytes: u64) -> Self {
        progress.begin(stage, what, bytes);
        Self(progress)
    }

    pub(super) fn at(&self, bytes: u64) {
        self.0.at(bytes);
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}
