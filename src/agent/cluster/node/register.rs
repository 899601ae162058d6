//! The registration of our node, with the API server's answers read as upstream reads them.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};

use super::object::reconciled;
use super::{LIMIT, patch};
use crate::cluster::call::{CallError, call};

/// Registers our node `wanted`, new or there before; gives it as the API server has it then.
pub(super) async fn register(api: &Api<Node>, wanted: &Node) -> Result<Node, CallError> {
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
