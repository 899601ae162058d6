use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::SOURCE_ANNOTATION;

/// A node with 2 cores, 1 GiB, room for three pods and one device.
fn node() -> NodeFacts {
    let amount = |(name, text): (&str, &str)| (name.to_owned(), text.parse().unwrap());
    NodeFacts {
        name: "edge-7".into(),
        labels: [("zone", "a"), ("cores", "4"), ("wasm", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        allocatable: [
            ("cpu", "2"),
            ("memory", "1Gi"),
            ("ephemeral-storage", "10Gi"),
            ("pods", "3"),
            ("example.com/gpu", "1"),
        ]
        .map(amount)
        .into(),
        os: "linux".into(),
        sysctls: SysctlAllowList::new((6, 1), &["net.core.*".into(), "kernel.msgmax".into()])
            .unwrap(),
        ..NodeFacts::default()
    }
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 3},
        "spec": {"containers": [{"name": "c"}]},
    }))
    .unwrap();
    let mut all = serde_json::to_value(&pod.spec).unwrap();
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    pod.spec = serde_json::from_value(all).unwrap();
    pod
}

fn asking(name: &str, requests: Value) -> Pod {
    pod(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

fn refused(pod: &Pod, node: &NodeFacts, active: &[Pod]) -> Option<(String, String)> {
    let active: Vec<Arc<Pod>> = active.iter().cloned().map(Arc::new).collect();
    admit(pod, node, &active).err().map(|why| (why.reason, why.message))
}

/// Refused on an otherwise empty node for this reason with this message.
#[track_caller]
fn assert_refused(pod: &Pod, node: &NodeFacts, reason: &str, message: &str) {
    assert_eq!(refused(pod, node, &[]), Some((reason.to_owned(), message.to_owned())));
}

#[track_caller]
fn assert_taken(pod: &Pod, node: &NodeFacts) {
    assert_eq!(refused(pod, node, &[]), None);
}

#[test]
fn an_ordinary_pod_is_taken() {
    assert_taken(&pod("a", json!({})), &node());
    assert_taken(&asking("a", json!({"cpu": "2", "memory": "1Gi"})), &node());
    assert_taken(&Pod::default(), &node());
}

#[test]
fn pressure_refuses_all_but_critical_pods_and_memory_spares_what_asks_for_some() {
    let short = |pressure: &[Pressure]| NodeFacts { pressure: pressure.into(), ..node() };
    let memory = short(&[Pressure::Memory]);
    let both = short(&[Pressure::Memory, Pressure::Disk]);
    let plain = pod("a", json!({}));
    assert_refused(&plain, &memory, "Evicted", "The node had condition: [MemoryPressure]. ");
    let burstable = asking("a", json!({"cpu": "1"}));
    assert_taken(&burstable, &memory);
    let text = "The node had condition: [MemoryPressure DiskPressure]. ";
    assert_refused(&burstable, &both, "Evicted", text);
    let text = "The node had condition: [PIDPressure]. ";
    assert_refused(&burstable, &short(&[Pressure::Pid]), "Evicted", text);
    let key = "node.kubernetes.io/memory-pressure";
    let tolerating = json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    assert_taken(&pod("a", tolerating.clone()), &memory);
    assert_refused(&pod("a", tolerating), &both, "Evicted", &both_text());
    assert_taken(&pod("a", json!({"priority": 2_000_000_000})), &both);
    let mut fixed = plain.clone();
    fixed.metadata.annotations = Some([(SOURCE_ANNOTATION.to_owned(), "file".to_owned())].into());
    assert_taken(&fixed, &both);
    fixed.metadata.annotations = Some([(MIRROR.to_owned(), String::new())].into());
    assert_taken(&fixed, &both);
    for other in ["api", "x", ""] {
        fixed.metadata.annotations =
            Some([(SOURCE_ANNOTATION.to_owned(), other.to_owned())].into());
        assert_refused(&fixed, &both, "Evicted", &both_text());
    }
    // What the API server wrote down counts.
    let class = Some(qos::GUARANTEED.into());
    let told =
        Pod { status: Some(PodStatus { qos_class: class, ..PodStatus::default() }), ..plain };
    assert_taken(&told, &memory);
}

fn both_text() -> String {
    "The node had condition: [MemoryPressure DiskPressure]. ".into()
}

#[test]
fn sysctls_are_safe_or_allowed() {
    let with = |name: &str, more: Value| {
        let mut spec = more;
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        pod("a", spec)
    };
    for name in
        ["kernel.shm_rmid_forced", "net.ipv4.tcp_rmem", "net/core/somaxconn", "kernel.msgmax"]
    {
        assert_taken(&with(name, json!({})), &node());
    }
    for (name, more, why) in [
        ("kernel.sem", json!({}), "\"kernel.sem\" not allowlisted"),
        ("vm.swappiness", json!({}), "\"vm.swappiness\" not allowlisted"),
        (
            "net.ipv4.tcp_syncookies",
            json!({"hostNetwork": true}),
            "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled",
        ),
        (
            "net/core/somaxconn",
            json!({"hostNetwork": true}),
            "\"net.core.somaxconn\" not allowed with host Net enabled",
        ),
        (
            "kernel.msgmax",
            json!({"hostIPC": true}),
            "\"kernel.msgmax\" not allowed with host IPC enabled",
        ),
    ] {
        let message = format!("forbidden sysctl: {why}");
        assert_refused(&with(name, more), &node(), "SysctlForbidden", &message);
    }
    let old = NodeFacts { sysctls: SysctlAllowList::new((4, 4), &[]).unwrap(), ..node() };
    let message = "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowlisted";
    assert_refused(&with("net.ipv4.tcp_rmem", json!({})), &old, "SysctlForbidden", message);
}

#[test]
fn allowed_sysctls_have_a_form_and_a_namespace() {
    let new = |pattern: &str| SysctlAllowList::new((6, 1), &[pattern.to_owned()]);
    for good in [
        "net.*",
        "net.a-b.c_d",
        "net.a_*",
        "kernel.shm*",
        "kernel.msg*",
        "fs.mqueue.*",
        "net/ipv4/conf/eth0.1/x",
    ] {
        assert!(new(good).is_ok(), "{good}");
    }
    for unknown in ["kernel.*", "vm.max_map_count", "*", "net*"] {
        assert!(matches!(new(unknown), Err(SysctlError::Unknown(_))), "{unknown}");
    }
    let long = "a".repeat(300);
    for none in [
        "", "net.", "net.*.a", "Net.a", "net..a", "net.a-", "net.-a", "net._*", "net.a+b",
        "net.a+*", &long,
    ] {
        assert!(matches!(new(none), Err(SysctlError::Form(_))), "{none}");
    }
    let text = new("vm.a").unwrap_err().to_string();
    assert_eq!(text, "the sysctls \"vm.a\" are not known to be namespaced");
    // A list with nothing in it allows nothing.
    let none = NodeFacts { sysctls: SysctlAllowList::default(), ..node() };
    let spec = json!({"securityContext": {"sysctls": [{"name": "net.a", "value": "1"}]}});
    assert!(refused(&pod("a", spec), &none, &[]).is_some());
}

#[test]
fn strict_groups_need_a_node_that_has_them() {
    let strict = pod("a", json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}));
    assert_taken(&strict, &NodeFacts { strict_groups: true, ..node() });
    assert_refused(
        &strict,
        &node(),
        "SupplementalGroupsPolicyNotSupported",
        "SupplementalGroupsPolicy=Strict is not supported in this node",
    );
    let merge = pod("a", json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}));
    assert_taken(&merge, &node());
}

