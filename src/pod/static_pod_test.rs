use serde_json::{Value, json};

use super::*;

const FILE: Origin<'_> = Origin::File("/etc/manifests/web.yaml");

fn written(pod: Value) -> Pod {
    serde_json::from_value(pod).expect("a pod")
}

fn web() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "a"}]}})
}

fn made(pod: Value, origin: Origin<'_>) -> Result<Pod, StaticPodError> {
    static_pod(written(pod), origin, "Node-1")
}

fn uid_of(pod: Value, origin: Origin<'_>) -> String {
    made(pod, origin).expect("a static pod").metadata.uid.expect("a uid")
}

#[test]
fn the_hash_is_fnv_1a_of_128_bits() {
    for (text, sum) in [
        ("", "6c62272e07bb014262b821756295c58d"),
        ("a", "d228cb696f1a8caf78912b704e4a8964"),
        ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
    ] {
        let mut hash = Fnv(FNV_OFFSET);
        hash.text(text);
        assert_eq!(format!("{:032x}", hash.0), sum, "{text}");
    }
}

#[test]
fn a_file_becomes_a_pod_of_this_node() {
    let pod = made(web(), FILE).expect("a static pod");
    let meta = &pod.metadata;
    assert_eq!(meta.name.as_deref(), Some("web-node-1"));
    assert_eq!(meta.namespace.as_deref(), Some("default"));
    let uid = meta.uid.clone().expect("a uid");
    assert_eq!(uid.len(), 32);
    assert_eq!(annotation(&pod, HASH_ANNOTATION), Some(&*uid));
    assert_eq!(annotation(&pod, SOURCE_ANNOTATION), Some("file"));
    assert_eq!(annotation(&pod, FILE_ANNOTATION), Some("/etc/manifests/web.yaml"));
    assert_eq!(Source::of(&pod), Some(Source::File));
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
    let tolerations = serde_json::to_value(&spec.tolerations).expect("JSON");
    assert_eq!(tolerations, json!([{"operator": "Exists", "effect": "NoExecute"}]));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(pod.status.and_then(|status| status.phase).as_deref(), Some("Pending"));
}

#[test]
fn a_pod_of_an_address_tolerates_what_it_says() {
    let pod = made(web(), Origin::Url("http://h/pods")).expect("a static pod");
    assert_eq!(pod.spec.as_ref().expect("a spec").tolerations, None);
    assert_eq!(Source::of(&pod), Some(Source::Http));
    assert_eq!(Source::Http.to_string(), "http");
    assert_eq!(annotation(&pod, FILE_ANNOTATION), None);
}

#[test]
fn a_uid_follows_what_is_written_and_where() {
    let uid = uid_of(web(), FILE);
    assert_eq!(uid, uid_of(web(), FILE));
    // Of the default's own value there is another text in the file, so that it is another pod; a
    // status and what a kubelet sets make none.
    let mut same = web();
    same["status"] = json!({"phase": "Running"});
    same["metadata"]["creationTimestamp"] = Value::Null;
    assert_eq!(uid, uid_of(same, FILE));
    let mut image = web();
    image["spec"]["containers"][0]["image"] = "b".into();
    let other_node = static_pod(written(web()), FILE, "node-2").expect("made").metadata.uid;
    let with = |field: &str| {
        let mut other = web();
        other["metadata"][field] = "other".into();
        uid_of(other, FILE)
    };
    for other in [
        uid_of(image, FILE),
        with("name"),
        with("namespace"),
        with("generateName"),
        uid_of(web(), Origin::File("/etc/manifests/other.yaml")),
        uid_of(web(), Origin::Url("/etc/manifests/web.yaml")),
        other_node.expect("a uid"),
    ] {
        assert_ne!(uid, other);
    }
}

#[test]
fn a_uid_that_is_given_is_kept_if_it_can_be_a_directory() {
    let mut pod = web();
    pod["metadata"]["uid"] = "a-1".into();
    assert_eq!(uid_of(pod.clone(), FILE), "a-1");
    for bad in ["../../etc", "a/b", ".", "..", "a b", &"a".repeat(129)] {
        pod["metadata"]["uid"] = bad.into();
        let error = made(pod.clone(), FILE).expect_err(bad).to_string();
        assert!(error.starts_with("invalid pod: metadata.uid: Invalid value: "), "{error}");
    }
}

