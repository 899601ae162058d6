//! Whether this node takes a pod: the facts that [`copepod_pod::admit`] goes by.

use std::sync::Arc;

use copepod_pod::admission::{
    Admitted, KernelVersion, NodeFacts, Rejection, SysctlAllowList, admit,
};
use copepod_pod::quantity::Quantity;
use copepod_pod::{Decision, Request, decide};
use k8s_openapi::api::core::v1::{Node, Pod};
use rustix::system::uname;
use tokio::sync::watch;

use super::allocation::FEATURES;
use crate::config::Config;
use crate::linux;
use crate::runtime::cri::Health;

/// What decides about new pods.
pub(super) struct Admission {
    node: watch::Receiver<Option<Arc<Node>>>,
    /// What the container runtime says of itself, where there is one.
    health: Option<watch::Receiver<Health>>,
    /// What does not change while the node runs.
    fixed: NodeFacts,
}

impl Admission {
    /// Admission to the node whose object `node` shows, and whose container runtime `health`.
    pub(super) fn new(
        config: &Config,
        node: watch::Receiver<Option<Arc<Node>>>,
        health: Option<watch::Receiver<Health>>,
    ) -> Self {
        let kernel = kernel_version(&uname().release().to_string_lossy());
        let sysctls = SysctlAllowList::new(kernel, &config.pods.unsafe_sysctls);
        let fixed = NodeFacts {
            name: config.node.name.clone(),
            os: "linux".into(),
            // Checked with the configuration.
            sysctls: sysctls.unwrap_or_default(),
            // As this agent declares them, whatever an earlier one has left in the object.
            features: FEATURES.map(str::to_owned).into(),
            // Guests are jailed by our own profile, so that the runtime's default is kept.
            apparmor: linux::has_apparmor(),
            ..NodeFacts::default()
        };
        Self { node, health, fixed }
    }

    /// Takes the pod or refuses it; `active` are the others that are here and have not ended.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn admit(&self, pod: &Pod, active: &[Arc<Pod>]) -> Result<Admitted, Rejection> {
        let Some(node) = self.node.borrow().clone() else { return Err(Rejection::no_node()) };
        self.admit_to(&node, pod, active)
    }

    /// The same by an object of the node that was just asked for.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn admit_to(
        &self,
        node: &Node,
        pod: &Pod,
        active: &[Arc<Pod>],
    ) -> Result<Admitted, Rejection> {
        admit(pod, &self.facts(node), active)
    }

    /// Decides on what a pod asks for beyond its allocation; `active` as for [`Admission::admit`].
    pub(super) fn decide(&self, request: &Request, active: &[Arc<Pod>]) -> Decision {
        let Some(node) = self.node.borrow().clone() else {
            let Rejection { reason, message } = Rejection::no_node();
            return Decision::Pending { reason, message };
        };
        decide(&request.desired, &request.allocation, &self.facts(&node), active)
    }

    fn facts(&self, node: &Node) -> NodeFacts {
        let status = node.status.clone().unwrap_or_default();
        let allocatable = status.allocatable.unwrap_or_default().into_iter();
        NodeFacts {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.clone().unwrap_or_default().taints.unwrap_or_default(),
            allocatable: allocatable
                .filter_map(|(name, text)| Some((name, Quantity::parse(&text.0).ok()?)))
                .collect(),
            strict_groups: self.has_strict_groups(),
            ..self.fixed.clone()
        }
    }

    /// Whether containers have exactly the groups of their pod's spec: guests have, ordinary ones where
    /// their runtime says so; one that was never heard is taken at no word.
    fn has_strict_groups(&self) -> bool {
        self.health.as_ref().is_none_or(|health| {
            let health = health.borrow();
            health.version.is_empty() || health.supplemental_groups_policy
        })
    }
}

/// `6.18.2-amd64` is 6.18; what cannot be read is older than any.
fn kernel_version(release: &str) -> KernelVersion {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn admission(health: Option<watch::Receiver<Health>>) -> Admission {
        let fixed =
            NodeFacts { features: FEATURES.map(str::to_owned).into(), ..NodeFacts::default() };
        Admission { node: watch::channel(None).1, health, fixed }
    }

    #[test]
    fn the_node_is_what_its_object_says_but_for_what_this_agent_can_do() {
        let node = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "2", "odd": "x"}, "declaredFeatures": ["Old"],
                "features": {"supplementalGroupsPolicy": false}},
        });
        let node: Node = serde_json::from_value(node).expect("a node");
        let facts = admission(None).facts(&node);
        assert_eq!(facts.labels.get("a").map(String::as_str), Some("b"));
        assert_eq!((facts.taints[0].key.as_str(), facts.taints.len()), ("k", 1));
        assert_eq!(facts.allocatable.get("cpu").map(Quantity::value), Some(2));
        assert_eq!(facts.allocatable.len(), 1);
        assert_eq!(facts.features, FEATURES.map(str::to_owned).into());
        assert!(facts.strict_groups, "guests have them");
    }

    #[test]
    fn groups_are_strict_where_the_runtime_says_so() {
        let (told, health) = watch::channel(Health::default());
        let (admission, node) = (admission(Some(health)), Node::default());
        assert!(admission.facts(&node).strict_groups, "nothing is known yet");
        let version = "containerd://2.0".to_owned();
        told.send_replace(Health { version, asked: true, ..Health::default() });
        assert!(!admission.facts(&node).strict_groups);
        told.send_modify(|health| health.supplemental_groups_policy = true);
        assert!(admission.facts(&node).strict_groups);
    }

    #[test]
    fn kernels_are_told_apart_by_two_numbers() {
        for (release, version) in
            [("6.18.2-amd64", (6, 18)), ("5.4", (5, 4)), ("6-rc1", (6, 0)), ("odd", (0, 0))]
        {
            assert_eq!(kernel_version(release), version, "{release}");
        }
    }
}
