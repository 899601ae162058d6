//! What containers and pods ask for, and what they may have at most (upstream:
//! `validateResourceRequirements`, `validatePodResources`). A text that is no quantity is told with the
//! rest; upstream's decoder refuses it before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use super::Errors;
use super::name::qualified_name;
use crate::quantity::Quantity;
use crate::resources::{
    HUGE_PAGES, amounts, container_limits, container_requests, counts_for_a_pod, is_huge_pages,
    of_containers,
};

/// What containers may name without a domain, but for huge pages.
const OF_CONTAINERS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What else is known without a domain: of quotas (upstream: `standardResources`).
const OF_QUOTAS: [&str; 17] = [
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// What is said of the name of a resource.
type NameRule = fn(&mut Errors, &str, &str);

/// Checks what one container asks for.
pub(super) fn of_container(errors: &mut Errors, path: &str, needs: &ResourceRequirements) {
    requirements(errors, path, needs, container_name);
}

/// Checks the pod's overhead: as the limits of a container.
pub(super) fn overhead(errors: &mut Errors, spec: &PodSpec) {
    let needs = ResourceRequirements { limits: spec.overhead.clone(), ..Default::default() };
    requirements(errors, "spec.overhead", &needs, container_name);
}

/// Checks the pod's own resources, and that those of its containers fit in.
pub(super) fn of_pod(errors: &mut Errors, spec: &PodSpec) {
    let path = "spec.resources";
    let Some(own) = &spec.resources else { return };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errors.forbidden(path, "may not be set for a windows pod");
    }
    if own.claims.is_some() {
        let text = "claims may not be set for Resources at pod-level";
        errors.forbidden(&format!("{path}.claims"), text);
    }
    requirements(errors, path, own, pod_name);
    let requests = amounts(own.requests.as_ref());
    for (name, sum) in of_containers(spec, container_requests, |_| ()) {
        if let Some(request) = requests.get(&name).filter(|request| sum > **request) {
            let text =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&format!("{path}.requests[{name}]"), &request.to_string(), &text);
        }
    }
    let limits = amounts(own.limits.as_ref());
    for (name, sum) in of_containers(spec, container_limits, |_| ()) {
        let limit = limits.get(&name).filter(|limit| is_huge_pages(&name) && sum > **limit);
        if let Some(limit) = limit {
            let text =
                format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&format!("{path}.limits[{name}]"), &limit.to_string(), &text);
        }
    }
    for (i, one) in spec.containers.iter().enumerate() {
        for (name, limit) in container_limits(one) {
            if let Some(most) = limits.get(&name).filter(|most| limit > **most) {
                let path = format!("{path}.containers[{i}][{name}].limits");
                let text = format!("must be less than or equal to pod limits of {most}");
                errors.invalid(&path, &limit.to_string(), &text);
            }
        }
    }
}

fn requirements(errors: &mut Errors, path: &str, needs: &ResourceRequirements, rule: NameRule) {
    let (of_limits, of_requests) = (format!("{path}.limits"), format!("{path}.requests"));
    let limits = quantities(errors, &of_limits, needs.limits.as_ref(), rule);
    let requests = quantities(errors, &of_requests, needs.requests.as_ref(), rule);
    for (name, request) in &requests {
        let is_shared = is_native(name) && !is_huge_pages(name);
        let text = match limits.get(name) {
            Some(limit) if request != limit && !is_shared => {
                format!("must be equal to {name} limit of {limit}")
            }
            Some(limit) if request > limit => {
                format!("must be less than or equal to {name} limit of {limit}")
            }
            None if !is_shared => {
                errors.required(&of_limits, "Limit must be set for non overcommitable resources");
                continue;
            }
            Some(_) | None => continue,
        };
        errors.invalid(&of_requests, &request.to_string(), &text);
    }
    let names = || [&needs.limits, &needs.requests].into_iter().flatten().flat_map(BTreeMap::keys);
    if names().any(|name| is_huge_pages(name)) && !names().any(|name| is_compute(name)) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks names and values; gives what parses.
fn quantities<'a>(
    errors: &mut Errors,
    path: &str,
    list: Option<&'a BTreeMap<String, Raw>>,
    rule: NameRule,
) -> BTreeMap<&'a str, Quantity> {
    let mut good = BTreeMap::new();
    for (name, raw) in list.into_iter().flatten() {
        let path = format!("{path}[{name}]");
        rule(errors, &path, name);
        let quantity = match Quantity::parse(&raw.0) {
            Ok(quantity) => quantity,
            Err(error) => {
                errors.invalid(&path, &raw.0, &error.to_string());
                continue;
            }
        };
        let text = quantity.to_string();
        if quantity.is_negative() {
            errors.not_negative(&path, format_args!("{text:?}"));
        }
        if is_extended(name) && quantity.milli_value() % 1000 != 0 {
            errors.invalid(&path, &text, "must be an integer");
        }
        if let Some(size) = name.strip_prefix(HUGE_PAGES)
            && !is_multiple(quantity, size)
        {
            let why = format!("{text} is not positive integer multiple of {name}");
            errors.invalid(&path, &text, &why);
        }
        good.insert(name.as_str(), quantity);
    }
    good
}

/// Whether these are whole pages of a size that is one.
fn is_multiple(amount: Quantity, size: &str) -> bool {
    let Ok(size) = Quantity::parse(size) else { return false };
    let is_size = size.value() > 0 && size.milli_value() % 1000 == 0;
    is_size && amount.value() % size.value() == 0
}

/// What is wrong with a name anywhere. Whether something is.
fn any_name(errors: &mut Errors, path: &str, name: &str) -> bool {
    let wrong = qualified_name(name);
    for text in &wrong {
        errors.invalid(path, name, text);
    }
    if !wrong.is_empty() {
        return true;
    }
    let is_known = is_of_containers(name)
        || OF_QUOTAS.contains(&name)
        || name.strip_prefix("requests.").is_some_and(is_huge_pages);
    if !name.contains('/') && !is_known {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return true;
    }
    false
}

fn container_name(errors: &mut Errors, path: &str, name: &str) {
    any_name(errors, path, name);
    if !name.contains('/') && !is_of_containers(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_name(errors: &mut Errors, path: &str, name: &str) {
    if !any_name(errors, path, name) && !counts_for_a_pod(name) {
        errors.unsupported(path, name, &["cpu", HUGE_PAGES, "memory"]);
    }
}

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

fn is_of_containers(name: &str) -> bool {
    OF_CONTAINERS.contains(&name) || is_huge_pages(name)
}

/// Of Kubernetes itself (upstream: `IsNativeResource`).
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Of a device (upstream: `IsExtendedResourceName`): quotas must be able to name it too.
fn is_extended(name: &str) -> bool {
    let of_quota = format!("requests.{name}");
    !is_native(name) && !name.starts_with("requests.") && qualified_name(&of_quota).is_empty()
}
