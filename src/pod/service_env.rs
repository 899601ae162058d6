//! Variables that name a pod's services (upstream `pkg/kubelet/envvars` and
//! `getServiceEnvVarMap`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::object::ServiceFacts;

/// Where the services are that every pod is told of.
const MASTER_NAMESPACE: &str = "default";
/// Such services (upstream `masterServices`).
const MASTER_SERVICE: &str = "kubernetes";

/// The variables of all services that a pod of this namespace is told of; without `links` that is
/// only the API server's. Of two with one name the one of the later service holds, by name.
pub(crate) fn service_env(
    services: &[Arc<ServiceFacts>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut told: BTreeMap<&str, &ServiceFacts> = BTreeMap::new();
    for service in services.iter().filter(|service| has_address(service)) {
        if service.namespace == MASTER_NAMESPACE && service.name == MASTER_SERVICE {
            // A service of the pod's own namespace may have taken the name.
            told.entry(&service.name).or_insert(service);
        } else if service.namespace == namespace && links {
            told.insert(&service.name, service);
        }
    }
    let mut env = BTreeMap::new();
    for service in told.into_values() {
        add(&mut env, service);
    }
    env
}

fn has_address(service: &ServiceFacts) -> bool {
    !["", "None"].contains(&service.cluster_ip.as_str())
}

fn add(env: &mut BTreeMap<String, String>, service: &ServiceFacts) {
    let (name, ip) = (variable(&service.name), &service.cluster_ip);
    env.insert(format!("{name}_SERVICE_HOST"), ip.clone());
    if let Some(first) = service.ports.first() {
        let (url, _, _) = urls(ip, &first.protocol, first.port);
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        env.insert(format!("{name}_PORT"), url);
    }
    for port in &service.ports {
        if !port.name.is_empty() {
            let of = format!("{name}_SERVICE_PORT_{}", variable(&port.name));
            env.insert(of, port.port.to_string());
        }
        let (url, lower, upper) = urls(ip, &port.protocol, port.port);
        let of = format!("{name}_PORT_{}_{upper}", port.port);
        env.insert(format!("{of}_PROTO"), lower);
        env.insert(format!("{of}_PORT"), port.port.to_string());
        env.insert(format!("{of}_ADDR"), ip.clone());
        env.insert(of, url);
    }
}

/// `tcp://IP:PORT`, `tcp`, `TCP`.
fn urls(ip: &str, protocol: &str, port: i32) -> (String, String, String) {
    let protocol = if protocol.is_empty() { "TCP" } else { protocol };
    let (lower, upper) = (protocol.to_ascii_lowercase(), protocol.to_ascii_uppercase());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    (format!("{lower}://{host}:{port}"), lower, upper)
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ServicePortFacts;

    fn service(
        namespace: &str,
        name: &str,
        ip: &str,
        ports: &[(&str, i32, &str)],
    ) -> Arc<ServiceFacts> {
        let port = |&(name, port, protocol): &(&str, i32, &str)| ServicePortFacts {
            name: name.to_owned(),
            port,
            protocol: protocol.to_owned(),
        };
        Arc::new(ServiceFacts {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cluster_ip: ip.to_owned(),
            ports: ports.iter().map(port).collect(),
        })
    }

    fn shown(services: &[Arc<ServiceFacts>], namespace: &str, links: bool) -> Vec<String> {
        let env = service_env(services, namespace, links);
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn names_ports_and_families_are_upstreams() {
        let services = [
            service("ns", "web-front", "10.0.0.2", &[("http", 80, "TCP"), ("dns-x", 53, "UDP")]),
            service("ns", "six", "fd00::2", &[("", 8080, "")]),
        ];
        assert_eq!(
            shown(&services, "ns", true),
            [
                "SIX_PORT=tcp://[fd00::2]:8080",
                "SIX_PORT_8080_TCP=tcp://[fd00::2]:8080",
                "SIX_PORT_8080_TCP_ADDR=fd00::2",
                "SIX_PORT_8080_TCP_PORT=8080",
                "SIX_PORT_8080_TCP_PROTO=tcp",
                "SIX_SERVICE_HOST=fd00::2",
                "SIX_SERVICE_PORT=8080",
                "WEB_FRONT_PORT=tcp://10.0.0.2:80",
                "WEB_FRONT_PORT_53_UDP=udp://10.0.0.2:53",
                "WEB_FRONT_PORT_53_UDP_ADDR=10.0.0.2",
                "WEB_FRONT_PORT_53_UDP_PORT=53",
                "WEB_FRONT_PORT_53_UDP_PROTO=udp",
                "WEB_FRONT_PORT_80_TCP=tcp://10.0.0.2:80",
                "WEB_FRONT_PORT_80_TCP_ADDR=10.0.0.2",
                "WEB_FRONT_PORT_80_TCP_PORT=80",
                "WEB_FRONT_PORT_80_TCP_PROTO=tcp",
                "WEB_FRONT_SERVICE_HOST=10.0.0.2",
                "WEB_FRONT_SERVICE_PORT=80",
                "WEB_FRONT_SERVICE_PORT_DNS_X=53",
                "WEB_FRONT_SERVICE_PORT_HTTP=80",
            ]
        );
    }

    #[test]
    fn a_pod_is_told_of_its_namespace_and_of_the_api_server() {
        let port = [("https", 443, "TCP")];
        let all = [
            service("default", "kubernetes", "10.0.0.1", &port),
            service("default", "other", "10.0.0.3", &port),
            service("ns", "mine", "10.0.0.2", &port),
            service("ns", "headless", "None", &port),
            service("ns", "external", "", &port),
            service("ns", "portless", "10.0.0.9", &[]),
        ];
        let hosts = |services: &[Arc<ServiceFacts>], namespace: &str, links: bool| {
            let mut env = shown(services, namespace, links);
            env.retain(|line| line.contains("_SERVICE_HOST="));
            env.join(" ").replace("_SERVICE_HOST", "")
        };
        assert_eq!(hosts(&all, "ns", false), "KUBERNETES=10.0.0.1");
        assert_eq!(hosts(&all, "ns", true), "KUBERNETES=10.0.0.1 MINE=10.0.0.2 PORTLESS=10.0.0.9");
        assert_eq!(hosts(&all, "default", true), "KUBERNETES=10.0.0.1 OTHER=10.0.0.3");
        assert_eq!(hosts(&[], "ns", true), "");

        let mut taken = all.to_vec();
        taken.push(service("ns", "kubernetes", "10.0.0.7", &port));
        for _ in 0..2 {
            assert_eq!(
                hosts(&taken, "ns", true),
                "KUBERNETES=10.0.0.7 MINE=10.0.0.2 PORTLESS=10.0.0.9"
            );
            assert_eq!(hosts(&taken, "ns", false), "KUBERNETES=10.0.0.1");
            taken.reverse();
        }
    }
}
