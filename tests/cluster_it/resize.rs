//! Pods that are resized in place, of both runtimes: what they are told to have is what the kernel
//! gives them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Build, leaks};
use copepod_tests::let_pass;
use serde_json::{Value, json};

use crate::place::{Place, container};
use crate::runtimes::{CLASS, wasm_class};
use crate::{SOON, World};

/// The pods of a place, one of each runtime.
const BOTH: [&str; 2] = ["guest", "ordinary"];

/// One pod of each runtime that runs until it is ended, with these resources and more of its spec's
/// container.
fn create_both(place: &Place, resources: &Value, more: &Value) {
    wasm_class(place.world);
    let mut guest = place.pod("guest", "hog", &["24", "--hold", "3600000"]);
    guest["spec"]["runtimeClassName"] = json!(CLASS);
    let ordinary = place.shell("ordinary", "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    for mut pod in [guest, ordinary] {
        let container = &mut pod["spec"]["containers"][0];
        container["resources"] = resources.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            container[name] = value.clone();
        }
        place.create(&pod);
    }
    for name in BOTH {
        place.wait_ready(name);
    }
}

/// The same amounts as requests and limits, the requests of cpu half of them.
pub(crate) fn resources(milli: u32, mebi: u32) -> Value {
    json!({
        "requests": {"cpu": format!("{}m", milli / 2), "memory": format!("{mebi}Mi")},
        "limits": {"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")},
    })
}

/// Asks for other resources of the one container, past admission's quick answer: code and object.
fn ask(place: &Place, name: &str, resources: &Value) -> (u16, Value) {
    let path = format!("/api/v1/namespaces/{}/pods/{name}/resize", place.namespace);
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
    place.api().request("PATCH", &path, Some(&patch))
}

#[track_caller]
pub(crate) fn resize(place: &Place, name: &str, resources: &Value) {
    let (code, said) = ask(place, name, resources);
    assert_eq!(code, 200, "{said}");
}

fn is_resizing(pod: &Value) -> bool {
    ["PodResizePending", "PodResizeInProgress"].iter().any(|kind| condition(pod, kind).is_some())
}

/// Waits until the pod has these resources and says so.
#[track_caller]
pub(crate) fn wait_resized(place: &Place, name: &str, resources: &Value) -> Value {
    let is_there = |pod: &Value| {
        let of = container(pod, "main");
        of["resources"] == *resources
            && of["allocatedResources"] == resources["requests"]
            && of["state"]["running"].is_object()
            && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
            && !is_resizing(pod)
    };
    place.wait_pod(name, &format!("{resources}"), is_there)
}

/// The groups of a pod, or of its container.
fn groups(place: &Place, pod: &Value, of_container: bool) -> Vec<PathBuf> {
    let uid = pod["metadata"]["uid"].as_str().expect("a string");
    let id = container(pod, "main")["containerID"].as_str().unwrap_or_default();
    let id = id.rsplit('/').next().unwrap_or_default();
    let mut all = leaks::cgroups_below(place.node.cgroup());
    all.retain(|dir| {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(
            |name| {
                if of_container { name.contains(id) } else { name == format!("pod{uid}") }
            },
        )
    });
    all
}

/// Cpu shares, quota and bytes of memory, as the kernel has them in a group (version 1).
fn kernel(groups: &[PathBuf]) -> [i64; 3] {
    ["cpu.shares", "cpu.cfs_quota_us", "memory.limit_in_bytes"].map(|name| {
        let text = groups.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(-2)
    })
}

/// Checks that the kernel gives the pod and its container what [`resources`] says.
#[track_caller]
fn assert_kernel(place: &Place, pod: &Value, milli: u32, mebi: u32) {
    let expected =
        [i64::from(milli / 2 * 1024 / 1000), i64::from(milli) * 100, i64::from(mebi) << 20];
    for of_container in [true, false] {
        let groups = groups(place, pod, of_container);
        assert_eq!(kernel(&groups), expected, "{} {groups:?}", pod["metadata"]["name"]);
    }
}

/// Waits for an event of a pod; its message.
#[track_caller]
pub(crate) fn wait_event(place: &Place, name: &str, reason: &str, text: &str) -> String {
    place.node.wait(SOON, &format!("an event {reason} of {name}: {text}"), || {
        let events = place.api().list("events", &place.namespace);
        let mut messages = events.iter().filter_map(|event| {
            let is_it = event["reason"] == reason && event["involvedObject"]["name"] == name;
            event["message"].as_str().filter(|message| is_it && message.contains(text))
        });
        messages.next().map(str::to_owned)
    })
}

