//! Diagnostics of the agent itself, on standard error.
//!
//! Owns: the tracing subscriber, set up once by `cli`. Starts no task.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The environment variable that sets what is logged, in `tracing`'s filter syntax.
const FILTER_VARIABLE: &str = "COPEPOD_LOG";

/// Sends diagnostics to standard error: warnings and errors, or what `COPEPOD_LOG` asks for.
pub(crate) fn init() {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("warn"));
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
