//! Our node as pods are to see it: as the API server has it, or, where that does not answer and there
//! are static pods, as it would be registered.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cluster::node::NodeHandle;

/// How often a node that nobody has registered is looked at again: its link may have come up, and an
/// address with it.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Our node.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) node: Arc<Node>,
    /// The API server has it.
    pub(super) is_registered: bool,
}

/// Follows our node. Without a word of the API server within `patience` it is what is expected; with
/// none, it is waited for. Starts one task, which ends with the last receiver.
pub(super) fn follow(
    handle: NodeHandle,
    patience: Option<Duration>,
) -> watch::Receiver<Option<Standing>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut seen = handle.node();
        let (mut wait, mut is_registered) = (patience, false);
        loop {
            let node = seen.borrow_and_update().clone();
            if let Some(node) = node {
                is_registered = true;
                sender.send_replace(Some(Standing { node, is_registered }));
            }
            let late = async {
                match wait.filter(|_| !is_registered) {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sender.closed() => return,
                // It ends with the event loop.
                changed = seen.changed() => if changed.is_err() { return },
                () = late => {
                    let node = handle.expected().await;
                    sender.send_replace(Some(Standing { node, is_registered: false }));
                    wait = Some(LOOK_EVERY);
                }
            }
        }
    });
    receiver
}

/// The first word.
pub(super) async fn first(standing: &mut watch::Receiver<Option<Standing>>) -> Standing {
    loop {
        if let Some(standing) = standing.borrow_and_update().clone() {
            return standing;
        }
        if standing.changed().await.is_err() {
            // It ends with the event loop.
            std::future::pending::<()>().await;
        }
    }
}
