//! Features that a pod needs and that not every node has (upstream
//! `k8s.io/component-helpers/nodedeclaredfeatures`).

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{NodeFacts, Rejection};

/// All containers of a pod start anew when one of them ends by a rule.
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// User namespaces of pods on the host's network.
const HOST_NETWORK_USERS: &str = "UserNamespacesHostNetworkSupport";

/// Refuses a pod that needs what the node has not declared.
pub(super) fn check(spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let restarts_all = |container: &Container| {
        let mut rules = container.restart_policy_rules.iter().flatten();
        rules.any(|rule| rule.action == "RestartAllContainers")
    };
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let needs = [
        (RESTART_ALL, all.any(restarts_all)),
        (HOST_NETWORK_USERS, spec.host_network == Some(true) && spec.host_users == Some(false)),
    ];
    let missing = needs.iter().filter(|(name, needed)| *needed && !node.features.contains(*name));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let message = format!("Pod requires node features that are not available: {missing}");
    Err(Rejection::new("PodFeatureUnsupported", message))
}
