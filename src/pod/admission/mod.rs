//! Does this node take a pod that is bound to it? Upstream's checks in upstream's order
//! (`pkg/kubelet/kubelet.go` and its admit handlers, `pkg/scheduler.AdmissionCheck`), its reasons
//! and messages to the letter, for everything that there is without device and CPU managers.
//!
//! Pods with defaults applied; those that the node has already with the resources that they were
//! allocated. A critical pod for which nothing is free but room is taken, and others go for it
//! ([`Admitted::preempts`]).

mod affinity;
mod apparmor;
mod features;
mod ports;
mod preempt;
mod rejected;
mod resources;
mod sysctl;
mod taints;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint};

pub use preempt::{PREEMPTED, PREEMPTING, preempted};
pub use rejected::rejected_status;
pub use sysctl::{KernelVersion, SysctlAllowList, SysctlError};

use crate::qos;
use crate::resources::Amounts;
use crate::static_pod::Source;

/// Only a mirror of a static pod has it (upstream `ConfigMirrorAnnotationKey`).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods of at least this priority are critical (upstream `SystemCriticalPriority`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// The operating system of a node, as a label.
const OS_LABEL: &str = "kubernetes.io/os";
/// The reason of a pod whose affinity or selector does not match (see [`admit`]).
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// What of a node decides about its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// The labels of its object.
    pub labels: BTreeMap<String, String>,
    /// The taints of its object.
    pub taints: Vec<Taint>,
    /// `status.allocatable`, `pods` among them.
    pub allocatable: Amounts,
    /// Its operating system by Go's name: `linux`.
    pub os: String,
    /// What it is short of, in the order in which it is told.
    pub pressure: Vec<Pressure>,
    /// Sysctls that pods may set.
    pub sysctls: SysctlAllowList,
    /// Groups of a pod can be exactly those of its spec (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// What the node has declared (`status.declaredFeatures`).
    pub features: BTreeSet<String>,
    /// The machine is going down.
    pub shutting_down: bool,
}

/// What a node is short of: a condition of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// `MemoryPressure`
    Memory,
    /// `DiskPressure`
    Disk,
    /// `PIDPressure`
    Pid,
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        })
    }
}

/// Why a node does not take a pod: the event's reason and message, and the status's (see
/// [`rejected_status`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One word: `OutOfcpu`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// A pod came while the node's own object is not known.
    #[must_use]
    pub fn no_node() -> Self {
        Self::new("InvalidNodeInfo", "Kubelet cannot get node info.")
    }

    /// One of the scheduler's checks failed.
    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// A pod that is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// Pods that have to end before this one starts, since it is critical and has no room beside
    /// them. Each ends as [`preempted`] says.
    pub preempts: Vec<Arc<Pod>>,
}

/// Takes the pod or refuses it. `active` are the node's other pods that are admitted and have not
/// ended, with their allocated resources and the status that the API server has; the pod itself may be
/// among them.
///
/// Where the reason is [`NODE_AFFINITY`], the node's object may be older than its labels: fetch it
/// and ask once more, as upstream does.
///
/// # Errors
/// The first check that fails.
pub fn admit(pod: &Pod, node: &NodeFacts, active: &[Arc<Pod>]) -> Result<Admitted, Rejection> {
    let Some(spec) = &pod.spec else { return Ok(Admitted::default()) };
    let others: Vec<&Arc<Pod>> = active.iter().filter(|other| !is_same(other, pod)).collect();
    pressure(pod, spec, node)?;
    sysctl::check(spec, &node.sysctls)?;
    operating_system(pod, spec, node)?;
    groups(spec, node)?;
    let short = resources::shortages(pod, node, &others);
    let is_critical = is_critical(pod);
    if let Some(first) = short.first().filter(|_| !is_critical) {
        return Err(first.rejection());
    }
    affinity::check(spec, node)?;
    node_name(spec, node)?;
    ports::check(spec, &others)?;
    if !is_static(pod) {
        taints::check(spec, node)?;
    }
    let preempts = preempt::victims(pod, &others, &short)?;
    apparmor::check(pod, spec, node)?;
    features::check(spec, node)?;
    if node.shutting_down {
        let message = "Pod was rejected as the node is shutting down.";
        return Err(Rejection::new("NodeShutdown", message));
    }
    Ok(Admitted { preempts })
}

fn is_same(one: &Pod, other: &Pod) -> bool {
    let id = |pod: &Pod| {
        (pod.metadata.uid.clone(), pod.metadata.namespace.clone(), pod.metadata.name.clone())
    };
    id(one) == id(other)
}

/// A static pod: it comes from a file or a URL, and not from the API server.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    Source::of(pod).is_some()
}

/// A pod that the node has to have: static, the mirror of a static one, or of a system's priority.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    is_static(pod)
        || annotations.is_some_and(|list| list.contains_key(MIRROR))
        || priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// The class that the API server wrote down, else the class by the spec (`GetPodQOS`).
fn class(pod: &Pod) -> String {
    let told = pod.status.as_ref().and_then(|status| status.qos_class.clone());
    told.filter(|class| !class.is_empty()).unwrap_or_else(|| qos::qos_class(pod).into())
}

/// The eviction manager's check.
fn pressure(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    if node.pressure.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if node.pressure == [Pressure::Memory]
        && (class(pod) != qos::BEST_EFFORT || taints::tolerates_memory_pressure(spec))
    {
        return Ok(());
    }
    let conditions: Vec<String> = node.pressure.iter().map(ToString::to_string).collect();
    let message = format!("The node had condition: [{}]. ", conditions.join(" "));
    Err(Rejection::new("Evicted", message))
}

fn operating_system(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|os| *os != node.os) {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != node.os) {
        return Err(Rejection::new(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

fn groups(spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let context = spec.security_context.as_ref();
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.strict_groups {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

fn node_name(spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    match spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if name != node.name => {
            let why = "node(s) didn't match the requested node name";
            Err(Rejection::predicate("NodeName", why))
        }
        Some(_) | None => Ok(()),
    }
}

/// The pods in the order in which they are admitted: those that are here already (`is_here`), so that
/// none takes their room, then as they were made, as upstream: of two that do not both fit, the older
/// stays.
#[must_use]
pub fn in_turn(mut pods: Vec<Arc<Pod>>, is_here: impl Fn(&str) -> bool) -> Vec<Arc<Pod>> {
    pods.sort_by_cached_key(|pod| {
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!is_here(pod.metadata.uid.as_deref().unwrap_or_default()), made)
    });
    pods
}

#[cfg(test)]
#[path = "admission_test.rs"]
mod tests;
