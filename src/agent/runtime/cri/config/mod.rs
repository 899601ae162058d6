//! From a pod to CRI's messages, as a kubelet makes them (upstream `pkg/kubelet/kuberuntime`).
//!
//! Owns: [`sandbox`] and [`container`], and the way back from a runtime's [`labels`] to what they
//! were made for. Pure: all that these ask of the machine comes in as values ([`NodeOptions`], the
//! binds that `volume` made). Starts no task.

mod container;
mod error;
pub(crate) mod labels;
mod profile;
mod resources;
mod sandbox;
mod security;

pub(crate) use container::{ContainerInput, ImageFacts, ImageUser, container};
pub(crate) use error::ConfigError;
pub(crate) use resources::{of_container as container_resources, of_resize as sandbox_resources};
pub(crate) use sandbox::{SandboxInput, sandbox};

use std::path::PathBuf;

use copepod_pod::resources::QuotaPolicy;
use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec};

/// What sandbox and containers of a pod have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodInput<'a> {
    /// The pod, its defaults applied.
    pub(crate) pod: &'a Pod,
    /// Its runtime handler; empty for the runtime's default.
    pub(crate) handler: &'a str,
    /// The ids of a pod that asks for a user namespace of its own (`hostUsers: false`), for which its
    /// handler must have them; of no account to others.
    pub(crate) user_namespace: Option<IdRange>,
    /// The node.
    pub(crate) node: &'a NodeOptions,
}

/// Ids of the host, users' and groups' alike, which a pod's namespace counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    /// The first.
    pub(crate) first: u32,
    /// How many.
    pub(crate) length: u32,
}

/// What all pods of a node have in common.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// The directory of `Localhost` seccomp profiles: `seccomp` below the kubelet's root directory.
    pub(crate) seccomp_root: PathBuf,
    /// Whether a container without a seccomp profile has the runtime's (KubeletConfiguration
    /// `seccompDefault`), else none.
    pub(crate) seccomp_default: bool,
    /// How cpu limits are enforced.
    pub(crate) quota: QuotaPolicy,
    /// Whether control groups are version 2.
    pub(crate) cgroup_v2: bool,
    /// Whether an OOM kill takes all processes of a container (version 2 alone; KubeletConfiguration
    /// `singleProcessOOMKill` is the contrary).
    pub(crate) oom_kills_all: bool,
    /// Whether the kernel counts swap by control group. Containers may use none then.
    pub(crate) counts_swap: bool,
    /// Bytes of memory that the node has, which OOM scores are parts of.
    pub(crate) memory_bytes: u64,
    /// The sizes of the machine's huge pages in bytes.
    pub(crate) huge_page_bytes: Vec<u64>,
    /// What containers must not see beside upstream's constant list: the directories by which
    /// processors tell their temperature (`linux::machine::thermal_paths`).
    pub(crate) masked_paths: Vec<String>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            seccomp_root: "/var/lib/kubelet/seccomp".into(),
            seccomp_default: false,
            quota: QuotaPolicy::default(),
            cgroup_v2: true,
            oom_kills_all: true,
            counts_swap: false,
            memory_bytes: 0,
            huge_page_bytes: Vec::new(),
            masked_paths: Vec::new(),
        }
    }
}

fn security_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// Whether the pod's spec says yes to this.
fn says(pod: &Pod, what: impl Fn(&PodSpec) -> Option<bool>) -> bool {
    pod.spec.as_ref().and_then(what) == Some(true)
}

fn text(field: Option<&String>) -> String {
    field.cloned().unwrap_or_default()
}

#[cfg(test)]
mod container_test;
#[cfg(test)]
mod sandbox_test;
#[cfg(test)]
mod security_test;
#[cfg(test)]
mod test_pods;
