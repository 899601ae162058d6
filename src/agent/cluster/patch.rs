//! The smallest patch that makes the status which the API has into the one that is wanted. Pure.
//!
//! A strategic merge patch of `pods/status`, as upstream's status manager sends it: conditions
//! merge by type, so that others' stay; lists of containers are whole; addresses are replaced.

use copepod_pod::is_terminal;
use copepod_pod::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Fields that are taken back once they are wanted no more. Others that we write stay as they
/// were: addresses and start outlive the containers, a phase is never without one.
const TAKEN_BACK: [&str; 8] = [
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "initContainerStatuses",
    "message",
    "reason",
    "resize",
    "resources",
];
/// Fields that others write: the scheduler and the controllers of resource claims.
const OTHERS: [&str; 3] =
    ["extendedResourceClaimStatus", "nominatedNodeName", "resourceClaimStatuses"];
/// Lists that the API merges by `ip`.
const ADDRESSES: [&str; 2] = ["hostIPs", "podIPs"];
/// Objects of which a part would be merged.
const MERGED: [&str; 2] = ["allocatedResources", "resources"];

/// The conditions that a kubelet writes (upstream: `PodConditionByKubelet`); all others are
/// somebody else's, and what we would say of them is a copy that may be old.
const CONDITIONS: [&str; 8] = [
    "AllContainersRestarting",
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "Ready",
];
/// Written by us only with [`DISRUPTED_BY_US`], else by whoever else disrupts the pod.
const DISRUPTION: &str = "DisruptionTarget";
/// The reason of our own disruptions (upstream: `PodReasonTerminationByKubelet`).
const DISRUPTED_BY_US: &str = "TerminationByKubelet";

