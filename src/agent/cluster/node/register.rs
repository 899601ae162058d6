//! The registration of our node, with the API server's answers read as upstream reads them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::sleep;
use tracing::{info, warn};

use super::object::{Facts, initial, reconciled};
use super::{BackOff, LIMIT, Shared, patch};
use crate::cluster::call::{CallError, call, now};
use crate::telemetry::chain;

/// Registers our node, however long it takes; gives it as the API server has it then.
pub(super) async fn register(api: &Api<Node>, shared: &Arc<Shared>, facts: &Facts) -> Node {
    let mut back_off = BackOff::new();
    let name = &shared.options.name;
    loop {
        let inputs = shared.inputs();
        let wanted = initial(&shared.options, facts, &inputs, &now());
        if let Some(error) = &wanted.address_error {
            warn!(node = name, error = chain(error), "the node has no address to report");
        }
        match try_register(api, &wanted.node).await {
            Ok(node) => {
                info!(node = name, "the node is registered");
                // Of a new node, since there was none of it to compare with.
                wanted.events.into_iter().for_each(|event| shared.say(event));
                return node;
            }
            Err(error) => {
                warn!(node = name, error = chain(&error), "the node is not registered yet");
                let asked = error.retry_after().unwrap_or_default().min(super::BACK_OFF_MAX);
                sleep(back_off.next().max(asked)).await;
            }
        }
    }
}

async fn try_register(api: &Api<Node>, wanted: &Node) -> Result<Node, CallError> {
    match call(LIMIT, api.create(&PostParams::default(), wanted)).await {
        Ok(node) => return Ok(node),
        // Of that name there is one; or we may not make any, which does not mean that there is none.
        Err(error) if error.is_already_exists() || error.is_forbidden() => {}
        Err(error) => return Err(error),
    }
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    let existing = call(LIMIT, api.get(name)).await?;
    write(api, &existing, &reconciled(wanted, &existing)).await.map(|node| node.unwrap_or(existing))
}

/// Writes what differs, as a strategic merge patch of the status; `None` where nothing does.
pub(super) async fn write(
    api: &Api<Node>,
    old: &Node,
    new: &Node,
) -> Result<Option<Node>, CallError> {
    let Some(patch) = patch::between(old, new).map_err(CallError::Json)? else { return Ok(None) };
    let name = old.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams::default();
    call(LIMIT, api.patch_status(name, &params, &Patch::Strategic(patch))).await.map(Some)
}
