//! Calls to the container runtime go wrong, and the node comes to what it was asked for.

use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Build, Node, NodeOptions};
use copepod_tests::cri_faults::{Fault, Proxy, random};
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Code;

use crate::place::{Place, container, ready};
use crate::resize::{resize, resources, wait_resized};
use crate::runtimes::{CLASS, wasm_class};
use crate::survive::Chance;
use crate::{SOON, World};

/// Rounds of changes, and pods that come and go in them.
const ROUNDS: usize = 12;
const SLOTS: usize = 5;
/// Of a thousand calls so many go wrong.
const PER_MILLE: u64 = 150;
/// A shell that waits until it is told to end.
const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
/// Every call may have to be waited for and made again, and what is not known is looked up.
const LONG: Duration = Duration::from_secs(180);

/// A node that finds its containerd behind a proxy.
fn behind<'a>(world: &'a World, build: Build) -> (Place<'a>, Proxy) {
    let options = NodeOptions { containerd: Some(build), ..NodeOptions::default() };
    let mut node = Node::prepare(world.plane, options);
    let upstream = node.containerd().socket();
    // Beside it: what is left in the node's own directory is a leak.
    let proxy = Proxy::start(&upstream, &upstream.with_file_name("proxy.sock"), |_, _| None);
    node.set_endpoint(&proxy.endpoint());
    node.run();
    let place = Place::on(world, Box::new(node));
    place.node.wait_ready(SOON);
    (place, proxy)
}

/// One pod of each kind in turn.
fn pod(place: &Place<'_>, number: usize) -> Value {
    let name = format!("pod-{}", number % SLOTS);
    let mut pod = place.shell(&name, WAITS);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    match number % 3 {
        0 => {}
        1 => {
            let init = json!({"name": "init", "image": pod["spec"]["containers"][0]["image"],
                "command": ["true"]});
            pod["spec"]["initContainers"] = json!([init]);
        }
        _ => {
            let idle = json!({"name": "idle", "image": place.world.image("cat"), "args": ["wait"]});
            pod["spec"]["runtimeClassName"] = json!(CLASS);
            pod["spec"]["containers"].as_array_mut().expect("a list").push(idle);
        }
    }
    pod
}

pub(crate) fn lost_delayed_and_doubled_answers_end_well(world: &World) {
    wasm_class(world);
    let mut chance = Chance::new("calls of CRI that go wrong");
    let (place, proxy) = behind(world, Build::Usual);
    let seed = chance.below(u64::from(u32::MAX));
    proxy.plan(random(seed, PER_MILLE));
    for round in 0..ROUNDS {
        for slot in 0..SLOTS {
            let name = format!("pod-{slot}");
            match place.api().get("pods", &place.namespace, &name) {
                Some(_) if chance.below(2) == 0 => {
                    place.api().delete("pods", &place.namespace, &name);
                }
                Some(_) => {}
                None => drop(place.create(&pod(&place, round * SLOTS + slot))),
            }
        }
        let before = proxy.calls().len();
        place
            .node
            .wait(SOON, "the node goes on", || (proxy.calls().len() > before + 10).then_some(()));
    }
    let wrong = proxy.calls().iter().filter(|(_, fault)| fault.is_some()).count();
    println!("{wrong} of {} calls went wrong", proxy.calls().len());
    assert!(wrong > 0, "the plan was asked");
    proxy.calm();
    converges(&place);
    proxy.plan(random(seed + 1, PER_MILLE));
    place.api().delete_all("pods", &place.namespace);
    place.node.wait(LONG, "the pods are gone", || {
        place.api().list("pods", &place.namespace).is_empty().then_some(())
    });
    proxy.calm();
    // The API server forgets a pod before its node has removed all of it.
    let cri = place.node.containerd().cri();
    place.node.wait(LONG, "nothing is left", || {
        (cri.sandboxes().is_empty() && cri.containers().is_empty()).then_some(())
    });
    place.finish();
}

