//! Which addresses a node reports (upstream's `NodeAddress`), pure but for [`HostAddresses::read`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::NodeAddress;
use thiserror::Error;

use super::options::NodeOptions;
use crate::linux::addresses::{default_address, host_addresses, is_node_address};
use crate::linux::machine::hosts_addresses;

/// Why a node has no address to report.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum AddressError {
    /// `--node-ip` names an address of a kind that no node has; upstream's words.
    #[error("failed to validate nodeIP: nodeIP can't be {kind}")]
    Kind {
        /// The kind.
        kind: &'static str,
    },
    /// `--node-ip` names another host's.
    #[error(
        "failed to validate nodeIP: node IP: \"{0}\" not found in the host's network interfaces"
    )]
    Elsewhere(IpAddr),
    /// There is neither a name nor a route that leads to one.
    #[error("can't get ip address of node {node}. error: no default route")]
    None {
        /// The node.
        node: String,
    },
}

/// The addresses of this host, where they are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostAddresses {
    /// Of its interfaces; `None` where the kernel does not say.
    pub(super) interfaces: Option<Vec<IpAddr>>,
    /// What `/etc/hosts` has for the node's name.
    pub(super) named: Vec<IpAddr>,
    /// That of the default route, of IPv4 and of IPv6.
    pub(super) routed: [Option<IpAddr>; 2],
}

impl HostAddresses {
    /// Asks the kernel, and reads `/etc/hosts`.
    pub(super) fn read(node: &str) -> Self {
        Self {
            interfaces: host_addresses().ok(),
            named: hosts_addresses(node),
            routed: [default_address(false), default_address(true)],
        }
    }
}

/// The addresses that a node reports; `has_addresses` says whether it reports any now.
///
/// `None`: what stands there stays, since a cloud's controller sets it.
///
/// # Errors
/// [`AddressError`]; what stands there stays as well.
pub(super) fn choose(
    options: &NodeOptions,
    host: &HostAddresses,
    has_addresses: bool,
) -> Result<Option<Vec<NodeAddress>>, AddressError> {
    let specified = specified(options);
    for address in &specified {
        check(*address, host)?;
    }
    if options.external_cloud_provider {
        if has_addresses {
            return Ok(None);
        }
        if options.node_ips.is_empty() {
            return Ok(Some(listed(&[], &options.name)));
        }
    }
    if !specified.is_empty() {
        return Ok(Some(listed(&specified, &options.name)));
    }
    let address = found(options, host);
    let none = || AddressError::None { node: options.name.clone() };
    address.map(|address| Some(listed(&[address], &options.name))).ok_or_else(none)
}

/// The addresses of `--node-ip` but those that only name a family (`0.0.0.0`, `::`).
pub(super) fn specified(options: &NodeOptions) -> Vec<IpAddr> {
    options.node_ips.iter().copied().filter(|address| !address.is_unspecified()).collect()
}

/// The name if it is an address; else what the hosts file has for it, else the default route's.
/// IPv4 goes first, unless `--node-ip` is `::`.
fn found(options: &NodeOptions, host: &HostAddresses) -> Option<IpAddr> {
    if let Ok(address) = options.name.parse() {
        return Some(address);
    }
    let v6_first = options.node_ips.first().is_some_and(IpAddr::is_ipv6);
    let named: Vec<_> = host.named.iter().copied().filter(|a| check(*a, host).is_ok()).collect();
    let preferred = named.iter().copied().find(|address| address.is_ipv6() == v6_first);
    let [v4, v6] = host.routed;
    let routed = if v6_first { v6.or(v4) } else { v4.or(v6) };
    preferred.or_else(|| named.first().copied()).or(routed)
}

/// `validateNodeIP`
fn check(address: IpAddr, host: &HostAddresses) -> Result<(), AddressError> {
    if !is_node_address(address) {
        let kind = if address.is_loopback() {
            "loopback address"
        } else if address.is_multicast() {
            "a multicast address"
        } else if address.is_unspecified() {
            "an all zeros address"
        } else {
            "a link-local unicast address"
        };
        return Err(AddressError::Kind { kind });
    }
    // Where the kernel does not say, the user is believed.
    if host.interfaces.as_ref().is_some_and(|all| !all.contains(&address)) {
        return Err(AddressError::Elsewhere(address));
    }
    Ok(())
}

