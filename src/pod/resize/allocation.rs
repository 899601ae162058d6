//! What is allocated to a pod, in the words of its spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;
use serde_json::{Value, json};

use crate::quantity::Quantity;

/// The resources of the pod as a whole and of each of its containers that can be resized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What the pod's spec asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let resources = |one: &Container| one.resources.clone().unwrap_or_default();
        Self {
            pod: spec.resources.clone(),
            containers: containers(spec).map(|one| (one.name.clone(), resources(one))).collect(),
        }
    }

    /// Whether that is what the pod's spec asks for, however it is written.
    #[must_use]
    pub fn is_of(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return true };
        let is_own = |one: &Container| {
            let allocated = self.containers.get(&one.name);
            allocated.is_none_or(|allocated| same(Some(allocated), one.resources.as_ref()))
        };
        same(self.pod.as_ref(), spec.resources.as_ref()) && containers(spec).all(is_own)
    }

    /// The pod with what is allocated to it in the place of what it asks for (upstream
    /// `UpdatePodFromAllocation`).
    #[must_use]
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.is_of(pod) {
            return Arc::clone(pod);
        }
        let mut pod = (**pod).clone();
        let spec = pod.spec.get_or_insert_default();
        spec.resources.clone_from(&self.pod);
        let inits = spec.init_containers.iter_mut().flatten();
        for container in inits.chain(&mut spec.containers) {
            if let Some(allocated) = self.containers.get(&container.name) {
                container.resources = Some(allocated.clone());
            }
        }
        Arc::new(pod)
    }

    /// As it is kept.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"pod": self.pod, "containers": self.containers})
    }

    /// What [`Allocation::to_json`] gave; `None` for anything else.
    #[must_use]
    pub fn from_json(mut kept: Value) -> Option<Self> {
        let pod = serde_json::from_value(kept.get_mut("pod")?.take()).ok()?;
        let containers = serde_json::from_value(kept.get_mut("containers")?.take()).ok()?;
        Some(Self { pod, containers })
    }
}

/// All that can be resized: main and init containers (upstream `IsResizableContainer`).
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Whether both say the same (upstream `apiequality.Semantic.DeepEqual`): none and empty are one,
/// quantities count by value.
fn same(one: Option<&ResourceRequirements>, other: Option<&ResourceRequirements>) -> bool {
    type List = Option<BTreeMap<String, Raw>>;
    let of = |list: Option<&List>| -> Vec<(String, Result<Quantity, String>)> {
        let entries = list.into_iter().flatten().flatten();
        let parsed = |text: &str| Quantity::parse(text).map_err(|_| text.to_owned());
        entries.map(|(name, raw)| (name.clone(), parsed(&raw.0))).collect()
    };
    let claims = |of: Option<&ResourceRequirements>| of.and_then(|of| of.claims.clone());
    of(one.map(|one| &one.limits)) == of(other.map(|other| &other.limits))
        && of(one.map(|one| &one.requests)) == of(other.map(|other| &other.requests))
        && claims(one).unwrap_or_default() == claims(other).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str) -> Arc<Pod> {
        let pod = json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}, {"name": "b"}],
            "initContainers": [{"name": "i", "resources": {"limits": {"memory": "1Gi"}}}],
            "resources": {"limits": {"cpu": cpu}},
        }});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_is_given_what_is_allocated_to_it() {
        let (small, large) = (pod("100m"), pod("200m"));
        let allocation = Allocation::of(&small);
        assert!(allocation.is_of(&pod("0.1")) && !allocation.is_of(&large));
        assert_eq!(Allocation::of(&allocation.apply(&large)), Allocation::of(&small));
        let same = pod("0.1");
        assert!(Arc::ptr_eq(&allocation.apply(&same), &same), "nothing to do");
        assert_eq!(Allocation::from_json(allocation.to_json()), Some(allocation));
        assert_eq!(Allocation::from_json(json!({})), None);
        assert!(Allocation::default().is_of(&Pod::default()));
    }
}
