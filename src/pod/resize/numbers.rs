//! What a container or a pod has, in numbers that compare.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::resources::{Amounts, amounts, pod_cgroup_amounts};

/// What a running container was made or last resized with (upstream `resourceRequirements`); zero
/// is none. A limit that the container has not is that of its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actuated {
    /// Thousandths of cores.
    pub cpu_request: i64,
    /// Thousandths of cores.
    pub cpu_limit: i64,
    /// Bytes.
    pub memory_request: i64,
    /// Bytes.
    pub memory_limit: i64,
}

/// The names of [`Actuated`]'s fields, as they are kept.
const FIELDS: [&str; 4] = ["cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit"];

impl Actuated {
    /// What a container of the pod is to have.
    #[must_use]
    pub fn of(pod: &Pod, container: &Container) -> Self {
        let list = |of: Option<&ResourceRequirements>, limits: bool| -> Amounts {
            amounts(
                of.and_then(|of| if limits { of.limits.as_ref() } else { of.requests.as_ref() }),
            )
        };
        let own = container.resources.as_ref();
        let of_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let (requests, limits, pod_limits) =
            (list(own, false), list(own, true), list(of_pod, true));
        let limit = |name: &str| limits.get(name).or_else(|| pod_limits.get(name));
        Self {
            cpu_request: requests.get("cpu").map_or(0, Quantity::milli_value),
            cpu_limit: limit("cpu").map_or(0, Quantity::milli_value),
            memory_request: requests.get("memory").map_or(0, Quantity::value),
            memory_limit: limit("memory").map_or(0, Quantity::value),
        }
    }

    /// What the pod's own group is to have: no request of memory, which a group has not.
    pub(super) fn of_pod(pod: &Pod) -> Self {
        let (cpu_request, cpu_limit, memory_limit) = pod_cgroup_amounts(pod);
        Self { cpu_request, cpu_limit, memory_request: 0, memory_limit }
    }

    fn fields(self) -> [i64; 4] {
        [self.cpu_request, self.cpu_limit, self.memory_request, self.memory_limit]
    }

    /// As it is kept.
    #[must_use]
    pub fn to_json(self) -> Value {
        FIELDS.into_iter().zip(self.fields()).map(|(name, value)| (name, json!(value))).collect()
    }

    /// What [`Actuated::to_json`] gave; `None` for anything else.
    #[must_use]
    pub fn from_json(kept: &Value) -> Option<Self> {
        let [a, b, c, d] = FIELDS.map(|name| kept.get(name).and_then(Value::as_i64));
        let (cpu_request, cpu_limit, memory_request, memory_limit) = (a?, b?, c?, d?);
        Some(Self { cpu_request, cpu_limit, memory_request, memory_limit })
    }

    /// Whether a resize to `other` changes one of the resource's two numbers.
    pub(super) fn differs_in(self, other: Self, resource: &str) -> bool {
        match resource {
            "cpu" => (self.cpu_request, self.cpu_limit) != (other.cpu_request, other.cpu_limit),
            _ => {
                (self.memory_request, self.memory_limit)
                    != (other.memory_request, other.memory_limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_the_container_and_where_it_has_none_of_its_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": {"cpu": "2", "memory": "2Gi"}},
            "containers": [{"name": "c", "resources": {
                "requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}],
        }}))
        .unwrap();
        let actuated = Actuated::of(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        let expected = Actuated {
            cpu_request: 100,
            cpu_limit: 2000,
            memory_request: 0,
            memory_limit: 1 << 30,
        };
        assert_eq!(actuated, expected);
        assert_eq!(Actuated::from_json(&actuated.to_json()), Some(expected));
        assert_eq!(Actuated::from_json(&json!({"cpuLimit": 1})), None);
        let more = Actuated { cpu_limit: 2001, ..expected };
        assert!(more.differs_in(expected, "cpu") && !more.differs_in(expected, "memory"));
        assert_eq!(Actuated::of_pod(&pod).memory_limit, 2 << 30);
    }
}
