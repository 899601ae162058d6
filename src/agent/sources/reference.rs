//! What a pod names and its namespace does not have.
//!
//! A node would wait for it: somebody may make it. Files do not change while they run, so here it
//! is refused by its field, in the words that a node would wait with.

use copepod_pod::{FieldError, Objects};
use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, KeyToPath, Pod, SecretKeySelector, Volume,
};

/// Each config map, secret or key that the pod cannot do without and that is not there.
pub(crate) fn missing(pod: &Pod, objects: &Objects) -> Vec<FieldError> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut references = Vec::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        of_volume(&mut references, &format!("spec.volumes[{i}]"), volume);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", &spec.containers[..])] {
        for (i, container) in containers.iter().enumerate() {
            of_container(&mut references, &format!("spec.{list}[{i}]"), container);
        }
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    references.iter().flat_map(|one| one.missing(objects, namespace)).collect()
}

/// One place of a pod that names an object.
struct Reference<'a> {
    /// The place.
    at: String,
    kind: Kind,
    name: &'a str,
    keys: Keys<'a>,
    optional: Option<bool>,
}

#[derive(Clone, Copy)]
enum Kind {
    ConfigMap,
    Secret,
}

/// Which keys of the object are named.
enum Keys<'a> {
    /// The files of a volume; none: all that there are.
    Items(&'a [KeyToPath]),
    /// A variable's.
    One(&'a str),
    /// All that there are.
    All,
}

fn of_volume<'a>(all: &mut Vec<Reference<'a>>, at: &str, volume: &'a Volume) {
    let items = |items: &'a Option<Vec<KeyToPath>>| Keys::Items(items.as_deref().unwrap_or(&[]));
    let mut add = |at: String, kind, name, keys, optional| {
        all.push(Reference { at, kind, name, keys, optional });
    };
    if let Some(map) = &volume.config_map {
        let at = format!("{at}.configMap");
        add(at, Kind::ConfigMap, map.name.as_str(), items(&map.items), map.optional);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        add(format!("{at}.secret"), Kind::Secret, name, items(&secret.items), secret.optional);
    }
    let sources = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
    for (i, source) in sources.enumerate() {
        let at = format!("{at}.projected.sources[{i}]");
        if let Some(map) = &source.config_map {
            let at = format!("{at}.configMap");
            add(at, Kind::ConfigMap, &map.name, items(&map.items), map.optional);
        }
        if let Some(secret) = &source.secret {
            let at = format!("{at}.secret");
            add(at, Kind::Secret, &secret.name, items(&secret.items), secret.optional);
        }
    }
}

fn of_container<'a>(all: &mut Vec<Reference<'a>>, at: &str, container: &'a Container) {
    let mut add = |at: String, kind, name, keys, optional| {
        all.push(Reference { at, kind, name, keys, optional });
    };
    for (i, from) in container.env_from.iter().flatten().enumerate() {
        let at = format!("{at}.envFrom[{i}]");
        if let Some(map) = &from.config_map_ref {
            let at = format!("{at}.configMapRef");
            add(at, Kind::ConfigMap, map.name.as_str(), Keys::All, map.optional);
        }
        if let Some(secret) = &from.secret_ref {
            add(format!("{at}.secretRef"), Kind::Secret, &secret.name, Keys::All, secret.optional);
        }
    }
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let Some(from) = &variable.value_from else { continue };
        let at = format!("{at}.env[{i}].valueFrom");
        if let Some(ConfigMapKeySelector { name, key, optional }) = &from.config_map_key_ref {
            add(format!("{at}.configMapKeyRef"), Kind::ConfigMap, name, Keys::One(key), *optional);
        }
        if let Some(SecretKeySelector { name, key, optional }) = &from.secret_key_ref {
            add(format!("{at}.secretKeyRef"), Kind::Secret, name, Keys::One(key), *optional);
        }
    }
}

