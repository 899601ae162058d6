//! Ephemeral containers: those that people add to a pod that runs.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec, Volume};

use super::Errors;
use super::container::{Place, Scope, container};
use super::probe::OfPod;
use crate::ephemeral::as_container;

/// Upstream's words for what a container may have and an ephemeral one may not.
const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// Checks them all.
pub(super) fn ephemeral(
    errors: &mut Errors,
    spec: &PodSpec,
    volumes: &HashMap<&str, &Volume>,
    of_pod: OfPod,
) {
    let init = spec.init_containers.iter().flatten();
    let others: HashSet<&str> = init.chain(&spec.containers).map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    let host_network = spec.host_network == Some(true);
    let scope = Scope { volumes, host_network, place: Place::Ephemeral, of_pod };
    for (i, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = format!("spec.ephemeralContainers[{i}]");
        let common = as_container(one);
        container(errors, &path, &common, &scope, &mut HashSet::new());
        if !names.insert(one.name.as_str()) && !one.name.is_empty() {
            errors.duplicate(&format!("{path}.name"), &one.name);
        }
        let target = one.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&format!("{path}.targetContainerName"), target);
        }
        allowed(errors, &path, &common);
        sub_paths(errors, &path, one);
    }
}

/// Fields for fundamental services, which are no part of a pod's work here (upstream:
/// `allowedEphemeralContainerFields`).
fn allowed(errors: &mut Errors, path: &str, one: &Container) {
    let is_set = |list: Option<usize>| list.is_some_and(|length| length > 0);
    let resources = one.resources.as_ref();
    for (field, set) in [
        ("ports", is_set(one.ports.as_ref().map(Vec::len))),
        ("resources", resources.is_some_and(|own| *own != Default::default())),
        ("resizePolicy", is_set(one.resize_policy.as_ref().map(Vec::len))),
        ("restartPolicy", one.restart_policy.is_some()),
        ("restartPolicyRules", is_set(one.restart_policy_rules.as_ref().map(Vec::len))),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
        ("lifecycle", one.lifecycle.is_some()),
    ] {
        if set {
            errors.forbidden(&format!("{path}.{field}"), NOT_HERE);
        }
    }
}

fn sub_paths(errors: &mut Errors, path: &str, one: &EphemeralContainer) {
    for (i, mount) in one.volume_mounts.iter().flatten().enumerate() {
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)]
        {
            if value.as_deref().is_some_and(|value| !value.is_empty()) {
                errors.forbidden(&format!("{path}.volumeMounts[{i}].{field}"), NOT_HERE);
            }
        }
    }
}
