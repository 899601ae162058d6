//! Upstream's vectors (`TestPodRequestsAndLimits`, `TestPodResourceRequests`, `TestMilliCPUTo*`,
//! `TestResourceConfigForPod`, `TestGetContainerOOMScoreAdjust`,
//! `TestConvertCPUSharesToCgroupV2Value`).

use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({ "spec": spec })).unwrap()
}

/// `cpu` and `memory`, each left out where empty.
fn list(cpu: &str, memory: &str) -> Value {
    let mut list = serde_json::Map::new();
    for (name, amount) in [("cpu", cpu), ("memory", memory)] {
        if !amount.is_empty() {
            list.insert(name.into(), amount.into());
        }
    }
    Value::Object(list)
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"name": "c", "resources": {"requests": list(cpu, memory)}})
}

fn sidecar(cpu: &str) -> Value {
    json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": list(cpu, "")}})
}

fn both(requests: &Value, limits: &Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

#[track_caller]
fn assert_amounts(amounts: &Amounts, expected: &Value) {
    let expected: BTreeMap<String, Raw> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(amounts, &super::amounts(Some(&expected)));
}

#[test]
fn requests_and_limits_with_overhead() {
    let five = list("5", "5");
    for (container, overhead, requests, limits) in [
        (both(&list("", ""), &list("9", "")), list("", ""), list("", ""), list("9", "")),
        (both(&list("", ""), &list("", "")), five.clone(), five.clone(), list("", "")),
        (both(&list("1", "10"), &list("", "")), five.clone(), list("6", "15"), list("", "")),
        (both(&list("1", "10"), &list("2", "12")), five.clone(), list("6", "15"), list("7", "17")),
        (both(&list("1", "10"), &list("2", "")), five, list("6", "15"), list("7", "")),
    ] {
        let pod = pod(json!({"containers": [container], "overhead": overhead}));
        assert_amounts(&pod_requests(&pod), &requests);
        assert_amounts(&pod_limits(&pod), &limits);
    }
    assert_eq!(pod_requests(&Pod::default()), Amounts::new());
}

#[test]
fn init_containers_and_sidecars() {
    for (init, containers, cpu) in [
        (vec![asks("4", "")], vec![asks("1", "")], "4"),
        (vec![asks("2", "")], vec![asks("2", ""), asks("3", "")], "5"),
        (vec![sidecar("1")], vec![asks("1", "")], "2"),
        (vec![asks("5", ""), sidecar("1"), sidecar("2"), sidecar("3")], vec![asks("1", "")], "7"),
        (
            vec![asks("5", ""), sidecar("1"), sidecar("2"), asks("5", ""), sidecar("3")],
            vec![asks("1", "")],
            "8",
        ),
        (vec![sidecar("10"), asks("200", "")], vec![asks("100", "")], "210"),
    ] {
        let pod = pod(json!({"containers": containers, "initContainers": init}));
        assert_amounts(&pod_requests(&pod), &list(cpu, ""));
    }
}

#[test]
fn the_pods_own_resources_take_the_place_of_its_containers() {
    let own = json!({"requests": {"cpu": "3", "ephemeral-storage": "1"}, "limits": {"cpu": "8"}});
    let container = json!({"name": "c", "resources": {
        "requests": {"cpu": "1", "memory": "2", "ephemeral-storage": "9"},
        "limits": {"cpu": "1", "memory": "4"}}});
    let pod = pod(json!({
        "containers": [container], "resources": own, "overhead": {"cpu": "1"}
    }));
    let requests = json!({"cpu": "4", "memory": "2", "ephemeral-storage": "9"});
    assert_amounts(&pod_requests(&pod), &requests);
    assert_amounts(&pod_limits(&pod), &list("9", "4"));
}

/// A pod with these requests of cpu of its main container, its sidecar and its init container, and
/// this status.
fn resized(asked: [&str; 3], status: &Value) -> Pod {
    let named =
        |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": list(cpu, "")}});
    let [main, side, init] = asked;
    let mut side = named("side", side);
    side["restartPolicy"] = json!("Always");
    let spec = json!({"containers": [named("main", main)],
        "initContainers": [side, named("init", init)]});
    serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
}

/// What a status says of a container: what it has, and what it was allocated.
fn told(name: &str, has: Option<&str>, allocated: &str) -> Value {
    let mut told = json!({"name": name, "allocatedResources": list(allocated, "")});
    if let Some(has) = has {
        told["resources"] = json!({"requests": list(has, "")});
    }
    told
}

#[test]
fn what_is_in_use_counts_until_it_is_given_back() {
    let status = |main: Value, side: Value, init: Value| json!({"containerStatuses": [main], "initContainerStatuses": [side, init]});
    let none = |name: &str| told(name, None, "9");
    for (asked, status, cpu) in [
        (["2", "1", "1"], json!({}), "3"),
        // Nothing is told of what they have.
        (["2", "1", "1"], status(none("main"), none("side"), none("init")), "3"),
        (["2", "1", "1"], status(told("main", Some("4"), "2"), none("side"), none("init")), "5"),
        (["2", "1", "1"], status(told("main", Some("1"), "5"), none("side"), none("init")), "6"),
        (["2", "1", "1"], status(told("main", Some("1"), "1"), none("side"), none("init")), "3"),
        (["2", "1", "1"], status(none("main"), told("side", Some("3"), "1"), none("init")), "5"),
        // An init container is over when others run.
        (["2", "1", "1"], status(none("main"), none("side"), told("init", Some("9"), "9")), "3"),
        // While it runs, the sidecar has what it has.
        (["1", "1", "5"], status(none("main"), told("side", Some("3"), "1"), none("init")), "8"),
        // Nobody else has the name.
        (["2", "1", "1"], status(told("other", Some("9"), "9"), none("side"), none("init")), "3"),
    ] {
        let pod = resized(asked, &status);
        assert_amounts(&requests_in_use(&pod), &list(cpu, ""));
    }
}

#[test]
fn a_resize_that_is_never_possible_counts_for_nothing() {
    let mut status = json!({"containerStatuses": [told("main", Some("1"), "1")]});
    let in_use = |status: &Value| requests_in_use(&resized(["4", "", ""], status));
    assert_amounts(&in_use(&status), &list("4", ""));
    for (reason, cpu) in [("Infeasible", "1"), ("Deferred", "4")] {
        status["conditions"] = json!([{"type": "PodResizePending", "status": "True",
            "reason": reason}]);
        assert_amounts(&in_use(&status), &list(cpu, ""));
    }
}

#[test]
fn what_the_pod_itself_has_in_use_takes_the_place_of_its_containers() {
    let spec = json!({
        "resources": {"requests": {"cpu": "2", "memory": "10"}}, "overhead": {"cpu": "1"},
        "containers": [asks("9", "9")],
    });
    let pod = |status: Value| -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    };
    for (status, requests) in [
        (json!({}), list("3", "10")),
        (json!({"allocatedResources": {"cpu": "8"}}), list("3", "10")),
        (json!({"resources": {"requests": {"cpu": "5"}}}), list("6", "10")),
        (
            json!({"resources": {"requests": {"cpu": "1", "pods": "7"}},
                "allocatedResources": {"memory": "11"}}),
            list("3", "11"),
        ),
    ] {
        assert_amounts(&requests_in_use(&pod(status)), &requests);
    }
    let mut fixed = pod(json!({"resources": {"requests": {"cpu": "5"}}}));
    fixed.metadata.annotations =
        Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    assert_amounts(&requests_in_use(&fixed), &list("3", "10"));
}

