//! The downward API: the values of `fieldRef` and `resourceFieldRef` (upstream `pkg/fieldpath`,
//! `ConvertDownwardAPIFieldLabel`, `podFieldSelectorRuntimeValue`, `pkg/api/v1/resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;
use thiserror::Error;

use crate::go::go_quoted;
use crate::object::Facts;
use crate::quantity::Quantity;

/// Why a field has no value, in upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DownwardError {
    /// An `apiVersion` that is not `v1`.
    #[error("unsupported pod version: {0}")]
    Version(String),
    /// A field that the downward API does not have.
    #[error("field label not supported: {0}")]
    Label(String),
    /// A field that has no keys: `metadata.name['a']`.
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
    /// A field that this place does not have: `status.podIP` in a volume.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// The container whose resources are asked for.
    #[error("container {0} not found")]
    Container(String),
    /// A resource that the downward API does not have.
    #[error("unsupported container resource : {0}")]
    Resource(String),
}

/// The two parts of `metadata.labels['KEY']`.
pub(crate) fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(field, _)| !field.is_empty())
}

/// The field that a selector names, old names brought to new ones.
///
/// # Errors
/// [`DownwardError::Version`], [`DownwardError::Label`], [`DownwardError::Subscript`].
pub(crate) fn field_label(selector: &ObjectFieldSelector) -> Result<&str, DownwardError> {
    let version = selector.api_version.as_deref().unwrap_or("v1");
    let path = selector.field_path.as_str();
    if version != "v1" {
        return Err(DownwardError::Version(version.to_owned()));
    }
    match (subscripted(path), path) {
        (Some(("metadata.annotations" | "metadata.labels", _)), _) => Ok(path),
        (Some(_), _) => Err(DownwardError::Subscript(path.to_owned())),
        (
            None,
            "metadata.annotations"
            | "metadata.labels"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.schedulerName"
            | "spec.serviceAccountName"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.phase"
            | "status.podIP"
            | "status.podIPs",
        ) => Ok(path),
        (None, "spec.host") => Ok("spec.nodeName"),
        (None, _) => Err(DownwardError::Label(path.to_owned())),
    }
}

