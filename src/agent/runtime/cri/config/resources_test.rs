//! What sandboxes and containers may have.

use copepod_pod::resources::QuotaPolicy;
use serde_json::{Value, json};

use super::super::test_pods::{node, pod, spec_of};
use super::*;

fn own(pod: Value, resources: Value, node: &NodeOptions) -> LinuxContainerResources {
    let container = json!({"name": "c", "image": "busybox:1", "resources": resources});
    let mut spec = pod;
    spec["containers"] = json!([container]);
    of_container(&super::super::test_pods::pod(spec), &spec_of(&container), node)
}

#[test]
fn cpu_and_memory_of_a_container() {
    // Upstream's TestGenerateContainerConfig and TestCalculateLinuxResources.
    for (resources, (shares, quota, memory, oom)) in [
        (json!({}), (2, 0, 0, 1000)),
        (
            json!({"requests": {"cpu": "128", "memory": "128Mi"},
                "limits": {"cpu": "256", "memory": "256Mi"}}),
            (131_072, 25_600_000, 268_435_456, 875),
        ),
        (json!({"limits": {"cpu": "1", "memory": "128Mi"}}), (1024, 100_000, 134_217_728, 999)),
        (json!({"requests": {"cpu": "0"}, "limits": {"cpu": "1"}}), (2, 100_000, 0, 999)),
        (json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}), (2, 1000, 0, 999)),
    ] {
        let found = own(json!({}), resources.clone(), &node());
        assert_eq!(
            (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes, found.oom_score_adj),
            (shares, quota, memory, oom),
            "{resources}"
        );
        assert_eq!(found.cpu_period, 100_000);
        assert!(found.unified.is_empty() && found.hugepage_limits.is_empty());
        assert_eq!(found.memory_swap_limit_in_bytes, 0);
    }
}

#[test]
fn quotas_as_the_node_enforces_them() {
    let limits = json!({"limits": {"cpu": "500m"}});
    let mut node = node();
    node.quota = QuotaPolicy { enforced: true, period_us: 20_000 };
    let found = own(json!({}), limits.clone(), &node);
    assert_eq!((found.cpu_quota, found.cpu_period), (10_000, 20_000));
    node.quota.enforced = false;
    let found = own(json!({}), limits, &node);
    assert_eq!((found.cpu_quota, found.cpu_period, found.cpu_shares), (0, 0, 512));
    let of_pod = of_sandbox(&pod(json!({"overhead": {"cpu": "1"}})), &node);
    assert_eq!((of_pod.cpu_quota, of_pod.cpu_period), (0, 0));
}

#[test]
fn a_container_without_limits_has_its_pods() {
    let of_pod = json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}});
    let found = own(of_pod, json!({"requests": {"cpu": "1"}}), &node());
    assert_eq!(
        (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes),
        (1024, 200_000, 1 << 30)
    );
}

#[test]
fn version_2_and_swap() {
    let limits = json!({"limits": {"memory": "1Mi"}});
    for (cgroup_v2, oom_kills_all, counts_swap, unified, swap) in [
        (true, true, false, json!({"memory.oom.group": "1"}), 0),
        (true, false, false, json!({}), 0),
        (true, true, true, json!({"memory.oom.group": "1", "memory.swap.max": "0"}), 0),
        (false, true, true, json!({}), 1 << 20),
        (false, true, false, json!({}), 0),
    ] {
        let node = NodeOptions { cgroup_v2, oom_kills_all, counts_swap, ..node() };
        let found = own(json!({}), limits.clone(), &node);
        assert_eq!(json!(found.unified), unified, "{cgroup_v2} {oom_kills_all} {counts_swap}");
        assert_eq!(found.memory_swap_limit_in_bytes, swap);
    }
}

#[test]
fn huge_pages_of_the_machines_sizes() {
    let node = NodeOptions { huge_page_bytes: vec![64 << 10, 2 << 20, 1 << 30], ..node() };
    let of_pod = json!({"resources": {"limits": {"hugepages-2Mi": "8Mi", "hugepages-1Gi": "1Gi"}}});
    let limits = json!({"limits": {"hugepages-2Mi": "4Mi", "hugepages-3Mi": "3Mi",
        "hugepages-x": "1", "memory": "1Gi"}});
    let found = own(of_pod, limits, &node).hugepage_limits;
    let found: Vec<_> = found.iter().map(|one| (one.page_size.as_str(), one.limit)).collect();
    assert_eq!(found, [("64KB", 0), ("2MB", 4 << 20), ("1GB", 1 << 30)]);
    let sizes = [0, 1, 1023, 1024, 1 << 20, 16 << 30, 1 << 60].map(page_size);
    assert_eq!(sizes, ["0B", "1B", "1023B", "1KB", "1MB", "16GB", "1024PB"]);
}

#[test]
fn a_sandbox_has_its_containers_sums_and_its_overhead_apart() {
    let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": memory}});
    let containers = json!([{"name": "a", "resources": resources("1", "1Gi")},
        {"name": "b", "resources": resources("500m", "1Gi")}]);
    let pod = pod(json!({"containers": containers,
        "initContainers": [{"name": "i", "resources": resources("2", "1Gi")}],
        "overhead": {"cpu": "250m", "memory": "120Mi"}}));
    let node = NodeOptions { cgroup_v2: true, ..node() };
    let found = of_sandbox(&pod, &node);
    assert_eq!(
        (found.cpu_shares, found.cpu_quota, found.cpu_period, found.memory_limit_in_bytes),
        (2048, 200_000, 100_000, 2 << 30)
    );
    let found = of_overhead(&pod, &node);
    assert_eq!(
        (found.cpu_shares, found.cpu_quota, found.cpu_period, found.memory_limit_in_bytes),
        (256, 25_000, 100_000, 120 << 20)
    );
    assert_eq!(found.unified, [("memory.oom.group".to_owned(), "1".to_owned())].into());
}

#[test]
fn what_a_runtime_is_told_of_a_resize_is_without_the_pods_overhead() {
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota_us: Some(200_000),
        memory_bytes: Some(256 << 20),
        ..Limits::default()
    };
    let plain = of_resize(&pod(json!({})), &limits, &node());
    let of = &plain.containers;
    assert_eq!((of.cpu_shares, of.cpu_quota, of.cpu_period), (1024, 200_000, 100_000));
    assert_eq!(of.memory_limit_in_bytes, 256 << 20);
    assert_eq!(plain.overhead, LinuxContainerResources::default());
    let heavy = pod(json!({"overhead": {"cpu": "250m", "memory": "64Mi"}}));
    let told = of_resize(&heavy, &limits, &node());
    let of = &told.containers;
    assert_eq!((of.cpu_shares, of.cpu_quota), (768, 175_000));
    assert_eq!(of.memory_limit_in_bytes, 192 << 20);
    assert_eq!((told.overhead.cpu_shares, told.overhead.memory_limit_in_bytes), (256, 64 << 20));
    let free = Limits { cpu_quota_us: None, memory_bytes: None, ..limits };
    let told = of_resize(&heavy, &free, &node()).containers;
    assert_eq!((told.cpu_quota, told.memory_limit_in_bytes), (-1, -1), "no limit is none");
}
