//! The conditions of a node that are its kubelet's, pure.

use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What there is too little of. Each is a condition, and pods are evicted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    /// Memory.
    pub(super) memory: bool,
    /// Room on a file system of the node.
    pub(super) disk: bool,
    /// Process ids.
    pub(super) pid: bool,
}

/// One state of a condition: its reason, its message, the reason of the node's event. Upstream's
/// words (`pkg/kubelet/nodestatus`).
struct Words(&'static str, &'static str, &'static str);

/// A condition that says what there is too little of.
struct Kind {
    name: &'static str,
    bad: Words,
    good: Words,
}

const MEMORY: Kind = Kind {
    name: "MemoryPressure",
    bad: Words(
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ),
    good: Words(
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ),
};

const DISK: Kind = Kind {
    name: "DiskPressure",
    bad: Words("KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"),
    good: Words(
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
        "NodeHasNoDiskPressure",
    ),
};

const PID: Kind = Kind {
    name: "PIDPressure",
    bad: Words(
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "NodeHasInsufficientPID",
    ),
    good: Words(
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
        "NodeHasSufficientPID",
    ),
};

const READY: &str = "Ready";

/// What a node must say that it has in order to be ready (upstream's `requiredCapacities`).
const REQUIRED: [&str; 4] = ["cpu", "memory", "pods", "ephemeral-storage"];

/// Sets the kubelet's conditions in `status`, whose capacity is set; others' stay. Gives the reasons
/// of the events that tell of what has changed.
pub(super) fn set(
    status: &mut NodeStatus,
    pressure: Pressure,
    problems: &[String],
    now: &Time,
) -> Vec<&'static str> {
    let message = not_ready(status, problems);
    let conditions = status.conditions.get_or_insert_default();
    let mut events = Vec::new();
    for (kind, is_bad) in [(MEMORY, pressure.memory), (DISK, pressure.disk), (PID, pressure.pid)] {
        let Words(reason, message, event) = if is_bad { kind.bad } else { kind.good };
        let condition = found(conditions, kind.name);
        condition.last_heartbeat_time = Some(now.clone());
        let wanted = if is_bad { "True" } else { "False" };
        if condition.status != wanted {
            condition.status = wanted.into();
            condition.reason = Some(reason.into());
            condition.message = Some(message.into());
            condition.last_transition_time = Some(now.clone());
            events.push(event);
        }
    }
    // The last one, which old controllers relied on.
    let is_new = !conditions.iter().any(|condition| condition.type_ == READY);
    let ready = found(conditions, READY);
    let wanted = if message.is_none() { "True" } else { "False" };
    if ready.status != wanted {
        ready.status = wanted.into();
        ready.last_transition_time = Some(now.clone());
        if !is_new {
            events.push(if message.is_none() { "NodeReady" } else { "NodeNotReady" });
        }
    }
    let reason = if message.is_none() { "KubeletReady" } else { "KubeletNotReady" };
    ready.reason = Some(reason.into());
    ready.message = Some(message.unwrap_or_else(|| "kubelet is posting ready status".into()));
    ready.last_heartbeat_time = Some(now.clone());
    events
}

/// The condition of a type, made if there is none.
fn found<'a>(conditions: &'a mut Vec<NodeCondition>, name: &str) -> &'a mut NodeCondition {
    let at = conditions.iter().position(|condition| condition.type_ == name);
    let at = at.unwrap_or_else(|| {
        let status = "Unknown".into();
        conditions.push(NodeCondition { type_: name.into(), status, ..NodeCondition::default() });
        conditions.len() - 1
    });
    &mut conditions[at]
}