fn listed(addresses: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let internal = addresses
        .iter()
        .map(|address| NodeAddress { address: address.to_string(), type_: "InternalIP".into() });
    let name = NodeAddress { address: hostname.into(), type_: "Hostname".into() };
    internal.chain([name]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn host() -> HostAddresses {
        HostAddresses {
            interfaces: Some(["127.0.0.1", "10.0.0.7", "10.0.0.8", "fd00::7"].map(ip).into()),
            named: Vec::new(),
            routed: [Some(ip("10.0.0.7")), Some(ip("fd00::7"))],
        }
    }

    fn options(name: &str, node_ips: &[&str]) -> NodeOptions {
        let mut options = NodeOptions::new(name.into(), "/".into());
        options.node_ips = node_ips.iter().map(|text| ip(text)).collect();
        options
    }

    fn shown(options: &NodeOptions, host: &HostAddresses) -> Vec<String> {
        match choose(options, host, false) {
            Ok(chosen) => chosen
                .unwrap_or_default()
                .into_iter()
                .map(|address| format!("{}={}", address.type_, address.address))
                .collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn the_address_is_the_flag_the_name_or_the_route() {
        let host = host();
        let v4 = ["InternalIP=10.0.0.7", "Hostname=n"];
        assert_eq!(shown(&options("n", &[]), &host), v4);
        assert_eq!(shown(&options("n", &["0.0.0.0"]), &host), v4);
        assert_eq!(shown(&options("n", &["::"]), &host), ["InternalIP=fd00::7", "Hostname=n"]);
        assert_eq!(
            shown(&options("n", &["10.0.0.8"]), &host),
            ["InternalIP=10.0.0.8", "Hostname=n"]
        );
        assert_eq!(
            shown(&options("n", &["10.0.0.8", "fd00::7"]), &host),
            ["InternalIP=10.0.0.8", "InternalIP=fd00::7", "Hostname=n"]
        );
        assert_eq!(
            shown(&options("10.9.9.9", &[]), &host),
            ["InternalIP=10.9.9.9", "Hostname=10.9.9.9"]
        );
        let named = HostAddresses {
            named: ["127.0.1.1", "fd00::7", "10.0.0.8"].map(ip).into(),
            ..host.clone()
        };
        assert_eq!(shown(&options("n", &[]), &named), ["InternalIP=10.0.0.8", "Hostname=n"]);
        let v6 = HostAddresses { routed: [None, Some(ip("fd00::7"))], ..host };
        assert_eq!(shown(&options("n", &[]), &v6), ["InternalIP=fd00::7", "Hostname=n"]);
    }

    #[test]
    fn what_is_refused() {
        for (flag, error) in [
            ("127.0.0.1", "failed to validate nodeIP: nodeIP can't be loopback address"),
            ("224.0.0.1", "failed to validate nodeIP: nodeIP can't be a multicast address"),
            (
                "169.254.0.1",
                "failed to validate nodeIP: nodeIP can't be a link-local unicast address",
            ),
            (
                "10.0.0.9",
                "failed to validate nodeIP: node IP: \"10.0.0.9\" not found in the host's network interfaces",
            ),
        ] {
            assert_eq!(shown(&options("n", &[flag]), &host()), [error]);
        }
        let none = HostAddresses::default();
        assert_eq!(
            shown(&options("n", &[]), &none),
            ["can't get ip address of node n. error: no default route"]
        );
    }

    #[test]
    fn a_clouds_controller_has_the_last_word() {
        let mut options = options("n", &[]);
        options.external_cloud_provider = true;
        assert_eq!(shown(&options, &host()), ["Hostname=n"]);
        options.node_ips = vec![ip("10.0.0.8")];
        assert_eq!(shown(&options, &host()), ["InternalIP=10.0.0.8", "Hostname=n"]);
        assert_eq!(choose(&options, &host(), true), Ok(None));
    }
}