#[test]
fn a_pod_holds_less_when_its_status_says_so() {
    let pod = |asked: &str, has: &str| {
        resized([asked, "", ""], &json!({"containerStatuses": [told("main", Some(has), asked)]}))
    };
    let before = pod("2", "4");
    assert!(holds_less(&before, &pod("2", "3")), "it was made smaller");
    assert!(!holds_less(&before, &pod("1", "4")), "it is to be smaller");
    assert!(!holds_less(&before, &before) && !holds_less(&before, &pod("2", "5")));
}

#[test]
fn shares_quota_and_weight() {
    for (milli, shares) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (512_000, 262_144)] {
        assert_eq!(cpu_shares(milli), shares, "{milli}");
    }
    assert_eq!(cpu_quota_us(0, QUOTA_PERIOD_US), None);
    for (milli, quota) in
        [(5, 1000), (9, 1000), (10, 1000), (200, 20_000), (500, 50_000), (1500, 150_000)]
    {
        assert_eq!(cpu_quota_us(milli, QUOTA_PERIOD_US), Some(quota), "{milli}");
    }
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (1024, 100),
        (262_143, 10_000),
        (262_144, 10_000),
        (262_145, 10_000),
    ] {
        assert_eq!(container_cpu_weight(shares), weight, "{shares}");
    }
    for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000)] {
        assert_eq!(pod_cpu_weight(shares), weight, "{shares}");
    }
}