/// Why the node is not ready, if it is not: all that is wrong, each once, as upstream joins errors
/// (`NewAggregate`).
fn not_ready(status: &NodeStatus, problems: &[String]) -> Option<String> {
    let capacity = status.capacity.as_ref();
    let has = |name: &str| capacity.is_some_and(|capacity| capacity.contains_key(name));
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| !has(name)).collect();
    let missing = (!missing.is_empty())
        .then(|| format!("missing node capacity for resources: {}", missing.join(", ")));
    let mut texts: Vec<&str> = Vec::new();
    for text in problems.iter().chain(&missing) {
        if !texts.contains(&text.as_str()) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        more => Some(format!("[{}]", more.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a time"))
    }

    fn status() -> NodeStatus {
        let capacity = REQUIRED.map(|name| (name.to_owned(), Quantity("1".into())));
        NodeStatus { capacity: Some(BTreeMap::from(capacity)), ..NodeStatus::default() }
    }

    /// Type, status, reason, transition.
    fn shown(status: &NodeStatus) -> Vec<(String, String, String, i64)> {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let show = |c: &NodeCondition| {
            let transition = c.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
            (c.type_.clone(), c.status.clone(), c.reason.clone().unwrap_or_default(), transition)
        };
        conditions.iter().map(show).collect()
    }

    fn row(
        name: &str,
        status: &str,
        reason: &str,
        transition: i64,
    ) -> (String, String, String, i64) {
        (name.into(), status.into(), reason.into(), transition)
    }

    #[test]
    fn conditions_keep_the_time_of_their_last_change() {
        let mut status = status();
        let none = Pressure::default();
        let events = set(&mut status, none, &["not yet".into()], &at(10));
        assert_eq!(
            events,
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"],
            "a node that begins has not changed its readiness"
        );
        assert_eq!(
            shown(&status),
            [
                row("MemoryPressure", "False", "KubeletHasSufficientMemory", 10),
                row("DiskPressure", "False", "KubeletHasNoDiskPressure", 10),
                row("PIDPressure", "False", "KubeletHasSufficientPID", 10),
                row("Ready", "False", "KubeletNotReady", 10),
            ]
        );
        assert_eq!(set(&mut status, none, &[], &at(20)), ["NodeReady"]);
        let memory = Pressure { memory: true, ..none };
        assert_eq!(set(&mut status, memory, &[], &at(30)), ["NodeHasInsufficientMemory"]);
        assert!(set(&mut status, memory, &[], &at(40)).is_empty());
        assert_eq!(
            shown(&status),
            [
                row("MemoryPressure", "True", "KubeletHasInsufficientMemory", 30),
                row("DiskPressure", "False", "KubeletHasNoDiskPressure", 10),
                row("PIDPressure", "False", "KubeletHasSufficientPID", 10),
                row("Ready", "True", "KubeletReady", 20),
            ]
        );
        let conditions = status.conditions.as_deref().unwrap_or_default();
        assert!(conditions.iter().all(|c| c.last_heartbeat_time == Some(at(40))));
        assert_eq!(set(&mut status, none, &["x".into()], &at(50)).last(), Some(&"NodeNotReady"));
    }

    #[test]
    fn the_conditions_of_others_stay() {
        let mut status = status();
        let other = NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            reason: Some("FlannelIsUp".into()),
            ..NodeCondition::default()
        };
        // What the controller writes over a silent node's: taken back with a new transition.
        let unknown = NodeCondition {
            type_: "Ready".into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            last_transition_time: Some(at(1)),
            ..NodeCondition::default()
        };
        status.conditions = Some(vec![other.clone(), unknown]);
        let events = set(&mut status, Pressure::default(), &[], &at(5));
        assert_eq!(events.last(), Some(&"NodeReady"));
        assert_eq!(status.conditions.as_deref().map(|all| &all[0]), Some(&other));
        assert_eq!(shown(&status)[1], row("Ready", "True", "KubeletReady", 5));
    }

    #[test]
    fn why_a_node_is_not_ready() {
        let all = status();
        let why = |problems: &[&str]| {
            not_ready(&all, &problems.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(why(&[]), None);
        assert_eq!(why(&["a"]).as_deref(), Some("a"));
        assert_eq!(why(&["a", "b", "a"]).as_deref(), Some("[a, b]"));
        assert_eq!(why(&["a", "a"]).as_deref(), Some("a"));
        let nothing = NodeStatus::default();
        assert_eq!(
            not_ready(&nothing, &["a".into()]).as_deref(),
            Some("[a, missing node capacity for resources: cpu, memory, pods, ephemeral-storage]")
        );
    }
}
