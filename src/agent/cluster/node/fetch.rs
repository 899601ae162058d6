//! Our node as the API server has it at this moment.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::time::timeout;

/// How long an answer is waited for: somebody's pod is, for as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for the node of this name, past what is watched; none where there is no answer in time.
pub(crate) async fn fetch(client: kube::Client, name: &str) -> Option<Node> {
    let api: Api<Node> = Api::all(client);
    match timeout(PATIENCE, api.get(name)).await {
        Ok(Ok(node)) => Some(node),
        Ok(Err(error)) => {
            tracing::info!(node = name, %error, "cannot ask for the node");
            None
        }
        Err(_) => {
            tracing::info!(node = name, "the node was asked for without an answer");
            None
        }
    }
}
