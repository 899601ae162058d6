//! Labels and annotations by which an agent finds its own again (upstream `labels.go`).
//!
//! They are the kubelet's to the letter, so that tools that read them (`crictl`, log shippers) find
//! what they look for, and a kubelet's containers are known as well as our own. Nothing of ours is
//! added: which sandbox a container is of, and the attempts of both, the runtime itself tells.

use std::collections::BTreeMap;

use copepod_pod::definition;
use k8s_openapi::api::core::v1::{Container, ContainerPort, LifecycleHandler, Pod};

use super::text;

type Map = BTreeMap<String, String>;

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The label of the pod that a sandbox or a container is of.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// The label of the container's name in its pod.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";

/// The policy by which the end of the log stands in for an empty message.
const FALLBACK: &str = "FallbackToLogsOnError";

/// The pod that a sandbox or a container is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodName {
    /// Its uid.
    pub(crate) uid: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// What the labels and annotations of a container say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Adopted {
    /// Whose it is.
    pub(crate) pod: PodName,
    /// Its name in the pod.
    pub(crate) container: String,
    /// The [`definition`] of what it was made from.
    pub(crate) hash: Option<u32>,
    /// Its attempt, from 0.
    pub(crate) restart_count: u32,
    /// Where it leaves its termination message, an absolute path in its own files; empty for
    /// nowhere.
    pub(crate) message_path: String,
    /// Whether the end of the log stands in for an empty message of a failed container.
    pub(crate) fallback_to_logs: bool,
    /// The pod's `deletionGracePeriodSeconds`, if it was being deleted already.
    pub(crate) deletion_grace_seconds: Option<i64>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(crate) termination_grace_seconds: Option<i64>,
    /// What is done before it is stopped.
    pub(crate) pre_stop: Option<LifecycleHandler>,
    /// Its ports, which `pre_stop` may name.
    pub(crate) ports: Vec<ContainerPort>,
}

/// A sandbox's labels: the pod's, and whose it is.
pub(super) fn of_pod(pod: &Pod) -> Map {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(names(pod));
    labels
}

/// A container's labels.
pub(super) fn of(pod: &Pod, container: &Container) -> Map {
    let mut labels: Map = names(pod).into();
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    labels
}

fn names(pod: &Pod) -> [(String, String); 3] {
    let meta = &pod.metadata;
    [(POD_NAME, &meta.name), (POD_NAMESPACE, &meta.namespace), (POD_UID, &meta.uid)]
        .map(|(key, value)| (key.into(), text(value.as_ref())))
}

/// A container's annotations.
pub(super) fn annotations(pod: &Pod, container: &Container, attempt: u32) -> Map {
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let pre_stop = container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.as_ref());
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let all = [
        (HASH, Some(format!("{:x}", definition(container)))),
        (RESTART_COUNT, Some(attempt.to_string())),
        (MESSAGE_PATH, Some(text(container.termination_message_path.as_ref()))),
        (MESSAGE_POLICY, Some(text(container.termination_message_policy.as_ref()))),
        (DELETION_GRACE, pod.metadata.deletion_grace_period_seconds.map(|s| s.to_string())),
        (TERMINATION_GRACE, grace.map(|seconds| seconds.to_string())),
        // Neither holds anything that has no JSON.
        (PRE_STOP, pre_stop.and_then(|hook| serde_json::to_string(hook).ok())),
        (PORTS, ports.and_then(|ports| serde_json::to_string(ports).ok())),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.into(), value?))).collect()
}

/// Whose the sandbox with these labels is; `None` if it is no pod's.
pub(crate) fn of_sandbox(labels: &Map) -> Option<PodName> {
    let uid = labels.get(POD_UID).filter(|uid| !uid.is_empty())?.clone();
    let (namespace, name) = (text(labels.get(POD_NAMESPACE)), text(labels.get(POD_NAME)));
    Some(PodName { uid, namespace, name })
}

/// What the container with these labels and annotations is; `None` if it is no pod's. What is
/// missing or no number counts as upstream counts it: as zero, or as not given.
pub(crate) fn of_container(labels: &Map, annotations: &Map) -> Option<Adopted> {
    let given = |key| annotations.get(key);
    let number = |key| given(key).and_then(|text| text.parse::<i64>().ok());
    Some(Adopted {
        pod: of_sandbox(labels)?,
        container: labels.get(CONTAINER_NAME).filter(|name| !name.is_empty())?.clone(),
        hash: given(HASH).and_then(|text| u32::from_str_radix(text, 16).ok()),
        restart_count: given(RESTART_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0),
        // As it is mounted.
        message_path: given(MESSAGE_PATH).filter(|path| !path.is_empty()).map_or_else(
            String::new,
            |path| {
                if path.starts_with('/') { path.clone() } else { format!("/{path}") }
            },
        ),
        fallback_to_logs: given(MESSAGE_POLICY).is_some_and(|policy| policy == FALLBACK),
        deletion_grace_seconds: number(DELETION_GRACE),
        termination_grace_seconds: number(TERMINATION_GRACE),
        pre_stop: given(PRE_STOP).and_then(|json| serde_json::from_str(json).ok()),
        ports: given(PORTS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
#[path = "labels_test.rs"]
mod tests;