/// The smallest patch that makes `have`, which the API has, into `want`; none if they say the same.
///
/// It names the pod's uid, so that a namesake is not patched. Its times are whole seconds. What is
/// terminal in the API stays so: a phase that is another is not sent, and a `want` that is not
/// terminal is from before and makes no patch at all.
pub(crate) fn status_patch(uid: &str, have: Option<&PodStatus>, want: &PodStatus) -> Option<Value> {
    let (has_ended, is_to_end) = (is_terminal(have), is_terminal(Some(want)));
    let have = match have {
        Some(status) => fields(status)?,
        None => Fields::new(),
    };
    let mut want = fields(want)?;
    if has_ended {
        if !is_to_end {
            return None;
        }
        want.remove("phase");
    }
    if have.contains_key("qosClass") {
        // Immutable in the API.
        want.remove("qosClass");
    }
    let mut patch = Fields::new();
    for (name, value) in &want {
        let had = have.get(name);
        let is_done_elsewhere = name == "conditions" || OTHERS.contains(&name.as_str());
        if is_done_elsewhere || had.is_some_and(|had| same(had, value)) {
            continue;
        }
        let change = match name.as_str() {
            "observedGeneration" => risen(had, value).then(|| value.clone()),
            list if ADDRESSES.contains(&list) => Some(whole_list(had, value)),
            object if MERGED.contains(&object) => Some(whole_object(had, value)),
            _ => Some(value.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    let change = conditions(have.get("conditions"), want.get("conditions"));
    patch.extend(change.map(|change| ("conditions".to_owned(), change)));
    for name in TAKEN_BACK {
        if have.contains_key(name) && !want.contains_key(name) {
            patch.insert(name.to_owned(), Value::Null);
        }
    }
    (!patch.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": patch }))
}

/// A list of addresses in the place of another one.
fn whole_list(had: Option<&Value>, value: &Value) -> Value {
    match (had, value) {
        (Some(_), Value::Array(items)) => {
            let replace = json!({ "$patch": "replace" });
            Value::Array(std::iter::once(replace).chain(items.iter().cloned()).collect())
        }
        (None | Some(_), _) => value.clone(),
    }
}

/// An object in the place of another one.
fn whole_object(had: Option<&Value>, value: &Value) -> Value {
    let mut value = value.clone();
    if let (Some(_), Some(object)) = (had, value.as_object_mut()) {
        object.insert("$patch".to_owned(), "replace".into());
    }
    value
}

/// Whether a generation is newer than the one that is there.
fn risen(had: Option<&Value>, value: &Value) -> bool {
    had.and_then(Value::as_i64) < value.as_i64()
}

/// The changes of our conditions, if there are any. Each of ours that is not wanted goes, also one that
/// the scheduler's binding wrote (upstream `mergePodStatus`): a pod that was refused has none.
fn conditions(had: Option<&Value>, want: Option<&Value>) -> Option<Value> {
    fn list(value: Option<&Value>) -> impl Iterator<Item = (&str, &Fields)> {
        let all = value.and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|condition| {
            let condition = condition.as_object()?;
            Some((condition.get("type")?.as_str()?, condition))
        })
    }
    let find = |of: Option<&'_ Value>, kind: &str| {
        list(of).find(|(found, _)| *found == kind).map(|(_, condition)| condition.clone())
    };
    let is_ours = |kind: &str, condition: &Fields| match kind {
        DISRUPTION => condition.get("reason").and_then(Value::as_str) == Some(DISRUPTED_BY_US),
        kind => CONDITIONS.contains(&kind),
    };
    let mut changes = Vec::new();
    for (kind, wanted) in list(want).filter(|(kind, wanted)| is_ours(kind, wanted)) {
        let change = condition(find(had, kind).unwrap_or_default(), wanted);
        if !change.is_empty() {
            let mut change = change;
            change.insert("type".to_owned(), kind.into());
            changes.push(Value::Object(change));
        }
    }
    for kind in CONDITIONS {
        if find(had, kind).is_some() && find(want, kind).is_none() {
            changes.push(json!({ "$patch": "delete", "type": kind }));
        }
    }
    (!changes.is_empty()).then_some(Value::Array(changes))
}

/// What changes in one condition.
fn condition(mut had: Fields, want: &Fields) -> Fields {
    let mut change = Fields::new();
    for (name, value) in want {
        let before = had.remove(name);
        let is_change = match name.as_str() {
            "observedGeneration" => risen(before.as_ref(), value),
            _ => before.as_ref() != Some(value),
        };
        if is_change {
            change.insert(name.clone(), value.clone());
        }
    }
    // A generation that was seen stays seen.
    let gone = had.into_iter().map(|(name, _)| name).filter(|name| name != "observedGeneration");
    change.extend(gone.map(|name| (name, Value::Null)));
    change
}

/// A status in one form, whoever wrote it.
fn fields(status: &PodStatus) -> Option<Fields> {
    match normal("", serde_json::to_value(status).ok()?) {
        Some(Value::Object(fields)) => Some(fields),
        Some(_) => None,
        None => Some(Fields::new()),
    }
}

/// A value in one form: what is empty is not there, as Go's `omitempty` has it, and times have no
/// part below a second, since the API keeps none.
fn normal(name: &str, value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Bool(_) | Value::Number(_) => Some(value),
        Value::String(text) if text.is_empty() => None,
        Value::String(text) if name.ends_with("Time") || name.ends_with("At") => {
            Some(Value::String(whole_seconds(&text).unwrap_or(text)))
        }
        Value::String(_) => Some(value),
        Value::Array(items) => {
            // An element keeps its place, also one that is empty.
            let items = items.into_iter().map(|item| normal("", item).unwrap_or_default());
            let items: Vec<Value> = items.collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(fields) => {
            let field =
                |(name, value): (String, Value)| normal(&name, value).map(|value| (name, value));
            let fields: Fields = fields.into_iter().filter_map(field).collect();
            // A container that runs, runs also if nothing more is said of it; one that has no
            // resources is told apart from one of which they are not known.
            let is_said = matches!(name, "resources" | "running" | "terminated" | "waiting");
            let says = !fields.is_empty() || is_said;
            says.then_some(Value::Object(fields))
        }
    }
}

fn whole_seconds(text: &str) -> Option<String> {
    let time: Timestamp = text.parse().ok()?;
    let second = time.as_nanosecond().div_euclid(1_000_000_000);
    Some(Timestamp::from_second(i64::try_from(second).ok()?).ok()?.to_string())
}

/// Whether two values say the same; quantities do in any of their forms.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let pair = |(name, value): (&String, &Value)| {
                b.get(name).is_some_and(|other| match name.as_str() {
                    "allocatedResources" | "limits" | "requests" => same_amounts(value, other),
                    _ => same(value, other),
                })
            };
            a.len() == b.len() && a.iter().all(pair)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b,
    }
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    let pair = |(name, value): (&String, &Value)| {
        b.get(name).is_some_and(|other| match (amount(value), amount(other)) {
            (Some(value), Some(other)) => value == other,
            (None | Some(_), _) => value == other,
        })
    };
    a.len() == b.len() && a.iter().all(pair)
}

#[cfg(test)]
#[path = "patch_test.rs"]
mod tests;