pub(crate) fn cpu_and_memory_go_up_and_down_in_both_runtimes(world: &World) {
    let place = Place::ordinary(world, Build::Usual);
    let (small, large) = (resources(200, 64), resources(400, 128));
    create_both(&place, &small, &Value::Null);
    // A command beside the guest has as much as that has.
    let wants = ["exec", "guest", "--", "hog", "80", "--try"];
    let granted = || {
        let words = [&["-n", &place.namespace], &wants[..]].concat();
        place.world.plane.kubectl(&words).status.success()
    };
    assert!(!granted(), "64 MiB are not enough for 80");
    for name in BOTH {
        let before = wait_resized(&place, name, &small);
        assert_kernel(&place, &before, 200, 64);
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": large}]}});
        let patch = patch.to_string();
        place.told(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch]);
        let after = wait_resized(&place, name, &large);
        assert_kernel(&place, &after, 400, 128);
        let id = |pod: &Value| container(pod, "main")["containerID"].clone();
        assert_eq!(
            (id(&after), &container(&after, "main")["restartCount"]),
            (id(&before), &json!(0))
        );
        let generation = after["metadata"]["generation"].as_i64().expect("a number");
        let list = format!(
            "{{\"containers\":[{{\"name\":\"main\",\"resources\":{}}}],\"generation\":{generation}}}",
            large
        );
        for (reason, word) in [("ResizeStarted", "started"), ("ResizeCompleted", "completed")] {
            let message = wait_event(&place, name, reason, "");
            assert_eq!(message, format!("Pod resize {word}: {list}"));
        }
        let of_pod = &after["status"]["resources"];
        assert_eq!(of_pod["limits"], large["limits"], "{of_pod}");
        assert_eq!(after["status"]["allocatedResources"], large["requests"]);
    }
    assert!(granted(), "128 MiB are");
    for name in BOTH {
        resize(&place, name, &small);
        let after = wait_resized(&place, name, &small);
        assert_kernel(&place, &after, 200, 64);
        assert_eq!(container(&after, "main")["restartCount"], 0);
    }
    assert!(!granted(), "64 MiB are not enough for 80");
    place.finish();
}

pub(crate) fn less_memory_than_is_used_is_refused_until_it_is_taken_back(world: &World) {
    let place = Place::ordinary(world, Build::Usual);
    let (enough, little) = (resources(200, 64), resources(200, 16));
    create_both(&place, &enough, &Value::Null);
    place.wait_line("guest", "holding 24 MiB");
    resize(&place, "guest", &little);
    let pod = place.wait_pod("guest", "it does not fit", |pod| {
        condition(pod, "PodResizeInProgress").is_some_and(|one| one["reason"] == "Error")
    });
    let shown = condition(&pod, "PodResizeInProgress").expect("it is there");
    let message = shown["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("cannot decrease memory limits: "), "{message}");
    assert!(message.contains("container \"main\" memory limit (16777216) below"), "{message}");
    assert_eq!(shown["observedGeneration"], pod["metadata"]["generation"]);
    wait_event(&place, "guest", "ResizeError", "Pod resize error: {");
    assert_eq!(container(&pod, "main")["resources"]["limits"]["memory"], "64Mi");
    assert_eq!(container(&pod, "main")["allocatedResources"]["memory"], "16Mi");
    assert_kernel(&place, &pod, 200, 64);
    resize(&place, "guest", &enough);
    let pod = wait_resized(&place, "guest", &enough);
    assert_kernel(&place, &pod, 200, 64);
    assert_eq!(container(&pod, "main")["restartCount"], 0);
    place.finish();
}

/// What the node has of cpus, in thousandths.
pub(crate) fn allocatable(place: &Place) -> u32 {
    let node = place.api().get("nodes", "", place.node.name()).expect("the node");
    let text = node["status"]["allocatable"]["cpu"].as_str().expect("a string").to_owned();
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().expect("a number"),
        None => text.parse::<u32>().expect("a number") * 1000,
    }
}

