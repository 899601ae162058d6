//! Is this a pod? Upstream's rules and texts (`pkg/apis/core/validation`, `ValidatePodCreate`) for
//! what a node acts on, and of what static pods bring without an API server's word for it; what only the
//! control plane reads (affinity, claims, ...) is not looked at. For pods with defaults applied.

mod container;
mod env;
mod ephemeral;
mod mount;
mod name;
mod network;
mod node;
mod object;
mod path;
mod probe;
mod projection;
mod resources;
mod restart;
mod selector;
mod volume;

use std::collections::HashSet;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use name::{Rule, check_name, dns_label};
pub use name::{dns_subdomain, label_value, qualified_name};
pub use object::{validate_config_map, validate_secret};
pub use volume::volume_sources;

/// Largest user and group id (upstream `IsValidUserID`).
const MAX_ID: i64 = i32::MAX as i64;

/// One thing wrong with one field; printed `PATH: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// The field, from the object's root: `spec.containers[1].name`.
    pub path: String,
    /// What is wrong: `Duplicate value: "a"`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All that is wrong with a pod, in the order of its fields; empty for a good one.
#[must_use]
pub fn validate(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    metadata(&mut errors, &pod.metadata);
    if pod.metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        errors.required("metadata.namespace", "");
    }
    match &pod.spec {
        None => errors.required("spec.containers", ""),
        Some(spec) => pod_spec(&mut errors, spec),
    }
    errors.0
}

/// Whether an object can have this name (`IsDNS1123Subdomain`).
pub(crate) fn is_subdomain(name: &str) -> bool {
    dns_subdomain(name).is_empty()
}

/// Name, namespace, labels and annotations of any object. One without a namespace is given the
/// default one by whoever reads it.
fn metadata(errors: &mut Errors, meta: &ObjectMeta) {
    match (meta.name.as_deref().unwrap_or_default(), &meta.generate_name) {
        ("", Some(_)) => {
            errors.required("metadata.name", "only an API server makes names from generateName");
        }
        ("", None) => errors.required("metadata.name", "name or generateName is required"),
        (name, _) => check_name(errors, "metadata.name", name, dns_subdomain),
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|name| !name.is_empty()) {
        errors.check("metadata.namespace", namespace, dns_label);
    }
    name::labels(errors, meta);
}

fn pod_spec(errors: &mut Errors, spec: &PodSpec) {
    let volumes = volume::volumes(errors, spec);
    if spec.containers.is_empty() {
        errors.required("spec.containers", "");
    }
    let mut names = HashSet::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let of_pod = probe::OfPod {
        grace: spec.termination_grace_period_seconds,
        has_os: spec.os.as_ref().is_some_and(|os| !os.name.is_empty()),
    };
    for (list, place, containers) in [
        ("containers", container::Place::Main, &spec.containers[..]),
        ("initContainers", container::Place::Init, init),
    ] {
        // Init containers run one after the other, but beside nobody else's host ports.
        let mut host_ports = HashSet::new();
        for (i, one) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            if !names.insert(one.name.as_str()) && !one.name.is_empty() {
                errors.duplicate(&format!("{path}.name"), &one.name);
            }
            let scope = container::Scope {
                volumes: &volumes,
                host_network: spec.host_network == Some(true),
                place,
                of_pod,
            };
            container::container(errors, &path, one, &scope, &mut host_ports);
        }
    }
    ephemeral::ephemeral(errors, spec, &volumes, of_pod);
    resources::of_pod(errors, spec);
    let policies = ["Always", "OnFailure", "Never"];
    errors.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &policies);
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    errors.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &policies);
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let seconds = spec.termination_grace_period_seconds.unwrap_or_default();
        errors.not_negative("spec.terminationGracePeriodSeconds", seconds);
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        errors.in_range("spec.activeDeadlineSeconds", seconds, 1, MAX_ID);
    }
    network::network(errors, spec);
    node::tolerations(errors, spec);
    resources::overhead(errors, spec);
    if let Some(context) = &spec.security_context {
        pod_security(errors, context);
    }
}

fn pod_security(errors: &mut Errors, context: &PodSecurityContext) {
    let path = "spec.securityContext";
    ids(errors, path, context.run_as_user, context.run_as_group);
    if let Some(id) = context.fs_group {
        errors.in_range(&format!("{path}.fsGroup"), id, 0, MAX_ID);
    }
    for (i, id) in context.supplemental_groups.iter().flatten().enumerate() {
        errors.in_range(&format!("{path}.supplementalGroups[{i}]"), *id, 0, MAX_ID);
    }
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    node::sysctls(errors, &format!("{path}.sysctls"), sysctls);
}

fn ids(errors: &mut Errors, path: &str, user: Option<i64>, group: Option<i64>) {
    for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
        if let Some(id) = id {
            errors.in_range(&format!("{path}.{field}"), id, 0, MAX_ID);
        }
    }
}

/// The errors found so far; one method for each of upstream's kinds (`field.Error`).
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: &str, message: String) {
        self.0.push(FieldError { path: path.into(), message });
    }

    fn required(&mut self, path: &str, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.add(path, format!("Required value{colon}{detail}"));
    }

    fn invalid(&mut self, path: &str, value: &str, detail: &str) {
        self.add(path, format!("Invalid value: {value:?}: {detail}"));
    }

    fn forbidden(&mut self, path: &str, detail: &str) {
        self.add(path, format!("Forbidden: {detail}"));
    }

    fn not_found(&mut self, path: &str, value: &str) {
        self.add(path, format!("Not found: {value:?}"));
    }

    fn duplicate(&mut self, path: &str, value: &str) {
        self.add(path, format!("Duplicate value: {value:?}"));
    }

    fn in_range(&mut self, path: &str, value: i64, from: i64, to: i64) {
        if !(from..=to).contains(&value) {
            let text = format!("must be between {from} and {to}, inclusive");
            self.add(path, format!("Invalid value: {value}: {text}"));
        }
    }

    fn not_negative(&mut self, path: &str, value: impl fmt::Display) {
        self.add(path, format!("Invalid value: {value}: must be greater than or equal to 0"));
    }

    fn one_of(&mut self, path: &str, value: Option<&str>, supported: &[&str]) {
        let value = value.unwrap_or_default();
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.unsupported(path, value, supported);
        }
    }

    /// Upstream `field.TooMany`.
    fn at_most(&mut self, path: &str, count: usize, most: usize) {
        if count > most {
            self.add(path, format!("Too many: {count}: must have at most {most} items"));
        }
    }

    fn unsupported(&mut self, path: &str, value: &str, supported: &[&str]) {
        let all: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let all = all.join(", ");
        self.add(path, format!("Unsupported value: {value:?}: supported values: {all}"));
    }

    fn check(&mut self, path: &str, value: &str, rule: Rule) {
        for detail in rule(value) {
            self.invalid(path, value, &detail);
        }
    }
}

#[cfg(test)]
#[path = "validate/edge_test.rs"]
mod edge_tests;
#[cfg(test)]
#[path = "validate/source_test.rs"]
pub(crate) mod source_tests;

#[cfg(test)]
#[path = "validate/place_test.rs"]
mod place_tests;

#[cfg(test)]
#[path = "validate/ephemeral_test.rs"]
mod ephemeral_tests;
#[cfg(test)]
#[path = "validate/object_test.rs"]
mod object_tests;
#[cfg(test)]
#[path = "validate/probe_test.rs"]
mod probe_tests;
#[cfg(test)]
#[path = "validate/resources_test.rs"]
mod resources_tests;
#[cfg(test)]
#[path = "validate/validate_test.rs"]
mod tests;
