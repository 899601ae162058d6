//! Static pods: what a file or an address says is made into a pod of this node.
//!
//! As upstream's `pkg/kubelet/config/common.go`, but for the uid: that is a hash of Go's printed
//! form of the defaulted object there, which changes with upstream's version. Here it is the same
//! hash over the object's JSON as it was written, keys sorted, so that neither a comment nor a
//! newer agent makes another pod of it.

use std::fmt;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use crate::default::apply_defaults;
use crate::reference::{ObjectKind, object_references};
use crate::validate::{FieldError, validate};

/// Where a pod comes from (upstream `ConfigSourceAnnotationKey`): `api`, `file` or `http`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The hash of a static pod's object (upstream `ConfigHashAnnotationKey`).
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// When a static pod was first seen (upstream `ConfigFirstSeenAnnotationKey`).
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// On the API server's copy of a static pod: the hash of what it is a copy of (upstream
/// `ConfigMirrorAnnotationKey`).
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The file that a static pod is from; ours alone.
pub const FILE_ANNOTATION: &str = "copepod.dev/config.file";

/// Longest uid that a static pod may bring along: it is a directory's name.
const UID_MAX: usize = 128;
/// FNV-1a's start and factor of 128 bits (as Go's `hash/fnv`).
const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// Where static pods come from. In upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A file, or a directory of them.
    File,
    /// An address.
    Http,
}

impl Source {
    /// Each.
    pub const ALL: [Self; 2] = [Self::File, Self::Http];

    /// Upstream's word for it (`kubernetes.io/config.source`).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
        }
    }

    /// The source that a static pod came from; none for one of the API server.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let named = annotation(pod, SOURCE_ANNOTATION)?;
        Self::ALL.into_iter().find(|source| source.as_str() == named)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where one static pod comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// The file's path.
    File(&'a str),
    /// The address, as configured.
    Url(&'a str),
}

/// Why something is no static pod; upstream's words where it has any.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StaticPodError {
    /// Without a name.
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    /// Wrong in some of its fields.
    #[error("invalid pod: {}", listed(.0))]
    Invalid(Vec<FieldError>),
    /// It needs an API server to run.
    #[error("static pods may not reference {0}")]
    References(&'static str),
}

/// Go's form of a list of errors.
fn listed(errors: &[FieldError]) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match &all[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// The pod as this node runs it: with its uid, its node's name after its own, defaults, and the
/// annotations of a static pod. What only an API server or a kubelet sets is taken off.
///
/// # Errors
/// [`StaticPodError`].
pub fn static_pod(mut pod: Pod, origin: Origin<'_>, node: &str) -> Result<Pod, StaticPodError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(StaticPodError::NoName);
    }
    clear(&mut pod);
    let given = pod.metadata.uid.clone().filter(|uid| !uid.is_empty());
    let uid = given.unwrap_or_else(|| uid(&pod, origin, node));
    apply_defaults(&mut pod);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH_ANNOTATION.into(), uid.clone());
    let source = match origin {
        Origin::File(path) => {
            annotations.insert(FILE_ANNOTATION.into(), path.into());
            Source::File
        }
        Origin::Url(_) => Source::Http,
    };
    annotations.insert(SOURCE_ANNOTATION.into(), source.as_str().into());
    meta.uid = Some(uid);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.into());
    if source == Source::File {
        tolerate(spec);
    }
    pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
    check(&pod)?;
    Ok(pod)
}

/// Takes off what a file cannot know.
fn clear(pod: &mut Pod) {
    let meta = &mut pod.metadata;
    *meta = ObjectMeta {
        name: meta.name.take(),
        generate_name: meta.generate_name.take(),
        namespace: meta.namespace.take(),
        uid: meta.uid.take(),
        labels: meta.labels.take(),
        annotations: meta.annotations.take(),
        ..ObjectMeta::default()
    };
    if let Some(annotations) = &mut meta.annotations {
        for ours in [
            SOURCE_ANNOTATION,
            HASH_ANNOTATION,
            SEEN_ANNOTATION,
            MIRROR_ANNOTATION,
            FILE_ANNOTATION,
        ] {
            annotations.remove(ours);
        }
    }
    pod.status = None;
}

/// Upstream's toleration of static pods in files: trouble of the node does not drive them away.
fn tolerate(spec: &mut PodSpec) {
    let toleration = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
}

