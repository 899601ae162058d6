//! Whether a resize is allocated now, and whose turn it is.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Allocation;
use crate::admission::{NodeFacts, admit};
use crate::qos::{GUARANTEED, qos_class};
use crate::quantity::Quantity;
use crate::resources::pod_requests;

/// What becomes of a resize.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing is asked for that is not allocated.
    None,
    /// It is allocated, once these pods have ended: a critical pod has no room beside them.
    Allocated {
        /// They end as [`preempted`](crate::admission::preempted) says.
        preempts: Vec<Arc<Pod>>,
    },
    /// It is not allocated now.
    Pending {
        /// Why: a reason of admission.
        reason: String,
        /// For people.
        message: String,
    },
}

/// Decides on what a pod asks for beyond what is allocated to it (upstream
/// `handlePodResourcesResize`). `active` are the node's pods as for [`admit`]. With CPUs and memory
/// that no pod has for itself, and no swap for pods, nothing is infeasible.
#[must_use]
pub fn decide(
    desired: &Pod,
    allocation: &Allocation,
    node: &NodeFacts,
    active: &[Arc<Pod>],
) -> Decision {
    if allocation.is_of(desired) {
        return Decision::None;
    }
    match admit(desired, node, active) {
        Ok(admitted) => Decision::Allocated { preempts: admitted.preempts },
        Err(why) => Decision::Pending { reason: why.reason, message: why.message },
    }
}

/// A resize that waits.
#[derive(Clone, Debug)]
pub struct Request {
    /// The pod with what it asks for.
    pub desired: Arc<Pod>,
    /// What it has.
    pub allocation: Allocation,
    /// Since when it is known to wait.
    pub since: Option<Timestamp>,
}

/// Which of two is decided on first (upstream `sortPendingResizes`): one that asks for no more than
/// it has, the higher priority, Guaranteed pods, the one that has waited longest.
#[must_use]
pub fn first(one: &Request, other: &Request) -> Ordering {
    let priority = |of: &Request| of.desired.spec.as_ref().and_then(|spec| spec.priority);
    let is_guaranteed = |of: &Request| qos_class(&of.desired) == GUARANTEED;
    let since = |of: &Request| (of.since.is_none(), of.since);
    is_rising(one)
        .cmp(&is_rising(other))
        .then_with(|| priority(other).unwrap_or(0).cmp(&priority(one).unwrap_or(0)))
        .then_with(|| is_guaranteed(other).cmp(&is_guaranteed(one)))
        .then_with(|| since(one).cmp(&since(other)))
}

/// Whether more cpu or memory is asked for (upstream `isResizeIncreasingRequests`).
fn is_rising(request: &Request) -> bool {
    let wanted = pod_requests(&request.desired);
    let held = pod_requests(&request.allocation.apply(&request.desired));
    let zero = Quantity::milli(0);
    ["cpu", "memory"].iter().any(|name| {
        let of = |amounts: &crate::resources::Amounts| amounts.get(*name).copied().unwrap_or(zero);
        of(&wanted) > of(&held)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn node() -> NodeFacts {
        let amount = |(name, text): (&str, &str)| (name.to_owned(), text.parse().unwrap());
        let allocatable = [("cpu", "1"), ("pods", "5")].map(amount).into();
        NodeFacts { os: "linux".into(), allocatable, ..NodeFacts::default() }
    }

    #[test]
    fn what_fits_beside_the_others_is_allocated() {
        let others = [pod("a", "100m", 0), pod("b", "500m", 0)];
        let allocation = Allocation::of(&others[0]);
        let decided = |cpu: &str| decide(&pod("a", cpu, 0), &allocation, &node(), &others);
        assert_eq!(decided("0.1"), Decision::None);
        assert_eq!(decided("500m"), Decision::Allocated { preempts: Vec::new() });
        assert_eq!(
            decided("501m"),
            Decision::Pending {
                reason: "OutOfcpu".into(),
                message: "Node didn't have enough resource: cpu, requested: 501, used: 500, \
                          capacity: 1000"
                    .into()
            }
        );
        let critical = decide(&pod("a", "600m", 2_000_000_000), &allocation, &node(), &others);
        assert_eq!(critical, Decision::Allocated { preempts: vec![Arc::clone(&others[1])] });
    }

    #[test]
    fn those_that_ask_for_less_come_first_then_the_important_then_the_patient() {
        let request =
            |name: &str, (from, to): (&str, &str), priority, since: Option<i64>| Request {
                desired: pod(name, to, priority),
                allocation: Allocation::of(&pod(name, from, priority)),
                since: since.map(|second| Timestamp::from_second(second).unwrap()),
            };
        let more = ("1", "2");
        let mut guaranteed = request("guaranteed", more, 0, Some(9));
        let mut spec = guaranteed.desired.spec.clone().unwrap();
        let all = json!({"cpu": "2", "memory": "1Gi"});
        let all = json!({"requests": all, "limits": all});
        spec.containers[0].resources = serde_json::from_value(all).unwrap();
        guaranteed.desired = Arc::new(Pod { spec: Some(spec), ..(*guaranteed.desired).clone() });
        let mut all = [
            request("new", more, 0, None),
            request("late", more, 0, Some(5)),
            request("early", more, 0, Some(2)),
            guaranteed,
            request("high", more, 7, Some(8)),
            request("less", ("2", "1"), 0, Some(9)),
        ];
        all.sort_by(first);
        let names: Vec<_> = all.iter().filter_map(|r| r.desired.metadata.name.clone()).collect();
        assert_eq!(names, ["less", "high", "guaranteed", "early", "late", "new"]);
    }
}
