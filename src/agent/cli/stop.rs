//! `copepod stop`: ends pods of running `copepod run`s.

use anyhow::{Result, bail};
use futures_util::future::join_all;
use hyper::Method;

use super::api::{self, Found, address};
use super::{find, note, print};

/// Stop pods, each within its grace period, and wait until they have ended.
///
/// A run whose pods have all ended ends too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    namespace: find::Namespace,
    /// The pods: POD, NAMESPACE/POD or the beginning of a uid
    #[arg(value_name = "POD", required_unless_present = "all", conflicts_with = "all")]
    pods: Vec<String>,
    /// Stop every pod
    #[arg(long)]
    all: bool,
    /// Seconds that each may take, instead of its terminationGracePeriodSeconds
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Stop at once
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
}

/// Runs the command.
///
/// # Errors
/// A pod that is not there, before anything is stopped; one that could not be stopped.
pub(super) async fn run(args: Args) -> Result<u8> {
    let runs = api::runs().await?;
    let namespace = args.namespace.namespace.as_deref();
    let pods = if args.all {
        let mut pods = find::all(&runs, namespace);
        pods.retain(|found| !found.has_ended());
        pods
    } else {
        let named = args.pods.iter().map(|name| find::one(&runs, name, namespace));
        named.collect::<Result<Vec<_>>>()?
    };
    if pods.is_empty() {
        bail!(find::nothing_runs(namespace));
    }
    let grace = if args.now { Some(0) } else { args.grace_period };
    let stopped = join_all(pods.iter().map(|found| stop(found, grace))).await;
    let mut code = 0;
    for (found, result) in pods.iter().zip(stopped) {
        match result {
            Ok(()) => drop(print(format!("pod/{} stopped\n", found.name()).as_bytes())?),
            Err(error) => {
                note(&format!("pod {:?}: {error:#}", found.name()));
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn stop(found: &Found<'_>, grace: Option<u32>) -> Result<()> {
    let mut url = address(&["pods", found.namespace(), found.name()])?;
    if let Some(seconds) = grace {
        url.query_pairs_mut().append_pair("gracePeriodSeconds", &seconds.to_string());
    }
    // Answered once it has ended.
    api::whole(found.run.ask(Method::DELETE, &url).await?).await?;
    Ok(())
}
