//! What sandboxes and containers may have (upstream `calculateLinuxResources`).

use std::collections::BTreeMap;

use copepod_cri::{HugepageLimit, LinuxContainerResources};
use copepod_pod::quantity::Quantity;
use copepod_pod::resources::{
    CgroupLimits, container_cgroup, cpu_quota_us, cpu_shares, oom_score_adj, pod_limits,
    pod_requests,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use super::NodeOptions;
use crate::linux::cgroup::Limits;
use crate::runtime::SandboxResources;

/// What the names of resources that are huge pages begin with; the size follows.
const HUGE_PAGES: &str = "hugepages-";
/// The kernel's units of their sizes, each 1024 of the one before.
const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];

/// A container's, for its start and for a resize.
pub(crate) fn of_container(
    pod: &Pod,
    container: &Container,
    node: &NodeOptions,
) -> LinuxContainerResources {
    let limits = container_cgroup(pod, container, node.quota);
    let mut all = kernels(limits, node);
    all.oom_score_adj = oom_score_adj(pod, container, node.memory_bytes).into();
    all.hugepage_limits = huge_pages(pod, container, node);
    if node.counts_swap {
        // No swap. Version 1 counts memory and swap together.
        if node.cgroup_v2 {
            all.unified.insert("memory.swap.max".into(), "0".into());
        } else {
            all.memory_swap_limit_in_bytes = all.memory_limit_in_bytes;
        }
    }
    all
}

/// All of a pod's, without its overhead. For the eye of runtimes that make a machine of it: what
/// holds is the pod's control group.
pub(super) fn of_sandbox(pod: &Pod, node: &NodeOptions) -> LinuxContainerResources {
    let spec = pod.spec.clone().map(|spec| PodSpec { overhead: None, ..spec });
    let bare = Pod { spec, ..Pod::default() };
    let (requests, limits) = (pod_requests(&bare), pod_limits(&bare));
    let cpu_limit = limits.get("cpu").map_or(0, Quantity::milli_value);
    let cpu_request = requests.get("cpu").map_or(cpu_limit, Quantity::milli_value);
    let memory = limits.get("memory").map_or(0, Quantity::value);
    plain(cpu_request, cpu_limit, memory, node)
}

/// A pod's overhead, which is asked for and limited alike.
pub(super) fn of_overhead(pod: &Pod, node: &NodeOptions) -> LinuxContainerResources {
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
    let Some(overhead) = overhead else { return LinuxContainerResources::default() };
    let amount = |name: &str| Quantity::parse(&overhead.get(name)?.0).ok();
    let cpu = amount("cpu").map_or(0, |cpu| cpu.milli_value());
    plain(cpu, cpu, amount("memory").map_or(0, |memory| memory.value()), node)
}

/// What the runtime is told of a pod whose group is to have `limits`: these without the pod's overhead,
/// and that (upstream `generateUpdatePodSandboxResourcesRequest`). No limit is -1, as the kernel has it.
pub(crate) fn of_resize(pod: &Pod, limits: &Limits, node: &NodeOptions) -> SandboxResources {
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
    let amount = |name: &str| Quantity::parse(&overhead?.get(name)?.0).ok();
    let cpu = amount("cpu").map_or(0, |cpu| cpu.milli_value());
    let memory = amount("memory").map_or(0, |memory| memory.value());
    let shares = limits.cpu_shares.unwrap_or_default();
    // Upstream `SharesToMilliCPU`.
    let milli = number(shares.saturating_mul(1000).div_ceil(1024));
    let less = |limit: Option<u64>, part: i64| limit.map_or(-1, |limit| number(limit) - part);
    let quota = cpu_quota_us(cpu, limits.cpu_period_us).map_or(0, number);
    let containers = LinuxContainerResources {
        cpu_shares: number(if cpu == 0 { shares } else { cpu_shares(milli - cpu) }),
        cpu_quota: less(limits.cpu_quota_us, quota),
        cpu_period: number(limits.cpu_period_us),
        memory_limit_in_bytes: less(limits.memory_bytes, memory),
        ..LinuxContainerResources::default()
    };
    SandboxResources { overhead: of_overhead(pod, node), containers }
}

fn plain(
    cpu_request: i64,
    cpu_limit: i64,
    memory: i64,
    node: &NodeOptions,
) -> LinuxContainerResources {
    let quota = cpu_quota_us(cpu_limit, node.quota.period_us).filter(|_| node.quota.enforced);
    let limits = CgroupLimits {
        cpu_shares: cpu_shares(cpu_request),
        // The runtime makes its own of the shares.
        cpu_weight: 0,
        cpu_quota_us: quota,
        cpu_period_us: node.quota.period_us,
        memory_bytes: u64::try_from(memory).ok(),
    };
    kernels(limits, node)
}

/// The kernel's own numbers end there too.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn kernels(limits: CgroupLimits, node: &NodeOptions) -> LinuxContainerResources {
    let mut unified = BTreeMap::new();
    if node.cgroup_v2 && node.oom_kills_all {
        unified.insert("memory.oom.group".into(), "1".into());
    }
    LinuxContainerResources {
        cpu_shares: number(limits.cpu_shares),
        cpu_quota: limits.cpu_quota_us.map_or(0, number),
        cpu_period: if node.quota.enforced { number(limits.cpu_period_us) } else { 0 },
        memory_limit_in_bytes: limits.memory_bytes.map_or(0, number),
        unified,
        ..LinuxContainerResources::default()
    }
}

/// Of each size that the machine has as much as the container says, else as its pod says, else none
/// (upstream `GetHugepageLimitsFromResources`).
fn huge_pages(pod: &Pod, container: &Container, node: &NodeOptions) -> Vec<HugepageLimit> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
    let own = container.resources.as_ref().and_then(|own| own.limits.as_ref());
    let mut asked = BTreeMap::new();
    for (name, amount) in [of_pod, own].into_iter().flatten().flatten() {
        asked.extend(huge_page(name, amount));
    }
    let limit = |size: &u64| HugepageLimit {
        page_size: page_size(*size),
        limit: asked.get(size).copied().unwrap_or(0),
    };
    node.huge_page_bytes.iter().map(limit).collect()
}

/// A size in bytes and an amount of it in bytes.
fn huge_page(name: &str, amount: &Raw) -> Option<(u64, u64)> {
    let size = Quantity::parse(name.strip_prefix(HUGE_PAGES)?).ok()?.value();
    let amount = Quantity::parse(&amount.0).ok()?.value();
    Some((u64::try_from(size).ok()?, u64::try_from(amount).ok()?))
}

/// A size in the kernel's words, such as `2MB` (upstream `HugePageUnitSizeFromByteSize`).
fn page_size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes, 0);
    while size > 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", UNITS[unit])
}

#[cfg(test)]
#[path = "resources_test.rs"]
mod tests;