const MIB: u64 = 1 << 20;
const DEFAULT: QuotaPolicy = QuotaPolicy { enforced: true, period_us: QUOTA_PERIOD_US };
const TUNED: QuotaPolicy = QuotaPolicy { enforced: true, period_us: 5000 };
const OFF: QuotaPolicy = QuotaPolicy { enforced: false, period_us: QUOTA_PERIOD_US };

#[test]
fn pod_cgroups() {
    let none = || both(&list("", ""), &list("", ""));
    let some = || both(&list("100m", "100Mi"), &list("200m", "200Mi"));
    let part = || both(&list("100m", "100Mi"), &list("", ""));
    let full = || both(&list("100m", "100Mi"), &list("100m", "100Mi"));
    let own = |requests, limits| json!({"requests": requests, "limits": limits});
    let nil = Value::Null;
    type Case = (Vec<Value>, Vec<Value>, Value, QuotaPolicy, i64, Option<u64>, Option<u64>);
    let cases: Vec<Case> = vec![
        (vec![none()], vec![], nil.clone(), DEFAULT, 0, None, None),
        (vec![part()], vec![], nil.clone(), DEFAULT, 100, None, None),
        (vec![some()], vec![], nil.clone(), DEFAULT, 100, Some(20_000), Some(200 * MIB)),
        (vec![some()], vec![], nil.clone(), OFF, 100, None, Some(200 * MIB)),
        (vec![some()], vec![], nil.clone(), TUNED, 100, Some(1000), Some(200 * MIB)),
        (vec![some(), part()], vec![], nil.clone(), DEFAULT, 200, None, None),
        (vec![full()], vec![], nil.clone(), DEFAULT, 100, Some(10_000), Some(100 * MIB)),
        (vec![full()], vec![], nil.clone(), OFF, 100, None, Some(100 * MIB)),
        (vec![full()], vec![], nil.clone(), TUNED, 100, Some(1000), Some(100 * MIB)),
        (vec![some(), part()], vec![some(), part()], nil.clone(), TUNED, 200, None, None),
        (vec![some()], vec![part()], nil, DEFAULT, 100, None, None),
        (vec![none()], vec![], own(list("", ""), list("", "")), DEFAULT, 0, None, None),
        (vec![none()], vec![], own(list("100m", "100Mi"), list("", "")), DEFAULT, 100, None, None),
        (
            vec![none()],
            vec![],
            own(list("100m", "100Mi"), list("200m", "200Mi")),
            DEFAULT,
            100,
            Some(20_000),
            Some(200 * MIB),
        ),
        (
            vec![both(&list("200m", "200Mi"), &list("200m", "200Mi"))],
            vec![],
            own(list("200m", "300Mi"), list("", "")),
            DEFAULT,
            200,
            Some(20_000),
            Some(200 * MIB),
        ),
        (
            vec![part()],
            vec![full()],
            own(list("100m", "100Mi"), list("100m", "100Mi")),
            DEFAULT,
            100,
            Some(10_000),
            Some(100 * MIB),
        ),
    ];
    for (containers, init, own, quota, cpu_milli, cpu_quota_us, memory_bytes) in cases {
        let text = format!("{containers:?} {init:?} {own}");
        let pod = pod(json!({"containers": containers, "initContainers": init, "resources": own}));
        let cpu_shares = cpu_shares(cpu_milli);
        let expected = CgroupLimits {
            cpu_shares,
            cpu_weight: pod_cpu_weight(cpu_shares),
            cpu_quota_us,
            cpu_period_us: quota.period_us,
            memory_bytes,
        };
        assert_eq!(pod_cgroup(&pod, quota), expected, "{text}");
    }
}

