//! What the machine is for pods.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::resources::oom_score_adj;
use copepod_pod::{Facts, PodAddresses};
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::statvfs;
use rustix::process::geteuid;
use rustix::system::{sysinfo, uname};
use tokio::sync::watch;

use super::{PodCgroups, UserIds};
use crate::linux;
use crate::network::Network;
use crate::runtime::LogLimits;
use crate::runtime::cri::config::NodeOptions;

/// What this host does for pods where a cluster's node would do otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// What pods may ask for, as it is now: a node's labels, addresses and resources may change.
    /// Without a network namespace every pod's address is the host's.
    pub(crate) facts: watch::Receiver<Facts>,
    /// Whether guests can be given another user, and files to other groups (the agent is root).
    pub(crate) changes_user: bool,
    /// Whether the agent may mount.
    pub(crate) mounts: bool,
    /// The control groups of pods; `None`: guests stay in the agent's.
    pub(crate) cgroups: Option<PodCgroups>,
    /// The network of pods; `None`: guests share the host's.
    pub(crate) network: Option<Network>,
    /// What ordinary containers have in common here.
    pub(crate) ordinary: Arc<NodeOptions>,
    /// The ids of pods with user namespaces; `None` where no pod has a sandbox.
    pub(crate) user_ids: Option<Arc<UserIds>>,
    /// How much of each container's log is kept.
    pub(crate) log_limits: LogLimits,
    /// The longest wait between two restarts of a container.
    pub(crate) restart_max: Duration,
    /// Whether guests end with the agent.
    pub(crate) die_with_agent: bool,
}

impl Host {
    /// The `oom_score_adj` of a container of the pod, which is never the node's agent's own; none for
    /// guests that end with their agent.
    pub(super) fn oom_score_adj(&self, pod: &Pod, container: &Container) -> Option<i32> {
        let score = || oom_score_adj(pod, container, self.ordinary.memory_bytes);
        (!self.die_with_agent).then(score)
    }

    /// What pods may ask for now.
    pub(crate) fn facts(&self) -> Facts {
        self.facts.borrow().clone()
    }

    /// This machine without a cluster: the loopback address for all, all of its resources, guests
    /// that end with the agent. Pods' files lie on the file system of `state`.
    pub(crate) fn alone(state: &Path) -> Self {
        let addresses = vec![Ipv4Addr::LOCALHOST.into()];
        let is_root = geteuid().is_root();
        let system = sysinfo();
        let facts = Facts {
            // As a kubelet names its node.
            node_name: uname().nodename().to_string_lossy().trim().to_lowercase(),
            addresses: PodAddresses { host_ips: addresses.clone(), pod_ips: addresses },
            allocatable_cpu_millis: std::thread::available_parallelism()
                .map_or(1000, |n| u64::try_from(n.get()).unwrap_or(u64::MAX).saturating_mul(1000)),
            allocatable_memory_bytes: system.totalram.saturating_mul(system.mem_unit.into()),
            // Of a directory that is not made yet, nothing is known.
            allocatable_storage_bytes: statvfs(state)
                .map_or(0, |about| about.f_blocks.saturating_mul(about.f_frsize)),
            ..Facts::default()
        };
        Self {
            // They never change.
            facts: watch::channel(facts).1,
            changes_user: is_root,
            mounts: is_root && linux::can_mount(),
            cgroups: None,
            network: None,
            ordinary: Arc::default(),
            user_ids: None,
            log_limits: LogLimits::default(),
            restart_max: copepod_pod::Host::default().restart_max,
            die_with_agent: true,
        }
    }

    /// What the states of its pods go by.
    pub(crate) fn of_pods(&self) -> copepod_pod::Host {
        let ips = self.facts.borrow().addresses.host_ips.clone();
        copepod_pod::Host { ips, restart_max: self.restart_max }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nodes_guests_have_the_score_of_their_pod_with_or_without_control_groups() {
        let pod = json!({"spec": {"containers": [{"name": "a"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let alone = Host::alone(Path::new("/"));
        assert_eq!(alone.oom_score_adj(&pod, container), None);
        let node = Host { die_with_agent: false, cgroups: None, ..alone };
        assert_eq!(node.oom_score_adj(&pod, container), Some(1000));
    }
}
