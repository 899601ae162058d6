//! What a pod reads besides its own object: config maps and secrets by name, services, tokens, and
//! facts of its node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccountTokenProjection};
use thiserror::Error;

use crate::{ClusterDns, PodAddresses};

/// How long a token lives whose projection does not say, in seconds (the API's default).
const TOKEN_SECONDS: i64 = 3600;

/// The objects of the pod's own namespace that it may name. One that is not in here does not exist.
/// All are valid ones ([`validate_config_map`](crate::validate_config_map),
/// [`validate_secret`](crate::validate_secret)).
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Those of the pod's namespace and the API server's own, in any order; others do no harm. None
    /// without a cluster.
    pub services: Vec<Arc<ServiceFacts>>,
    /// Tokens of the pod's service account. None without a cluster.
    pub tokens: BTreeMap<TokenKey, Token>,
}

/// What pods are told of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its first address; `None` or empty: pods are told nothing of it.
    pub cluster_ip: String,
    /// Its ports, in its order.
    pub ports: Vec<ServicePortFacts>,
}

/// What pods are told of a service's port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePortFacts {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`; empty counts as TCP.
    pub protocol: String,
}

impl ServiceFacts {
    /// What pods are told of this service.
    #[must_use]
    pub fn of(service: &Service) -> ServiceFacts {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let ports = ports.iter().map(|port| ServicePortFacts {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_default(),
        });
        ServiceFacts {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone().unwrap_or_default(),
            cluster_ip: spec.and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default(),
            ports: ports.collect(),
        }
    }
}

/// What a projected token is asked for with: those of a pod that are equal in this are one token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey {
    /// Who it is for; empty for the API server.
    pub audience: String,
    /// How long it shall live, in seconds.
    pub expiration_seconds: i64,
}

impl TokenKey {
    /// Of a projected source.
    #[must_use]
    pub fn of(source: &ServiceAccountTokenProjection) -> TokenKey {
        TokenKey {
            audience: source.audience.clone().unwrap_or_default(),
            expiration_seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        }
    }
}

/// A token of a service account, which is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Of its text.
    #[must_use]
    pub fn new(text: &str) -> Token {
        Token(text.into())
    }

    /// Its text, for whom it is meant.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    fn a_token_is_not_shown() {
        let token = Token::new("secret");
        assert_eq!((format!("{token:?}").as_str(), token.reveal()), ("Token(..)", "secret"));
    }

    #[test]
    fn a_service_becomes_what_pods_are_told() {
        let service = json!({"metadata": {"namespace": "ns", "name": "web"},
            "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                "ports": [{"port": 80, "protocol": "TCP", "name": "http"}, {"port": 81}]}});
        let port = |name: &str, port, protocol: &str| ServicePortFacts {
            name: name.to_owned(),
            port,
            protocol: protocol.to_owned(),
        };
        assert_eq!(
            ServiceFacts::of(&serde_json::from_value(service).unwrap()),
            ServiceFacts {
                namespace: "ns".to_owned(),
                name: "web".to_owned(),
                cluster_ip: "10.0.0.1".to_owned(),
                ports: vec![port("http", 80, "TCP"), port("", 81, "")],
            }
        );
        assert_eq!(ServiceFacts::of(&Service::default()), ServiceFacts::default());
    }

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
