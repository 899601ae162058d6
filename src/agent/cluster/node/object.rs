//! The node object, pure: from options, machine and what changes to what is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use copepod_pod::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::address::{self, AddressError, HostAddresses};
use super::condition::{self, Pressure};
use super::options::{NodeOptions, Threshold};
use crate::linux::machine::Machine;

const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
const LABEL_OS: &str = "kubernetes.io/os";
const LABEL_ARCH: &str = "kubernetes.io/arch";
/// The old names of two labels, which a kubelet sets to this day.
const LABEL_OS_BETA: &str = "beta.kubernetes.io/os";
const LABEL_ARCH_BETA: &str = "beta.kubernetes.io/arch";
/// Labels that a kubelet corrects on a node that was there before (`updateDefaultLabels`).
const CORRECTED_LABELS: [&str; 11] = [
    LABEL_HOSTNAME,
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    LABEL_OS,
    LABEL_ARCH,
    LABEL_OS_BETA,
    LABEL_ARCH_BETA,
];
/// Volumes are attached by the controller.
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// What `--node-ip` said, for a cloud's controller.
const PROVIDED_NODE_IP: &str = "alpha.kubernetes.io/provided-node-ip";
/// The taint that a cloud's controller takes away once it knows the node.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// Go's word for this operating system.
const OS: &str = "linux";
/// Names of one image that are reported (upstream's `MaxNamesPerImageInNodeStatus`).
const IMAGE_NAMES_MAX: usize = 5;
/// How names of resources for huge pages begin.
const HUGE_PAGES: &str = "hugepages-";

/// What is known about this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) machine: Machine,
    pub(super) addresses: HostAddresses,
}

/// What others tell a node about itself while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Inputs {
    /// Why it is not ready; `None` until somebody has looked.
    pub(super) problems: Option<Vec<String>>,
    pub(super) images: Vec<ContainerImage>,
    pub(super) pressure: Pressure,
    /// What the container runtime says of itself; `None`: there is none, or it was not asked yet.
    pub(super) runtime: Option<RuntimeReport>,
}

/// What a container runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RuntimeReport {
    /// `NAME://VERSION`.
    pub(crate) version: String,
    /// Its handlers; the empty name is its default one.
    pub(crate) handlers: Vec<Handler>,
    /// Whether it honours `supplementalGroupsPolicy`.
    pub(crate) supplemental_groups_policy: bool,
}

/// A handler of RuntimeClasses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handler {
    /// Its name.
    pub(crate) name: String,
    /// Whether it can make mounts read-only with all below them.
    pub(crate) recursive_read_only_mounts: bool,
    /// Whether it has user namespaces.
    pub(crate) user_namespaces: bool,
}

/// An event about the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A node as it should be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) node: Node,
    /// What to tell once it is written.
    pub(super) events: Vec<Said>,
    /// Why its addresses stayed as they were.
    pub(super) address_error: Option<AddressError>,
}

