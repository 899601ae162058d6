//! What has changed between two versions of a node, as a strategic merge patch of `nodes/status`
//! (upstream's `PatchNodeStatus`), pure.

use std::mem;

use k8s_openapi::api::core::v1::{Node, NodeSpec};
use serde_json::{Map, Value, json};

/// The list that is replaced as a whole.
const ADDRESSES: &str = "addresses";

/// The patch from `old` to `new`, less their specs, which a status does not change; `None` where
/// there is nothing to change.
///
/// # Errors
/// Never for a node that came out of JSON, or was made of texts and numbers.
pub(super) fn between(old: &Node, new: &Node) -> serde_json::Result<Option<Value>> {
    let mut patch = changes(&plain(old)?, &plain(new)?).unwrap_or_default();
    let addresses = |node: &Node| node.status.as_ref().and_then(|status| status.addresses.clone());
    let (before, now) = (addresses(old), addresses(new));
    if before != now && before.is_some_and(|before| !before.is_empty()) {
        // Their type is said to be their key, and there may be two of one.
        let mut list = serde_json::to_value(now.unwrap_or_default())?;
        if let Some(list) = list.as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
        let status = patch.entry("status").or_insert_with(|| json!({}));
        status[ADDRESSES] = list;
    }
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

/// Whether `new` says more than `old` but that the kubelet lives.
///
/// # Errors
/// See [`between`].
pub(super) fn is_change(old: &Node, new: &Node) -> serde_json::Result<bool> {
    Ok(between(&without_heartbeats(old), &without_heartbeats(new))?.is_some())
}

fn without_heartbeats(node: &Node) -> Node {
    let mut node = node.clone();
    let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut());
    for condition in conditions.into_iter().flatten() {
        condition.last_heartbeat_time = None;
    }
    node
}

/// A node as JSON without its spec.
fn plain(node: &Node) -> serde_json::Result<Map<String, Value>> {
    let node = Node { spec: Some(NodeSpec::default()), ..node.clone() };
    let mut value = serde_json::to_value(node)?;
    let mut map = value.as_object_mut().map(mem::take).unwrap_or_default();
    // An empty list is none, to the API server as well.
    map.values_mut().for_each(drop_empty);
    Ok(map)
}

/// Removes empty lists and maps.
fn drop_empty(value: &mut Value) {
    let Value::Object(map) = value else { return };
    map.values_mut().for_each(drop_empty);
    map.retain(|_, value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    });
}

/// The members that lead from `old` to `new`; `None` where there are none.
fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut patch = Map::new();
    for (key, now) in new {
        let change = match (key.as_str(), old.get(key), now) {
            (_, Some(before), now) if before == now => None,
            ("conditions", before, Value::Array(now)) => Some(conditions(before, now)),
            (_, Some(Value::Object(before)), Value::Object(now)) => {
                changes(before, now).map(Value::Object)
            }
            // Set by hand, in `between`, where there were others before.
            (ADDRESSES, Some(_), Value::Array(_)) => None,
            (_, _, now) => Some(now.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    let is_addresses = |key: &str, value: &Value| key == ADDRESSES && value.is_array();
    let gone =
        old.iter().filter(|(key, before)| !(new.contains_key(*key) || is_addresses(key, before)));
    for (key, _) in gone {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(patch)
}

/// The changes of conditions, which are merged by their type. None is ever removed.
fn conditions(old: Option<&Value>, new: &[Value]) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let none = Map::new();
    let mut patch = Vec::new();
    for now in new {
        let before = old.iter().find(|before| before["type"] == now["type"]);
        let before = before.and_then(Value::as_object).unwrap_or(&none);
        let Some(mut change) = now.as_object().and_then(|now| changes(before, now)) else {
            continue;
        };
        change.insert("type".into(), now["type"].clone());
        patch.push(Value::Object(change));
    }
    Value::Array(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        serde_json::from_value(value).expect("a node")
    }

    fn patch(old: Value, new: Value) -> Value {
        between(&node(old), &node(new)).expect("json").unwrap_or(Value::Null)
    }

    #[test]
    fn only_what_has_changed_is_sent() {
        let old = json!({
            "metadata": {"name": "n", "labels": {"a": "1", "b": "2"}, "resourceVersion": "5"},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {
                "capacity": {"cpu": "2", "hugepages-2Mi": "0", "example.com/x": "3"},
                "images": [{"names": ["a"], "sizeBytes": 1}],
                "nodeInfo": {
                    "bootID": "1", "machineID": "m", "architecture": "", "osImage": "",
                    "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                    "kubeletVersion": "", "operatingSystem": "", "systemUUID": ""
                },
            }
        });
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "1", "b": "3"});
        new["spec"] = json!({});
        new["status"]["capacity"] = json!({"cpu": "4", "example.com/x": "3"});
        new["status"]["images"] = json!([{"names": ["b"], "sizeBytes": 2}]);
        new["status"]["nodeInfo"]["bootID"] = json!("2");
        assert_eq!(
            patch(old.clone(), new),
            json!({
                "metadata": {"labels": {"b": "3"}},
                "status": {
                    "capacity": {"cpu": "4", "hugepages-2Mi": null},
                    "images": [{"names": ["b"], "sizeBytes": 2}],
                    "nodeInfo": {"bootID": "2"},
                }
            })
        );
        assert_eq!(patch(old.clone(), old), Value::Null);
        let empty = json!({"status": {"images": [], "conditions": []}});
        assert_eq!(patch(json!({"status": {}}), empty), Value::Null);
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let condition = |name: &str, status: &str, beat: &str| json!({"type": name, "status": status, "reason": "r", "lastHeartbeatTime": beat});
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        let status = |list: Value| json!({"status": {"conditions": list}});
        let foreign = condition("Other", "True", early);
        let old = status(json!([foreign, condition("Ready", "False", early)]));
        let beat = status(json!([foreign, condition("Ready", "False", late)]));
        let change = status(json!([
            foreign,
            condition("Ready", "True", late),
            condition("X", "True", late)
        ]));
        let sent = status(json!([{"type": "Ready", "lastHeartbeatTime": late}]));
        assert_eq!(patch(old.clone(), beat.clone()), sent);
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": late});
        let sent = status(json!([ready, condition("X", "True", late)]));
        assert_eq!(patch(old.clone(), change.clone()), sent);
        let [old, beat, change] = [old, beat, change].map(node);
        assert!(!is_change(&old, &beat).expect("json"), "that it lives is no change");
        assert!(is_change(&old, &change).expect("json"));
    }

    #[test]
    fn addresses_are_replaced_as_a_whole() {
        let address = |ip: &str| json!({"type": "InternalIP", "address": ip});
        let status = |list: Value| json!({"status": {"addresses": list}});
        let one = status(json!([address("10.0.0.1")]));
        let two = status(json!([address("10.0.0.1"), address("fd00::1")]));
        let replaced =
            status(json!([address("10.0.0.1"), address("fd00::1"), {"$patch": "replace"}]));
        assert_eq!(patch(one.clone(), two.clone()), replaced);
        assert_eq!(patch(json!({"status": {}}), two.clone()), two);
        assert_eq!(patch(one, json!({"status": {}})), status(json!([{"$patch": "replace"}])));
    }
}
