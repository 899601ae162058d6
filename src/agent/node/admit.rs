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

use crate::config::Config;
use crate::linux;

/// What decides about new pods.
pub(super) struct Admission {
    node: watch::Receiver<Option<Arc<Node>>>,
    /// What does not change while the node runs.
    fixed: NodeFacts,
}

impl Admission {
    /// Admission to the node whose object `node` shows.
    pub(super) fn new(config: &Config, node: watch::Receiver<Option<Arc<Node>>>) -> Self {
        let kernel = kernel_version(&uname().release().to_string_lossy());
        let sysctls = SysctlAllowList::new(kernel, &config.pods.unsafe_sysctls);
        let fixed = NodeFacts {
            name: config.node.name.clone(),
            os: "linux".into(),
            // Checked with the configuration.
            sysctls: sysctls.unwrap_or_default(),
            strict_groups: true,
            // Guests are jailed by our own profile, so that the runtime's default is kept.
            apparmor: linux::has_apparmor(),
            ..NodeFacts::default()
        };
        Self { node, fixed }
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
            features: status.declared_features.unwrap_or_default().into_iter().collect(),
            ..self.fixed.clone()
        }
    }
}

/// `6.18.2-amd64` is 6.18; what cannot be read is older than any.
fn kernel_version(release: &str) -> KernelVersion {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn kernels_are_told_apart_by_two_numbers() {
        for (release, version) in
            [("6.18.2-amd64", (6, 18)), ("5.4", (5, 4)), ("6-rc1", (6, 0)), ("odd", (0, 0))]
        {
            assert_eq!(kernel_version(release), version, "{release}");
        }
    }
}
