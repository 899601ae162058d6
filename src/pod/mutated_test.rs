//! Pods as people mistype them.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::validate::source_tests::good;
use crate::validate::validate;

/// A JSON value like those that people write where others belong.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(\\PC|[$()./'\\[\\]=-]){0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ]
}

/// The pointers to all values.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    let below: Vec<(String, &Value)> = match value {
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (key, value) in below {
        pointers(value, &format!("{at}/{key}"), all);
    }
}

proptest! {
    /// A pod that passes has an environment, files and sub paths, or says in one line why not.
    #[test]
    fn a_mutated_pod_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), anything()), 1..4)
    ) {
        let mut pod = good();
        let mut all = Vec::new();
        pointers(&pod, "", &mut all);
        for (at, value) in changes {
            if let Some(place) = pod.pointer_mut(&all[at.index(all.len() - 1) + 1]) {
                *place = value;
            }
        }
        let Ok(mut pod) = serde_json::from_value(pod) else { return Ok(()) };
        crate::apply_defaults(&mut pod);
        for error in validate(&pod) {
            prop_assert!(!error.path.is_empty() && !error.message.is_empty());
        }
        let (objects, facts) = (crate::Objects::default(), crate::Facts::default());
        let spec = pod.spec.clone().unwrap_or_default();
        for volume in spec.volumes.iter().flatten() {
            let _ = crate::payload(&pod, volume, &objects, &facts);
        }
        for container in &spec.containers {
            let files = std::collections::BTreeMap::new();
            let env = crate::environment(&pod, container, &objects, &facts, &files);
            for mount in container.volume_mounts.iter().flatten() {
                let _ = crate::sub_path(mount, env.as_deref().unwrap_or_default());
            }
        }
        let _ = crate::hosts_file(&pod, &facts, "");
        let _ = crate::resolv_conf(&pod, &facts, "");
        let _ = crate::hostname(&pod, &facts);
    }
}