#[test]
fn container_cgroups() {
    let own = json!({"limits": {"cpu": "500m", "memory": "10Mi"}});
    for (resources, own, shares, quota, memory) in [
        (json!({}), Value::Null, 2, None, None),
        (json!({"requests": {"cpu": "1"}}), Value::Null, 1024, None, None),
        (
            json!({"limits": {"cpu": "2", "memory": "1Mi"}}),
            Value::Null,
            2048,
            Some(200_000),
            Some(MIB),
        ),
        (
            json!({"requests": {"cpu": "0"}, "limits": {"cpu": "2"}}),
            own.clone(),
            2,
            Some(200_000),
            Some(10 * MIB),
        ),
        (json!({}), own, 512, Some(50_000), Some(10 * MIB)),
    ] {
        let pod =
            pod(json!({"containers": [{"name": "c", "resources": resources}], "resources": own}));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let found = container_cgroup(&pod, container, DEFAULT);
        assert_eq!(
            (found.cpu_shares, found.cpu_quota_us, found.memory_bytes),
            (shares, quota, memory),
            "{resources}"
        );
        assert_eq!(found.cpu_weight, container_cpu_weight(shares));
    }
}

#[test]
fn burstable_pods_share_by_their_requests() {
    let burstable = pod(json!({"containers": [asks("500m", "")]}));
    let other = pod(json!({"containers": [both(&list("9", "1"), &list("9", "1"))]}));
    assert_eq!(burstable_cpu_shares([&burstable, &other, &burstable]), 1024);
    assert_eq!(burstable_cpu_shares([]), 2);
}

/// A container of this name with a memory request and limit, and something that makes it Burstable.
fn memory(name: &str, request: u64, limit: u64) -> Value {
    json!({"name": name, "resources": {
        "requests": {"memory": request.to_string()}, "limits": {"memory": limit.to_string()}}})
}

fn side(mut container: Value) -> Value {
    container["restartPolicy"] = "Always".into();
    container
}

#[track_caller]
fn assert_scores(spec: Value, capacity: u64, expected: &[(&str, i32)]) {
    let pod = pod(spec);
    let spec = pod.spec.as_ref().unwrap();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (name, score) in expected {
        let mut all = init.iter().chain(&spec.containers);
        let container = all.find(|container| container.name == *name).unwrap();
        assert_eq!(oom_score_adj(&pod, container, capacity), *score, "{name}");
    }
}