#[test]
fn what_only_an_api_server_or_a_kubelet_sets_is_taken_off() {
    let mut pod = web();
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = 5.into();
    pod["metadata"]["generation"] = 3.into();
    pod["metadata"]["namespace"] = "ns".into();
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["metadata"]["annotations"] = json!({MIRROR_ANNOTATION: "x", SOURCE_ANNOTATION: "api", HASH_ANNOTATION: "y", "mine": "z"});
    let meta = made(pod, FILE).expect("a static pod").metadata;
    assert_eq!((meta.deletion_timestamp, meta.generation), (None, None));
    assert_eq!(meta.deletion_grace_period_seconds, None);
    let annotations = meta.annotations.expect("some");
    assert_eq!(meta.namespace.as_deref(), Some("ns"));
    assert_eq!(meta.labels.expect("some")["app"], "web");
    assert_eq!(annotations.get("mine").map(String::as_str), Some("z"));
    assert_eq!(annotations.get(MIRROR_ANNOTATION), None);
    assert_eq!(annotations.get(SOURCE_ANNOTATION).map(String::as_str), Some("file"));
}

#[test]
fn what_is_no_pod_is_refused_in_upstreams_words() {
    let nameless = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
    let error = made(nameless, FILE).expect_err("refused");
    assert_eq!(error.to_string(), "invalid pod: name is needed for the pod");
    let mut pod = web();
    pod["spec"]["containers"][0]["name"] = "C".into();
    let one = made(pod.clone(), FILE).expect_err("refused").to_string();
    assert!(one.starts_with("invalid pod: spec.containers[0].name: Invalid value"), "{one}");
    pod["spec"]["restartPolicy"] = "Sometimes".into();
    let two = made(pod, FILE).expect_err("refused").to_string();
    assert!(
        two.starts_with("invalid pod: [spec.containers[0].name") && two.ends_with(']'),
        "{two}"
    );
    let mut pod = web();
    pod["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "a"}]);
    let error = made(pod, FILE).expect_err("refused").to_string();
    assert!(error.contains("spec.ephemeralContainers: Forbidden: cannot be set on create"));
}

#[test]
fn what_needs_an_api_server_is_refused() {
    let env = |from: Value| json!({"containers": [{"name": "c", "image": "a", "env": [{"name": "E", "valueFrom": from}]}]});
    let volume = |volume: Value| json!({"volumes": [volume]});
    for (spec, what) in [
        (json!({"serviceAccountName": "x"}), "serviceaccounts"),
        (json!({"serviceAccount": "x"}), "serviceaccounts"),
        (json!({"imagePullSecrets": [{"name": "x"}]}), "secrets"),
        (env(json!({"secretKeyRef": {"name": "x", "key": "k"}})), "secrets"),
        (env(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmaps"),
        (volume(json!({"name": "v", "secret": {"secretName": "x"}})), "secrets"),
        (volume(json!({"name": "v", "configMap": {"name": "x"}})), "configmaps"),
        (
            volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "x"}})),
            "persistentvolumeclaims",
        ),
        (
            volume(json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}}]}})),
            "serviceaccounts (via projected volumes)",
        ),
        (json!({"resourceClaims": [{"name": "x"}]}), "resourceclaims"),
    ] {
        let mut pod = web();
        for (field, value) in spec.as_object().expect("an object") {
            pod["spec"][field] = value.clone();
        }
        assert_eq!(api_reference(&written(pod.clone())), Some(what), "{pod}");
        let error = made(pod, FILE).expect_err(what).to_string();
        // Claims of volumes are no volumes that are run here, and may be refused as such before.
        assert!(
            error == format!("static pods may not reference {what}")
                || error.starts_with("invalid pod"),
            "{error}"
        );
    }
    assert_eq!(api_reference(&written(web())), None);
}

#[test]
fn a_pod_of_its_own_resources_is_guaranteed_and_one_that_asks_for_too_little_refused() {
    let mut pod = web();
    pod["spec"]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let good = made(pod.clone(), FILE).expect("a static pod");
    assert_eq!(crate::qos::qos_class(&good), crate::qos::GUARANTEED);
    pod["spec"]["resources"]["requests"] = json!({"cpu": "2"});
    let error = made(pod, FILE).expect_err("refused").to_string();
    let text = "invalid pod: spec.resources.requests: Invalid value: \"2\": must be less than or equal \
                to cpu limit of 1";
    assert_eq!(error, text);
}

#[test]
fn one_that_waits_for_a_scheduler_is_refused() {
    let mut pod = web();
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/gate"}]);
    let error = made(pod, FILE).expect_err("refused").to_string();
    let text = "invalid pod: spec.nodeName: Forbidden: cannot be set until all schedulingGates have \
                been cleared";
    assert_eq!(error, text);
}
