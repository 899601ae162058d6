//! The control plane itself, without a node: that what the other tests stand on is there.

use std::net::TcpStream;
use std::time::Duration;

use copepod_tests::cluster::{ControlPlane, Options};
use serde_json::json;

use crate::{SOON, World};

/// Longer than a held-up API server is waited for.
const SHORT: Duration = Duration::from_millis(500);

pub(crate) fn a_control_plane_serves_stops_comes_back_and_leaves_nothing(_: &World) {
    let plane = ControlPlane::start(&Options::default());
    let output = plane.kubectl(&["get", "nodes"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "No resources found\n");
    let version = plane.told(&["version"]);
    assert!(version.contains("Server Version: v1.36"), "{version}");

    plane.stop_api_server();
    TcpStream::connect(plane.address()).expect_err("nobody listens");
    plane.start_api_server();
    assert!(plane.api().get("serviceaccounts", "default", "default").is_some(), "etcd kept it");

    plane.pause();
    TcpStream::connect(plane.address()).expect("the kernel still takes connections");
    plane.api().client().clone().with_silence(SHORT).get("/readyz").expect_err("no answer");
    plane.resume();
    assert_eq!(plane.api().client().get("/readyz").expect("an answer").0, 200);

    let before = plane.api().metrics();
    plane.told(&["create", "configmap", "one", "--from-literal=a=b"]);
    let after = plane.api().metrics();
    let wanted = [("verb", "POST"), ("resource", "configmaps"), ("code", "201")];
    assert!(after.requests(&wanted) - before.requests(&wanted) >= 1.0);
    plane.finish();
}

pub(crate) fn a_pod_without_a_node_stays_pending(world: &World) {
    let api = world.plane.api();
    let pod = json!({
        "metadata": {"name": "nowhere"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "nowhere"},
            "containers": [{"name": "main", "image": "example.com/none"}],
        },
    });
    let mut watch = api.watch("pods", "default");
    let pod = api.create("pods", "default", &pod);
    let volumes = pod["spec"]["volumes"].as_array().expect("service account admission adds one");
    assert!(volumes.iter().any(|volume| volume["projected"].is_object()), "{pod}");
    let (kind, first, _) = watch.next(SOON).expect("it is added");
    assert_eq!((kind.as_str(), &first["metadata"]["uid"]), ("ADDED", &pod["metadata"]["uid"]));
    let (kind, then, _) = watch.next(SOON).expect("the scheduler says something");
    assert_eq!(kind, "MODIFIED");
    assert_eq!(then["status"]["phase"], "Pending");
    assert_eq!(then["status"]["conditions"][0]["reason"], "Unschedulable", "{then}");
    api.delete("pods", "default", "nowhere");
    world.plane.wait(SOON, "it is gone", String::new, || {
        api.get("pods", "default", "nowhere").is_none().then_some(())
    });
}

pub(crate) fn a_node_has_rights_of_its_own_alone(world: &World) {
    let node = world.plane.api_as("system:node:own", &["system:nodes"]);
    let secrets = node.request("GET", "/api/v1/secrets", None);
    assert_eq!(secrets.0, 403, "{secrets:?}");
    let make = |name: &str| {
        let body = json!({"metadata": {"name": name}});
        node.request("POST", "/api/v1/nodes", Some(&body))
    };
    let other = make("other");
    assert_eq!(other.0, 403, "{other:?}");
    assert!(other.1["message"].to_string().contains("is not allowed to modify node"), "{other:?}");
    assert_eq!(make("own").0, 201);
    world.plane.api().delete("nodes", "", "own");
}