pub(crate) fn a_resize_waits_for_room_and_what_never_fits_is_refused(world: &World) {
    let place = Place::ordinary(world, Build::Usual);
    let all = allocatable(&place);
    create_both(&place, &resources(200, 64), &Value::Null);
    let mut filler = place.pod("filler", "hello", &["--every", "1000"]);
    filler["spec"]["runtimeClassName"] = json!(CLASS);
    // Both pods ask for half of 200.
    let rest = format!("{}m", all - 300);
    filler["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": rest}});
    place.create(&filler);
    place.wait_ready("filler");
    let wanted = resources(600, 64);
    for name in BOTH {
        resize(&place, name, &wanted);
        let is_deferred = |pod: &Value| {
            condition(pod, "PodResizePending").is_some_and(|one| one["reason"] == "Deferred")
        };
        let pod = place.wait_pod(name, "Deferred", is_deferred);
        let shown = condition(&pod, "PodResizePending").expect("it is there");
        let message = format!(
            "Node didn't have enough resource: cpu, requested: 300, used: {}, capacity: {all}",
            all - 200
        );
        assert_eq!(shown["message"], message);
        assert_eq!(shown["observedGeneration"], pod["metadata"]["generation"]);
        let of = container(&pod, "main");
        assert_eq!(of["allocatedResources"]["cpu"], "100m", "{of}");
        wait_event(&place, name, "ResizeDeferred", "Pod resize OutOfcpu: {");
        assert_kernel(&place, &pod, 200, 64);
    }
    // An agent that comes later knows of both, and that they have not got it.
    let mut place = place;
    place.node.kill9();
    place.node.run();
    place.node.wait_ready(SOON);
    for name in BOTH {
        let pod = place.wait_pod(name, "still Deferred", |pod| {
            condition(pod, "PodResizePending").is_some() && crate::place::ready(pod)
        });
        assert_kernel(&place, &pod, 200, 64);
    }
    place.api().delete("pods", &place.namespace, "filler");
    for name in BOTH {
        let pod = wait_resized(&place, name, &wanted);
        assert_kernel(&place, &pod, 600, 64);
        assert_eq!(container(&pod, "main")["restartCount"], 0);
    }
    let (code, said) = ask(&place, "guest", &resources(all * 4, 64));
    assert_eq!(code, 403, "{said}");
    place.finish();
}

pub(crate) fn a_container_that_asks_for_it_is_restarted(world: &World) {
    let place = Place::ordinary(world, Build::Usual);
    let policy = json!({"resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]});
    create_both(&place, &resources(200, 64), &policy);
    for name in BOTH {
        resize(&place, name, &resources(400, 64));
        let pod = wait_resized(&place, name, &resources(400, 64));
        assert_eq!(container(&pod, "main")["restartCount"], 0);
        resize(&place, name, &resources(400, 128));
    }
    for name in BOTH {
        let pod = wait_resized(&place, name, &resources(400, 128));
        assert_eq!(container(&pod, "main")["restartCount"], 1, "{pod}");
        assert_kernel(&place, &pod, 400, 128);
        wait_event(&place, name, "Killing", "Container main resize requires restart");
        wait_event(&place, name, "ResizeCompleted", "\"memory\":\"128Mi\"");
        resize(&place, name, &resources(200, 96));
    }
    for name in BOTH {
        let pod = wait_resized(&place, name, &resources(200, 96));
        assert_eq!(container(&pod, "main")["restartCount"], 2, "{pod}");
        assert_kernel(&place, &pod, 200, 96);
    }
    place.finish();
}

pub(crate) fn an_agent_that_is_killed_in_the_middle_goes_on(world: &World) {
    let mut place = Place::ordinary(world, Build::Usual);
    create_both(&place, &resources(200, 64), &Value::Null);
    let steps = [(400, 128), (200, 64), (600, 96), (100, 72), (300, 160), (200, 64)];
    for (round, (milli, mebi)) in steps.into_iter().enumerate() {
        let wanted = resources(milli, mebi);
        let away = round == steps.len() - 1;
        if away {
            place.node.kill9();
        }
        for name in BOTH {
            resize(&place, name, &wanted);
        }
        if !away {
            let time = Duration::from_millis(15 * round as u64 * round as u64);
            let_pass(time, "from before it has heard of it to after it is done");
            place.node.kill9();
        }
        place.node.run();
        place.node.wait_ready(SOON);
        for name in BOTH {
            let pod = wait_resized(&place, name, &wanted);
            assert_kernel(&place, &pod, milli, mebi);
            assert_eq!(container(&pod, "main")["restartCount"], 0, "{pod}");
        }
    }
    place.finish();
}