#[test]
fn room_is_counted_over_the_other_pods() {
    let active = [asking("x", json!({"cpu": "1500m", "memory": "512Mi"})), pod("y", json!({}))];
    let check = |pod: &Pod, reason: &str, message: &str| {
        let expected = Some((reason.to_owned(), message.to_owned()));
        assert_eq!(refused(pod, &node(), &active), expected);
    };
    assert_eq!(refused(&asking("a", json!({"cpu": "500m"})), &node(), &active), None);
    check(
        &asking("a", json!({"cpu": "501m"})),
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
    );
    check(
        &asking("a", json!({"memory": "513Mi"})),
        "OutOfmemory",
        "Node didn't have enough resource: memory, requested: 537919488, used: 536870912, \
         capacity: 1073741824",
    );
    check(
        &asking("a", json!({"ephemeral-storage": "11Gi", "cpu": "3"})),
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 3000, used: 1500, capacity: 2000",
    );
    check(
        &asking("a", json!({"ephemeral-storage": "11Gi"})),
        "OutOfephemeral-storage",
        "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, \
         capacity: 10737418240",
    );
    check(
        &asking("a", json!({"example.com/gpu": "2"})),
        "OutOfexample.com/gpu",
        "Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
    );
    check(
        &asking("a", json!({"hugepages-2Mi": "2Mi"})),
        "OutOfhugepages-2Mi",
        "Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0",
    );
    // Somebody else's to give, and nothing at all, even where there is less than that.
    let foreign = json!({"example.com/licence": "5", "storage": "1Ti", "cpu": "0"});
    let active = [asking("x", json!({"cpu": "3"}))];
    assert_eq!(refused(&asking("a", foreign), &node(), &active), None);
}