fn check(pod: &Pod) -> Result<(), StaticPodError> {
    let mut errors = validate(pod);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if !is_uid(uid) {
        let message = format!("Invalid value: {uid:?}: must be letters, digits, '-', '_' or '.'");
        errors.push(FieldError { path: "metadata.uid".into(), message });
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.ephemeral_containers.iter().flatten().next().is_some()) {
        let message = "Forbidden: cannot be set on create".into();
        errors.push(FieldError { path: "spec.ephemeralContainers".into(), message });
    }
    if spec.is_some_and(|spec| spec.scheduling_gates.iter().flatten().next().is_some()) {
        let message = "Forbidden: cannot be set until all schedulingGates have been cleared".into();
        errors.push(FieldError { path: "spec.nodeName".into(), message });
    }
    if !errors.is_empty() {
        return Err(StaticPodError::Invalid(errors));
    }
    api_reference(pod).map_or(Ok(()), |what| Err(StaticPodError::References(what)))
}

/// Whether this may be a uid here: it becomes the name of directories and control groups.
fn is_uid(uid: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !uid.is_empty() && uid.len() <= UID_MAX && !uid.starts_with('.') && uid.chars().all(plain)
}

/// What of the API server's the pod names, if anything (upstream `HasAPIObjectReference`, in its
/// order; volumes of kinds that are not run here are refused elsewhere).
#[must_use]
pub fn api_reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let is_set = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if is_set(&spec.service_account_name) || is_set(&spec.service_account) {
        return Some("serviceaccounts");
    }
    let names = object_references(pod);
    let names_any = |kind: ObjectKind| names.iter().any(|one| one.kind == kind);
    let pulls = spec.image_pull_secrets.iter().flatten().any(|secret| !secret.name.is_empty());
    if pulls || names_any(ObjectKind::Secret) {
        return Some("secrets");
    }
    if names_any(ObjectKind::ConfigMap) {
        return Some("configmaps");
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(|volume| {
        let is_azure = volume.azure_file.is_some();
        let sources = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
        let mut of_sources = sources.filter_map(|source| {
            if source.config_map.is_some() {
                Some("configmaps (via projected volumes)")
            } else if source.secret.is_some() {
                Some("secrets (via projected volumes)")
            } else if source.service_account_token.is_some() {
                Some("serviceaccounts (via projected volumes)")
            } else if source.cluster_trust_bundle.is_some() {
                Some("clustertrustbundles")
            } else {
                source.pod_certificate.is_some().then_some("podcertificates")
            }
        });
        let found = [
            (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
            (volume.secret.is_some(), "secrets (via secret volumes)"),
            (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
            (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
            (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
            (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
            (is_azure, "secrets (via azureFile volumes)"),
        ];
        let found = found.into_iter().find_map(|(is, what)| is.then_some(what));
        found.or_else(|| of_sources.next())
    })
}

/// The uid of a pod that brings none: the hash of what it is and where it comes from, of 32 hex
/// digits.
fn uid(pod: &Pod, origin: Origin<'_>, node: &str) -> String {
    // Of ordered keys, whatever the features of the library: a value's keys are sorted.
    let object = serde_json::to_value(pod).unwrap_or_default();
    let mut hash = Fnv(FNV_OFFSET);
    hash.value(&object);
    match origin {
        Origin::File(path) => {
            hash.text(&format!("host:{node}"));
            hash.text(&format!("file:{path}"));
        }
        Origin::Url(url) => hash.text(&format!("url:{url}")),
    }
    format!("{:032x}", hash.0)
}

/// FNV-1a of 128 bits.
struct Fnv(u128);

impl Fnv {
    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }

    /// A value as compact JSON with sorted keys.
    fn value(&mut self, value: &serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.text(&value.to_string());
            }
            Value::Array(items) => {
                self.text("[");
                for item in items {
                    self.value(item);
                    self.text(",");
                }
                self.text("]");
            }
            Value::Object(fields) => {
                let mut keys: Vec<&String> = fields.keys().collect();
                keys.sort();
                self.text("{");
                for key in keys {
                    self.text(&Value::from(key.as_str()).to_string());
                    self.text(":");
                    self.value(&fields[key]);
                    self.text(",");
                }
                self.text("}");
            }
        }
    }
}

/// An annotation of a pod.
pub(crate) fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
#[path = "static_pod_test.rs"]
mod tests;
