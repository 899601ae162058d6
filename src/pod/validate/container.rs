//! One container.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Volume};

use super::env::environment;
use super::mount::mounts;
use super::name::{check_name, dns_label, port_name};
use super::probe::{self, OfPod};
use super::{Errors, ids, resources, restart};

/// What a container is checked against.
pub(super) struct Scope<'a> {
    pub(super) volumes: &'a HashMap<&'a str, &'a Volume>,
    pub(super) host_network: bool,
    pub(super) place: Place,
    pub(super) of_pod: OfPod,
}

/// Which of a pod's lists a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Main,
    Init,
    Ephemeral,
}

/// Checks all of a container but that its name is its own; `host_ports` holds those taken by the
/// containers before.
pub(super) fn container(
    errors: &mut Errors,
    path: &str,
    one: &Container,
    scope: &Scope<'_>,
    host_ports: &mut HashSet<String>,
) {
    check_name(errors, &format!("{path}.name"), &one.name, dns_label);
    let image = one.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        let text = "must not have leading or trailing whitespace";
        errors.invalid(&format!("{path}.image"), image, text);
    }
    let policy = one.image_pull_policy.as_deref();
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(&format!("{path}.imagePullPolicy"), policy, &policies);
    let policy = one.termination_message_policy.as_deref();
    let policies = ["FallbackToLogsOnError", "File"];
    errors.one_of(&format!("{path}.terminationMessagePolicy"), policy, &policies);
    ports(errors, path, one, scope, host_ports);
    environment(errors, path, one, scope);
    mounts(errors, path, one, scope);
    if let Some(needs) = &one.resources {
        resources::of_container(errors, &format!("{path}.resources"), needs);
    }
    if let Some(context) = &one.security_context {
        let path = format!("{path}.securityContext");
        ids(errors, &path, context.run_as_user, context.run_as_group);
    }
    match scope.place {
        Place::Main | Place::Init => restart::of_container(errors, path, one),
        // It may have none at all.
        Place::Ephemeral => {}
    }
    let is_sidecar = one.restart_policy.as_deref() == Some("Always");
    match scope.place {
        Place::Init if !is_sidecar => no_probes(errors, path, one),
        Place::Main | Place::Init => probe::of_container(errors, path, one, scope.of_pod),
        // It may have none at all.
        Place::Ephemeral => {}
    }
}

/// One that runs to its end has neither hooks nor probes.
fn no_probes(errors: &mut Errors, path: &str, one: &Container) {
    for (field, set) in [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ] {
        if set {
            let text = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&format!("{path}.{field}"), text);
        }
    }
}

fn ports(
    errors: &mut Errors,
    path: &str,
    one: &Container,
    scope: &Scope<'_>,
    host_ports: &mut HashSet<String>,
) {
    let mut names = HashSet::new();
    for (i, port) in one.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let at = format!("{path}.name");
            errors.check(&at, name, port_name);
            if !names.insert(name) {
                errors.duplicate(&at, name);
            }
        }
        port_numbers(errors, &path, port, scope);
        let protocols = ["SCTP", "TCP", "UDP"];
        errors.one_of(&format!("{path}.protocol"), port.protocol.as_deref(), &protocols);
        let host_port = port.host_port.unwrap_or(0);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let taken = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
        if host_port != 0 && !host_ports.insert(taken.clone()) {
            errors.duplicate(&format!("{path}.hostPort"), &taken);
        }
    }
}

fn port_numbers(errors: &mut Errors, path: &str, port: &ContainerPort, scope: &Scope<'_>) {
    let at = format!("{path}.containerPort");
    let host_port = port.host_port.unwrap_or(0);
    if port.container_port == 0 {
        errors.required(&at, "");
    } else {
        errors.in_range(&at, port.container_port.into(), 1, 65535);
    }
    if host_port != 0 {
        errors.in_range(&format!("{path}.hostPort"), host_port.into(), 1, 65535);
        if scope.host_network && host_port != port.container_port {
            let text = "must match `hostPort` when `hostNetwork` is true";
            errors.add(&at, format!("Invalid value: {}: {text}", port.container_port));
        }
    }
}
