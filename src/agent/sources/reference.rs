//! What a pod names and its namespace does not have.
//!
//! A node would wait for it: somebody may make it. Files do not change while they run, so here it
//! is refused by its field, in the words that a node would wait with.

use copepod_pod::{FieldError, Keys, ObjectKind, ObjectReference, Objects, object_references};
use k8s_openapi::api::core::v1::{KeyToPath, Pod};

/// Each config map, secret or key that the pod cannot do without and that is not there.
pub(crate) fn missing(pod: &Pod, objects: &Objects) -> Vec<FieldError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let references = object_references(pod);
    references.iter().flat_map(|one| missing_of(one, objects, namespace)).collect()
}

fn missing_of(
    reference: &ObjectReference<'_>,
    objects: &Objects,
    namespace: &str,
) -> Vec<FieldError> {
    let ObjectReference { at, kind, name, .. } = reference;
    if reference.optional == Some(true) {
        return Vec::new();
    }
    let (resource, object, key_noun) = match kind {
        ObjectKind::ConfigMap => ("configmap", "ConfigMap", "config key"),
        ObjectKind::Secret => ("secret", "Secret", "secret key"),
    };
    if !is_there(reference, objects) {
        let message = format!("{resource} {name:?} not found");
        return vec![FieldError { path: at.clone(), message }];
    }
    match reference.keys {
        Keys::All => Vec::new(),
        Keys::One(key) if has_key(reference, objects, key) => Vec::new(),
        Keys::One(key) => {
            let message = format!("couldn't find key {key} in {object} {namespace}/{name}");
            vec![FieldError { path: format!("{at}.key"), message }]
        }
        Keys::Items(items) => {
            let gone = |(_, item): &(usize, &KeyToPath)| !has_key(reference, objects, &item.key);
            let error = |(i, item): (usize, &KeyToPath)| FieldError {
                path: format!("{at}.items[{i}].key"),
                message: format!("{resource} references non-existent {key_noun}: {}", item.key),
            };
            items.iter().enumerate().filter(gone).map(error).collect()
        }
    }
}

fn is_there(reference: &ObjectReference<'_>, objects: &Objects) -> bool {
    match reference.kind {
        ObjectKind::ConfigMap => objects.config_maps.contains_key(reference.name),
        ObjectKind::Secret => objects.secrets.contains_key(reference.name),
    }
}

fn has_key(reference: &ObjectReference<'_>, objects: &Objects, key: &str) -> bool {
    match reference.kind {
        ObjectKind::ConfigMap => objects.config_maps.get(reference.name).is_some_and(|map| {
            let text = map.data.as_ref().is_some_and(|data| data.contains_key(key));
            text || map.binary_data.as_ref().is_some_and(|data| data.contains_key(key))
        }),
        ObjectKind::Secret => objects
            .secrets
            .get(reference.name)
            .is_some_and(|secret| secret.data.as_ref().is_some_and(|data| data.contains_key(key))),
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
