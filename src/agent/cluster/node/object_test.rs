use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::cluster::node::options::WASM_RUNTIME_VERSION;
use crate::cluster::node::patch;

const GIB: u64 = 1 << 30;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

fn facts() -> Facts {
    let machine = Machine {
        cores: 4,
        memory_bytes: 8 * GIB,
        swap_bytes: 0,
        storage_bytes: Some(100 * GIB),
        huge_pages: vec![(2 << 20, 512), (GIB, 0)],
        machine_id: "m".into(),
        system_uuid: "s".into(),
        boot_id: "b1".into(),
        kernel_version: "6.1".into(),
        os_image: "Debian".into(),
        arch: "amd64",
    };
    let address = "10.0.0.7".parse().expect("an address");
    let addresses = HostAddresses {
        interfaces: Some(vec![address]),
        named: Vec::new(),
        routed: [Some(address), None],
    };
    Facts { machine, addresses }
}

fn options() -> NodeOptions {
    NodeOptions::new("n1".into(), "/".into())
}

fn ready() -> Inputs {
    Inputs { problems: Some(Vec::new()), ..Inputs::default() }
}

fn quantity(text: &str) -> Quantity {
    text.parse().expect("a quantity")
}

fn json_of(node: &Node) -> Value {
    serde_json::to_value(node).expect("json")
}

/// What [`a_new_node_as_a_whole`] expects.
fn new_node(options: &NodeOptions) -> Value {
    let features = json!({"recursiveReadOnlyMounts": false, "userNamespaces": false});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "n1",
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": "n1",
                "kubernetes.io/os": "linux", "pool": "wasm",
            },
            "annotations": {
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {
                "cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi",
                "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0",
            },
            "allocatable": {
                "cpu": "4", "memory": "7Gi", "pods": "110", "ephemeral-storage": "100Gi",
                "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0",
            },
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.7"},
                {"type": "Hostname", "address": "n1"},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": "m", "systemUUID": "s", "bootID": "b1", "kernelVersion": "6.1",
                "osImage": "Debian", "containerRuntimeVersion": "wasmtime://48.0.8",
                "kubeletVersion": options.kubelet_version, "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
            "runtimeHandlers": [{"name": "", "features": features}, {"name": "wasm", "features": features}],
            "features": {"supplementalGroupsPolicy": false},
            "declaredFeatures": ["A", "B"],
            "conditions": conditions(),
        },
    })
}