/// A new node (`initialNode`).
pub(super) fn initial(options: &NodeOptions, facts: &Facts, inputs: &Inputs, now: &Time) -> Wanted {
    let arch = facts.machine.arch;
    let mut labels: BTreeMap<String, String> = [
        (LABEL_HOSTNAME, options.name.as_str()),
        (LABEL_OS, OS),
        (LABEL_ARCH, arch),
        (LABEL_OS_BETA, OS),
        (LABEL_ARCH_BETA, arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(options.labels.clone());
    let mut annotations = options.annotations.clone();
    if options.controller_attach_detach {
        annotations.insert(ATTACH_DETACH.into(), "true".into());
    }
    let mut taints = options.taints.clone();
    if options.external_cloud_provider {
        taints.push(Taint {
            key: UNINITIALIZED.into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let node = Node {
        metadata: ObjectMeta {
            name: Some(options.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: options.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: None,
    };
    with_status(node, options, facts, inputs, now)
}

/// A node that was there before with what is ours in it: labels, annotations, huge pages
/// (`tryRegisterWithAPIServer`). Its taints stay as they are.
pub(super) fn reconciled(initial: &Node, existing: &Node) -> Node {
    let mut node = existing.clone();
    let labels = node.metadata.labels.get_or_insert_default();
    let ours = initial.metadata.labels.as_ref();
    for key in CORRECTED_LABELS {
        match ours.and_then(|labels| labels.get(key)) {
            Some(value) if value.is_empty() => _ = labels.remove(key),
            Some(value) => _ = labels.insert(key.into(), value.clone()),
            None => {}
        }
    }
    let annotations = node.metadata.annotations.get_or_insert_default();
    let ours = initial.metadata.annotations.clone().unwrap_or_default();
    if !ours.contains_key(ATTACH_DETACH) {
        annotations.remove(ATTACH_DETACH);
    }
    annotations.extend(ours);
    let status = node.status.get_or_insert_default();
    let ours = initial.status.clone().unwrap_or_default();
    huge_pages_only(&mut status.capacity, ours.capacity);
    huge_pages_only(&mut status.allocatable, ours.allocatable);
    node
}

/// Takes over the huge pages of `ours`, and all else where there is nothing yet.
fn huge_pages_only(
    theirs: &mut Option<BTreeMap<String, Text>>,
    ours: Option<BTreeMap<String, Text>>,
) {
    let Some(theirs) = theirs else {
        *theirs = ours;
        return;
    };
    let ours = ours.unwrap_or_default();
    theirs.retain(|key, _| !key.starts_with(HUGE_PAGES) || ours.contains_key(key));
    theirs.extend(ours.into_iter().filter(|(key, _)| key.starts_with(HUGE_PAGES)));
}

/// The node `base` as it should be now (`updateNode`). What is not ours in it stays.
pub(super) fn updated(
    base: &Node,
    options: &NodeOptions,
    facts: &Facts,
    inputs: &Inputs,
    now: &Time,
) -> Wanted {
    let mut node = base.clone();
    let labels = node.metadata.labels.get_or_insert_default();
    for (key, value) in [(LABEL_OS, OS), (LABEL_ARCH, facts.machine.arch)] {
        labels.insert(key.into(), value.into());
    }
    with_status(node, options, facts, inputs, now)
}

fn with_status(
    mut node: Node,
    options: &NodeOptions,
    facts: &Facts,
    inputs: &Inputs,
    now: &Time,
) -> Wanted {
    let mut status = node.status.take().unwrap_or_default();
    let has_addresses = status.addresses.as_ref().is_some_and(|all| !all.is_empty());
    let mut address_error = None;
    match address::choose(options, &facts.addresses, has_addresses) {
        Ok(Some(addresses)) => status.addresses = Some(addresses),
        Ok(None) => {}
        Err(error) => address_error = Some(error),
    }
    provided_ip(&mut node, options);
    let mut events = Vec::new();
    events.extend(set_info(&mut status, options, inputs, &facts.machine));
    set_capacity(&mut status, options, &facts.machine);
    set_allocatable(&mut status, options);
    set_runtime(&mut status, options, inputs.runtime.as_ref());
    status.images = Some(images(&inputs.images, options.max_images)).filter(|all| !all.is_empty());
    let unknown = ["container runtime status check may not have completed yet".to_owned()];
    let problems = inputs.problems.as_deref().unwrap_or(&unknown);
    let changed = condition::set(&mut status, inputs.pressure, problems, now);
    let tell = |reason| Said {
        warning: false,
        reason,
        message: format!("Node {} status is now: {reason}", options.name),
    };
    events.extend(changed.into_iter().map(tell));
    node.status = Some(status);
    Wanted { node, events, address_error }
}

/// Tells a cloud's controller of `--node-ip`, or takes back what was told.
fn provided_ip(node: &mut Node, options: &NodeOptions) {
    let specified = address::specified(options);
    if options.external_cloud_provider && !specified.is_empty() {
        let text = specified.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVIDED_NODE_IP.into(), text);
    } else if let Some(annotations) = &mut node.metadata.annotations {
        annotations.remove(PROVIDED_NODE_IP);
    }
}

/// What the machine is; tells of a boot since the last time.
fn set_info(
    status: &mut NodeStatus,
    options: &NodeOptions,
    inputs: &Inputs,
    machine: &Machine,
) -> Option<Said> {
    let swap =
        (machine.swap_bytes > 0).then(|| NodeSwapStatus { capacity: signed(machine.swap_bytes) });
    let info = NodeSystemInfo {
        architecture: machine.arch.into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: inputs
            .runtime
            .as_ref()
            .map_or(&options.runtime_version, |runtime| &runtime.version)
            .clone(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: options.kubelet_version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: OS.into(),
        os_image: machine.os_image.clone(),
        swap,
        system_uuid: machine.system_uuid.clone(),
    };
    let before = status.node_info.replace(info)?.boot_id;
    let rebooted = !before.is_empty() && before != machine.boot_id;
    rebooted.then(|| Said {
        warning: true,
        reason: "Rebooted",
        message: format!("Node {} has been rebooted, boot id: {}", options.name, machine.boot_id),
    })
}

/// What the machine has. Resources that are not ours stay: tests and device plugins put them there.
fn set_capacity(status: &mut NodeStatus, options: &NodeOptions, machine: &Machine) {
    let capacity = status.capacity.get_or_insert_default();
    let mut pods = u64::from(options.max_pods);
    if options.pods_per_core > 0 {
        pods = pods.min(machine.cores.saturating_mul(options.pods_per_core.into()));
    }
    put(capacity, "pods", Quantity::milli(pods.saturating_mul(1000)));
    // What could not be read is missing, which makes the node not ready.
    if machine.cores > 0 {
        put(capacity, "cpu", Quantity::milli(machine.cores.saturating_mul(1000)));
    }
    if machine.memory_bytes > 0 {
        put(capacity, "memory", Quantity::binary(machine.memory_bytes));
    }
    if let Some(bytes) = machine.storage_bytes {
        put(capacity, "ephemeral-storage", Quantity::binary(bytes));
    }
    for (size, count) in &machine.huge_pages {
        let name = format!("{HUGE_PAGES}{}", Quantity::binary(*size));
        put(capacity, &name, Quantity::binary(size.saturating_mul(*count)));
    }
}

/// What is left of the capacity for pods.
fn set_allocatable(status: &mut NodeStatus, options: &NodeOptions) {
    let capacity = status.capacity.as_ref();
    let before = status.allocatable.take().unwrap_or_default();
    // Upstream keeps what is native though it is no capacity; nobody else's is.
    let mut left: BTreeMap<String, Text> =
        before.into_iter().filter(|(name, _)| !is_extended(name)).collect();
    let mut huge = Vec::new();
    for (name, amount) in capacity.into_iter().flatten() {
        let Ok(total) = amount.0.parse::<Quantity>() else {
            left.insert(name.clone(), amount.clone());
            continue;
        };
        if name.starts_with(HUGE_PAGES) {
            huge.push(total);
        }
        put(&mut left, name, total.minus_to_zero(reserved(options, name, total)));
    }
    let memory = left.get("memory").and_then(|memory| memory.0.parse::<Quantity>().ok());
    if let Some(memory) = memory {
        put(&mut left, "memory", huge.into_iter().fold(memory, Quantity::minus_to_zero));
    }
    status.allocatable = Some(left);
}

/// Whether a resource is one that others have added (`IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// What is kept from pods of a resource of which there is `total`.
fn reserved(options: &NodeOptions, name: &str, total: Quantity) -> Quantity {
    let kept = [options.system_reserved.get(name), options.kube_reserved.get(name)];
    let eviction = options.hard_eviction.get(name).map(|threshold| match threshold {
        Threshold::Amount(amount) => *amount,
        // Rounded down, in upstream's precision.
        Threshold::Share(share) => {
            Quantity::binary((total.value().max(0) as f64 * f64::from(*share)) as u64)
        }
    });
    let kept = kept.into_iter().flatten().copied();
    kept.chain(eviction).fold(Quantity::milli(0), Quantity::plus)
}

/// Sets an amount, unless the one that stands there is the same written otherwise.
fn put(list: &mut BTreeMap<String, Text>, name: &str, amount: Quantity) {
    let same = list.get(name).is_some_and(|text| text.0.parse::<Quantity>() == Ok(amount));
    if !same {
        list.insert(name.into(), Text(amount.to_string()));
    }
}

/// Where the node is reached, and what it can do.
fn set_runtime(status: &mut NodeStatus, options: &NodeOptions, runtime: Option<&RuntimeReport>) {
    let port = DaemonEndpoint { port: options.kubelet_port.into() };
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(port) });
    let own = options.runtime_handlers.iter().map(String::as_str).chain([""]);
    let own = own.map(|name| Handler { name: name.into(), ..Handler::default() });
    let mut handlers: BTreeMap<String, Handler> =
        own.map(|handler| (handler.name.clone(), handler)).collect();
    let theirs = runtime.iter().flat_map(|runtime| &runtime.handlers);
    // What runs Wasm is ours, whatever the other has of that name.
    for handler in theirs.filter(|handler| !options.runtime_handlers.contains(&handler.name)) {
        handlers.insert(handler.name.clone(), handler.clone());
    }
    let shown = |handler: Handler| NodeRuntimeHandler {
        // Never left out: the API server shows the default one's, too, and would seem to differ.
        name: Some(handler.name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    };
    status.runtime_handlers = Some(handlers.into_values().map(shown).collect());
    let groups = runtime.map(|runtime| runtime.supplemental_groups_policy);
    let policy = Some(groups.unwrap_or(options.supplemental_groups_policy));
    status.features = Some(NodeFeatures { supplemental_groups_policy: policy });
    let declared: BTreeSet<_> = options.declared_features.iter().cloned().collect();
    status.declared_features = (!declared.is_empty()).then(|| declared.into_iter().collect());
}

/// The largest images, each with a few of its names.
fn images(all: &[ContainerImage], max: Option<usize>) -> Vec<ContainerImage> {
    let mut images = all.to_vec();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(max.unwrap_or(usize::MAX));
    for image in &mut images {
        let mut names = mem::take(&mut image.names).unwrap_or_default();
        names.truncate(IMAGE_NAMES_MAX);
        image.names = (!names.is_empty()).then_some(names);
    }
    images
}

fn signed(number: u64) -> Option<i64> {
    i64::try_from(number).ok()
}

#[cfg(test)]
#[path = "object_test.rs"]
mod tests;
