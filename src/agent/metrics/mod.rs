//! What the agent counts of its work, for who scrapes it, under upstream's names.
//!
//! Owns: one registry for each of the paths at which figures are served ([`Page`]), and what is counted
//! there: [`probes`]. Starts no task; each count is a call that waits for nothing. In: what has happened,
//! from whoever did it. Out: a page of Prometheus's text format.

mod probes;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, Registry, TextEncoder};
use thiserror::Error;

use self::probes::Probes;

pub(crate) use self::probes::PodProbes;

/// Why there are no figures.
#[derive(Debug, Error)]
pub(crate) enum MetricsError {
    /// A series has a name that cannot be.
    #[error("cannot count")]
    Define(#[source] prometheus::Error),
    /// A page cannot be written.
    #[error("cannot write what was counted")]
    Write(#[source] prometheus::Error),
}

/// What is served at a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// `/metrics/probes`
    Probes,
}

impl Page {
    /// The page at `/metrics/NAME`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "probes" => Some(Self::Probes),
            _ => None,
        }
    }
}

/// The figures of one agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    probes: Probes,
    /// What is served at `/metrics/probes`.
    of_probes: Registry,
}

impl Metrics {
    /// Nothing counted yet; the agent is taken to have started now.
    ///
    /// # Errors
    /// [`MetricsError::Define`], which none of ours is.
    pub(crate) fn new() -> Result<Arc<Self>, MetricsError> {
        let made = || {
            let of_probes = Registry::new();
            of_probes.register(Box::new(start_time()?))?;
            Ok(Arc::new(Self { probes: Probes::new(&of_probes)?, of_probes }))
        };
        made().map_err(MetricsError::Define)
    }

    /// A page as it is now. What was never counted is not on it.
    ///
    /// # Errors
    /// [`MetricsError::Write`].
    pub(crate) fn page(&self, page: Page) -> Result<String, MetricsError> {
        let registry = match page {
            Page::Probes => &self.of_probes,
        };
        TextEncoder::new().encode_to_string(&registry.gather()).map_err(MetricsError::Write)
    }
}

/// When the agent started (upstream: `RegisterProcessStartTime`).
fn start_time() -> prometheus::Result<Gauge> {
    let help = "[ALPHA] Start time of the process since unix epoch in seconds.";
    let gauge = Gauge::new("process_start_time_seconds", help)?;
    // Before 1970 it is then.
    gauge.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    Ok(gauge)
}