fn conditions() -> Value {
    let time = "1970-01-01T00:00:00Z";
    let condition = |name: &str, reason: &str, message: &str| {
        json!({"type": name, "status": "False", "reason": reason, "message": message,
            "lastHeartbeatTime": time, "lastTransitionTime": time})
    };
    json!([
        condition(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available",),
        condition(
            "Ready",
            "KubeletNotReady",
            "container runtime status check may not have completed yet",
        ),
    ])
}

fn taint(key: &str, value: Option<&str>, effect: &str) -> Taint {
    let value = value.map(Into::into);
    Taint { key: key.into(), value, effect: effect.into(), time_added: None }
}

#[test]
fn a_new_node_as_a_whole() {
    let mut options = options();
    options.labels.insert("pool".into(), "wasm".into());
    options.taints = vec![taint("a", Some("b"), "NoSchedule")];
    options.runtime_handlers = vec!["wasm".into()];
    options.declared_features = vec!["B".into(), "A".into()];
    let Wanted { node, events, address_error } =
        initial(&options, &facts(), &Inputs::default(), &at(0));
    assert_eq!(json_of(&node), new_node(&options));
    assert_eq!(address_error, None);
    let first = &events[0];
    assert_eq!(first.message, "Node n1 status is now: NodeHasSufficientMemory");
    assert_eq!(events.len(), 3);
}

#[test]
fn what_is_reserved_is_not_for_pods() {
    let mut options = options();
    options.system_reserved.insert("cpu".into(), quantity("250m"));
    options.kube_reserved.insert("cpu".into(), quantity("250m"));
    options.kube_reserved.insert("memory".into(), quantity("1Gi"));
    options.system_reserved.insert("ephemeral-storage".into(), quantity("1Ti"));
    options.hard_eviction.insert("memory".into(), Threshold::Amount(quantity("100Mi")));
    options.pods_per_core = 10;
    let allocatable = |options: &NodeOptions| {
        let node = initial(options, &facts(), &ready(), &at(0)).node;
        json_of(&node)["status"]["allocatable"].clone()
    };
    let mut left = allocatable(&options);
    assert_eq!(
        left,
        json!({"cpu": "3500m", "memory": "6044Mi", "pods": "40", "ephemeral-storage": "0",
            "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0"})
    );
    options.system_reserved.remove("ephemeral-storage");
    options.hard_eviction.insert("ephemeral-storage".into(), Threshold::Share(0.1));
    left = allocatable(&options);
    // A tenth in upstream's precision (a float32) is a little more than a tenth.
    assert_eq!(left["ephemeral-storage"], "96636764000");
}

#[test]
fn what_others_have_put_there_stays() {
    let base = json!({
        "metadata": {
            "name": "n1", "uid": "u", "resourceVersion": "9",
            "labels": {"mine": "1", "kubernetes.io/arch": "arm64"},
            "annotations": {"alpha.kubernetes.io/provided-node-ip": "10.0.0.1", "a": "b"},
        },
        "spec": {"podCIDR": "10.1.0.0/24", "unschedulable": true},
        "status": {
            "capacity": {"cpu": "4000m", "example.com/foo": "3", "hugepages-32Mi": "0", "odd": "many"},
            "allocatable": {"example.com/gone": "1", "example.com/foo": "1"},
            "volumesAttached": [{"name": "v", "devicePath": ""}],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": "b0", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "v1",
                "operatingSystem": "", "architecture": "",
            },
        },
    });
    let base: Node = serde_json::from_value(base).expect("a node");
    let Wanted { node, events, .. } = updated(&base, &options(), &facts(), &ready(), &at(5));
    let shown = json_of(&node);
    assert_eq!(
        shown["metadata"]["labels"],
        json!({"mine": "1", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"})
    );
    assert_eq!(shown["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(shown["spec"], json!({"podCIDR": "10.1.0.0/24", "unschedulable": true}));
    let capacity = &shown["status"]["capacity"];
    assert_eq!((&capacity["example.com/foo"], &capacity["cpu"]), (&json!("3"), &json!("4000m")));
    let allocatable = &shown["status"]["allocatable"];
    assert_eq!(
        (&allocatable["example.com/foo"], &allocatable["odd"]),
        (&json!("3"), &json!("many"))
    );
    assert_eq!(allocatable["example.com/gone"], Value::Null);
    assert_eq!(shown["status"]["volumesAttached"][0]["name"], "v");
    assert_eq!(shown["status"]["nodeInfo"]["kubeProxyVersion"], "");
    assert_eq!(
        events[0],
        Said {
            warning: true,
            reason: "Rebooted",
            message: "Node n1 has been rebooted, boot id: b1".into()
        }
    );
    let again = updated(&node, &options(), &facts(), &ready(), &at(15));
    assert!(!patch::is_change(&node, &again.node).expect("json"), "a later time is no change");
    assert!(again.events.is_empty(), "{:?}", again.events);
}

#[test]
fn a_node_that_was_there_gets_what_is_ours_again() {
    let mut options = options();
    options.labels.insert("topology.kubernetes.io/zone".into(), "z".into());
    options.labels.insert("node.kubernetes.io/instance-type".into(), String::new());
    options.labels.insert("pool".into(), "new".into());
    options.taints = vec![taint("a", None, "NoExecute")];
    let wanted = initial(&options, &facts(), &Inputs::default(), &at(0)).node;
    let existing = json!({
        "metadata": {"name": "n1", "labels": {
            "kubernetes.io/hostname": "other", "pool": "old", "x": "y",
            "node.kubernetes.io/instance-type": "t",
        }},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"capacity": {"hugepages-32Mi": "0", "example.com/foo": "3", "cpu": "2"}},
    });
    let existing: Node = serde_json::from_value(existing).expect("a node");
    let node = reconciled(&wanted, &existing);
    let shown = json_of(&node);
    let labels = &shown["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["topology.kubernetes.io/zone"], "z");
    assert_eq!((&labels["pool"], &labels["x"]), (&json!("old"), &json!("y")));
    assert_eq!(labels["node.kubernetes.io/instance-type"], Value::Null);
    assert_eq!(shown["spec"], json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
    assert_eq!(
        shown["status"]["capacity"],
        json!({"example.com/foo": "3", "cpu": "2", "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0"})
    );
    assert_eq!(shown["status"]["allocatable"]["memory"], "7Gi");
    assert_eq!(json_of(&reconciled(&wanted, &node)), shown, "once is enough");
}

#[test]
fn the_largest_images_with_a_few_names() {
    let image = |names: usize, size: i64| ContainerImage {
        names: Some((0..names).map(|n| format!("i{n}")).collect()),
        size_bytes: Some(size),
    };
    let all = [image(0, 1), image(7, 3), image(1, 2)];
    let shown: Vec<_> = images(&all, Some(2))
        .into_iter()
        .map(|image| (image.size_bytes, image.names.map_or(0, |names| names.len())))
        .collect();
    assert_eq!(shown, [(Some(3), 5), (Some(2), 1)]);
    assert_eq!(images(&all, None).len(), 3);
}

#[test]
fn a_clouds_controller_is_told_and_waited_for() {
    let mut options = options();
    options.external_cloud_provider = true;
    options.node_ips = vec!["10.0.0.7".parse().expect("an address")];
    options.provider_id = Some("cloud://1".into());
    options.controller_attach_detach = false;
    let shown = json_of(&initial(&options, &facts(), &ready(), &at(0)).node);
    let annotations = json!({"alpha.kubernetes.io/provided-node-ip": "10.0.0.7"});
    assert_eq!(shown["metadata"]["annotations"], annotations);
    assert_eq!(
        shown["spec"],
        json!({"providerID": "cloud://1", "taints": [{
            "key": "node.cloudprovider.kubernetes.io/uninitialized",
            "value": "true",
            "effect": "NoSchedule",
        }]})
    );
}

#[test]
fn a_machine_that_says_nothing_is_not_ready() {
    let facts = Facts { machine: Machine::default(), ..facts() };
    let shown = json_of(&initial(&options(), &facts, &ready(), &at(0)).node);
    let conditions = shown["status"]["conditions"].as_array().expect("a list");
    assert_eq!(
        conditions.last().expect("one")["message"],
        "missing node capacity for resources: cpu, memory, ephemeral-storage"
    );
}

#[test]
fn the_runtime_is_the_one_of_the_workspace() {
    let manifest = include_str!("../../../../Cargo.toml");
    let version = WASM_RUNTIME_VERSION.strip_prefix("wasmtime://").expect("its type");
    let line = format!("wasmtime = {{ version = \"={version}\"");
    assert!(manifest.lines().any(|other| other.starts_with(&line)), "{line}");
}
