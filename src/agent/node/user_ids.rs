//! Which of the host's ids pods with user namespaces are given (upstream `getKubeletMappings`).

use std::io;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::NodeError;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::worker::{Pool, UserIds, default_range, parse_sub_ids};

/// Whose subordinate ids are given.
const USER: &str = "kubelet";
/// Where users are.
const USERS: &str = "/etc/passwd";
/// How long `getsubids` may take: it may ask a directory over the network.
const PATIENCE: Duration = Duration::from_secs(30);

/// The ids, with what pods have of them already; none where no pod has a sandbox of a container
/// runtime.
///
/// # Errors
/// [`NodeError`].
pub(super) async fn open(
    config: &Config,
    ledger: &Arc<Ledger>,
) -> Result<Option<Arc<UserIds>>, NodeError> {
    if config.runtime.endpoint.is_none() {
        return Ok(None);
    }
    let per_pod = config.pods.ids_per_pod;
    let range = match sub_ids().await? {
        Some(text) => parse_sub_ids(&text)?,
        None => default_range(per_pod),
    };
    let pool = Pool::new(range, per_pod, config.pods.max_pods)?;
    let ledger = Arc::clone(ledger);
    let opened = spawn_blocking(move || UserIds::open(pool, &ledger)).await;
    let opened = opened.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    Ok(Some(Arc::new(opened)))
}

/// What `getsubids` says; `None` where there is no user of that name, or no such program. Where both
/// are there it has to answer: it may ask elsewhere, and an answer that is missing is not none.
async fn sub_ids() -> Result<Option<String>, NodeError> {
    let has_user = tokio::fs::read_to_string(USERS)
        .await
        .is_ok_and(|users| users.lines().any(|line| line.split(':').next() == Some(USER)));
    if !has_user {
        return Ok(None);
    }
    let Some(users) = ask(&[USER]).await.map_err(NodeError::SubIds)? else { return Ok(None) };
    let groups = ask(&["-g", USER]).await.map_err(NodeError::SubIds)?;
    match groups.is_some_and(|groups| groups == users) {
        true => Ok(Some(users)),
        false => Err(NodeError::SubIdsDiffer),
    }
}

async fn ask(args: &[&str]) -> io::Result<Option<String>> {
    let mut command = Command::new("getsubids");
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, .. } = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    Ok(Some(String::from_utf8_lossy(&stdout).into_owned()))
}
