//! What a pod names: config maps, secrets, tokens, and where.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, EnvFromSource, EnvVar, KeyToPath, Pod, Secret, SecretKeySelector, Volume,
};

use crate::object::{Objects, TokenKey};

/// All that a pod names, each once. A name that no object can have is not in here: what it means
/// does not exist, and no request has to be made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Config maps that its volumes and variables come from, by name.
    pub config_maps: BTreeSet<String>,
    /// Secrets that its volumes and variables come from, by name.
    pub secrets: BTreeSet<String>,
    /// Its `imagePullSecrets`, by name.
    pub pull_secrets: BTreeSet<String>,
    /// The tokens of its service account.
    pub tokens: BTreeSet<TokenKey>,
}

impl References {
    /// How many objects and tokens these are.
    #[must_use]
    pub fn len(&self) -> usize {
        let objects = self.config_maps.len() + self.secrets.union(&self.pull_secrets).count();
        objects + self.tokens.len()
    }

    /// Whether the pod names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the pod names.
#[must_use]
pub fn references(pod: &Pod) -> References {
    let mut all = References::default();
    for reference in object_references(pod).iter().filter(|one| is_object_name(one.name)) {
        let names = match reference.kind {
            ObjectKind::ConfigMap => &mut all.config_maps,
            ObjectKind::Secret => &mut all.secrets,
        };
        names.insert(reference.name.to_owned());
    }
    let Some(spec) = &pod.spec else { return all };
    all.pull_secrets = pull_secret_names(pod).filter(|name| is_object_name(name)).collect();
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = volumes.flat_map(|volume| volume.sources.iter().flatten());
    let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    all.tokens = tokens.map(TokenKey::of).collect();
    all
}

fn pull_secret_names(pod: &Pod) -> impl Iterator<Item = String> {
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    names.map(|secret| secret.name.clone()).filter(|name| !name.is_empty())
}

/// The pod's `imagePullSecrets` that are not there, in its order: for upstream's event
/// `FailedToRetrieveImagePullSecret`.
#[must_use]
pub fn missing_pull_secrets(pod: &Pod, objects: &Objects) -> Vec<String> {
    pull_secret_names(pod).filter(|name| !objects.secrets.contains_key(name)).collect()
}

/// The pod's `imagePullSecrets` that are there, in its order.
#[must_use]
pub fn pull_secrets(pod: &Pod, objects: &Objects) -> Vec<Arc<Secret>> {
    pull_secret_names(pod).filter_map(|name| objects.secrets.get(&name).cloned()).collect()
}

/// Whether an object can have this name: a DNS-1123 subdomain. The API server does not check the
/// names that a pod refers to, and they become parts of URLs and of selectors.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    crate::validate::is_subdomain(name)
}

/// One place of a pod that names an object.
#[derive(Clone, Debug)]
pub struct ObjectReference<'a> {
    /// The place: `spec.volumes[0].configMap`.
    pub at: String,
    /// The object's kind.
    pub kind: ObjectKind,
    /// Its name, in the pod's namespace.
    pub name: &'a str,
    /// What of it is named.
    pub keys: Keys<'a>,
    /// Whether it may be missing.
    pub optional: Option<bool>,
}

/// What a pod's volumes and variables come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A config map.
    ConfigMap,
    /// A secret.
    Secret,
}

/// Which keys of an object are named.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// The files of a volume; none: all that there are.
    Items(&'a [KeyToPath]),
    /// A variable's.
    One(&'a str),
    /// All that there are.
    All,
}

/// Each place of the pod's volumes and variables that names a config map or a secret: the volumes,
/// then the init containers, the containers, the ephemeral ones.
#[must_use]
pub fn object_references(pod: &Pod) -> Vec<ObjectReference<'_>> {
    let mut all = Vec::new();
    let Some(spec) = &pod.spec else { return all };
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        of_volume(&mut all, &format!("spec.volumes[{i}]"), volume);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", &spec.containers[..])] {
        for (i, container) in containers.iter().enumerate() {
            let at = format!("spec.{list}[{i}]");
            of_variables(&mut all, &at, container.env_from.as_deref(), container.env.as_deref());
        }
    }
    for (i, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = format!("spec.ephemeralContainers[{i}]");
        of_variables(&mut all, &at, container.env_from.as_deref(), container.env.as_deref());
    }
    all
}

fn of_volume<'a>(all: &mut Vec<ObjectReference<'a>>, at: &str, volume: &'a Volume) {
    let items = |items: &'a Option<Vec<KeyToPath>>| Keys::Items(items.as_deref().unwrap_or(&[]));
    let mut add = |at: String, kind, name, keys, optional| {
        all.push(ObjectReference { at, kind, name, keys, optional });
    };
    if let Some(map) = &volume.config_map {
        let at = format!("{at}.configMap");
        add(at, ObjectKind::ConfigMap, map.name.as_str(), items(&map.items), map.optional);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let at = format!("{at}.secret");
        add(at, ObjectKind::Secret, name, items(&secret.items), secret.optional);
    }
    let sources = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
    for (i, source) in sources.enumerate() {
        let at = format!("{at}.projected.sources[{i}]");
        if let Some(map) = &source.config_map {
            let at = format!("{at}.configMap");
            add(at, ObjectKind::ConfigMap, &map.name, items(&map.items), map.optional);
        }
        if let Some(secret) = &source.secret {
            let at = format!("{at}.secret");
            add(at, ObjectKind::Secret, &secret.name, items(&secret.items), secret.optional);
        }
    }
}