/// The value of a field as an environment variable has it.
pub(crate) fn field(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    facts: &Facts,
) -> Result<String, DownwardError> {
    let spec = pod.spec.as_ref();
    let join = |ips: &[std::net::IpAddr]| {
        ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let first = |ips: &[std::net::IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let addresses = &facts.addresses;
    Ok(match field_label(selector)? {
        "spec.nodeName" => {
            let bound = spec.and_then(|spec| spec.node_name.clone()).filter(|n| !n.is_empty());
            bound.unwrap_or_else(|| facts.node_name.clone())
        }
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => first(&addresses.host_ips),
        "status.hostIPs" => join(&addresses.host_ips),
        "status.podIP" => first(&addresses.pod_ips),
        "status.podIPs" => join(&addresses.pod_ips),
        other => return metadata(pod, other),
    })
}

/// The value of a field as a file has it: its lines sorted, as upstream does with all of them for
/// the sake of labels and annotations.
pub(crate) fn field_file(
    pod: &Pod,
    selector: &ObjectFieldSelector,
) -> Result<String, DownwardError> {
    let value = metadata(pod, field_label(selector)?)?;
    let mut lines: Vec<&str> = value.split('\n').collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

fn metadata(pod: &Pod, path: &str) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Ok(match (subscripted(path), path) {
        (Some(("metadata.annotations", key)), _) => entry(&meta.annotations, key),
        (Some(("metadata.labels", key)), _) => entry(&meta.labels, key),
        (None, "metadata.annotations") => lines(meta.annotations.as_ref()),
        (None, "metadata.labels") => lines(meta.labels.as_ref()),
        (None, "metadata.name") => text(&meta.name),
        (None, "metadata.namespace") => text(&meta.namespace),
        (None, "metadata.uid") => text(&meta.uid),
        (Some(_) | None, _) => return Err(DownwardError::Path(path.to_owned())),
    })
}

/// `KEY="VALUE"` lines (upstream `FormatMap`).
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quoted(value.as_bytes())));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a resource of a container, in whole units of the divisor, rounded up. `own` is the
/// container that a selector without a name means.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, DownwardError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let named = || {
        let spec = pod.spec.as_ref()?;
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.into_iter().find(|container| container.name == name)
    };
    let container = own.filter(|_| name.is_empty()).or_else(named);
    let container = container.ok_or_else(|| DownwardError::Container(name.to_owned()))?;
    let unknown = || DownwardError::Resource(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let needs = container.resources.as_ref();
    let (given, is_limit) = match list {
        "limits" => (needs.and_then(|needs| needs.limits.as_ref()), true),
        "requests" => (needs.and_then(|needs| needs.requests.as_ref()), false),
        _ => return Err(unknown()),
    };
    let of_node = match resource {
        "cpu" => Some(facts.allocatable_cpu_millis),
        "memory" => Some(facts.allocatable_memory_bytes),
        "ephemeral-storage" => Some(facts.allocatable_storage_bytes),
        _ if resource.starts_with("hugepages-") => None,
        _ => return Err(unknown()),
    };
    // CPUs are counted in thousandths, on both sides.
    let units = |quantity: Quantity| match resource {
        "cpu" => quantity.milli_value(),
        _ => quantity.value(),
    };
    let parse = |raw: &Raw| Quantity::parse(&raw.0).ok().filter(|quantity| !quantity.is_zero());
    let given = given.and_then(|list| list.get(resource)).and_then(parse).map(units);
    let absent =
        of_node.filter(|_| is_limit).map_or(0, |node| i64::try_from(node).unwrap_or(i64::MAX));
    let one = if resource == "cpu" { 1000 } else { 1 };
    let divisor = selector.divisor.as_ref().and_then(parse).map_or(one, units).max(1);
    let value = given.unwrap_or(absent).max(0);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u-1",
                "labels": {"a": "1", "a-b": "2"}, "annotations": {"X/y": "b\na \"\\\u{1}é\u{301}"}},
            "spec": {"serviceAccountName": "robot", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"},
                    "requests": {"cpu": "250m", "hugepages-2Mi": "4Mi"}}},
                {"name": "d"}], "initContainers": [{"name": "i",
                    "resources": {"limits": {"memory": "1k"}}}]}}))
        .unwrap()
    }

    fn facts() -> Facts {
        let ip = |text: &str| text.parse().unwrap();
        Facts {
            node_name: "node".to_owned(),
            addresses: crate::PodAddresses {
                host_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")],
                pod_ips: vec![ip("10.0.0.2"), ip("fd00::2")],
            },
            allocatable_cpu_millis: 3200,
            allocatable_memory_bytes: 1 << 30,
            allocatable_storage_bytes: 7,
            ..Facts::default()
        }
    }

    fn selector(path: &str) -> ObjectFieldSelector {
        ObjectFieldSelector { api_version: None, field_path: path.to_owned() }
    }

    #[test]
    fn fields_of_a_variable() {
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['a-b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['X/y']", "b\na \"\\\u{1}é\u{301}"),
            ("spec.nodeName", "node"),
            ("spec.host", "node"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "192.0.2.1"),
            ("status.hostIPs", "192.0.2.1,2001:db8::1"),
            ("status.podIP", "10.0.0.2"),
            ("status.podIPs", "10.0.0.2,fd00::2"),
        ] {
            assert_eq!(field(&pod(), &selector(path), &facts()).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(field(&pod(), &selector("status.podIP"), &Facts::default()).as_deref(), Ok(""));
        for (bound, expected) in [("elsewhere", "elsewhere"), ("", "node")] {
            let mut pod = pod();
            pod.spec.as_mut().unwrap().node_name = Some(bound.to_owned());
            assert_eq!(field(&pod, &selector("spec.nodeName"), &facts()).as_deref(), Ok(expected));
        }
        for (path, error) in [
            ("status.phase", "unsupported fieldPath: status.phase"),
            ("metadata.nom", "field label not supported: metadata.nom"),
            ("metadata.name['a']", "field label does not support subscript: metadata.name['a']"),
            ("['a']", "field label not supported: ['a']"),
        ] {
            let found = field(&pod(), &selector(path), &facts()).unwrap_err();
            assert_eq!(found.to_string(), error);
        }
        let old =
            ObjectFieldSelector { api_version: Some("v2".into()), ..selector("metadata.name") };
        let found = field(&pod(), &old, &facts()).unwrap_err();
        assert_eq!(found.to_string(), "unsupported pod version: v2");
    }

    #[test]
    fn files_have_quoted_and_sorted_lines() {
        let file = |path| field_file(&pod(), &selector(path)).unwrap();
        assert_eq!(file("metadata.labels"), "a-b=\"2\"\na=\"1\"");
        assert_eq!(file("metadata.annotations"), "X/y=\"b\\na \\\"\\\\\\x01é\\u0301\"");
        assert_eq!(file("metadata.annotations['X/y']"), "a \"\\\u{1}é\u{301}\nb");
        assert!(field_file(&pod(), &selector("status.podIP")).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let value = |own: &str, selector: Value| {
            let pod = pod();
            let all = pod.spec.as_ref().unwrap().containers.iter();
            let own = all.clone().find(|container| container.name == own);
            let selector = serde_json::from_value(selector).unwrap();
            resource(&pod, own, &selector, &facts()).map_err(|e| e.to_string())
        };
        for (own, selector, expected) in [
            ("c", json!({"resource": "limits.cpu"}), Ok("2")),
            ("c", json!({"resource": "limits.cpu", "divisor": "1m"}), Ok("1500")),
            ("c", json!({"resource": "limits.cpu", "divisor": "0"}), Ok("2")),
            ("c", json!({"resource": "requests.cpu"}), Ok("1")),
            ("c", json!({"resource": "limits.memory", "divisor": "1Mi"}), Ok("100")),
            ("c", json!({"resource": "limits.memory", "divisor": "1G"}), Ok("1")),
            ("c", json!({"resource": "requests.memory"}), Ok("0")),
            ("c", json!({"resource": "requests.hugepages-2Mi"}), Ok("4194304")),
            ("c", json!({"resource": "limits.hugepages-2Mi"}), Ok("0")),
            ("c", json!({"resource": "limits.memory", "containerName": "i"}), Ok("1000")),
            ("d", json!({"resource": "limits.cpu"}), Ok("4")),
            ("d", json!({"resource": "limits.cpu", "divisor": "1m"}), Ok("3200")),
            ("d", json!({"resource": "limits.memory"}), Ok("1073741824")),
            ("d", json!({"resource": "limits.ephemeral-storage"}), Ok("7")),
            (
                "d",
                json!({"resource": "requests.cpu", "containerName": "x"}),
                Err("container x not found"),
            ),
            ("", json!({"resource": "requests.cpu"}), Err("container  not found")),
            (
                "d",
                json!({"resource": "limits.gpu"}),
                Err("unsupported container resource : limits.gpu"),
            ),
            ("d", json!({"resource": "cpu"}), Err("unsupported container resource : cpu")),
        ] {
            let found = value(own, selector.clone());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{own} {selector}");
        }
    }
}
