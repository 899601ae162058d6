//! Both ways of labels.

use serde_json::{Value, json};

use super::super::test_pods::{pod, spec_of};
use super::*;

fn map(value: Value) -> Map {
    serde_json::from_value(value).expect("texts")
}

fn name() -> PodName {
    PodName { uid: "u-1".into(), namespace: "ns".into(), name: "web-0".into() }
}

#[test]
fn a_sandboxes_labels_are_the_pods_and_say_whose_it_is() {
    let mut pod = pod(json!({}));
    let own = json!({"app": "web", "io.kubernetes.pod.uid": "forged"});
    pod.metadata.labels = Some(map(own));
    let labels = of_pod(&pod);
    let expected = json!({"app": "web", "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u-1"});
    assert_eq!(labels, map(expected));
    assert_eq!(of_sandbox(&labels), Some(name()));
}

#[test]
fn a_container_is_found_again_as_it_was_made() {
    let pre_stop = json!({"httpGet": {"path": "/stop", "port": "http"}});
    let ports = json!([{"name": "http", "containerPort": 80, "protocol": "TCP"}]);
    let spec = spec_of(&json!({"terminationMessagePath": "last", "ports": ports,
        "terminationMessagePolicy": "FallbackToLogsOnError", "lifecycle": {"preStop": pre_stop}}));
    let mut pod = pod(json!({"terminationGracePeriodSeconds": 5}));
    pod.metadata.deletion_grace_period_seconds = Some(3);
    let (labels, notes) = (of(&pod, &spec), annotations(&pod, &spec, 7));
    assert_eq!(
        labels,
        map(json!({"io.kubernetes.container.name": "c", "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u-1"}))
    );
    let hash_text = format!("{:x}", definition(&spec));
    assert_eq!(
        notes,
        map(json!({"io.kubernetes.container.hash": hash_text,
            "io.kubernetes.container.restartCount": "7",
            "io.kubernetes.container.terminationMessagePath": "last",
            "io.kubernetes.container.terminationMessagePolicy": "FallbackToLogsOnError",
            "io.kubernetes.pod.deletionGracePeriod": "3",
            "io.kubernetes.pod.terminationGracePeriod": "5",
            "io.kubernetes.container.preStopHandler": pre_stop.to_string(),
            "io.kubernetes.container.ports":
                r#"[{"containerPort":80,"name":"http","protocol":"TCP"}]"#}))
    );
    assert_eq!(
        of_container(&labels, &notes),
        Some(Adopted {
            pod: name(),
            container: "c".into(),
            hash: Some(definition(&spec)),
            restart_count: 7,
            message_path: "/last".into(),
            fallback_to_logs: true,
            deletion_grace_seconds: Some(3),
            termination_grace_seconds: Some(5),
            pre_stop: spec.lifecycle.clone().expect("has hooks").pre_stop,
            ports: spec.ports.clone().expect("has ports"),
        })
    );
}

#[test]
fn what_is_missing_or_broken_counts_for_nothing() {
    let ours = map(json!({"io.kubernetes.pod.uid": "u-1", "io.kubernetes.container.name": "c"}));
    let broken = map(json!({"io.kubernetes.container.hash": "no", "io.kubernetes.container.ports":
        "{", "io.kubernetes.container.restartCount": "-1",
        "io.kubernetes.pod.terminationGracePeriod": "soon",
        "io.kubernetes.container.preStopHandler": "[]"}));
    for notes in [Map::new(), broken] {
        let found = of_container(&ours, &notes).expect("is a pod's");
        let pod = PodName { uid: "u-1".into(), ..PodName::default() };
        assert_eq!(found, Adopted { pod, container: "c".into(), ..Adopted::default() });
    }
    for foreign in [json!({}), json!({"io.kubernetes.pod.uid": ""}), json!({"app": "web"})] {
        assert_eq!(of_sandbox(&map(foreign.clone())), None);
        assert_eq!(of_container(&map(foreign), &Map::new()), None);
    }
    assert_eq!(of_container(&map(json!({"io.kubernetes.pod.uid": "u"})), &Map::new()), None);
}

#[test]
fn the_hash_is_upstreams_and_changes_with_the_image() {
    let mut spec = spec_of(&json!({"name": "test_container", "image": "foo/image:v1"}));
    // The number of upstream's own test (`TestConsistentHashContainer`).
    assert_eq!(definition(&spec), 0x8e45_cbd0);
    spec.args = Some(vec!["other".into()]);
    assert_eq!(definition(&spec), 0x8e45_cbd0);
    spec.image = Some("foo/image:v2".into());
    assert_ne!(definition(&spec), 0x8e45_cbd0);
}
