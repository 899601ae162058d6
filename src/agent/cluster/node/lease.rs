//! The node's lease, which says that the node lives.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch::Receiver;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{BackOff, JITTER, LIMIT, Shared, known};
use crate::cluster::call::{CallError, call};
use crate::cluster::spread;
use crate::telemetry::chain;

/// Where all nodes' leases are.
const NAMESPACE: &str = "kube-node-lease";
/// How often one renewal is tried at once (`maxUpdateRetries`).
const TRIES: u32 = 5;
/// The part of its duration after which a lease is renewed (`nodeLeaseRenewIntervalFraction`).
const RENEW_AFTER: f64 = 0.25;

/// The task.
struct Keeper {
    api: Api<Lease>,
    shared: Arc<Shared>,
    node: Receiver<Option<Arc<Node>>>,
    /// The lease as our last request left it.
    last: Option<Lease>,
}

/// Renews the lease for ever.
pub(super) async fn run(
    client: kube::Client,
    shared: Arc<Shared>,
    node: Receiver<Option<Arc<Node>>>,
) {
    let duration = Duration::from_secs(shared.options.lease_seconds.into());
    let api = Api::namespaced(client, NAMESPACE);
    let mut keeper = Keeper { api, shared, node, last: None };
    let mut back_off = BackOff::new();
    let mut is_failing = false;
    loop {
        let renewed = keeper.renew().await;
        let pause = match renewed {
            Ok(()) => {
                if is_failing {
                    info!("the node's lease is renewed again");
                    keeper.shared.recorder.api_answers();
                }
                is_failing = false;
                back_off = BackOff::new();
                duration.mul_f64(RENEW_AFTER * (1.0 + JITTER * spread()))
            }
            Err(error) => {
                if is_failing {
                    debug!(error = chain(&error), "the node's lease is not renewed");
                } else {
                    warn!(error = chain(&error), "the node's lease is not renewed");
                }
                is_failing = true;
                back_off.next()
            }
        };
        sleep(pause).await;
    }
}

impl Keeper {
    /// Writes the lease with the time of now, made anew if there is none.
    async fn renew(&mut self) -> Result<(), CallError> {
        let mut result = Ok(());
        for _ in 0..TRIES {
            let error = match self.try_renew().await {
                Ok(lease) => {
                    self.last = Some(lease);
                    return Ok(());
                }
                Err(error) => error,
            };
            // Somebody else has written or removed it: what we know of it is no longer so.
            let is_other = error.is_conflict() || error.is_not_found() || error.is_already_exists();
            self.last = self.last.take().filter(|_| !is_other);
            let is_passing = error.is_passing();
            result = Err(error);
            if is_passing {
                break;
            }
        }
        result
    }

    async fn try_renew(&mut self) -> Result<Lease, CallError> {
        let name = &self.shared.options.name;
        let last = match self.last.clone() {
            Some(lease) => Some(lease),
            None => call(LIMIT, self.api.get_opt(name)).await?,
        };
        let params = PostParams::default();
        let Some(lease) = last else {
            // It is removed with its owner, so there is none without.
            let node = known(&mut self.node).await;
            let uid = node.metadata.uid.as_deref();
            let lease = renewed(Lease::default(), &self.shared, uid, Timestamp::now());
            return call(LIMIT, self.api.create(&params, &lease)).await;
        };
        let uid = self.node.borrow().as_ref().and_then(|node| node.metadata.uid.clone());
        let lease = renewed(lease, &self.shared, uid.as_deref(), Timestamp::now());
        call(LIMIT, self.api.replace(name, &params, &lease)).await
    }
}

/// `lease` as it should be now; its owner is the node of this `uid`, and stays where that is not
/// known.
fn renewed(lease: Lease, shared: &Shared, uid: Option<&str>, now: Timestamp) -> Lease {
    let options = &shared.options;
    let owner = uid.map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: options.name.clone(),
        uid: uid.into(),
        ..OwnerReference::default()
    });
    let seconds = i32::try_from(options.lease_seconds).unwrap_or(i32::MAX);
    Lease {
        metadata: ObjectMeta {
            name: Some(options.name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]).or(lease.metadata.owner_references),
            ..lease.metadata
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(options.name.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(now)),
            ..lease.spec.unwrap_or_default()
        }),
    }
}
