//! A machine goes down with all its pods, and comes up again.

use std::time::Duration;

use copepod_tests::cluster::Build;
use copepod_tests::cluster::node::condition;
use serde_json::{Value, json};

use crate::World;
use crate::place::{Place, container, ready};
use crate::runtimes::{CLASS, wasm_class};

/// All pods of both kinds start at once, on two processors, with the other tests beside them.
const LONG: Duration = Duration::from_secs(120);
/// Prints and waits, and prints once more when it comes to a second life.
const STAYS: &str = "echo here; trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A pod with a restart policy and a folder of its own, of Wasm or not.
fn pod(place: &Place<'_>, name: &str, policy: &str, is_wasm: bool, ends: bool) -> Value {
    let mut pod = match (is_wasm, ends) {
        (true, false) => place.pod(name, "cat", &["wait"]),
        (true, true) => place.pod(name, "exit", &["0"]),
        (false, false) => place.shell(name, STAYS),
        (false, true) => place.shell(name, "true"),
    };
    if is_wasm {
        pod["spec"]["runtimeClassName"] = json!(CLASS);
    }
    pod["spec"]["restartPolicy"] = json!(policy);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {"medium": "Memory"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/own"}]);
    pod
}

pub(crate) fn pods_of_both_kinds_come_back_as_their_policies_say(world: &World) {
    wasm_class(world);
    let mut place = Place::ordinary(world, Build::Usual);
    let name =
        |what: &str, is_wasm: bool| format!("{what}-{}", if is_wasm { "wasm" } else { "cri" });
    let phase = |pod: &Value, phase: &str| pod["status"]["phase"] == phase;
    for is_wasm in [true, false] {
        for (what, policy, ends) in
            [("stays", "Always", false), ("once", "Never", false), ("done", "Never", true)]
        {
            place.create(&pod(&place, &name(what, is_wasm), policy, is_wasm, ends));
        }
    }
    let mut done = Vec::new();
    for is_wasm in [true, false] {
        for what in ["stays", "once"] {
            place.wait_ready(&name(what, is_wasm));
        }
        // Its sandbox too.
        let is_done = |pod: &Value| {
            let sandbox = condition(pod, "PodReadyToStartContainers");
            phase(pod, "Succeeded") && sandbox.is_some_and(|now| now["status"] == "False")
        };
        done.push(place.wait_pod(&name("done", is_wasm), "is done", is_done));
    }
    place.node.reboot();
    for is_wasm in [true, false] {
        let stays = name("stays", is_wasm);
        let restarted = |pod: &Value| ready(pod) && container(pod, "main")["restartCount"] == 1;
        let again = place.node.wait(LONG, "it runs again", || {
            place.api().get("pods", &place.namespace, &stays).filter(restarted)
        });
        let last = &container(&again, "main")["lastState"]["terminated"];
        assert!(last["exitCode"].as_i64().is_some_and(|code| code != 0), "{again}");
        let once = name("once", is_wasm);
        let ended = place.wait_pod(&once, "has failed", |pod| phase(pod, "Failed"));
        assert_eq!(container(&ended, "main")["restartCount"], 0, "{ended}");
    }
    for before in &done {
        let name = before["metadata"]["name"].as_str().expect("a name");
        let after = place.api().get("pods", &place.namespace, name).expect("it is there");
        assert_eq!(after["status"], before["status"], "{name}: nothing of it is new");
    }
    let first = place.told(&["logs", "--previous", "stays-cri"]);
    assert_eq!(first, "here\n", "what the life before has printed");
    place.finish();
}
