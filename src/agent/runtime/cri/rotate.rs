//! Rotation of the logs that the runtime writes: a file that is too long is moved aside, and the
//! runtime told to open a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use copepod_cri::ReopenContainerLogRequest;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Inner;
use super::client::{call, within};
use crate::logs;
use crate::runtime::LogLimits;
use crate::telemetry::chain;

/// How often logs are looked at (upstream: `containerLogMonitorInterval`).
const EVERY: Duration = Duration::from_secs(10);

/// Looks again and again, for as long as the agent lives.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        sleep(EVERY).await;
        let limits = inner.options.log_limits;
        for (id, log) in long(&inner, limits).await {
            let of_job = log.clone();
            let rotated =
                spawn_blocking(move || logs::rotate(&of_job, limits.files, Timestamp::now()));
            match rotated.await {
                Ok(Ok(())) => reopen(&inner, &id, &log).await,
                Ok(Err(error)) => {
                    tracing::warn!(log = %log.display(), %error, "cannot rotate a log");
                }
                // The agent ends.
                Err(_) => return,
            }
        }
    }
}

/// The logs that are too long, of containers that run.
async fn long(inner: &Inner, limits: LogLimits) -> Vec<(String, PathBuf)> {
    let running: Vec<(String, PathBuf)> = {
        let table = inner.table.lock();
        let running = table.containers.iter().filter(|(_, one)| one.is_running());
        running.map(|(id, one)| (id.clone(), one.log.clone())).collect()
    };
    let is_long =
        move |log: &Path| std::fs::metadata(log).is_ok_and(|about| about.len() > limits.bytes);
    let long = spawn_blocking(move || {
        running.into_iter().filter(|(_, log)| is_long(log)).collect::<Vec<_>>()
    });
    // The agent ends.
    long.await.unwrap_or_default()
}

async fn reopen(inner: &Inner, id: &str, log: &Path) {
    let limit = inner.client.patience;
    let mut runtime = inner.client.runtime();
    let request = ReopenContainerLogRequest { container_id: id.into() };
    let answer = runtime.reopen_container_log(within(limit, request));
    if let Err(error) = call("ReopenContainerLog", limit, answer).await {
        // It writes on to the file that was moved: the next look finds a log of no bytes and asks
        // again once there is one.
        tracing::warn!(log = %log.display(), error = chain(&error), "a log was not opened anew");
        let newest = log.to_path_buf();
        let _ = spawn_blocking(move || logs::unrotate(&newest)).await;
    }
}
