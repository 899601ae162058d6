//! What the control plane adds to every pod, and what a pod takes from other objects.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::World;
use crate::place::{Place, container};

/// Where a service account's files are.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The claims of a token.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("three parts");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The arguments of the guest `files` for these steps.
fn steps<'a>(steps: &[&[&'a str]]) -> Vec<&'a str> {
    steps.join(&"--")
}

pub(crate) fn every_pod_has_its_account_and_the_services(world: &World) {
    let place = Place::new(world);
    let service = json!({
        "metadata": {"name": "web-of"},
        "spec": {"ports": [{"name": "http", "port": 8080}], "selector": {"app": "none"}},
    });
    let service = place.api().create("services", &place.namespace, &service);
    let files = ["namespace", "ca.crt", "token"].map(|name| format!("{ACCOUNT}/{name}"));
    let args = steps(&[
        &["env"],
        &["list", ACCOUNT],
        &["read", &files[0]],
        &["write", "/line", ""],
        &["read", "/line"],
        &["read", &files[1]],
        &["read", &files[2]],
    ]);
    let mut pod = place.pod("reads", "files", &args);
    pod["spec"]["restartPolicy"] = json!("Never");
    let made = place.create(&pod);
    place.wait_pod("reads", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    let log = place.told(&["logs", "reads"]);

    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    for line in [
        "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
        "KUBERNETES_SERVICE_PORT=443".to_owned(),
        "KUBERNETES_SERVICE_PORT_HTTPS=443".to_owned(),
        "KUBERNETES_PORT=tcp://10.96.0.1:443".to_owned(),
        format!("WEB_OF_SERVICE_HOST={address}"),
        "WEB_OF_SERVICE_PORT_HTTP=8080".to_owned(),
        format!("WEB_OF_PORT_8080_TCP=tcp://{address}:8080"),
        "HOSTNAME=reads".to_owned(),
        format!("{}\n", place.namespace),
    ] {
        assert!(log.contains(&line), "{line:?} is not in\n{log}");
    }
    assert!(log.contains(world.plane.authority().certificate().trim()), "{log}");
    let token = log.lines().last().expect("the token is last");
    let claims = claims(token);
    let pod_claim = &claims["kubernetes.io"]["pod"];
    assert_eq!(pod_claim["name"], "reads");
    assert_eq!(pod_claim["uid"], made["metadata"]["uid"]);
    assert_eq!(claims["kubernetes.io"]["node"]["name"], place.node.name());
    place.finish();
}

pub(crate) fn a_token_is_taken_by_the_api_server_while_its_pod_is_there(world: &World) {
    let place = Place::new(world);
    let token = format!("{ACCOUNT}/token");
    let args = steps(&[
        &["read", &token],
        // A token has no line end, and what is no whole line waits for its end.
        &["write", "/line", ""],
        &["read", "/line"],
        &["wait", "3600000"],
    ]);
    place.create(&place.pod("has-one", "files", &args));
    let log = place.wait_line("has-one", ".");
    let review = |token: &str| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        place.api().request("POST", path, Some(&review)).1["status"].clone()
    };
    let status = review(log.trim());
    assert_eq!(status["authenticated"], true, "{status}");
    let user = format!("system:serviceaccount:{}:default", place.namespace);
    assert_eq!(status["user"]["username"], user.as_str());
    place.api().delete("pods", &place.namespace, "has-one");
    place.wait_none(crate::SOON);
    // The API server remembers for some seconds what it has found good.
    place.node.wait(crate::SOON, "its token is worth nothing", || {
        (review(log.trim())["authenticated"] != true).then_some(())
    });
    place.finish();
}

pub(crate) fn what_a_pod_names_is_read_waited_for_and_followed(world: &World) {
    let place = Place::new(world);
    let api = place.api();
    let map = json!({"metadata": {"name": "map"}, "data": {"text": "first\n", "other": "o"}});
    let secret = json!({"metadata": {"name": "hidden"}, "stringData": {"word": "open sesame"}});
    // Read again and again, for longer than a change needs to come.
    let again: [&[&str]; 2] = [&["read", "/map/text"], &["wait", "200"]];
    let args = steps(&[&[&["env"][..]], &again.repeat(500)[..]].concat());
    let mut pod = place.pod("follows", "files", &args);
    pod["spec"]["volumes"] = json!([{"name": "map", "configMap": {"name": "map"}}]);
    let main = &mut pod["spec"]["containers"][0];
    main["volumeMounts"] = json!([{"name": "map", "mountPath": "/map"}]);
    main["env"] = json!([
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    main["envFrom"] = json!([{"prefix": "MAP_", "configMapRef": {"name": "map"}}]);
    place.create(&pod);

    // Neither is there yet: an event says so, and nothing starts.
    let events = |text: &str| {
        let events = api.list("events", &place.namespace);
        events.iter().any(|event| event["message"].to_string().contains(text))
    };
    place.node.wait(crate::SOON, "an event names the map", || {
        events("configmap \\\"map\\\" not found").then_some(())
    });
    api.create("configmaps", &place.namespace, &map);
    let waits = |pod: &Value| {
        container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    let waiting = place.wait_pod("follows", "waits for the secret", waits);
    assert!(waiting.to_string().contains("secret \\\"hidden\\\" not found"), "{waiting}");
    api.create("secrets", &place.namespace, &secret);

    let log = place.wait_line("follows", "\nfirst\nfirst\n");
    let running = place.wait_ready("follows");
    let mut expected = String::from("WORD=open sesame\n");
    let _ = writeln!(expected, "NODE={}", place.node.name());
    let _ = writeln!(expected, "IP={}", running["status"]["podIP"].as_str().expect("it has one"));
    for line in expected.lines().chain(["MAP_text=first", "MAP_other=o"]) {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
    // A change is seen by the guest that runs, and without a gap.
    api.patch("configmaps", &place.namespace, "map", &json!({"data": {"text": "second\n"}}));
    let log = place.wait_line("follows", "\nsecond\nsecond\n");
    assert!(log.lines().all(|line| !line.contains("read /map/text")), "{log}");
    place.finish();
}