/// Waits until each pod that is not deleted runs, once, and nothing else does.
#[track_caller]
fn converges(place: &Place<'_>) {
    let cri = place.node.containerd().cri();
    place.node.wait(LONG, "all is as it was asked for", || {
        let pods = place.api().list("pods", &place.namespace);
        let all =
            pods.iter().all(|pod| ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
        let sandboxes = cri.sandboxes().len();
        let running = cri.containers().iter().filter(|c| c.state == RUNNING).count();
        (all && sandboxes == pods.len() && running == pods.len()).then_some(())
    });
}

/// `CONTAINER_RUNNING`.
const RUNNING: i32 = copepod_cri::ContainerState::ContainerRunning as i32;

pub(crate) fn a_call_that_hangs_holds_up_its_pod_alone(world: &World) {
    let (place, proxy) = behind(world, Build::Usual);
    // The first container to be made is.
    let first = proxy.count("CreateContainer");
    proxy.plan(move |method, n| (method == "CreateContainer" && n == first).then_some(Fault::Hang));
    place.create(&place.shell("held", WAITS));
    place
        .node
        .wait(SOON, "its call hangs", || (proxy.count("CreateContainer") > first).then_some(()));
    place.create(&place.shell("other", WAITS));
    place.wait_ready("other");
    let held = place.api().get("pods", &place.namespace, "held").expect("it is there");
    assert!(!ready(&held), "{held}");
    proxy.calm();
    let held = place.wait_ready("held");
    assert_eq!(container(&held, "main")["restartCount"], 0, "{held}");
    place.finish();
}

pub(crate) fn a_removal_whose_answer_is_lost_leaves_no_link_to_a_log(world: &World) {
    let (place, proxy) = behind(world, Build::Usual);
    // While one runs the runtime is looked at each second: the lost one is forgotten before the agent
    // goes on with its removal, in its next round.
    for name in ["stays", "goes"] {
        place.create(&place.shell(name, WAITS));
        place.wait_ready(name);
    }
    let first = proxy.count("RemoveContainer");
    let tries = first..first + 2;
    proxy.plan(move |method, n| {
        (method == "RemoveContainer" && tries.contains(&n)).then_some(Fault::Lose)
    });
    place.api().delete("pods", &place.namespace, "goes");
    let cri = place.node.containerd().cri();
    place.node.wait(LONG, "it is gone", || (cri.sandboxes().len() == 1).then_some(()));
    assert!(proxy.count("RemoveContainer") >= first + 2, "its removal was tried");
    place.api().delete("pods", &place.namespace, "stays");
    place.node.wait(LONG, "nothing is left", || cri.sandboxes().is_empty().then_some(()));
    // Links, too, are looked for.
    place.finish();
}

pub(crate) fn a_runtime_hears_of_a_resize_first_and_may_refuse_it(world: &World) {
    const TOLD: &str = "UpdatePodSandboxResources";
    const DONE: &str = "UpdateContainerResources";
    for build in [Build::Usual, Build::Second] {
        let (place, proxy) = behind(world, build);
        let (small, large) = (resources(200, 64), resources(400, 128));
        let mut pod = place.shell("one", WAITS);
        pod["spec"]["containers"][0]["resources"] = small.clone();
        place.create(&pod);
        place.wait_ready("one");
        proxy.plan(|method, _| (method == TOLD).then_some(Fault::Refuse(Code::Internal)));
        resize(&place, "one", &large);
        let refused = place.wait_pod("one", "it is refused", |pod| {
            condition(pod, "PodResizeInProgress").is_some_and(|one| one["reason"] == "Error")
        });
        let shown = condition(&refused, "PodResizeInProgress").expect("it is there");
        let message = shown["message"].as_str().unwrap_or_default();
        let start = "failed to notify runtime for UpdatePodSandboxResources (resource=memory); \
                     resize rejected: updatePodSandboxResources failed for sanboxID \"";
        assert!(message.starts_with(start), "{message}");
        assert!(message.contains("rpc error: code = Internal desc = "), "{message}");
        assert_eq!(container(&refused, "main")["resources"]["limits"]["memory"], "64Mi");
        assert_eq!(proxy.count(DONE), 0, "nothing is done before");
        proxy.calm();
        wait_resized(&place, "one", &large);
        let calls = proxy.calls();
        let at = |name: &str| calls.iter().rposition(|(method, _)| method == name);
        assert!(at(TOLD) < at(DONE), "{calls:?}");
        resize(&place, "one", &small);
        let after = wait_resized(&place, "one", &small);
        assert_eq!(container(&after, "main")["restartCount"], 0);
        let calls = proxy.calls();
        let at = |name: &str| calls.iter().rposition(|(method, _)| method == name);
        assert!(at(TOLD) > at(DONE), "{calls:?}");
        place.finish();
    }
}
