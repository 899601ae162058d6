//! A result's addresses, in each version of the specification (go-cni `createResult`, containerd
//! `selectPodIPs`).

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Why a result gives the pod no address.
#[derive(Debug, Error)]
pub(crate) enum ResultError {
    /// It has not the specification's form.
    #[error("invalid result")]
    Form(#[source] serde_json::Error),
    /// An address is none.
    #[error("invalid result: address {0:?}: expected IP/PREFIX")]
    Address(String),
    /// An address names an interface that is not listed.
    #[error("invalid result: invalid interface config: interface {0}: expected one of {1}")]
    Interface(usize, usize),
    /// The pod's interface has no address.
    #[error("failed to find network info: no address for {0}")]
    Nothing(String),
}

/// What is read of a result of any version.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Parsed {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    /// Up to 0.2.0.
    ip4: Option<OldIp>,
    /// Up to 0.2.0.
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Interface {
    name: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    /// Its place among the interfaces; the pod's own without one.
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// The addresses of the pod's interface: an IPv4 address first, if there is one, as containerd
/// prefers it; the others in the result's order.
///
/// # Errors
/// [`ResultError`].
pub(super) fn addresses(result: &Value, interface: &str) -> Result<Vec<IpAddr>, ResultError> {
    let parsed = Parsed::deserialize(result).map_err(ResultError::Form)?;
    let mut found = Vec::new();
    for ip in &parsed.ips {
        let name = match ip.interface {
            None => interface,
            Some(place) => match parsed.interfaces.get(place) {
                Some(interface) => interface.name.as_str(),
                None => return Err(ResultError::Interface(place, parsed.interfaces.len())),
            },
        };
        if name == interface {
            found.push(address(&ip.address)?);
        }
    }
    for old in [&parsed.ip4, &parsed.ip6].into_iter().flatten() {
        found.push(address(&old.ip)?);
    }
    match found.iter().position(IpAddr::is_ipv4) {
        Some(place) => found[..=place].rotate_right(1),
        None if found.is_empty() => return Err(ResultError::Nothing(interface.to_owned())),
        None => {}
    }
    Ok(found)
}

fn address(text: &str) -> Result<IpAddr, ResultError> {
    let ip = text.split_once('/').and_then(|(ip, _)| ip.parse().ok());
    ip.ok_or_else(|| ResultError::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_every_version() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/24"},
            "ip6": {"ip": "fd00::2/64"}});
        let versioned = json!({"cniVersion": "0.3.1",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"version": "6", "address": "fd00::2/64", "interface": 1},
                {"version": "4", "address": "10.9.0.1/24", "interface": 0},
                {"version": "4", "address": "10.1.0.2/24", "interface": 1}]});
        let new = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 1500}],
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
                {"address": "fd00::2/64", "interface": 0}], "routes": [], "dns": {}});
        let expected = ["10.1.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().expect("is one"));
        for result in [old, versioned, new] {
            assert_eq!(addresses(&result, "eth0").expect("gives"), expected, "{result}");
        }
    }

    #[test]
    fn results_without_an_address_are_refused() {
        for result in [
            json!({}),
            json!([]),
            json!(null),
            json!({"ips": []}),
            json!({"ips": [{"address": "10.1.0.2"}]}),
            json!({"ips": [{"address": "10.1.0.2/24", "interface": 1}], "interfaces": []}),
            json!({"ips": [{"address": "1.2.3.4/8", "interface": 0}],
                "interfaces": [{"name": "x"}]}),
            json!({"ips": "none"}),
        ] {
            assert!(addresses(&result, "eth0").is_err(), "{result}");
        }
    }
}