#[test]
fn pods_are_counted_and_the_pod_itself_is_not() {
    let mut active: Vec<Pod> = ["x", "y"].map(|name| pod(name, json!({}))).into();
    assert_eq!(refused(&pod("a", json!({})), &node(), &active), None);
    active.push(pod("a", json!({})));
    assert_eq!(refused(&pod("a", json!({})), &node(), &active), None);
    active.push(pod("z", json!({})));
    let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    let expected = Some(("OutOfpods".to_owned(), message.to_owned()));
    assert_eq!(refused(&pod("a", json!({})), &node(), &active), expected);
    // Of two with one name, one after the other, each counts.
    let mut other = pod("a", json!({}));
    other.metadata.uid = Some("b".into());
    active.pop();
    assert!(refused(&other, &node(), &active).is_some());
}

#[test]
fn host_ports_are_one_pods() {
    let with = |name: &str, ports: Value| {
        pod(name, json!({"containers": [{"name": "c", "ports": ports}]}))
    };
    let taken = [
        with("x", json!([{"containerPort": 1, "hostPort": 80}])),
        with(
            "y",
            json!([
                {"containerPort": 1, "hostPort": 81, "hostIP": "10.0.0.1"},
                {"containerPort": 1, "hostPort": 0},
            ]),
        ),
    ];
    for (port, is_free) in [
        (json!({"containerPort": 80}), true),
        (json!({"containerPort": 1, "hostPort": 0}), true),
        (json!({"containerPort": 1, "hostPort": 80}), false),
        (json!({"containerPort": 1, "hostPort": 80, "protocol": "TCP"}), false),
        (json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), true),
        (json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"}), false),
        (json!({"containerPort": 1, "hostPort": 81, "hostIP": "10.0.0.2"}), true),
        (json!({"containerPort": 1, "hostPort": 81, "hostIP": "10.0.0.1"}), false),
        (json!({"containerPort": 1, "hostPort": 81, "hostIP": "0.0.0.0"}), false),
        (json!({"containerPort": 1, "hostPort": 81, "hostIP": ""}), false),
    ] {
        let why = refused(&with("a", json!([port])), &node(), &taken);
        assert_eq!(why.is_none(), is_free, "{port}");
        if let Some(why) = why {
            let text = "Predicate NodePorts failed: node(s) didn't have free ports for the \
                        requested pod ports";
            assert_eq!(why, ("NodePorts".to_owned(), text.to_owned()));
        }
    }
    let init = |policy: Value| {
        let ports = json!([{"containerPort": 1, "hostPort": 80}]);
        let init = json!({"name": "i", "restartPolicy": policy, "ports": ports});
        pod("a", json!({"initContainers": [init]}))
    };
    assert!(refused(&init(json!("Always")), &node(), &taken).is_some(), "a sidecar stays");
    assert_eq!(refused(&init(Value::Null), &node(), &taken), None);
}