impl Reference<'_> {
    fn missing(&self, objects: &Objects, namespace: &str) -> Vec<FieldError> {
        let Self { at, kind, name, .. } = self;
        if self.optional == Some(true) {
            return Vec::new();
        }
        let (resource, object, key_noun) = match kind {
            Kind::ConfigMap => ("configmap", "ConfigMap", "config key"),
            Kind::Secret => ("secret", "Secret", "secret key"),
        };
        if !self.is_there(objects) {
            let message = format!("{resource} {name:?} not found");
            return vec![FieldError { path: at.clone(), message }];
        }
        match self.keys {
            Keys::All => Vec::new(),
            Keys::One(key) if self.has_key(objects, key) => Vec::new(),
            Keys::One(key) => {
                let message = format!("couldn't find key {key} in {object} {namespace}/{name}");
                vec![FieldError { path: format!("{at}.key"), message }]
            }
            Keys::Items(items) => {
                let gone = |(_, item): &(usize, &KeyToPath)| !self.has_key(objects, &item.key);
                let error = |(i, item): (usize, &KeyToPath)| FieldError {
                    path: format!("{at}.items[{i}].key"),
                    message: format!("{resource} references non-existent {key_noun}: {}", item.key),
                };
                items.iter().enumerate().filter(gone).map(error).collect()
            }
        }
    }

    fn is_there(&self, objects: &Objects) -> bool {
        match self.kind {
            Kind::ConfigMap => objects.config_maps.contains_key(self.name),
            Kind::Secret => objects.secrets.contains_key(self.name),
        }
    }

    fn has_key(&self, objects: &Objects, key: &str) -> bool {
        match self.kind {
            Kind::ConfigMap => objects.config_maps.get(self.name).is_some_and(|map| {
                let text = map.data.as_ref().is_some_and(|data| data.contains_key(key));
                text || map.binary_data.as_ref().is_some_and(|data| data.contains_key(key))
            }),
            Kind::Secret => objects.secrets.get(self.name).is_some_and(|secret| {
                secret.data.as_ref().is_some_and(|data| data.contains_key(key))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_is_named_by_field_in_upstreams_words() {
        let map = json!({"data": {"a": "1"}, "binaryData": {"b": "AA=="}});
        let secret = json!({"data": {"s": "AA=="}});
        let mut objects = Objects::default();
        objects.config_maps.insert("map".into(), Arc::new(serde_json::from_value(map).unwrap()));
        objects.secrets.insert("secret".into(), Arc::new(serde_json::from_value(secret).unwrap()));
        let items = json!([{"key": "a", "path": "a"}, {"key": "b", "path": "b"}, {"key": "c", "path": "c"}]);
        let env = |name: &str, from: serde_json::Value| json!({"name": name, "valueFrom": from});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": {
            "volumes": [
                {"name": "v", "configMap": {"name": "map", "items": items}},
                {"name": "w", "configMap": {"name": "none"}},
                {"name": "x", "configMap": {"name": "none", "optional": true}},
                {"name": "y", "secret": {"secretName": "none"}},
                {"name": "z", "projected": {"sources": [
                    {"configMap": {"name": "map"}}, {"downwardAPI": {}},
                    {"secret": {"name": "secret", "items": [{"key": "t", "path": "t"}]}}]}}],
            "initContainers": [{"name": "i", "envFrom": [
                {"configMapRef": {"name": "map"}}, {"secretRef": {"name": "other"}},
                {"secretRef": {"name": "other", "optional": true}}]}],
            "containers": [{"name": "c", "env": [
                env("A", json!({"configMapKeyRef": {"name": "map", "key": "a"}})),
                env("B", json!({"configMapKeyRef": {"name": "map", "key": "x"}})),
                env("C", json!({"secretKeyRef": {"name": "secret", "key": "x"}})),
                env("D", json!({"secretKeyRef": {"name": "none", "key": "x"}})),
                env("E", json!({"secretKeyRef": {"name": "none", "key": "x", "optional": true}})),
                env("F", json!({"fieldRef": {"fieldPath": "metadata.name"}}))]}]}}))
        .unwrap();
        let found: Vec<_> = missing(&pod, &objects).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.volumes[0].configMap.items[2].key: configmap references non-existent config key: c",
                "spec.volumes[1].configMap: configmap \"none\" not found",
                "spec.volumes[3].secret: secret \"none\" not found",
                "spec.volumes[4].projected.sources[2].secret.items[0].key: secret references \
                 non-existent secret key: t",
                "spec.initContainers[0].envFrom[1].secretRef: secret \"other\" not found",
                "spec.containers[0].env[1].valueFrom.configMapKeyRef.key: couldn't find key x in \
                 ConfigMap ns/map",
                "spec.containers[0].env[2].valueFrom.secretKeyRef.key: couldn't find key x in Secret \
                 ns/secret",
                "spec.containers[0].env[3].valueFrom.secretKeyRef: secret \"none\" not found",
            ]
        );
    }
}
