use serde_json::{Value, json};

use super::*;
use crate::admission::{NodeFacts, admit};

/// A node with 1 cpu, 1 GiB, room for five pods.
fn node() -> NodeFacts {
    let amount = |(name, text): (&str, &str)| (name.to_owned(), text.parse().unwrap());
    let allocatable = [("cpu", "1"), ("memory", "1Gi"), ("pods", "5")].map(amount).into();
    NodeFacts { os: "linux".into(), allocatable, ..NodeFacts::default() }
}

/// A pod that asks for this; limits make it Guaranteed.
fn pod(name: &str, resources: Value, priority: i32) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn burstable(name: &str, milli: u32, mebi: u32) -> Arc<Pod> {
    let requests = json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")});
    pod(name, json!({"requests": requests}), 0)
}

fn guaranteed(name: &str, milli: u32, mebi: u32) -> Arc<Pod> {
    let limits = json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")});
    pod(name, json!({"requests": limits, "limits": limits}), 0)
}

fn critical(milli: u32, mebi: u32) -> Arc<Pod> {
    let requests = json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")});
    pod("critical", json!({"requests": requests}), 2_000_000_000)
}

fn names(admitted: &[Arc<Pod>]) -> Vec<&str> {
    admitted.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[track_caller]
fn assert_preempts(pod: &Pod, active: &[Arc<Pod>], expected: &[&str]) {
    let admitted = admit(pod, &node(), active).expect("it is taken");
    assert_eq!(names(&admitted.preempts), expected);
}

#[test]
fn nobody_goes_where_there_is_room() {
    assert_preempts(&critical(500, 100), &[burstable("a", 500, 100)], &[]);
}

#[test]
fn the_fewest_go_and_of_these_the_smallest() {
    let all = [burstable("a", 200, 10), burstable("b", 300, 10), burstable("c", 500, 10)];
    assert_preempts(&critical(250, 10), &all, &["b"]);
    assert_preempts(&critical(100, 10), &all, &["a"]);
    assert_preempts(&critical(900, 10), &all, &["c", "b", "a"]);
    assert_preempts(&critical(600, 10), &all, &["c", "a"]);
    let all = [burstable("c", 500, 10), burstable("b", 250, 10), burstable("a", 250, 10)];
    assert_preempts(&critical(100, 10), &all, &["a"]);
}

#[test]
fn each_resource_that_is_short_weighs_the_same() {
    let all = [guaranteed("g", 800, 814), burstable("a", 0, 100), burstable("b", 100, 10)];
    assert_preempts(&critical(200, 200), &all, &["b", "a"]);
}

#[test]
fn guaranteed_pods_go_last_and_best_effort_ones_give_back_places_alone() {
    let best_effort = pod("e", json!({}), 0);
    let all = [guaranteed("g", 600, 100), burstable("b", 300, 10), best_effort.clone()];
    assert_preempts(&critical(400, 10), &all, &["b"]);
    assert_preempts(&critical(700, 10), &all, &["g"]);
    assert_preempts(&critical(800, 10), &all, &["b", "g"]);
    let full = ["1", "2", "3", "4"].map(|name| burstable(name, 10, 10));
    let full: Vec<_> = full.into_iter().chain([best_effort]).collect();
    assert_preempts(&critical(10, 10), &full, &["e"]);
}

#[test]
fn who_is_as_critical_stays_and_that_is_told() {
    let other = pod("o", json!({"requests": {"cpu": "900m"}}), 2_000_000_000);
    let refused = admit(&critical(200, 10), &node(), std::slice::from_ref(&other));
    let refused = refused.expect_err("it is refused");
    assert_eq!(refused.reason, "UnexpectedAdmissionError");
    assert_eq!(
        refused.message,
        "Unexpected error while attempting to recover from admission failure: preemption: error \
         finding a set of pods to preempt: no set of running pods found to reclaim resources: \
         [(res: cpu, q: 100), ]"
    );
    let higher = json!({"requests": {"cpu": "200m"}});
    assert_preempts(&pod("h", higher, 2_000_001_000), &[other], &["o"]);
}

#[test]
fn what_room_does_not_help_is_told_before_anybody_goes() {
    let mut wrong = (*critical(900, 10)).clone();
    wrong.spec.as_mut().unwrap().node_name = Some("elsewhere".into());
    let refused = admit(&wrong, &node(), &[burstable("a", 500, 10)]).expect_err("refused");
    assert_eq!(refused.reason, "NodeName");
    let ordinary = burstable("n", 900, 10);
    let refused = admit(&ordinary, &node(), &[burstable("a", 500, 10)]).expect_err("refused");
    assert_eq!(refused.reason, "OutOfcpu");
}

#[test]
fn features_are_needed_by_name() {
    let mut needs = (*burstable("n", 1, 1)).clone();
    let spec = needs.spec.as_mut().unwrap();
    (spec.host_network, spec.host_users) = (Some(true), Some(false));
    let rule = json!([{"action": "RestartAllContainers"}]);
    spec.containers[0].restart_policy_rules = serde_json::from_value(rule).unwrap();
    let refused = admit(&needs, &node(), &[]).expect_err("refused");
    assert_eq!(refused.reason, "PodFeatureUnsupported");
    assert_eq!(
        refused.message,
        "Pod requires node features that are not available: \
         RestartAllContainersOnContainerExits, UserNamespacesHostNetworkSupport"
    );
    let features = ["RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport"];
    let mut none = (*burstable("n", 1, 1)).clone();
    none.spec.as_mut().unwrap().host_network = Some(true);
    assert!(admit(&none, &node(), &[]).is_ok());
    let able = NodeFacts { features: features.map(str::to_owned).into(), ..node() };
    assert!(admit(&needs, &able, &[]).is_ok());
}

#[test]
fn others_count_by_what_they_still_have_and_give_back_what_they_ask_for() {
    let mut shrinking = Arc::unwrap_or_clone(burstable("a", 300, 10));
    let has = json!({"requests": {"cpu": "700m", "memory": "10Mi"}});
    let status = json!({"containerStatuses": [{"name": "c", "resources": has}]});
    shrinking.status = Some(serde_json::from_value(status).unwrap());
    let shrinking = [Arc::new(shrinking)];
    let refused = admit(&burstable("b", 400, 10), &node(), &shrinking).unwrap_err();
    assert_eq!(
        refused.message,
        "Node didn't have enough resource: cpu, requested: 400, used: 700, capacity: 1000"
    );
    assert_preempts(&critical(600, 10), &shrinking, &["a"]);
    // What it has beyond that is none of its own any more.
    let refused = admit(&critical(601, 10), &node(), &shrinking).unwrap_err();
    assert_eq!(refused.reason, "UnexpectedAdmissionError");
    // What the pod itself has is no matter.
    let itself =
        Arc::new(Pod { status: shrinking[0].status.clone(), ..(*burstable("b", 400, 10)).clone() });
    assert_preempts(&itself, &[burstable("a", 600, 10)], &[]);
}
