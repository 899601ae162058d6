//! A pod's sandbox (upstream `generatePodSandboxConfig`).

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use copepod_cri::{
    DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use copepod_pod::{Facts, Resolver, check_hostname, hostname};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::{ConfigError, PodInput, labels, resources, says, security, security_context, text};

/// What a sandbox is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SandboxInput<'a> {
    /// The pod, and what its containers have in common with it.
    pub(crate) of: PodInput<'a>,
    /// Which sandbox of the pod it is, from 0.
    pub(crate) attempt: u32,
    /// What the node knows: its cluster's domain is in host names.
    pub(crate) facts: &'a Facts,
    /// What the pod's resolver is told.
    pub(crate) resolver: &'a Resolver,
    /// The directory of the pod's logs.
    pub(crate) log_dir: &'a Path,
    /// The control group that the pod's containers stand in, as the node's driver names it.
    pub(crate) cgroup_parent: &'a str,
}

/// The sandbox's configuration.
///
/// # Errors
/// [`ConfigError`], in upstream's words.
pub(crate) fn sandbox(input: &SandboxInput<'_>) -> Result<PodSandboxConfig, ConfigError> {
    let pod = input.of.pod;
    let node = input.of.node;
    check_hostname(pod, input.facts)?;
    let on_host = says(pod, |spec| spec.host_network);
    let Resolver { servers, searches, options } = input.resolver.clone();
    let sysctls = security_context(pod).and_then(|context| context.sysctls.as_ref());
    let sysctls = sysctls.into_iter().flatten().map(|one| (one.name.clone(), one.value.clone()));
    // Without a slash at its end.
    let log_directory: PathBuf = input.log_dir.components().collect();
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(pod.metadata.name.as_ref()),
            uid: text(pod.metadata.uid.as_ref()),
            namespace: text(pod.metadata.namespace.as_ref()),
            attempt: input.attempt,
        }),
        // The host's own stays.
        hostname: if on_host { String::new() } else { hostname(pod, input.facts) },
        log_directory: log_directory.to_string_lossy().into_owned(),
        dns_config: Some(DnsConfig { servers, searches, options }),
        port_mappings: if on_host { Vec::new() } else { port_mappings(pod) },
        labels: labels::of_pod(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.into(),
            security_context: Some(security::of_sandbox(input.of)?),
            sysctls: sysctls.collect(),
            overhead: Some(resources::of_overhead(pod, node)),
            resources: Some(resources::of_sandbox(pod, node)),
        }),
        windows: None,
    })
}

/// The ports of the host that lead into the pod; of two with one name in a container the first one
/// holds (upstream `MakePortMappings`, which also gives the ports that are mapped to none: runtimes
/// leave them out).
fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let of_container = |ports: &[ContainerPort]| {
        let mut names = HashSet::new();
        let first = ports.iter().filter(|port| names.insert(port_name(port)));
        first.filter_map(port_mapping).collect::<Vec<_>>()
    };
    containers.flat_map(|c| of_container(c.ports.as_deref().unwrap_or_default())).collect()
}

fn port_name(port: &ContainerPort) -> String {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        return name.into();
    }
    let ip = port.host_ip.as_deref().unwrap_or_default();
    let family = match ip.parse() {
        Ok(IpAddr::V6(_)) => "v6",
        Ok(IpAddr::V4(_)) => "v4",
        Err(_) if ip.is_empty() => "any",
        // As upstream has what is no address.
        Err(_) => "v4",
    };
    let protocol = port.protocol.as_deref().unwrap_or_default();
    let host = port.host_port.unwrap_or(0);
    format!("{family}-{protocol}-{ip}:{}:{host}", port.container_port)
}

fn port_mapping(port: &ContainerPort) -> Option<PortMapping> {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        // Upstream takes what it does not know for TCP.
        Some(_) | None => Protocol::Tcp,
    };
    Some(PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port.filter(|port| *port > 0)?,
        host_ip: text(port.host_ip.as_ref()),
    })
}
