//! A pod's quality of service class (upstream `pkg/apis/core/v1/helper/qos`, `ComputePodQOS`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use crate::quantity::Quantity;

/// Every counted resource has a limit equal to its request, in every container.
pub const GUARANTEED: &str = "Guaranteed";
/// Something is asked for, but not as in [`GUARANTEED`].
pub const BURSTABLE: &str = "Burstable";
/// Nothing is asked for and nothing limited.
pub const BEST_EFFORT: &str = "BestEffort";

/// The only resources that count.
const COUNTED: [&str; 2] = ["cpu", "memory"];

type Totals = BTreeMap<&'static str, Quantity>;

/// The class of a pod by its spec (defaults applied), as `status.qosClass` names it. The pod's own
/// `resources`, where given, decide alone. A quantity that does not parse counts as not given:
/// validation has refused it before.
#[must_use]
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return BEST_EFFORT };
    let (mut requests, mut limits) = (Totals::new(), Totals::new());
    let mut all_limited = true;
    let init = spec.init_containers.iter().flatten();
    let containers = spec.containers.iter().chain(init).map(|c| c.resources.as_ref());
    let own = spec.resources.as_ref();
    let sources: Vec<_> = if own.is_some() { vec![own] } else { containers.collect() };
    for resources in sources {
        add(&mut requests, resources.and_then(|r| r.requests.as_ref()));
        let limited = add(&mut limits, resources.and_then(|r| r.limits.as_ref()));
        all_limited &= limited == COUNTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        BEST_EFFORT
    } else if all_limited && requests == limits {
        GUARANTEED
    } else {
        BURSTABLE
    }
}

/// Adds what is above zero; gives how many of the counted resources were.
fn add(totals: &mut Totals, list: Option<&BTreeMap<String, Raw>>) -> usize {
    let mut found = 0;
    for name in COUNTED {
        let Some(Ok(quantity)) = list.and_then(|l| l.get(name)).map(|q| Quantity::parse(&q.0))
        else {
            continue;
        };
        if quantity.is_negative() || quantity.is_zero() {
            continue;
        }
        found += 1;
        totals.entry(name).and_modify(|sum| *sum = sum.plus(quantity)).or_insert(quantity);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn class(containers: Value, init: Value, own: Value) -> &'static str {
        let pod: Pod = serde_json::from_value(json!({
            "spec": { "containers": containers, "initContainers": init, "resources": own }
        }))
        .unwrap();
        qos_class(&pod)
    }

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let full = json!({"name": "a", "resources": {"limits": both, "requests": both}});
        let none = json!({"name": "b"});
        let cpu = json!({"name": "c", "resources": {"limits": {"cpu": "1"}}});
        let zero = json!({"name": "d", "resources": {"requests": {"cpu": "0"}}});
        let disk = json!({"name": "e", "resources": {"limits": {"ephemeral-storage": "1Gi"}}});
        let less = json!({"name": "f", "resources":
            {"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}});
        let same = json!({"name": "g", "resources":
            {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": both}});
        let nothing = Value::Null;
        for (containers, init, own, expected) in [
            (json!([full]), nothing.clone(), nothing.clone(), GUARANTEED),
            (json!([full, same]), json!([full]), nothing.clone(), GUARANTEED),
            (json!([full, none]), nothing.clone(), nothing.clone(), BURSTABLE),
            (json!([full]), json!([none]), nothing.clone(), BURSTABLE),
            (json!([less]), nothing.clone(), nothing.clone(), BURSTABLE),
            (json!([cpu]), nothing.clone(), nothing.clone(), BURSTABLE),
            (json!([none]), nothing.clone(), nothing.clone(), BEST_EFFORT),
            (json!([zero]), nothing.clone(), nothing.clone(), BEST_EFFORT),
            (json!([disk]), nothing.clone(), nothing.clone(), BEST_EFFORT),
            (json!([none]), nothing.clone(), json!({"limits": both, "requests": both}), GUARANTEED),
            (json!([full]), nothing.clone(), json!({"requests": {"cpu": "1"}}), BURSTABLE),
        ] {
            assert_eq!(
                class(containers.clone(), init, own.clone()),
                expected,
                "{containers} {own}"
            );
        }
        assert_eq!(qos_class(&Pod::default()), BEST_EFFORT);
    }
}