#[test]
fn only_untolerated_no_execute_taints_refuse() {
    let taint = |value: Option<&str>, effect: &str| Taint {
        key: "wasm".into(),
        value: value.map(Into::into),
        effect: effect.into(),
        time_added: None,
    };
    let tainted = |taint: Taint| NodeFacts { taints: vec![taint], ..node() };
    let gone = tainted(taint(Some("only"), "NoExecute"));
    let text = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
    assert_refused(&pod("a", json!({})), &gone, "TaintToleration", text);
    assert_taken(&pod("a", json!({})), &tainted(taint(None, "NoSchedule")));
    for (toleration, is_met) in [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "wasm", "operator": "Exists", "effect": "NoExecute"}), true),
        (json!({"key": "wasm", "operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
        (json!({"key": "wasm", "value": "only"}), true),
        (json!({"key": "wasm", "operator": "Equal", "value": "only"}), true),
        (json!({"key": "wasm", "operator": "Equal", "value": "none"}), false),
        (json!({"key": "wasm"}), false),
        (json!({"key": "wasm", "operator": "Gt", "value": "1"}), false),
    ] {
        let tolerating = pod("a", json!({"tolerations": [toleration]}));
        assert_eq!(refused(&tolerating, &gone, &[]).is_none(), is_met, "{toleration}");
    }
    let mut fixed = pod("a", json!({}));
    fixed.metadata.annotations = Some([(SOURCE_ANNOTATION.to_owned(), "file".to_owned())].into());
    assert_taken(&fixed, &gone);
}

#[test]
fn apparmor_is_enforced_or_refused() {
    let with = |profile: Value| pod("a", json!({"securityContext": {"appArmorProfile": profile}}));
    let enforcing = NodeFacts { apparmor: true, ..node() };
    let default = with(json!({"type": "RuntimeDefault"}));
    let text = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    assert_refused(&default, &node(), "AppArmor", text);
    assert_taken(&default, &enforcing);
    assert_taken(&with(json!({"type": "Unconfined"})), &node());
    let blank = with(json!({"type": "Localhost", "localhostProfile": " "}));
    assert_eq!(refused(&blank, &enforcing, &[]).unwrap().0, "AppArmor");
    assert_taken(&with(json!({"type": "Localhost", "localhostProfile": "p"})), &enforcing);
    let container = json!({"name": "c", "securityContext": {"appArmorProfile": {"type": "Localhost",
                           "localhostProfile": "p"}}});
    assert!(refused(&pod("a", json!({"containers": [container]})), &node(), &[]).is_some());
    let mut old = pod("a", json!({}));
    let key = format!("{}c", "container.apparmor.security.beta.kubernetes.io/");
    old.metadata.annotations = Some([(key.clone(), "runtime/default".to_owned())].into());
    assert!(refused(&old, &node(), &[]).is_some());
    assert_taken(&old, &enforcing);
    old.metadata.annotations = Some([(key.clone(), "unconfined".to_owned())].into());
    assert_taken(&old, &node());
    // A container's own comes first, and an annotation that names one is its own.
    let blank = json!({"type": "Localhost", "localhostProfile": ""});
    for (annotation, is_named) in [
        ("runtime/default", true),
        ("unconfined", true),
        ("localhost/p", true),
        ("localhost/ ", false),
        ("none", false),
    ] {
        let mut old = with(blank.clone());
        old.metadata.annotations = Some([(key.clone(), annotation.to_owned())].into());
        assert_eq!(refused(&old, &enforcing, &[]).is_none(), is_named, "{annotation}");
    }
    // It runs already.
    let phase = Some("Running".into());
    let running = Pod { status: Some(PodStatus { phase, ..PodStatus::default() }), ..default };
    assert_taken(&running, &node());
}

#[test]
fn a_machine_that_goes_down_takes_nothing() {
    let text = "Pod was rejected as the node is shutting down.";
    let down = NodeFacts { shutting_down: true, ..node() };
    assert_refused(&pod("a", json!({})), &down, "NodeShutdown", text);
}

#[test]
fn who_is_here_comes_first_and_then_the_older() {
    let pod = |uid: &str, made: &str| {
        let meta = json!({"uid": uid, "creationTimestamp": made});
        Arc::new(serde_json::from_value::<Pod>(json!({"metadata": meta})).expect("a pod"))
    };
    let pods = vec![
        pod("late", "2026-01-03T00:00:00Z"),
        pod("early", "2026-01-01T00:00:00Z"),
        pod("here-late", "2026-01-04T00:00:00Z"),
        pod("here", "2026-01-02T00:00:00Z"),
    ];
    let turn = in_turn(pods, |uid| uid.starts_with("here"));
    let turn: Vec<_> = turn.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
    assert_eq!(turn, ["here", "here-late", "early", "late"]);
}

#[test]
fn the_first_check_that_fails_is_told() {
    // Wrong in every way; each thing put right shows the next.
    let mut facts = NodeFacts {
        pressure: vec![Pressure::Disk],
        taints: vec![Taint { key: "a".into(), effect: "NoExecute".into(), ..Taint::default() }],
        shutting_down: true,
        ..node()
    };
    let ports = json!([{"containerPort": 1, "hostPort": 80}]);
    let mut spec = json!({
        "securityContext": {"sysctls": [{"name": "vm.a", "value": "1"}],
                            "supplementalGroupsPolicy": "Strict",
                            "appArmorProfile": {"type": "RuntimeDefault"}},
        "os": {"name": "windows"},
        "containers": [{"name": "c", "ports": ports, "resources": {"requests": {"cpu": "9"}}}],
        "nodeSelector": {"none": ""},
        "nodeName": "edge-8",
    });
    let active = [pod("x", json!({"containers": [{"name": "c", "ports": ports}]}))];
    let mut reasons = Vec::new();
    for _ in 0..16 {
        let Some((reason, _)) = refused(&pod("a", spec.clone()), &facts, &active) else { break };
        match reason.as_str() {
            "Evicted" => facts.pressure.clear(),
            "SysctlForbidden" => spec["securityContext"]["sysctls"] = json!([]),
            "PodOSNotSupported" => spec["os"] = Value::Null,
            "SupplementalGroupsPolicyNotSupported" => facts.strict_groups = true,
            "OutOfcpu" => spec["containers"][0]["resources"] = json!({}),
            "NodeAffinity" => spec["nodeSelector"] = json!({}),
            "NodeName" => spec["nodeName"] = json!("edge-7"),
            "NodePorts" => spec["containers"][0]["ports"] = json!([]),
            "TaintToleration" => facts.taints.clear(),
            "AppArmor" => facts.apparmor = true,
            _ => facts.shutting_down = false,
        }
        reasons.push(reason);
    }
    assert_eq!(
        reasons,
        [
            "Evicted",
            "SysctlForbidden",
            "PodOSNotSupported",
            "SupplementalGroupsPolicyNotSupported",
            "OutOfcpu",
            "NodeAffinity",
            "NodeName",
            "NodePorts",
            "TaintToleration",
            "AppArmor",
            "NodeShutdown",
        ]
    );
}

#[test]
fn a_refused_pod_shows_upstreams_status() {
    let now: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let mut refused = asking("a", json!({"cpu": "1"}));
    let why = Rejection::new("OutOfcpu", "Node didn't have enough resource: cpu");
    let status = rejected_status(&refused, &why, now);
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
            "phase": "Failed",
            "reason": "OutOfcpu",
            "message": "Pod was rejected: Node didn't have enough resource: cpu",
            "qosClass": "Burstable",
            "startTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 3,
        })
    );
    let first = "2026-01-01T00:00:00Z";
    refused.status = serde_json::from_value(json!({
        "startTime": first, "observedGeneration": 4, "qosClass": "Guaranteed",
    }))
    .unwrap();
    let status = rejected_status(&refused, &why, now);
    assert_eq!(status.start_time.unwrap().0.to_string(), first);
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.qos_class.as_deref(), Some("Guaranteed"));
}

#[path = "placement_test.rs"]
mod placement;
#[path = "property_test.rs"]
mod properties;
