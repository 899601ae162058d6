//! A pod's status without what names it, and what differs between two.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// A pod's status without what differs from pod to pod and between the runtimes: names, ids,
/// images, times, the user that only CRI tells.
pub(crate) fn shape(pod: &Value) -> Value {
    let meta = |field: &str| pod["metadata"][field].as_str().expect("a string");
    let mut status = pod["status"].clone();
    for list in ["containerStatuses", "initContainerStatuses"] {
        for one in status[list].as_array_mut().into_iter().flatten() {
            let has_id = one["containerID"].as_str().map(|id| id.contains("://"));
            one["containerID"] = json!(has_id);
            // The API server gives each pod's own a name of its own.
            for mount in one["volumeMounts"].as_array_mut().into_iter().flatten() {
                let name = mount["name"].as_str().and_then(|name| name.split("-access-").next());
                mount["name"] = json!(name);
            }
        }
    }
    without(
        &mut status,
        &[
            "podIP",
            "podIPs",
            "hostIP",
            "hostIPs",
            "startTime",
            "lastTransitionTime",
            "lastProbeTime",
            "startedAt",
            "finishedAt",
            "image",
            "imageID",
            "user",
        ],
    );
    // An ended container's own id is also in its state.
    let text = status.to_string();
    let text = text.replace(meta("name"), "NAME").replace(meta("uid"), "UID");
    let mut status: Value = serde_json::from_str(&text).expect("still JSON");
    ids(&mut status);
    status
}

/// Takes these fields out, wherever they are.
fn without(value: &mut Value, fields: &[&str]) {
    match value {
        Value::Object(object) => {
            object.retain(|name, _| !fields.contains(&name.as_str()));
            object.values_mut().for_each(|value| without(value, fields));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| without(value, fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Makes each container id `ID`, however its runtime is named.
fn ids(value: &mut Value) {
    let scheme = |text: &str| text.starts_with("wasm://") || text.starts_with("containerd://");
    match value {
        Value::Object(object) => object.values_mut().for_each(ids),
        Value::Array(all) => all.iter_mut().for_each(ids),
        Value::String(text) if scheme(text) => *value = json!("ID"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What differs, a line each.
pub(crate) fn differences(at: &str, one: &Value, other: &Value) -> String {
    match (one, other) {
        (one, other) if one == other => String::new(),
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            let get = |object: &Map<String, Value>, name: &String| {
                object.get(name).cloned().unwrap_or(Value::Null)
            };
            let lines = names.into_iter().map(|name| {
                differences(&format!("{at}.{name}"), &get(one, name), &get(other, name))
            });
            lines.collect()
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs.map(|(n, (one, other))| differences(&format!("{at}[{n}]"), one, other)).collect()
        }
        (one, other) => format!("  {at}: {one} | {other}\n"),
    }
}
