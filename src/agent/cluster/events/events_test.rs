use serde_json::json;

use super::*;

#[test]
fn an_event_is_said_as_a_kubelet_says_it() {
    let (recorder, mut inbox) = Recorder::for_test();
    let pod =
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u", "resourceVersion": "7"}});
    let pod = serde_json::from_value(pod).expect("a pod");
    let about = pod_reference(&pod, Some("spec.containers{main}".into()));
    recorder.record(about, false, "Started", "Container started".into());
    let event = inbox.try_recv().expect("an event");
    let mut shown = serde_json::to_value(&event).expect("json");
    let name = shown["metadata"]["name"].take();
    assert!(name.as_str().is_some_and(|name| name.starts_with("web.")), "{name}");
    let (first, last) = (shown["firstTimestamp"].take(), shown["lastTimestamp"].take());
    assert!(
        first == last && !first.as_str().unwrap_or(".").contains('.'),
        "whole seconds: {first}"
    );
    assert_eq!(
        shown,
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": null, "namespace": "ns"},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "web", "uid": "u",
                "resourceVersion": "7", "fieldPath": "spec.containers{main}",
            },
            "type": "Normal",
            "reason": "Started",
            "message": "Container started",
            "count": 1,
            "firstTimestamp": null,
            "lastTimestamp": null,
            "source": {"component": "kubelet", "host": "node"},
            "reportingComponent": "kubelet",
            "reportingInstance": "node",
        })
    );
}

#[test]
fn events_about_nodes_stand_in_the_default_namespace() {
    let (recorder, mut inbox) = Recorder::for_test();
    recorder.record(node_reference("node"), true, "Rebooted", "é".repeat(MESSAGE_MAX));
    let event = inbox.try_recv().expect("an event");
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.message.map(|message| message.len()), Some(MESSAGE_MAX));
}

#[test]
fn too_many_are_dropped_and_counted() {
    let (recorder, _inbox) = Recorder::for_test();
    for n in 0..QUEUE + 3 {
        recorder.record(node_reference("node"), false, "R", n.to_string());
    }
    assert_eq!(recorder.shared.dropped.load(Ordering::Relaxed), 3);
}
