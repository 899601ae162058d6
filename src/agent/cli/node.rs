//! `copepod node`: a node of a cluster.

use anyhow::{Result, anyhow};

use super::{note, run};
use crate::config::{Config, NodeFlags};
use crate::{node, telemetry};

/// Be a node of a cluster: register with its API server and run the pods that are bound here.
///
/// Takes a kubelet's flags and its configuration file. Containers go on when it ends, and are taken
/// over when it is started again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    flags: NodeFlags,
}

/// Runs the command.
///
/// # Errors
/// All that is wrong in flags and configuration at once, or what keeps the node from starting.
pub(super) async fn run(args: Args) -> Result<u8> {
    let (config, warnings) = match Config::load(&args.flags) {
        Ok(loaded) => loaded,
        Err(errors) => return Err(anyhow!("{errors}")),
    };
    telemetry::init(Some(config.verbosity));
    for warning in warnings {
        note(&warning.to_string());
    }
    let sandbox = run::sandbox(config.sandbox.clone())?;
    node::run(config, sandbox).await?;
    Ok(0)
}
