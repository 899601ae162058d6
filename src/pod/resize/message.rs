//! The texts of a resize's events (upstream `pkg/kubelet/events/resize.go`).

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

/// `Pod resize WHAT: ` and what the pod's spec says, as JSON with its fields in upstream's order.
pub(super) fn message(what: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let mut fields = Vec::new();
    for (name, containers) in [("initContainers", &inits), ("containers", &spec.containers)] {
        if !containers.is_empty() {
            let list: Vec<String> = containers.iter().map(container).collect();
            fields.push(format!("\"{name}\":[{}]", list.join(",")));
        }
    }
    fields.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        fields.push(format!("\"error\":{}", Value::from(error)));
    }
    format!("Pod resize {what}: {{{}}}", fields.join(","))
}

fn container(container: &Container) -> String {
    let resources = container.resources.clone().unwrap_or_default();
    let mut fields = Vec::new();
    let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
    for (name, list) in lists {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            fields.push(format!("\"{name}\":{}", json!(list)));
        }
    }
    if let Some(claims) = resources.claims.filter(|claims| !claims.is_empty()) {
        fields.push(format!("\"claims\":{}", json!(claims)));
    }
    let name = Value::from(container.name.as_str());
    format!("{{\"name\":{name},\"resources\":{{{}}}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "resources": {
                "requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"cpu": "2"}}}],
        }}))
        .unwrap();
        let list = r#""initContainers":[{"name":"i","resources":{}}],"containers":[{"name":"c","resources":{"limits":{"cpu":"2"},"requests":{"cpu":"1","memory":"1Gi"}}}]"#;
        assert_eq!(
            message("started", &pod, Some(2), ""),
            format!("Pod resize started: {{{list},\"generation\":2}}")
        );
        assert_eq!(
            message("error", &pod, Some(3), "no \"x\""),
            format!(r#"Pod resize error: {{{list},"generation":3,"error":"no \"x\""}}"#)
        );
    }
}
