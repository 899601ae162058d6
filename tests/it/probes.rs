//! Probes and hooks of a run: no cluster, no network of the pod's own.

use copepod_tests::{Run, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::{SOON, Scene, http};

/// The newest status, and in it one container's.
fn container(run: &Run, name: &str) -> Value {
    let out = run.stdout();
    let lines = out.lines().rev();
    let newest = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()).next();
    let statuses = newest.unwrap_or_default()["status"]["containerStatuses"].take();
    let all = statuses.as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
}

#[test]
fn the_probes_example_is_ready_unready_and_mended() {
    let file = copepod_tests::pod_file("http").with_file_name("../probes/pod.yaml");
    let text = std::fs::read_to_string(file).expect("reads");
    // Its port may be taken on this machine.
    let port = http::free_port();
    let text =
        text.replace("../http/http.wasm", "@http@").replace("../files/files.wasm", "@files@");
    let text = text.replace("8082", &port.to_string());
    let scene = Scene::new();
    let mut run = scene.start(&text, &["-o", "json"]);
    wait_until(SOON, "both are ready", || {
        ["server", "files"].iter().all(|name| container(&run, name)["ready"] == true)
    });
    assert_eq!(http::get(port, "/files/state/up"), (200, "yes\n".into()));
    scene.told(&["exec", "probes", "-c", "files", "--", "files", "remove", "/state/up"]);
    wait_until(SOON, "the server is not ready", || {
        run.stdout().lines().any(|line| line.contains("containers with unready status: [server]"))
            && run.stdout().contains("\"restartCount\":1")
    });
    wait_until(SOON, "the hook of the restarted one has mended it", || {
        container(&run, "server")["ready"] == true && container(&run, "files")["restartCount"] == 1
    });
    assert_eq!(container(&run, "server")["restartCount"], 0);
    run.signal(Signal::INT);
    run.wait(SOON);
    scene.guard.finish();
}
