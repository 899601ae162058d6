//! Taints and who tolerates them (upstream `Toleration.ToleratesTaint`, without the comparisons
//! `Lt` and `Gt`, whose gate is off in 1.36).

use k8s_openapi::api::core::v1::{PodSpec, Taint, Toleration};

use super::{NodeFacts, Rejection};

/// The only effect that concerns a pod that is on its node already.
const NO_EXECUTE: &str = "NoExecute";
/// What the control plane taints a node with that is short of memory.
const MEMORY_PRESSURE: (&str, &str) = ("node.kubernetes.io/memory-pressure", "NoSchedule");

/// Refuses a pod that would have to leave at once.
pub(super) fn check(spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let mut taints = node.taints.iter().filter(|taint| taint.effect == NO_EXECUTE);
    if taints.all(|taint| is_tolerated(spec, taint)) {
        return Ok(());
    }
    let why = "node(s) had taints that the pod didn't tolerate";
    Err(Rejection::predicate("TaintToleration", why))
}

/// The pod may run where memory is short.
pub(super) fn tolerates_memory_pressure(spec: &PodSpec) -> bool {
    let (key, effect) = MEMORY_PRESSURE;
    let taint = Taint { key: key.into(), effect: effect.into(), value: None, time_added: None };
    is_tolerated(spec, &taint)
}

fn is_tolerated(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_or_any = |given: &Option<String>, what: &str| {
        given.as_deref().is_none_or(|given| given.is_empty() || given == what)
    };
    let value = toleration.value.as_deref().unwrap_or_default();
    is_or_any(&toleration.effect, &taint.effect)
        && is_or_any(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => value == taint.value.as_deref().unwrap_or_default(),
            Some("Exists") => true,
            Some(_) => false,
        }
}
