//! Room on a node: who takes it, and from when on it is free.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use copepod_tests::cluster::network::PLUGINS;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Node, NodeOptions};
use serde_json::{Value, json};

use crate::place::{Place, container};
use crate::resize::{allocatable, resize, resources, wait_event, wait_resized};
use crate::static_pods::{finish, hello, put, shown};
use crate::{SOON, World};

/// A node whose network takes no pod back as long as a file is there: gives that file.
fn with_slow_network<'a>(world: &'a World, dir: &Path) -> (Place<'a>, PathBuf) {
    let hold = dir.join("hold");
    let program = dir.join("slow-portmap");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$CNI_COMMAND\" = DEL ] && [ -e {} ]; do sleep 0.1; done\n\
         exec {PLUGINS}/portmap\n",
        hold.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    let args = vec!["--cni-bin-dir".to_owned(), dir.display().to_string()];
    let options = NodeOptions { args, ..NodeOptions::default() };
    let mut node = Node::prepare(world.plane, options);
    let file = node.network().conf().join("10-test.conflist");
    let text = fs::read_to_string(&file).expect("read");
    let mut list: Value = serde_json::from_str(&text).expect("JSON");
    list["plugins"][1]["type"] = json!("slow-portmap");
    fs::write(&file, list.to_string()).expect("written");
    node.run();
    let place = Place::on(world, Box::new(node));
    place.node.wait_ready(SOON);
    (place, hold)
}

/// A pod that is bound to the node already and asks for so much.
fn bound(place: &Place<'_>, name: &str, args: &[&str], requests: Value) -> Value {
    let mut pod = place.pod(name, "hello", args);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": requests});
    pod["spec"]["nodeName"] = json!(place.node.name());
    pod
}

pub(crate) fn a_pod_that_has_ended_takes_none(world: &World) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut place, hold) = with_slow_network(world, dir.path());
    fs::write(&hold, "").expect("written");
    let most = json!({"cpu": format!("{}m", allocatable(&place) - 200)});
    let waits = ["--every", "1000"];
    let mut ended = bound(&place, "ended", &["--count", "1"], most.clone());
    ended["spec"]["restartPolicy"] = json!("Never");
    place.create(&ended);
    let is_over = |phase: &'static str| move |pod: &Value| pod["status"]["phase"] == phase;
    place.wait_pod("ended", "it is over", is_over("Succeeded"));
    place.create(&bound(&place, "next", &waits, most.clone()));
    place.wait_ready("next");
    // Nor does one that goes for a critical pod, which starts before all of it is undone.
    let mut critical = bound(&place, "critical", &waits, most.clone());
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    place.create(&critical);
    place.wait_ready("critical");
    let gone = place.wait_pod("next", "it is over", is_over("Failed"));
    assert_eq!(gone["status"]["reason"], "Preempting", "{gone}");
    let events = place.api().list("events", &place.namespace);
    let late = events.iter().find(|event| event["reason"] == "ExceededGracePeriod");
    assert_eq!(late, None, "room was made in time");
    // An agent that comes later knows all pods at once.
    place.node.kill9();
    place.told(&["delete", "pod", "critical", "--grace-period=0", "--force"]);
    place.create(&bound(&place, "late", &waits, most));
    place.node.run();
    place.wait_ready("late");
    assert_eq!(place.node.network().leased().len(), 4, "nothing was undone until now");
    fs::remove_file(hold).expect("removed");
    place.finish();
}

/// What the node has of memory, in bytes.
fn memory(place: &Place<'_>) -> u64 {
    let node = place.api().get("nodes", "", place.node.name()).expect("the node");
    let text = node["status"]["allocatable"]["memory"].as_str().expect("a string").to_owned();
    match text.strip_suffix("Ki") {
        Some(kibi) => kibi.parse::<u64>().expect("a number") << 10,
        None => text.parse().expect("a number"),
    }
}

