//! The watch of our own node.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher::watch_object;
use tokio::sync::watch::Sender;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{BackOff, Shared};
use crate::cluster::call::innermost;

/// Publishes our node in each version that the API server shows, for ever. While it shows nothing,
/// the last version stays.
pub(super) async fn run(
    client: kube::Client,
    shared: Arc<Shared>,
    seen: Sender<Option<Arc<Node>>>,
) {
    let mut versions = pin!(watch_object(Api::<Node>::all(client), &shared.options.name));
    let mut back_off = BackOff::new();
    let mut is_away = false;
    // The stream mends itself and does not end.
    while let Some(version) = versions.next().await {
        match version {
            Ok(node) => {
                back_off = BackOff::new();
                is_away = false;
                seen.send_replace(node.map(|mut node| {
                    // Nobody reads it, and it is half of a node.
                    node.metadata.managed_fields = None;
                    Arc::new(node)
                }));
            }
            Err(error) => {
                let error = innermost(&error);
                if is_away {
                    debug!(error, "the watch of our node broke again");
                } else {
                    warn!(error, "the watch of our node broke");
                }
                is_away = true;
                sleep(back_off.next()).await;
            }
        }
    }
}
