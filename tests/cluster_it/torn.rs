//! What an agent finds on its disk is not as its forerunner left it: the power was lost, or it is of
//! another version.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use copepod_tests::cluster::Node;
use serde_json::{Value, json};

use crate::place::{Place, container};
use crate::survive::sandboxes;
use crate::{SOON, World};

/// Where a state file has its version.
const VERSION_AT: u64 = 8;

/// The agent's own files of the pod, in order.
fn files_of(node: &Node, pod: &Value) -> Vec<PathBuf> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("lists").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            // What guests see is theirs.
            if path.is_dir() && name != "root" && name != "volumes" {
                below(&path, found);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    let uid = pod["metadata"]["uid"].as_str().expect("a string");
    let mut found = Vec::new();
    below(&node.file("root/pods").join(uid), &mut found);
    found.sort();
    found
}

/// Starts the agent and waits until it knows the pod.
#[track_caller]
fn run(place: &mut Place<'_>, pod: &str) {
    place.node.run();
    place.node.wait(SOON, "the agent knows its pods", || {
        let pods = place.node.pods();
        pods.iter().find(|known| known["metadata"]["name"] == pod).map(|_| ())
    });
}

pub(crate) fn no_lost_file_keeps_an_agent_from_starting_or_runs_anything_twice(world: &World) {
    let mut place = Place::new(world);
    let out = place.node.file("out");
    fs::create_dir(&out).expect("made");
    let mut pod = place.pod("a", "actor", &["append", "/out/main", "launched", "--", "wait"]);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": out}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    let mut done = pod["spec"]["containers"][0].clone();
    done["name"] = json!("done");
    done["args"] = json!(["append", "/out/done", "launched"]);
    pod["spec"]["containers"].as_array_mut().expect("a list").push(done);
    place.create(&pod);
    let before = place.wait_pod("a", "one runs and one is done", |pod| {
        let state = |name| pod["status"]["phase"] == "Running" && !container(pod, name).is_null();
        state("main")
            && !container(pod, "main")["state"]["running"].is_null()
            && !container(pod, "done")["state"]["terminated"].is_null()
    });
    let process = sandboxes(&place.node);
    let about = place.node.file("root/pods").join(
        Path::new(before["metadata"]["uid"].as_str().expect("a string"))
            .join("containers/done/0/about"),
    );
    let files = files_of(&place.node, &before);
    assert!(files.contains(&about) && files.len() > 3, "{files:?}");
    // The lock of what lives is no file that is lost.
    let of_living = Path::new("containers/main/0/state");
    for path in files.iter().filter(|path| !path.ends_with(of_living)) {
        place.node.kill9();
        // What has ended was begun before the power was lost.
        if let Ok(mut kept) = serde_json::from_slice::<Value>(&fs::read(&about).expect("reads")) {
            kept["boot"] = json!("another");
            fs::write(&about, kept.to_string()).expect("writes");
        }
        fs::File::create(path).expect("empties");
        run(&mut place, "a");
        for name in ["main", "done"] {
            let text = fs::read_to_string(out.join(name)).expect("reads");
            assert_eq!(text.lines().count(), 1, "{name}, after {} was lost", path.display());
        }
        assert_eq!(sandboxes(&place.node), process, "after {} was lost", path.display());
    }
    let after = place.wait_pod("a", "runs", |pod| pod["status"]["phase"] == "Running");
    let id = |pod: &Value| container(pod, "main")["containerID"].clone();
    assert_eq!(id(&after), id(&before));
    place.finish();
}

pub(crate) fn what_another_version_left_is_taken_over(world: &World) {
    let mut place = Place::new(world);
    place.create(&place.pod("goes-on", "hello", &["--every", "100"]));
    let mut ended = place.pod("ended", "exit", &["7"]);
    ended["spec"]["restartPolicy"] = json!("Never");
    place.create(&ended);
    let before = place.wait_ready("goes-on");
    let ended = place.wait_pod("ended", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let process = sandboxes(&place.node);
    place.node.kill9();
    for pod in [&before, &ended] {
        for path in files_of(&place.node, pod).iter().filter(|path| path.ends_with("state")) {
            let file = fs::File::options().write(true).open(path).expect("opens");
            file.write_all_at(&[u8::MAX], VERSION_AT).expect("writes");
        }
    }
    run(&mut place, "goes-on");
    let after = place.wait_ready("goes-on");
    assert_eq!(container(&after, "main"), container(&before, "main"));
    assert_eq!(sandboxes(&place.node), process);
    let after = place.wait_pod("ended", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&after, "main"), container(&ended, "main"));
    place.wait_line("goes-on", "count 20");
    // It ends as asked, though nothing can be said to it.
    place.finish();
}
