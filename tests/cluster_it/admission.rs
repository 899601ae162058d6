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
