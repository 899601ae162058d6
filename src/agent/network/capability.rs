//! What a pod asks of its network by fields and annotations: the arguments of plugins'
//! capabilities (the specification's conventions; containerd `cniNamespaceOpts`).

use std::collections::{BTreeMap, HashSet};

use copepod_pod::quantity::{Quantity, QuantityError};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Upstream's annotations (`pkg/util/bandwidth`): bits per second into the pod, and out of it.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// As [`INGRESS`].
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Fewest bits per second that upstream takes.
const LEAST: i64 = 1_000;
/// Most bits per second that upstream takes.
const MOST: i64 = 1_000_000_000_000_000;
/// What containerd gives as burst: as much as there is.
const BURST: u32 = u32::MAX;

/// What a pod may not ask for.
#[derive(Debug, Error)]
pub(crate) enum OptionsError {
    /// An annotation is no quantity.
    #[error("get cni namespace options: failed to get pod bandwidth info from annotations")]
    Quantity(#[source] QuantityError),
    /// It is too small or too large.
    #[error("get cni namespace options: failed to get pod bandwidth info from annotations: {0}")]
    Range(&'static str),
}

/// The arguments by capability, of those that `is_wanted`.
///
/// # Errors
/// A bandwidth that upstream refuses too.
pub(super) fn arguments(
    pod: &Pod,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Map<String, Value>, OptionsError> {
    let annotations = pod.metadata.annotations.as_ref();
    let bandwidth = annotations.map(bandwidth).transpose()?.flatten();
    let ports = port_mappings(pod);
    let ports = (!ports.is_empty()).then(|| Value::from(ports));
    let all = [
        ("portMappings", ports),
        ("bandwidth", bandwidth),
        ("io.kubernetes.cri.pod-annotations", annotations.map(|all| json!(all))),
    ];
    let given = all.into_iter().filter(|(name, _)| is_wanted(name));
    Ok(given.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// The ports of the host that lead into the pod; of two with one name in a container the first one
/// holds (upstream `MakePortMappings`).
fn port_mappings(pod: &Pod) -> Vec<Value> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let of_container = |container: &Container| {
        let mut names = HashSet::new();
        let ports = container.ports.as_deref().unwrap_or_default();
        let first = ports.iter().filter(|port| names.insert(port_name(port)));
        first.filter_map(port_mapping).collect::<Vec<_>>()
    };
    containers.iter().flat_map(of_container).collect()
}

fn protocol(port: &ContainerPort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn port_name(port: &ContainerPort) -> String {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let ip = port.host_ip.as_deref().unwrap_or_default();
    format!("{}-{ip}:{}:{:?}", protocol(port), port.container_port, port.host_port)
}

fn port_mapping(port: &ContainerPort) -> Option<Value> {
    let host_port = port.host_port.filter(|port| *port > 0)?;
    let mut mapping = json!({
        "hostPort": host_port,
        "containerPort": port.container_port,
        "protocol": protocol(port).to_lowercase(),
    });
    if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        mapping["hostIP"] = ip.into();
    }
    Some(mapping)
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, OptionsError> {
    let rate = |name| {
        let Some(text) = annotations.get(name) else { return Ok(None) };
        let rate = Quantity::parse(text).map_err(OptionsError::Quantity)?.value();
        match rate {
            ..LEAST => Err(OptionsError::Range("resource is unreasonably small (< 1kbit)")),
            LEAST..=MOST => Ok(Some(rate)),
            _ => Err(OptionsError::Range("resource is unreasonably large (> 1Pbit)")),
        }
    };
    let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
    let mut arguments = Map::new();
    for (way, rate) in [("ingress", ingress), ("egress", egress)] {
        if let Some(rate) = rate {
            arguments.insert(format!("{way}Rate"), rate.into());
            arguments.insert(format!("{way}Burst"), BURST.into());
        }
    }
    Ok((!arguments.is_empty()).then(|| arguments.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::chain;

    fn pod(annotations: &Value, ports: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"annotations": annotations},
            "spec": {"containers": [{"name": "a", "ports": ports}, {"name": "b"}]}}))
        .expect("a pod")
    }

    #[test]
    fn what_plugins_ask_for_they_get() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080, "name": "web"},
            {"containerPort": 81, "hostPort": 8081, "name": "web"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 90}, {"containerPort": 91, "hostPort": 0}]);
        let annotations = json!({"kubernetes.io/ingress-bandwidth": "10M", "x": "y"});
        let pod = pod(&annotations, &ports);
        let all = arguments(&pod, |_| true).expect("gives");
        assert_eq!(
            Value::from(all),
            json!({
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                    {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
                ],
                "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX},
                "io.kubernetes.cri.pod-annotations": annotations,
            })
        );
        let some = arguments(&pod, |name| name == "bandwidth").expect("gives");
        assert_eq!(some.len(), 1);
        assert_eq!(arguments(&Pod::default(), |_| true).expect("gives"), Map::new());
    }

    #[test]
    fn unreasonable_bandwidths_are_refused() {
        for (text, why) in [
            ("999", ": resource is unreasonably small (< 1kbit)"),
            ("-1M", ": resource is unreasonably small (< 1kbit)"),
            ("2P", ": resource is unreasonably large (> 1Pbit)"),
            ("fast", ": "),
        ] {
            let pod = pod(&json!({EGRESS: text}), &json!([]));
            let error = chain(&arguments(&pod, |_| true).expect_err(text));
            let start = "get cni namespace options: failed to get pod bandwidth info from \
                         annotations";
            assert!(error.starts_with(&format!("{start}{why}")), "{error}");
        }
    }
}
