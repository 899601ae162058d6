//! Control groups that hold all pods together, the system, and the cluster's programs to their part
//! of the machine (upstream `enforceNodeAllocatableCgroups`).

use copepod_pod::quantity::Quantity;
use copepod_pod::resources::Amounts;
use k8s_openapi::api::core::v1::Node;

use crate::config::{Config, ReservedGroup};
use crate::linux::machine::pids_max;
use crate::telemetry::chain;
use crate::worker::{PIDS, PodCgroups, limits_of};

/// Sets what the configuration asks for, and says what was done and what could not be, in
/// upstream's words. A kubelet ends where it cannot hold the system or the cluster's programs to
/// their part; this node goes on. Blocks for some file operations.
pub(super) fn enforce(
    config: &Config,
    cgroups: Option<&PodCgroups>,
    node: &Node,
) -> Vec<Result<String, String>> {
    let Some(cgroups) = cgroups.map(|cgroups| &cgroups.cgroups) else { return Vec::new() };
    let (system, kube) = (&config.reserved.system, &config.reserved.kube);
    let mut said = Vec::new();
    if !config.cgroups.enforce_pods {
        // The kernel's own part for a group would starve them (upstream).
        let limits = limits_of(&capacity(node), true);
        if let Err(error) = cgroups.set_pods_limits(&limits) {
            tracing::warn!(error = chain(&error), "cannot give pods their part of the cpus");
        }
    } else {
        let limits = limits_of(&for_pods(capacity(node), [system, kube]), false);
        let done = cgroups.set_pods_limits(&limits);
        let root = &config.cgroups.root;
        said.push(match done {
            Ok(()) => Ok("Updated Node Allocatable limit across pods".into()),
            Err(error) => {
                let error = chain(&error);
                Err(format!("Failed to update Node Allocatable Limits {root:?}: {error}"))
            }
        });
    }
    let groups = [
        (&config.cgroups.system, system, ["system", "System"]),
        (&config.cgroups.kube, kube, ["kube", "Kube"]),
    ];
    for (group, reserved, [whose, title]) in groups {
        let Some(ReservedGroup { name, compressible }) = group else { continue };
        let part = if *compressible { " Compressible" } else { "" };
        said.push(match cgroups.limit_existing(name, &limits_of(reserved, *compressible)) {
            Ok(()) => Ok(format!("Updated limits on {whose} reserved cgroup {name}")),
            Err(error) => {
                let error = chain(&error);
                let what = format!("{title} Reserved{part} Cgroup Limits");
                Err(format!("Failed to enforce {what} on {name:?}: {error}"))
            }
        });
    }
    said
}

/// What the machine has, with its processes.
fn capacity(node: &Node) -> Amounts {
    let status = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    let all = status.into_iter().flatten();
    let all = all.filter_map(|(name, raw)| Some((name.clone(), Quantity::parse(&raw.0).ok()?)));
    all.chain(pids_max().map(|pids| (PIDS.to_owned(), Quantity::binary(pids)))).collect()
}

/// What is left for pods together. What eviction keeps free is not kept from them: they may use it,
/// and are evicted then (upstream `getNodeAllocatableInternalAbsolute`).
fn for_pods(capacity: Amounts, reserved: [&Amounts; 2]) -> Amounts {
    let left = |(name, amount): (String, Quantity)| {
        let taken = reserved.into_iter().filter_map(|list| list.get(&name));
        let left = taken.fold(amount, |left, taken| left.minus_to_zero(*taken));
        (name, left)
    };
    capacity.into_iter().map(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_what_is_not_reserved() {
        let amounts = |list: &[(&str, &str)]| -> Amounts {
            let parsed = |(name, text): &(&str, &str)| {
                ((*name).to_owned(), Quantity::parse(text).expect("a quantity"))
            };
            list.iter().map(parsed).collect()
        };
        let capacity = amounts(&[("cpu", "2"), ("memory", "1Gi"), (PIDS, "1000")]);
        let system = amounts(&[("cpu", "500m"), ("memory", "2Gi")]);
        let kube = amounts(&[("cpu", "1"), (PIDS, "100")]);
        let left = for_pods(capacity, [&system, &kube]);
        assert_eq!(left, amounts(&[("cpu", "500m"), ("memory", "0"), (PIDS, "900")]));
    }
}
