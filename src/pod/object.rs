//! What a pod reads besides its own object: config maps and secrets by name, and facts of its node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::PodAddresses;

/// The objects of the pod's own namespace that it may name. One that is not in here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// What the node knows and a pod may ask for (`fieldRef`, `resourceFieldRef`, `/etc/hosts`).
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's name.
    pub node_name: String,
    /// The node's and the pod's addresses, once the pod is set up.
    pub addresses: PodAddresses,
    /// The node's allocatable milli-CPUs: what an absent CPU limit counts as.
    pub allocatable_cpu_millis: u64,
    /// The node's allocatable bytes of memory: what an absent memory limit counts as.
    pub allocatable_memory_bytes: u64,
    /// The node's allocatable bytes of ephemeral storage.
    pub allocatable_storage_bytes: u64,
}
