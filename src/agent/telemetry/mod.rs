//! Diagnostics of the agent itself, on standard error.
//!
//! Owns: the tracing subscriber, set up once by `cli`. Starts no task.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The environment variable that sets what is logged, in `tracing`'s filter syntax.
const FILTER_VARIABLE: &str = "COPEPOD_LOG";

/// How much a daemon says at each of klog's verbosities, of ourselves and of libraries: up to 3
/// what happens, up to 5 why, above that everything.
fn of_verbosity(verbosity: u8) -> &'static str {
    match verbosity {
        0..=3 => "warn,copepod=info",
        4..=5 => "warn,copepod=debug",
        6.. => "info,copepod=trace",
    }
}

/// Sends diagnostics to standard error: what `COPEPOD_LOG` asks for, else what a daemon's
/// `verbosity` does, else warnings and errors.
pub(crate) fn init(verbosity: Option<u8>) {
    let default = verbosity.map_or("warn", of_verbosity);
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// An error and all its sources in one line, as the edge prints them: `step: why: deeper why`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