fn of_variables<'a>(
    all: &mut Vec<ObjectReference<'a>>,
    at: &str,
    env_from: Option<&'a [EnvFromSource]>,
    env: Option<&'a [EnvVar]>,
) {
    let mut add = |at: String, kind, name, keys, optional| {
        all.push(ObjectReference { at, kind, name, keys, optional });
    };
    for (i, from) in env_from.unwrap_or_default().iter().enumerate() {
        let at = format!("{at}.envFrom[{i}]");
        if let Some(map) = &from.config_map_ref {
            let at = format!("{at}.configMapRef");
            add(at, ObjectKind::ConfigMap, map.name.as_str(), Keys::All, map.optional);
        }
        if let Some(secret) = &from.secret_ref {
            let at = format!("{at}.secretRef");
            add(at, ObjectKind::Secret, &secret.name, Keys::All, secret.optional);
        }
    }
    for (i, variable) in env.unwrap_or_default().iter().enumerate() {
        let Some(from) = &variable.value_from else { continue };
        let at = format!("{at}.env[{i}].valueFrom");
        if let Some(ConfigMapKeySelector { name, key, optional }) = &from.config_map_key_ref {
            let at = format!("{at}.configMapKeyRef");
            add(at, ObjectKind::ConfigMap, name, Keys::One(key), *optional);
        }
        if let Some(SecretKeySelector { name, key, optional }) = &from.secret_key_ref {
            let at = format!("{at}.secretKeyRef");
            add(at, ObjectKind::Secret, name, Keys::One(key), *optional);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn everything_that_a_pod_names_is_found_once() {
        let env = |from: serde_json::Value| json!({"name": "V", "valueFrom": from});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}, {"name": "s1"}, {}],
            "volumes": [
                {"name": "a", "configMap": {"name": "m1"}},
                {"name": "b", "secret": {"secretName": "s1", "optional": true}},
                {"name": "c", "emptyDir": {}},
                {"name": "d", "projected": {"sources": [
                    {"configMap": {"name": "m2"}}, {"secret": {"name": "s2"}},
                    {"serviceAccountToken": {"path": "t"}},
                    {"serviceAccountToken": {"path": "u", "audience": "vault",
                        "expirationSeconds": 600}}]}},
                {"name": "e", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m1"}}]}],
            "containers": [{"name": "c", "env": [
                env(json!({"configMapKeyRef": {"name": "m3", "key": "k"}})),
                env(json!({"secretKeyRef": {"name": "s3.x", "key": "k"}}))]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [
                {"secretRef": {"name": "s4"}}, {"configMapRef": {"name": "m4,x=y"}}]}]}}))
        .unwrap();
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let key = |audience: &str, expiration_seconds| TokenKey {
            audience: audience.to_owned(),
            expiration_seconds,
        };
        let found = references(&pod);
        assert_eq!(
            found,
            References {
                config_maps: names(&["m1", "m2", "m3"]),
                secrets: names(&["s1", "s2", "s3.x", "s4"]),
                pull_secrets: names(&["pull", "s1"]),
                tokens: [key("", 3600), key("vault", 600)].into(),
            }
        );
        assert_eq!((found.len(), found.is_empty()), (10, false));
        assert!(references(&Pod::default()).is_empty());

        let mut objects = Objects::default();
        assert_eq!(missing_pull_secrets(&pod, &objects), ["pull", "s1"]);
        let meta = ObjectMeta { name: Some("s1".to_owned()), ..ObjectMeta::default() };
        let secret = Arc::new(Secret { metadata: meta, ..Secret::default() });
        objects.secrets.insert("s1".to_owned(), Arc::clone(&secret));
        assert_eq!(missing_pull_secrets(&pod, &objects), ["pull"]);
        assert_eq!(pull_secrets(&pod, &objects), [secret]);
    }

    #[test]
    fn names_that_objects_can_have() {
        for name in ["a", "kube-root-ca.crt", "0.1.2", &"a".repeat(253)] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", "A", "a/b", "a?b", "a..b", ".a", "a.", "-a", "a-", "a%2f", "a,b", "ä"] {
            assert!(!is_object_name(name), "{name}");
        }
        assert!(!is_object_name(&"a".repeat(254)));
    }

    proptest! {
        #[test]
        fn a_name_is_safe_in_a_url(name in "([a-z.-]|\\PC){0,6}") {
            if is_object_name(&name) {
                let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
                prop_assert!(!name.is_empty() && name.chars().all(safe));
                prop_assert!(name.split('.').all(|part| !part.is_empty()), "no dot segment");
            }
        }
    }
}
