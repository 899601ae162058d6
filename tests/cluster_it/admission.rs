//! Pods that are bound to a node which does not take them.

use serde_json::{Value, json};

use crate::World;
use crate::place::Place;

pub(crate) fn a_pod_that_does_not_fit_fails_and_says_why(world: &World) {
    let place = Place::new(world);
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str, &str); 3] = [
        (
            "elsewhere",
            |spec| spec["nodeSelector"] = json!({"example.com/zone": "another"}),
            "NodeAffinity",
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node \
             affinity/selector",
        ),
        (
            "greedy",
            |spec| {
                spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
            },
            "OutOfcpu",
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: ",
        ),
        (
            "other-system",
            |spec| spec["os"] = json!({"name": "windows"}),
            "PodOSNotSupported",
            "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS",
        ),
    ];
    for (name, change, reason, message) in &cases {
        let mut pod = place.pod(name, "hello", &[]);
        pod["spec"].as_object_mut().expect("an object").remove("nodeSelector");
        // Past the scheduler, which would not send it here.
        pod["spec"]["nodeName"] = json!(place.node.name());
        change(&mut pod["spec"]);
        place.create(&pod);
        let pod = place.wait_pod(name, "Failed", |pod| pod["status"]["phase"] == "Failed");
        let status = &pod["status"];
        assert_eq!(status["reason"], *reason, "{status}");
        let said = status["message"].as_str().unwrap_or_default();
        assert!(said.starts_with(message), "{said}");
        place.node.wait(crate::SOON, "an event says so", || {
            let events = place.api().list("events", &place.namespace);
            let told = |event: &Value| {
                event["reason"] == *reason && event["involvedObject"]["name"] == *name
            };
            events.iter().any(told).then_some(())
        });
    }
    place.finish();
}

pub(crate) fn a_critical_pod_makes_room_for_itself(world: &World) {
    let place = Place::new(world);
    let asking = |name: &str, cpu: &str| {
        let mut pod = place.pod(name, "hello", &["--every", "1000"]);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        pod["spec"]["nodeName"] = json!(place.node.name());
        pod
    };
    for name in ["small", "large"] {
        place.create(&asking(name, if name == "small" { "300m" } else { "1400m" }));
        place.wait_ready(name);
    }
    let mut critical = asking("critical", "1");
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    place.create(&critical);
    place.wait_ready("critical");
    let ended = place.wait_pod("large", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let status = &ended["status"];
    assert_eq!(status["reason"], "Preempting", "{status}");
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    let conditions = status["conditions"].as_array().expect("a list");
    let disrupted = conditions.iter().find(|one| one["type"] == "DisruptionTarget");
    let disrupted = disrupted.expect("it says who did that");
    assert_eq!(disrupted["reason"], "TerminationByKubelet", "{disrupted}");
    place.node.wait(crate::SOON, "an event says so", || {
        let events = place.api().list("events", &place.namespace);
        let told = |event: &Value| {
            event["reason"] == "Preempting"
                && event["message"] == "Preempted in order to admit critical pod"
                && event["involvedObject"]["name"] == "large"
        };
        events.iter().any(told).then_some(())
    });
    let small = place.api().get("pods", &place.namespace, "small").expect("is there");
    assert_eq!(small["status"]["phase"], "Running", "the nearest goes alone");
    place.finish();
}

pub(crate) fn labels_of_this_moment_count(world: &World) {
    let place = Place::new(world);
    let node = place.node.name();
    for number in 0..5 {
        let name = format!("pod-{number}");
        let label = json!({"metadata": {"labels": {"example.com/zone": name}}});
        let mut pod = place.pod(&name, "hello", &["--every", "1000"]);
        pod["spec"]["nodeSelector"] = json!({"example.com/zone": name});
        pod["spec"]["nodeName"] = json!(node);
        // Bound before the agent's watch may have told it of the label.
        place.api().patch("nodes", "", node, &label);
        place.create(&pod);
        let pod = place.wait_pod(&name, "it is taken or refused", |pod| {
            pod["status"]["startTime"].is_string()
        });
        assert_ne!(pod["status"]["phase"], "Failed", "{pod}");
    }
    place.finish();
}
