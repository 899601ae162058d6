//! What a pod reads besides its own object: config maps and secrets by name, and facts of its node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use thiserror::Error;

use crate::{ClusterDns, PodAddresses};

/// The objects of the pod's own namespace that it may name. One that is not in here does not exist.
/// All are valid ones ([`validate_config_map`](crate::validate_config_map),
/// [`validate_secret`](crate::validate_secret)).
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// An object that the pod names is not there; the words are those of upstream's API errors.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotFound {
    /// A config map of this name.
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    /// A secret of this name.
    #[error("secret {0:?} not found")]
    Secret(String),
}

impl Objects {
    /// The config map; `None` where it is missing and may be.
    pub(crate) fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&ConfigMap>, NotFound> {
        match self.config_maps.get(name) {
            None if optional != Some(true) => Err(NotFound::ConfigMap(name.to_owned())),
            found => Ok(found.map(Arc::as_ref)),
        }
    }

    /// The secret; `None` where it is missing and may be.
    pub(crate) fn secret(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Secret>, NotFound> {
        match self.secrets.get(name) {
            None if optional != Some(true) => Err(NotFound::Secret(name.to_owned())),
            found => Ok(found.map(Arc::as_ref)),
        }
    }
}

/// Moves a secret's `stringData` into its `data`, where it wins: what the API server does on each
/// write, for secrets that never saw one.
pub fn normalise_secret(secret: &mut Secret) {
    let Some(texts) = secret.string_data.take() else { return };
    let data = secret.data.get_or_insert_default();
    data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
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
    /// The DNS service of the node's cluster; `None` without a cluster.
    pub cluster_dns: Option<ClusterDns>,
    /// The node's own resolver configuration as its kubelet configuration names it (`resolvConf`):
    /// a path, `/etc/resolv.conf` if it says none; empty for no such file.
    pub resolv_conf: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_wins_over_data() {
        let secret =
            json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"b": "two", "c": ""}});
        let mut secret: Secret = serde_json::from_value(secret).unwrap();
        normalise_secret(&mut secret);
        let once = secret.clone();
        normalise_secret(&mut secret);
        assert_eq!(secret, once);
        let shown = serde_json::to_value(&secret).unwrap();
        assert_eq!(shown["data"], json!({"a": "MQ==", "b": "dHdv", "c": ""}));
        assert_eq!(secret.string_data, None);
    }
}
