//! The texts that tell a container of its network: hostname, `/etc/hosts`, `/etc/resolv.conf`.

use k8s_openapi::api::core::v1::Pod;

use crate::object::Facts;

/// The DNS service of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its addresses.
    pub servers: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
}

/// The pod's host name.
#[must_use]
pub fn hostname(_pod: &Pod, _facts: &Facts) -> String {
    String::new()
}

/// The text of the pod's `/etc/hosts`. `of_host` is the node's own, for a pod on its network.
#[must_use]
pub fn hosts_file(_pod: &Pod, _facts: &Facts, _of_host: &str) -> String {
    String::new()
}

/// The text of the pod's `/etc/resolv.conf`, and what had to be left out of it (messages of the
/// event `DNSConfigForming`, or `MissingClusterDNS`). `of_host` is the node's own.
#[must_use]
pub fn resolv_conf(
    _pod: &Pod,
    _cluster: Option<&ClusterDns>,
    _of_host: &str,
) -> (String, Vec<String>) {
    (String::new(), Vec::new())
}
