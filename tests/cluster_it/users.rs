//! Pods with user namespaces of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use copepod_tests::cluster::Build;
use copepod_tests::cluster::images::BUSYBOX;
use serde_json::{Value, json};

use crate::place::{Place, container};
use crate::runtimes::{CLASS, wasm_class};
use crate::{SOON, World};

/// Writes into each volume, says who it is there, and lives.
const WRITES: &str = "set -e; for dir in /disk /memory; do echo mine > $dir/file; \
                      echo $dir is of $(stat -c %u:%g $dir/file); done; \
                      head -c 3 /var/run/secrets/kubernetes.io/serviceaccount/token; echo; \
                      echo all written; trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// The pod's directory of the agent.
fn dir(place: &Place<'_>, pod: &Value) -> PathBuf {
    place.node.file("root/pods").join(pod["metadata"]["uid"].as_str().expect("a uid"))
}

/// A pod of busybox that has none of the host's ids.
fn apart(place: &Place<'_>, name: &str) -> Value {
    let mut pod = place.shell(name, WRITES);
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["volumes"] = json!([
        {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]);
    pod
}

/// The first of the host's ids that the container has, of 65536.
#[track_caller]
fn first_id(place: &Place<'_>, name: &str) -> u32 {
    let [uids, gids] = ["uid_map", "gid_map"].map(|map| {
        place.told(&["exec", name, "-c", "main", "--", "cat", &format!("/proc/self/{map}")])
    });
    assert_eq!(uids, gids);
    let numbers: Vec<u32> = uids.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let [0, first, 65536] = numbers[..] else { panic!("{name} has {uids}") };
    assert!(first >= 65536 && first.is_multiple_of(65536), "{uids}");
    first
}

pub(crate) fn a_pod_may_have_none_of_the_hosts(world: &World) {
    let mut place = Place::ordinary(world, Build::Second);
    place.create(&apart(&place, "one"));
    let mut two = apart(&place, "two");
    two["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 2000});
    place.create(&two);
    let [one, two] = ["one", "two"].map(|name| {
        let pod = place.wait_ready(name);
        place.wait_line(name, "all written");
        pod
    });
    let log = place.told(&["logs", "one"]);
    assert!(log.contains("/disk is of 0:0") && log.contains("/memory is of 0:0"), "{log}");
    let log = place.told(&["logs", "two"]);
    assert!(log.contains("/disk is of 1000:2000"), "{log}");
    let user = &container(&two, "main")["user"]["linux"];
    let groups = user["supplementalGroups"].as_array().expect("this runtime tells");
    assert!(user["uid"] == 1000 && user["gid"] == 0 && groups.contains(&json!(2000)), "{user}");
    // Files are on the host whose they are in the pod.
    for (pod, expected) in [(&one, (0, 0)), (&two, (1000, 2000))] {
        let file = dir(&place, pod).join("volumes/kubernetes.io~empty-dir/disk/file");
        let found = fs::metadata(&file).expect("written");
        assert_eq!((found.uid(), found.gid()), expected);
    }
    let ids = ["one", "two"].map(|name| first_id(&place, name));
    assert_ne!(ids[0], ids[1]);

    let kept = fs::read_to_string(dir(&place, &one).join("userns")).expect("is kept");
    assert!(kept.contains(&format!("\"hostId\":{}", ids[0])), "{kept}");
    place.node.kill9();
    // Something that only the next agent does with them.
    let cri = place.node.containerd().cri();
    let sandbox = cri
        .sandboxes()
        .into_iter()
        .find(|one| one.metadata.as_ref().is_some_and(|about| about.name == "two"));
    cri.stop_sandbox(&sandbox.expect("it stands").id);
    place.node.run();
    place.wait_pod("two", "it runs in a new sandbox", |pod| {
        crate::place::ready(pod) && container(pod, "main")["restartCount"] == 1
    });
    assert_eq!(["one", "two"].map(|name| first_id(&place, name)), ids);
    let after = place.wait_ready("one");
    assert_eq!(container(&after, "main"), container(&one, "main"));
    place.create(&apart(&place, "three"));
    place.wait_ready("three");
    assert!(!ids.contains(&first_id(&place, "three")));

    place.told(&["delete", "pod", "one"]);
    place.node.wait(SOON, "its ids are given back", || (!dir(&place, &one).exists()).then_some(()));
    place.finish();
}

pub(crate) fn guests_share_the_files_of_a_pod_apart(world: &World) {
    let place = Place::ordinary(world, Build::Second);
    wasm_class(world);
    let script = "until [ -s /shared/log ]; do usleep 50000; done; \
                  echo it is of $(stat -c %u /shared/log); echo ordinary >> /shared/log; \
                  echo all written; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    let mut pod = place.pod("mixed", "files", &[]);
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["runtimeClassName"] = json!(CLASS);
    pod["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    pod["spec"]["containers"] = json!([
        {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": mounts},
        {
            "name": "guest", "image": place.world.image("files"), "volumeMounts": mounts,
            "args": ["write", "/shared/log", "wasm", "--", "wait", "86400000"],
        },
    ]);
    place.create(&pod);
    place.wait_ready("mixed");
    let said = || {
        let said = place.told(&["logs", "mixed", "-c", "main"]);
        said.contains("all written").then_some(said)
    };
    let said = place.node.wait(SOON, "it has written", said);
    assert!(said.contains("it is of 0"), "{said}");
    first_id(&place, "mixed");

    // A pod of guests alone may say so too: they have nothing of the host's to give up.
    let mut alone = place.pod("alone", "hello", &["--every", "100"]);
    alone["spec"]["hostUsers"] = json!(false);
    alone["spec"]["runtimeClassName"] = json!(CLASS);
    place.create(&alone);
    place.wait_ready("alone");
    place.finish();
}

pub(crate) fn a_runtime_without_them_says_so(world: &World) {
    let place = Place::shared(world);
    let mut pod = place.shell("apart", "sleep 3600");
    pod["spec"]["hostUsers"] = json!(false);
    place.create(&pod);
    let expected = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does \
                    not support user namespaces";
    place.node.wait(SOON, "an event says so", || {
        let events = place.told(&["get", "events", "-o=jsonpath={.items[*].message}"]);
        events.contains(expected).then_some(())
    });
    place.leave();
}
