//! Room for a pod beside those that the node has (upstream `noderesources.Fits`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{NodeFacts, Rejection};
use crate::quantity::Quantity;
use crate::resources::{Amounts, pod_requests, requests_in_use};

/// The resource that a place for a pod is.
const PODS: &str = "pods";
/// Checked first and in this order; what else is asked for follows by name.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What a node has too little of for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    /// The resource.
    pub(super) name: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    /// How much would have to be given back (upstream `GetInsufficientAmount`).
    pub(super) fn amount(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }

    pub(super) fn rejection(&self) -> Rejection {
        let Self { name, requested, used, capacity } = self;
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        );
        Rejection::new(format!("OutOf{name}"), message)
    }
}

/// What the node has too little of for the pod, in upstream's order.
pub(super) fn shortages(pod: &Pod, node: &NodeFacts, others: &[&Arc<Pod>]) -> Vec<Shortage> {
    let mut found = Vec::new();
    let most = node.allocatable.get(PODS).map_or(0, Quantity::value);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count >= most {
        found.push(Shortage { name: PODS.into(), requested: 1, used: count, capacity: most });
    }
    let requests = counted(pod_requests(pod));
    // What the node does not know is the cluster's to give.
    let is_known = |name: &str| !is_extended(name) || node.allocatable.contains_key(name);
    // What others are still to give back is not there yet, while the pod is to have what it asks for.
    let others: Vec<Amounts> = others.iter().map(|pod| requests_in_use(pod)).collect();
    let first = FIRST.iter().filter_map(|name| requests.get_key_value(*name));
    let rest = requests.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, &requested) in first.chain(rest).filter(|(name, _)| is_known(name)) {
        let used = others.iter().filter_map(|amounts| amounts.get(name.as_str()));
        let used = used.fold(0_i64, |sum, amount| sum.saturating_add(units(name, amount)));
        let capacity = node.allocatable.get(name).map_or(0, |amount| units(name, amount));
        if requested > capacity.saturating_sub(used) {
            found.push(Shortage { name: name.clone(), requested, used, capacity });
        }
    }
    found
}

/// What a pod gives back of a resource when it goes: by its spec alone (upstream `GetResourceRequest`).
pub(super) fn given_back(pod: &Pod, name: &str) -> i64 {
    if name == PODS {
        return 1;
    }
    pod_requests(pod).get(name).map_or(0, |amount| units(name, amount))
}

/// Thousandths of cores, whole units of all else.
fn units(name: &str, amount: &Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// The requests above zero of resources that a node counts.
fn counted(requests: Amounts) -> BTreeMap<String, i64> {
    let is_counted = |name: &str| FIRST.contains(&name) || is_scalar(name);
    let amounts = requests.into_iter().filter(|(name, _)| is_counted(name));
    let amounts = amounts.map(|(name, amount)| {
        let units = units(&name, &amount);
        (name, units)
    });
    amounts.filter(|(_, units)| *units > 0).collect()
}

/// Upstream `IsScalarResourceName`.
fn is_scalar(name: &str) -> bool {
    is_extended(name)
        || name.contains("kubernetes.io/")
        || name.starts_with("hugepages-")
        || name.starts_with("attachable-volumes-")
}

/// A resource that somebody else's plug-in brings (upstream `IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}