pub(crate) fn a_resize_waits_for_what_another_has_not_given_back(world: &World) {
    let place = Place::new(world);
    let all = memory(&place);
    let filled = (all >> 20) - 168;
    let pods = [
        ("hog", &["24", "--hold", "3600000"][..], resources(200, 128)),
        ("grows", &["--every", "1000"], resources(200, 32)),
        ("filler", &["--every", "1000"], json!({"requests": {"memory": format!("{filled}Mi")}})),
    ];
    for (name, args, resources) in pods {
        let mut pod = place.pod(name, if name == "hog" { "hog" } else { "hello" }, args);
        pod["spec"]["containers"][0]["resources"] = resources;
        place.create(&pod);
        place.wait_ready(name);
    }
    place.wait_line("hog", "holding 24 MiB");
    // It is allocated so little, and uses more.
    resize(&place, "hog", &resources(200, 16));
    place.wait_pod("hog", "it does not fit", |pod| {
        condition(pod, "PodResizeInProgress").is_some_and(|one| one["reason"] == "Error")
    });
    resize(&place, "grows", &resources(200, 80));
    let pod = place.wait_pod("grows", "Deferred", |pod| {
        condition(pod, "PodResizePending").is_some_and(|one| one["reason"] == "Deferred")
    });
    let message = format!(
        "Node didn't have enough resource: memory, requested: {}, used: {}, capacity: {all}",
        80_u64 << 20,
        (filled + 128) << 20
    );
    let shown = condition(&pod, "PodResizePending").expect("it is there");
    assert_eq!(shown["message"], message);
    resize(&place, "hog", &resources(200, 64));
    wait_resized(&place, "hog", &resources(200, 64));
    wait_resized(&place, "grows", &resources(200, 80));
    place.finish();
}

pub(crate) fn a_static_pods_resize_makes_room_once(world: &World) {
    let config = json!({"staticPodPath": "manifests"});
    let mut place = Place::with(world, NodeOptions { config, ..NodeOptions::default() });
    place.node.wait_ready(SOON);
    let all = allocatable(&place);
    let file = |cpu: &str| {
        let mut manifest = hello(&place, "fixed", "1000");
        manifest["metadata"]["uid"] = json!(format!("fixed-{}", place.namespace));
        manifest["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        manifest.to_string()
    };
    let (small, large) = (file("100m"), file("400m"));
    put(&place.node, "fixed.yaml", small);
    let name = shown(&place, "fixed");
    place.wait_ready(&name);
    let waits = ["--every", "1000"];
    let mut goes = bound(&place, "goes", &waits, json!({"cpu": format!("{}m", all - 300)}));
    goes["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 10}}});
    goes["spec"]["terminationGracePeriodSeconds"] = json!(25);
    place.create(&goes);
    place.create(&bound(&place, "stays", &waits, json!({"cpu": "100m"})));
    for name in ["goes", "stays"] {
        place.wait_ready(name);
    }
    put(&place.node, "fixed.yaml", large);
    wait_event(&place, "goes", "Preempting", "");
    // All that wait are decided on again.
    let more = json!({"requests": {"cpu": "110m"}});
    resize(&place, "stays", &more);
    wait_resized(&place, "stays", &more);
    let mirror = place.wait_pod(&name, "it is there", |_| true);
    assert_eq!(container(&mirror, "main")["allocatedResources"]["cpu"], "100m", "no room yet");
    let has = |cpu: &'static str| {
        move |pod: &Value| {
            let main = container(pod, "main");
            main["resources"]["requests"]["cpu"] == cpu && main["allocatedResources"]["cpu"] == cpu
        }
    };
    let mirror = place.wait_pod(&name, "it has more", has("400m"));
    assert_eq!(container(&mirror, "main")["restartCount"], 0);
    let ended = place.wait_pod("goes", "it is over", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(ended["status"]["reason"], "Preempting", "{ended}");
    let events = place.api().list("events", &place.namespace);
    let told = events.iter().filter(|event| event["reason"] == "Preempting");
    let times: u64 = told.map(|event| event["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(times, 1, "{events:?}");
    // A later agent knows what it was allocated.
    place.node.kill9();
    place.node.run();
    place.node.wait_ready(SOON);
    let later = place.wait_pod(&name, "it still has", has("400m"));
    assert_eq!(container(&later, "main"), container(&mirror, "main"));
    for name in ["goes", "stays"] {
        place.api().delete("pods", &place.namespace, name);
    }
    finish(place);
}