#[test]
fn oom_scores() {
    const ALL: u64 = 8_000_000_000;
    let one = |container: Value| json!({"containers": [container]});
    let a = |resources: Value| one(json!({"name": "a", "resources": resources}));
    let cases = [
        (a(json!({"limits": {"cpu": "10"}})), 4_000_000_000, 999),
        (a(json!({"requests": {"cpu": "0"}, "limits": {"memory": "10G"}})), ALL, 999),
        (a(json!({"limits": {"memory": "0"}})), 7_230_457_451, 1000),
        (a(json!({})), 4_000_000_000, 1000),
        (
            a(
                json!({"requests": {"memory": "10G", "cpu": "5m"}, "limits": {"memory": "10G", "cpu": "5m"}}),
            ),
            123_456_789,
            -997,
        ),
        (a(json!({"requests": {"memory": "7999999999", "cpu": "5m"}})), ALL, 3),
        (one(memory("a", ALL / 8, 1000 + ALL / 8)), ALL, 875),
    ];
    for (spec, capacity, score) in cases {
        assert_scores(spec, capacity, &[("a", score)]);
    }
    let critical = |class: &str, priority: i64| json!({"containers": [{"name": "a"}], "priorityClassName": class, "priority": priority});
    assert_scores(critical("system-cluster-critical", 2_000_000_000), 1, &[("a", 1000)]);
    assert_scores(critical("system-node-critical", 2_000_001_000), 1, &[("a", -997)]);
    assert_scores(critical("system-node-critical", 0), 1, &[("a", 1000)]);
    for (key, value) in [(crate::SOURCE_ANNOTATION, "file"), (MIRROR_ANNOTATION, "hash")] {
        let mut of_file = pod(critical("system-node-critical", 0));
        of_file.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        let container = of_file.spec.clone().unwrap().containers.remove(0);
        assert_eq!(oom_score_adj(&of_file, &container, 1), -997, "{key}");
    }
}

#[test]
fn oom_scores_of_sidecars_are_no_worse_than_the_smallest_mains() {
    const ALL: u64 = 8_000_000_000;
    let main = || memory("main", ALL / 8, 1000 + ALL / 8);
    for (request, score) in [(ALL / 8, 875), (ALL / 20, 875), (ALL / 2, 500)] {
        let init = [memory("init", ALL / 20, 1000 + ALL / 8), side(memory("side", request, ALL))];
        let spec = json!({"containers": [main()], "initContainers": init});
        assert_scores(spec, ALL, &[("init", 950), ("side", score), ("main", 875)]);
    }
}

#[test]
fn oom_scores_by_the_pods_own_requests() {
    const ALL: u64 = 4_000_000_000;
    let own = |limit: u64| {
        json!({"requests": {"cpu": "5m", "memory": "2000000000"},
               "limits": {"cpu": "5m", "memory": limit.to_string()}})
    };
    let more = 2_000_001_000;
    let of = |own: Value, containers: Vec<Value>, init: Vec<Value>| json!({"resources": own, "containers": containers, "initContainers": init});
    let bare = |name: &str| json!({"name": name});
    let spec = of(own(2_000_000_000), vec![bare("a"), memory("b", 1, 2)], vec![]);
    assert_scores(spec, ALL, &[("a", -997), ("b", -997)]);
    let spec = of(own(more), vec![bare("a"), bare("b")], vec![]);
    assert_scores(spec, ALL, &[("a", 750), ("b", 750)]);
    let giga = |name: &str| memory(name, 1_000_000_000, 1_000_000_000);
    let spec = of(own(more), vec![giga("a"), giga("b")], vec![]);
    assert_scores(spec, ALL, &[("a", 750), ("b", 750)]);
    let spec = of(own(more), vec![giga("a"), bare("b")], vec![]);
    assert_scores(spec, ALL, &[("a", 625), ("b", 875)]);
    let spec = of(own(more), vec![bare("a")], vec![side(bare("s"))]);
    assert_scores(spec, ALL, &[("a", 750), ("s", 750)]);
    let mains = vec![giga("a"), memory("b", 500_000_000, more)];
    let spec = of(own(more), mains, vec![side(memory("s", 200_000_000, more))]);
    assert_scores(spec, ALL, &[("a", 725), ("b", 850), ("s", 850)]);
}
