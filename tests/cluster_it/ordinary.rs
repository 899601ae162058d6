//! What the container runtime has to be told besides starts and stops.

use copepod_tests::cluster::{Build, NodeOptions};
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::{SOON, World};

/// The files of a container's log, the one that is written to last.
fn log_files(place: &Place<'_>, pod: &Value) -> Vec<std::path::PathBuf> {
    let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    let name = format!("{}_{}_{}", field("namespace"), field("name"), field("uid"));
    let dir = place.node.logs().join(name).join("main");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort_by_key(|path| (path.extension().is_some_and(|e| e == "log"), path.clone()));
    files
}

pub(crate) fn a_log_is_rotated_and_loses_no_line(world: &World) {
    let place = Place::with(
        world,
        NodeOptions {
            containerd: Some(Build::Usual),
            config: json!({"containerLogMaxSize": "64Ki", "containerLogMaxFiles": 10}),
            ..NodeOptions::default()
        },
    );
    place.node.wait_ready(SOON);
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i of many, to be kept; i=$((i+1)); done; \
                  trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let pod = place.create(&place.shell("talks", script));
    place.wait_ready("talks");
    let files = place.node.wait(2 * SOON, "its log is rotated", || {
        let files = log_files(&place, &pod);
        (files.len() > 1).then_some(files)
    });
    let text: String = files.iter().map(|f| std::fs::read_to_string(f).expect("reads")).collect();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" to be kept")).collect();
    assert_eq!(lines.len(), 3000, "{files:?}");
    for (number, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!(" F line {number} of many, to be kept")), "{line}");
    }
    // What it writes from now on goes to the new file, which is what is read.
    let echo = ["exec", "talks", "--", "sh", "-c", "echo said later > /proc/1/fd/1"];
    place.told(&echo);
    let said = place.node.wait(SOON, "it is read", || {
        let said = place.told(&["logs", "talks"]);
        said.contains("said later").then_some(said)
    });
    assert!(!said.contains("line 0 of many"), "the newest file alone is read, as upstream");
    place.finish();
}

pub(crate) fn a_sandbox_that_dies_is_made_anew_with_all_in_it(world: &World) {
    let place = Place::ordinary(world, Build::Usual);
    let wait = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut pod = place.shell("lives", wait);
    let image = pod["spec"]["containers"][0]["image"].clone();
    pod["spec"]["initContainers"] = json!([{"name": "init", "image": image, "command": ["true"]}]);
    place.create(&pod);
    let before = place.wait_ready("lives");
    let cri = place.node.containerd().cri();
    let sandbox = cri.sandboxes().remove(0).id;
    cri.stop_sandbox(&sandbox);
    let after = place.wait_pod("lives", "all of it runs anew", |pod| {
        ready(pod) && container(pod, "main")["restartCount"] == 1
    });
    let init = &after["status"]["initContainerStatuses"][0];
    assert_eq!(init["restartCount"], 1, "{after}");
    let id = |pod: &Value| container(pod, "main")["containerID"].clone();
    assert_ne!(id(&before), id(&after));
    let events = place.told(&["get", "events", "-o=jsonpath={.items[*].message}"]);
    assert!(events.contains("Pod sandbox changed, it will be killed and re-created."), "{events}");
    // The dead one goes once nothing of it is kept.
    assert!(cri.sandboxes().iter().any(|one| one.id != sandbox));
    place.finish();
}

pub(crate) fn a_container_without_a_profile_has_the_nodes_default(world: &World) {
    let config = json!({"seccompDefault": true});
    let options = NodeOptions { containerd: Some(Build::Usual), config, ..NodeOptions::default() };
    let place = Place::with(world, options);
    place.node.wait_ready(SOON);
    let filter = |name: &str, context: Value| {
        let mut pod = place.shell(name, "grep ^Seccomp: /proc/self/status; sleep 3600");
        pod["spec"]["containers"][0]["securityContext"] = context;
        place.create(&pod);
        let said = place.wait_line(name, "Seccomp:");
        said.trim().trim_start_matches("Seccomp:").trim().to_owned()
    };
    // The kernel's numbers: 2 is a filter, 0 is none.
    assert_eq!(filter("default", json!({})), "2");
    assert_eq!(filter("none", json!({"seccompProfile": {"type": "Unconfined"}})), "0");
    assert_eq!(filter("privileged", json!({"privileged": true})), "0");
    place.finish();
}
