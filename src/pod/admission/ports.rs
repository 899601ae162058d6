//! Ports of the host: one pod has each (upstream `HostPortInfo`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::Rejection;

/// Every address of the host.
const ALL: &str = "0.0.0.0";

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostPort<'a> {
    ip: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    /// Both cannot be listened on at once.
    fn clashes(self, other: HostPort<'_>) -> bool {
        let same_ip = self.ip == other.ip || self.ip == ALL || other.ip == ALL;
        same_ip && self.protocol == other.protocol && self.port == other.port
    }
}

/// Refuses a pod that wants a port that another has. What it wants twice itself is the API
/// server's to refuse.
pub(super) fn check(spec: &PodSpec, others: &[&Arc<Pod>]) -> Result<(), Rejection> {
    let taken = || others.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(of);
    if of(spec).any(|wanted| taken().any(|other| wanted.clashes(other))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::predicate("NodePorts", why));
    }
    Ok(())
}

/// The host ports of main containers and sidecars; other init containers have ended by then.
fn of(spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let inits = spec.init_containers.iter().flatten();
    let sidecars = inits.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|port| *port > 0)?;
        Some(HostPort {
            ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or(ALL),
            protocol: port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP"),
            port: number,
        })
    })
}
