//! The config maps and secrets of all files, by namespace: what a pod may name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use copepod_pod::{FieldError, Objects, normalise_secret, validate_config_map, validate_secret};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::LoadedObject;

/// Where an object is that names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// What pods may name.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    config_maps: Named<ConfigMap>,
    secrets: Named<Secret>,
}

/// Objects of one kind by name, by namespace.
type Named<T> = BTreeMap<String, BTreeMap<String, Arc<T>>>;

impl Catalogue {
    /// Sorts objects by namespace and name; gives all that is wrong with them too, a line each.
    pub(crate) fn new(
        config_maps: Vec<LoadedObject<ConfigMap>>,
        mut secrets: Vec<LoadedObject<Secret>>,
    ) -> (Self, Vec<String>) {
        secrets.iter_mut().for_each(|secret| normalise_secret(&mut secret.object));
        let mut problems = Vec::new();
        let all = Self {
            config_maps: named(config_maps, validate_config_map, &mut problems),
            secrets: named(secrets, validate_secret, &mut problems),
        };
        (all, problems)
    }

    /// What a pod of this namespace may name.
    pub(crate) fn of(&self, namespace: &str) -> Objects {
        Objects {
            config_maps: self.config_maps.get(namespace).cloned().unwrap_or_default(),
            secrets: self.secrets.get(namespace).cloned().unwrap_or_default(),
            ..Objects::default()
        }
    }
}

fn named<T: Metadata<Ty = ObjectMeta>>(
    loaded: Vec<LoadedObject<T>>,
    validate: fn(&T) -> Vec<FieldError>,
    problems: &mut Vec<String>,
) -> Named<T> {
    let mut all: Named<T> = BTreeMap::new();
    for LoadedObject { mut object, source } in loaded {
        let meta = object.metadata_mut();
        let given = meta.namespace.take().filter(|namespace| !namespace.is_empty());
        let namespace = given.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        meta.namespace = Some(namespace.clone());
        let name = meta.name.clone().unwrap_or_default();
        problems.extend(validate(&object).iter().map(|problem| format!("{source}: {problem}")));
        match all.entry(namespace).or_default().entry(name) {
            Entry::Vacant(place) => drop(place.insert(Arc::new(object))),
            Entry::Occupied(place) => {
                problems
                    .push(format!("{source}: metadata.name: Duplicate value: {:?}", place.key()));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(namespace: Option<&str>, name: &str) -> LoadedObject<ConfigMap> {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: namespace.map(Into::into),
            ..ObjectMeta::default()
        };
        let source = format!("{name}.yaml");
        LoadedObject { object: ConfigMap { metadata, ..ConfigMap::default() }, source }
    }

    #[test]
    fn a_pod_may_name_what_its_own_namespace_has() {
        let maps = vec![map(None, "a"), map(Some("other"), "a"), map(Some(""), "b")];
        let (all, problems) = Catalogue::new(maps, Vec::new());
        assert_eq!(problems, [""; 0]);
        let names = |namespace| all.of(namespace).config_maps.into_keys().collect::<Vec<_>>();
        assert_eq!(names("default"), ["a", "b"]);
        assert_eq!(names("other"), ["a"]);
        assert_eq!(names("third"), [""; 0]);
    }

    #[test]
    fn two_of_one_name_are_named() {
        let maps = vec![map(None, "a"), map(Some("default"), "a")];
        let (_, problems) = Catalogue::new(maps, Vec::new());
        assert_eq!(problems, ["a.yaml: metadata.name: Duplicate value: \"a\""]);
    }
}
