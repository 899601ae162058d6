//! What a node is told about itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use copepod_pod::quantity::Quantity;
use k8s_openapi::api::core::v1::Taint;

/// The version that a node reports: the kubelet whose behaviour this is, and what it is in truth
/// as build metadata, which readers of versions keep or skip.
pub(crate) const KUBELET_VERSION: &str = concat!("v1.36.2+copepod-", env!("CARGO_PKG_VERSION"));
/// The runtime of Wasm containers, as a node names its container runtime: `TYPE://VERSION`. A test
/// holds it to the version in Cargo.toml.
pub(crate) const WASM_RUNTIME_VERSION: &str = "wasmtime://48.0.8";

/// All that a node object is made from, but the machine and what changes while it runs.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// The node's name, and its hostname.
    pub(crate) name: String,
    /// Whether the node object is made by us (`--register-node`).
    pub(crate) register: bool,
    /// `--node-labels`.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations beside upstream's own.
    pub(crate) annotations: BTreeMap<String, String>,
    /// `--register-with-taints`; only a new node gets them.
    pub(crate) taints: Vec<Taint>,
    /// `--node-ip`: none, one, or one of each family.
    pub(crate) node_ips: Vec<IpAddr>,
    /// `providerID`.
    pub(crate) provider_id: Option<String>,
    /// `--cloud-provider=external`.
    pub(crate) external_cloud_provider: bool,
    /// `enableControllerAttachDetach`.
    pub(crate) controller_attach_detach: bool,
    /// `maxPods`.
    pub(crate) max_pods: u32,
    /// `podsPerCore`; 0 is no limit.
    pub(crate) pods_per_core: u32,
    /// The port of the kubelet's server.
    pub(crate) kubelet_port: u16,
    /// `systemReserved`, by resource.
    pub(crate) system_reserved: BTreeMap<String, Quantity>,
    /// `kubeReserved`, by resource.
    pub(crate) kube_reserved: BTreeMap<String, Quantity>,
    /// `evictionHard`, by the resource that a signal keeps from running out: `memory.available` is
    /// `memory`, `nodefs.available` is `ephemeral-storage`. Others reserve nothing.
    pub(crate) hard_eviction: BTreeMap<String, Threshold>,
    /// The handlers of RuntimeClasses that this node has; the default one (`""`) goes without
    /// saying.
    pub(crate) runtime_handlers: Vec<String>,
    /// Whether `supplementalGroupsPolicy` is honoured.
    pub(crate) supplemental_groups_policy: bool,
    /// Names of feature gates that this node serves pods of (`status.declaredFeatures`).
    pub(crate) declared_features: Vec<String>,
    /// See [`KUBELET_VERSION`].
    pub(crate) kubelet_version: String,
    /// See [`WASM_RUNTIME_VERSION`].
    pub(crate) runtime_version: String,
    /// A directory on the file system that pods write to, which must exist.
    pub(crate) storage: PathBuf,
    /// `nodeStatusMaxImages`; `None` is no limit.
    pub(crate) max_images: Option<usize>,
    /// `nodeStatusUpdateFrequency`: how often the status is computed.
    pub(crate) update_every: Duration,
    /// `nodeStatusReportFrequency`: how often it is written though nothing has changed.
    pub(crate) report_every: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub(crate) lease_seconds: u32,
}

/// What is left when eviction begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threshold {
    /// So much.
    Amount(Quantity),
    /// This part of the capacity, from 0 to 1.
    Share(f32),
}

impl NodeOptions {
    /// A node of this name with upstream's defaults, whose pods write below `storage`.
    pub(crate) fn new(name: String, storage: PathBuf) -> Self {
        Self {
            name,
            register: true,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            node_ips: Vec::new(),
            provider_id: None,
            external_cloud_provider: false,
            controller_attach_detach: true,
            max_pods: 110,
            pods_per_core: 0,
            kubelet_port: 10250,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            hard_eviction: BTreeMap::new(),
            runtime_handlers: Vec::new(),
            supplemental_groups_policy: false,
            declared_features: Vec::new(),
            kubelet_version: KUBELET_VERSION.into(),
            runtime_version: WASM_RUNTIME_VERSION.into(),
            storage,
            max_images: Some(50),
            update_every: Duration::from_secs(10),
            report_every: Duration::from_secs(300),
            lease_seconds: 40,
        }
    }
}
