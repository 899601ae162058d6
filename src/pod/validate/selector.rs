//! `fieldRef` and `resourceFieldRef`.

use k8s_openapi::api::core::v1::{ObjectFieldSelector, ResourceFieldSelector};

use super::Errors;
use super::name::qualified_name;
use crate::downward::{field_label, subscripted};
use crate::quantity::Quantity;

/// The fields of an environment variable.
pub(super) const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a file.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// Divisors of all resources but CPUs.
const BYTE_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Checks a field against those that its place has.
pub(super) fn field_ref(
    errors: &mut Errors,
    path: &str,
    selector: &ObjectFieldSelector,
    known: &[&str],
) {
    let at = format!("{path}.fieldPath");
    if selector.api_version.as_deref().unwrap_or_default().is_empty() {
        return errors.required(&format!("{path}.apiVersion"), "");
    }
    if selector.field_path.is_empty() {
        return errors.required(&at, "");
    }
    match field_label(selector) {
        Err(e) => {
            errors.invalid(&at, &selector.field_path, &format!("error converting fieldPath: {e}"));
        }
        Ok(label) => match subscripted(label) {
            Some(("metadata.annotations", key)) => {
                // Upstream takes the key's letters as lower case here.
                errors.check(path, &key.to_lowercase(), qualified_name);
            }
            Some((_, key)) => errors.check(path, key, qualified_name),
            None => errors.one_of(&at, Some(label), known),
        },
    }
}

/// Checks a resource; a file must name its container.
pub(super) fn resource_ref(
    errors: &mut Errors,
    path: &str,
    selector: &ResourceFieldSelector,
    is_file: bool,
) {
    let resource = selector.resource.as_str();
    let is_huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.starts_with(p));
    if is_file && selector.container_name.as_deref().unwrap_or_default().is_empty() {
        errors.required(&format!("{path}.containerName"), "");
    } else if !is_huge {
        errors.one_of(&format!("{path}.resource"), Some(resource), &RESOURCES);
    }
    let Some(divisor) = &selector.divisor else { return };
    let at = format!("{path}.divisor");
    let divisor = match Quantity::parse(&divisor.0) {
        Err(e) => return errors.invalid(&at, &divisor.0, &e.to_string()),
        Ok(divisor) if divisor.is_zero() => return,
        Ok(divisor) => divisor.to_string(),
    };
    let bytes = |name| {
        let all = BYTE_DIVISORS.join(", ");
        format!("only divisor's values {all} are supported with the {name} resource")
    };
    let (allowed, text): (&[&str], String) = match resource {
        "limits.cpu" | "requests.cpu" => (
            &["1m", "1"],
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned(),
        ),
        "limits.memory" | "requests.memory" => (&BYTE_DIVISORS, bytes("memory")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (&BYTE_DIVISORS, bytes("local ephemeral storage"))
        }
        _ if is_huge => (&BYTE_DIVISORS, bytes("hugepages")),
        _ => return,
    };
    if !allowed.contains(&divisor.as_str()) {
        errors.invalid(&at, resource, &text);
    }
}
