//! Who goes for a critical pod (upstream `pkg/kubelet/preemption`): as few pods as can be, of these
//! those that ask for least, BestEffort before Burstable before Guaranteed.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::resources::{Shortage, given_back};
use super::{Rejection, class, is_critical};
use crate::{Failure, qos};

/// The reason of the event and of the status of a pod that goes for another.
pub const PREEMPTING: &str = "Preempting";
/// What its `DisruptionTarget` says.
pub const PREEMPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// What the event and the status say.
const MESSAGE: &str = "Preempted in order to admit critical pod";

/// How a pod that goes for another ends: the reason and message of its event and its status.
#[must_use]
pub fn preempted() -> Failure {
    Failure { reason: PREEMPTING.to_owned(), message: MESSAGE.to_owned() }
}

/// The pods that have to go so that nothing is short for a critical pod.
pub(super) fn victims(
    pod: &Pod,
    others: &[&Arc<Pod>],
    short: &[Shortage],
) -> Result<Vec<Arc<Pod>>, Rejection> {
    let needs = Needs(short.iter().map(|one| (one.name.clone(), one.amount())).collect());
    let of_class = |name: &str| -> Vec<&Arc<Pod>> {
        let preemptable = others.iter().copied().filter(|other| may_preempt(pod, other));
        preemptable.filter(|other| class(other) == name).collect()
    };
    let [best_effort, burstable, guaranteed] =
        [qos::BEST_EFFORT, qos::BURSTABLE, qos::GUARANTEED].map(of_class);
    let without = |sets: &[&[&Arc<Pod>]]| needs.without(sets.iter().copied().flatten().copied());
    // Checked for all at once first, as upstream words it.
    let left = without(&[&best_effort, &burstable, &guaranteed]);
    if !left.0.is_empty() {
        return Err(nobody(&left));
    }
    let of_guaranteed = nearest(&guaranteed, without(&[&best_effort, &burstable]))?;
    let of_burstable = nearest(&burstable, without(&[&best_effort, &of_guaranteed]))?;
    let of_best_effort = nearest(&best_effort, without(&[&of_burstable, &of_guaranteed]))?;
    let all = [of_best_effort, of_burstable, of_guaranteed].concat();
    Ok(all.into_iter().map(Arc::clone).collect())
}

fn nobody(needs: &Needs) -> Rejection {
    let list: String =
        needs.0.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    let message = format!(
        "Unexpected error while attempting to recover from admission failure: preemption: error \
         finding a set of pods to preempt: no set of running pods found to reclaim resources: \
         [{list}]"
    );
    Rejection::new("UnexpectedAdmissionError", message)
}

/// Upstream `Preemptable`.
fn may_preempt(pod: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    is_critical(pod) && !is_critical(other)
        || priority(pod).zip(priority(other)).is_some_and(|(own, other)| own > other)
}

/// What is short, by resource.
#[derive(Clone, Debug)]
struct Needs(Vec<(String, i64)>);

impl Needs {
    /// What would still be short without these pods.
    fn without<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Needs {
        let pods: Vec<_> = pods.collect();
        let left = self.0.iter().map(|(name, amount)| {
            let back = |pod: &&Arc<Pod>| given_back(pod, name);
            (name.clone(), pods.iter().map(back).fold(*amount, i64::saturating_sub))
        });
        Needs(left.filter(|(_, amount)| *amount > 0).collect())
    }

    /// How much a pod leaves open, each resource weighing the same.
    #[expect(clippy::cast_precision_loss, reason = "upstream reckons so too")]
    fn distance(&self, pod: &Pod) -> f64 {
        let part = |(name, amount): &(String, i64)| {
            let left = amount.saturating_sub(given_back(pod, name)).max(0);
            (left as f64 / *amount as f64).powi(2)
        };
        self.0.iter().map(part).sum()
    }
}

/// Pods that leave nothing short, the nearest to what is left first (upstream
/// `getPodsToPreemptByDistance`).
fn nearest<'a>(pods: &[&'a Arc<Pod>], mut needs: Needs) -> Result<Vec<&'a Arc<Pod>>, Rejection> {
    let (mut pods, mut chosen) = (pods.to_vec(), Vec::new());
    while !needs.0.is_empty() {
        let mut best: Option<(usize, f64)> = None;
        for (index, pod) in pods.iter().enumerate() {
            let distance = needs.distance(pod);
            let is_better = best.is_none_or(|(at, least)| {
                distance < least || distance <= least && asks_for_less(pod, pods[at])
            });
            if is_better {
                best = Some((index, distance));
            }
        }
        let Some((index, _)) = best else { return Err(nobody(&needs)) };
        let pod = pods.swap_remove(index);
        needs = needs.without(std::iter::once(pod));
        chosen.push(pod);
    }
    Ok(chosen)
}

/// Upstream `smallerResourceRequest`: of two that ask for the same, the later one.
fn asks_for_less(pod: &Pod, than: &Pod) -> bool {
    let of = |pod: &Pod| ["memory", "cpu"].map(|name| given_back(pod, name));
    of(pod) <= of(than)
}

#[cfg(test)]
#[path = "preempt_test.rs"]
mod tests;
