//! Static pods: files and an address are run, shown by mirrors, and need no API server.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::{Build, ControlPlane, Node, NodeOptions, Options};
use copepod_tests::registry::{Act, Proxy, answer};
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::survive::{counted, sandboxes, unbroken};
use crate::{SOON, World};

const CONFIG: &str = "kubernetes.io/config";

/// A place whose node has static pods in files, Ready.
fn place_of_files(world: &World, containerd: Option<Build>) -> Place<'_> {
    // Beside the node's configuration; not there yet.
    let config = json!({"staticPodPath": "manifests"});
    let place = Place::with(world, NodeOptions { config, containerd, ..Default::default() });
    place.node.wait_ready(SOON);
    place
}

/// A pod of one container `main`, in the place's namespace, as a manifest has it.
fn manifest(place: &Place<'_>, name: &str, container: Value) -> Value {
    let mut main = json!({"name": "main"});
    for (field, value) in container.as_object().expect("an object") {
        main[field] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": place.namespace, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [main]},
    })
}

pub(crate) fn hello(place: &Place<'_>, name: &str, every: &str) -> Value {
    let image = place.world.image("hello");
    manifest(place, name, json!({"image": image, "args": ["--every", every]}))
}

fn file(node: &Node<'_>, name: &str) -> PathBuf {
    let dir = node.file("manifests");
    fs::create_dir_all(&dir).expect("made");
    dir.join(name)
}

/// Puts a file in its place as a whole.
pub(crate) fn put(node: &Node<'_>, name: &str, text: impl AsRef<[u8]>) {
    let hidden = file(node, &format!(".{name}"));
    fs::write(&hidden, text).expect("written");
    fs::rename(hidden, file(node, name)).expect("moved");
}

fn remove(node: &Node<'_>, name: &str) {
    fs::remove_file(file(node, name)).expect("removed");
}

/// The name of its mirror.
pub(crate) fn shown(place: &Place<'_>, name: &str) -> String {
    format!("{name}-{}", place.node.name())
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a uid")
}

fn hash(pod: &Value) -> &str {
    pod["metadata"]["annotations"][format!("{CONFIG}.hash")].as_str().expect("a hash")
}

/// Waits until a mirror is Ready that is another one than `before`.
#[track_caller]
fn another(place: &Place<'_>, name: &str, before: &Value) -> Value {
    place.wait_pod(&shown(place, name), "another mirror is Ready", |pod| {
        uid(pod) != uid(before) && ready(pod)
    })
}

#[track_caller]
fn wait_gone(place: &Place<'_>, name: &str) {
    let name = shown(place, name);
    place.node.wait(SOON, &format!("mirror {name} is gone"), || {
        place.api().get("pods", &place.namespace, &name).is_none().then_some(())
    });
}

/// The folder of the logs of a static pod that nobody shows, once it is there.
#[track_caller]
fn folder(place: &Place<'_>, name: &str) -> String {
    let start = format!("{}_{}_", place.namespace, shown(place, name));
    let log = || place.node.log();
    place.world.plane.wait(SOON, &format!("static pod {name} writes a log"), log, || {
        let entries = fs::read_dir(place.node.logs()).ok()?.flatten();
        let mut names = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&start));
        names.find(|folder| {
            let file = place.node.logs().join(folder).join("main/0.log");
            fs::read_to_string(file).is_ok_and(|text| text.contains(" F "))
        })
    })
}

/// Takes all files away and ends the place.
#[track_caller]
pub(crate) fn finish(place: Place<'_>) {
    fs::remove_dir_all(place.node.file("manifests")).expect("removed");
    place.wait_none(SOON);
    place.finish();
}

/// What a mirror has to say of the node that owns it, and of the file.
#[track_caller]
fn check_mirror(place: &Place<'_>, mirror: &Value, manifest: &Value) {
    let node = place.api().get("nodes", "", place.node.name()).expect("a node");
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": place.node.name(),
        "uid": uid(&node), "controller": true}]);
    let meta = &mirror["metadata"];
    assert_eq!(meta["ownerReferences"], owner);
    assert_eq!(meta["labels"], manifest["metadata"]["labels"]);
    assert_eq!(meta["annotations"][format!("{CONFIG}.source")], "file");
    assert_eq!(meta["annotations"][format!("{CONFIG}.mirror")], hash(mirror));
    assert_eq!((hash(mirror).len(), uid(mirror) == hash(mirror)), (32, false));
    assert!(meta["annotations"][format!("{CONFIG}.seen")].is_string());
    let spec = &mirror["spec"];
    assert_eq!(spec["nodeName"], place.node.name());
    let tolerations = spec["tolerations"].as_array().expect("some");
    assert!(tolerations.contains(&json!({"operator": "Exists", "effect": "NoExecute"})));
    let status = &mirror["status"];
    assert_eq!((&status["phase"], &status["qosClass"]), (&json!("Running"), &json!("BestEffort")));
    for field in ["podIP", "hostIP", "startTime"] {
        assert!(status[field].is_string(), "{field}: {status}");
    }
    assert!(status["observedGeneration"].is_null());
}

pub(crate) fn a_file_is_run_shown_followed_and_removed(world: &World) {
    let mut place = place_of_files(world, None);
    let written = hello(&place, "web", "100");
    put(&place.node, "web.yaml", written.to_string());
    let name = shown(&place, "web");
    let first = place.wait_ready(&name);
    check_mirror(&place, &first, &written);
    let processes = sandboxes(&place.node);
    // By name, as the API server asks; by either uid, as others may.
    place.wait_line(&name, "count 1");
    let said = place.told(&["exec", &name, "--", "hello", "--count", "1"]);
    assert!(said.ends_with("count 1\n"), "{said}");
    let admin = place.world.plane.kubelet_client();
    let server = place.node.server(Some(&admin));
    for (uid, code) in [(uid(&first), 200), (hash(&first), 200), ("none", 500)] {
        let path = format!("/run/{}/{name}/{uid}/main?cmd=hello+--count+1", place.namespace);
        assert_eq!(server.request("POST", &path, "", &[]).expect("an answer").0, code, "{uid}");
    }
    let (_, pods) = server.get("/pods").expect("an answer");
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    assert_eq!(uid(&pods["items"][0]), hash(&first), "one, and by its own uid: {pods}");
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");

    // The mirror is deleted, either way, and comes back; the pod does not notice.
    place.told(&["delete", "pod", &name, "--wait=false"]);
    let second = another(&place, "web", &first);
    place.told(&["delete", "pod", &name, "--grace-period=0", "--force"]);
    let third = another(&place, "web", &second);
    assert_eq!(hash(&third), hash(&first));
    assert_eq!(container(&third, "main"), container(&first, "main"));
    assert_eq!(third["status"]["startTime"], first["status"]["startTime"]);

    // A broken file leaves its pod alone, and others; so do two of one name.
    put(&place.node, "web.yaml", &written.to_string()[..100]);
    put(&place.node, "a-double.yaml", hello(&place, "web", "200").to_string());
    let mut needs = hello(&place, "needs", "100");
    needs["spec"]["serviceAccountName"] = json!("default");
    put(&place.node, "needs.yaml", needs.to_string());
    put(&place.node, "other.yaml", hello(&place, "other", "100").to_string());
    let other = place.wait_ready(&shown(&place, "other"));
    place.node.wait(SOON, "the double is told of", || {
        let events = place.api().list("events", &place.namespace);
        let is_it = |e: &&Value| e["reason"] == "FailedValidation";
        let event = events.iter().find(is_it)?.clone();
        let message = event["message"].as_str()?.to_owned();
        let end = format!(") from file due to duplicate pod name \"{name}\", ignoring");
        message.ends_with(&end).then_some(())
    });
    let log = place.node.whole_log();
    assert!(log.contains("needs.yaml: static pods may not reference serviceaccounts"), "{log}");

    // The agent dies and finds all as it was, the file still broken.
    place.node.kill9();
    place.node.run();
    put(&place.node, "third.yaml", hello(&place, "third", "100").to_string());
    place.wait_ready(&shown(&place, "third"));
    let after = sandboxes(&place.node);
    for (folder, process) in &processes {
        assert_eq!(after.get(folder), Some(process), "{folder} is another: {after:?}");
    }
    for (name, before) in [("web", &third), ("other", &other)] {
        let now = place.api().get("pods", &place.namespace, &shown(&place, name)).expect("there");
        assert_eq!(uid(&now), uid(before), "{name}");
        assert_eq!(container(&now, "main"), container(before, "main"), "{name}");
        assert_eq!(now["status"]["conditions"], before["status"]["conditions"], "{name}");
        unbroken(name, &counted(&place.node, &of_logs(&now)));
    }

    // Changed: another pod, after the end of the first.
    remove(&place.node, "a-double.yaml");
    put(&place.node, "web.yaml", hello(&place, "web", "150").to_string());
    let fourth = another(&place, "web", &third);
    assert_ne!(hash(&fourth), hash(&first));
    assert_eq!(fourth["spec"]["containers"][0]["args"][1], "150");
    let after = sandboxes(&place.node);
    assert!(processes.keys().all(|folder| !after.contains_key(folder)), "the old one ended");
    remove(&place.node, "other.yaml");
    wait_gone(&place, "other");
    finish(place);
}

/// A mirror with the uid by which its pod's files are named.
fn of_logs(mirror: &Value) -> Value {
    let mut pod = mirror.clone();
    pod["metadata"]["uid"] = hash(mirror).into();
    pod
}

pub(crate) fn an_ordinary_static_pod_lives_as_its_file_says(world: &World) {
    let mut place = place_of_files(world, Some(Build::Usual));
    // It takes its time to end, and says when it does.
    let script =
        "trap 'sleep 1; echo ended; exit 0' TERM; echo begun $V; while :; do sleep 0.1; done";
    let with = |place: &Place<'_>, value: &str| {
        let env = json!([{"name": "V", "value": value}]);
        let of = json!({"image": BUSYBOX, "command": ["sh", "-c", script], "env": env});
        let mut pod = manifest(place, "shell", of);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
        pod.to_string()
    };
    put(&place.node, "shell.yaml", with(&place, "one"));
    let name = shown(&place, "shell");
    let first = place.wait_ready(&name);
    assert_eq!(place.told(&["exec", &name, "--", "sh", "-c", "echo $V"]), "one\n");
    place.wait_line(&name, "begun one\n");
    assert_eq!(place.told(&["logs", &name]), "begun one\n");
    place.told(&["delete", "pod", &name, "--wait=false"]);
    let second = another(&place, "shell", &first);
    place.node.kill9();
    place.node.run();
    place.node.wait(SOON, "the agent is back", || {
        std::net::TcpStream::connect(place.node.healthz()).ok()
    });
    // Changed several times while it ends: only the last is run, after that.
    put(&place.node, "shell.yaml", with(&place, "two"));
    put(&place.node, "shell.yaml", with(&place, "three"));
    let third = another(&place, "shell", &second);
    assert_eq!(container(&second, "main"), container(&first, "main"));
    place.wait_line(&name, "begun three\n");
    assert_eq!(place.told(&["logs", &name]), "begun three\n");
    assert_eq!(third["spec"]["containers"][0]["env"][0]["value"], "three");
    let folders = fs::read_dir(place.node.logs()).expect("read").flatten().count();
    assert!(folders <= 2, "the second was never run");
    // Removed: it is shown until it has ended, more than a second later.
    remove(&place.node, "shell.yaml");
    let removed = std::time::Instant::now();
    wait_gone(&place, "shell");
    assert!(removed.elapsed() >= std::time::Duration::from_secs(1), "its mirror went before it");
    finish(place);
}

pub(crate) fn one_that_waits_for_room_may_change_or_go(world: &World) {
    let allocatable = json!({"staticPodPath": "manifests", "systemReserved": {"cpu": "100m"}});
    let place = Place::with(world, NodeOptions { config: allocatable, ..Default::default() });
    place.node.wait_ready(SOON);
    let node = place.api().get("nodes", "", place.node.name()).expect("a node");
    let cores: u64 =
        node["status"]["capacity"]["cpu"].as_str().expect("cores").parse().expect("one");
    // It takes all but 500m, and its time to end.
    let mut large = place.pod("large", "hello", &["--every", "1000"]);
    let main = &mut large["spec"]["containers"][0];
    main["resources"] = json!({"requests": {"cpu": format!("{}m", cores * 1000 - 600)}});
    main["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 20}}});
    large["spec"]["terminationGracePeriodSeconds"] = json!(25);
    // That makes no static pod of it, which nobody could preempt.
    large["metadata"]["annotations"] = json!({format!("{CONFIG}.source"): "file"});
    large["spec"]["nodeName"] = json!(place.node.name());
    place.create(&large);
    place.wait_ready("large");
    let asking = |name: &str, every: &str| {
        let mut manifest = hello(&place, name, every);
        manifest["metadata"]["uid"] = json!(format!("{name}-{}", place.namespace));
        manifest["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "600m"}});
        manifest.to_string()
    };
    for name in ["kept", "gone"] {
        put(&place.node, &format!("{name}.yaml"), asking(name, "1000"));
    }
    for name in ["kept", "gone"] {
        place.wait_pod(&shown(&place, name), "it is shown", |_| true);
    }
    place.node.wait(SOON, "room is made", || {
        let events = place.api().list("events", &place.namespace);
        events.iter().any(|event| event["reason"] == "Preempting").then_some(())
    });
    put(&place.node, "kept.yaml", asking("kept", "150"));
    remove(&place.node, "gone.yaml");
    wait_gone(&place, "gone");
    let ended = place.wait_pod("large", "it has ended", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(ended["status"]["reason"], "Preempting");
    place.wait_pod(&shown(&place, "kept"), "it is Ready", ready);
    let admin = world.plane.kubelet_client();
    let (_, pods) = place.node.server(Some(&admin)).get("/pods").expect("an answer");
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    let mut pods = pods["items"].as_array().expect("a list").iter();
    let runs = pods.find(|pod| pod["metadata"]["name"] == shown(&place, "kept"));
    let args = &runs.expect("it is here")["spec"]["containers"][0]["args"];
    assert_eq!(args[1], "150", "as its file says now");
    place.api().delete("pods", &place.namespace, "large");
    finish(place);
}

/// The manifest of a pod whose container runs once.
fn once(place: &Place<'_>, name: &str) -> String {
    let mut manifest = hello(place, name, "100");
    manifest["spec"]["restartPolicy"] = json!("Never");
    manifest.to_string()
}

pub(crate) fn static_pods_need_no_api_server(_: &World) {
    let world = World::with(ControlPlane::start(&Options::default()));
    let mut place = place_of_files(&world, None);
    put(&place.node, "goes.yaml", hello(&place, "goes", "100").to_string());
    place.wait_ready(&shown(&place, "goes"));
    let returns = once(&place, "returns");
    put(&place.node, "returns.yaml", &returns);
    place.wait_ready(&shown(&place, "returns"));
    place.create(&place.pod("ordinary", "hello", &["--every", "100"]));
    let ordinary = place.wait_ready("ordinary");
    let goes = folder(&place, "goes");

    world.plane.stop_api_server();
    put(&place.node, "comes.yaml", hello(&place, "comes", "100").to_string());
    let comes = folder(&place, "comes");
    let first_life = folder(&place, "returns");
    remove(&place.node, "returns.yaml");
    let crashes = place.world.image("exit");
    let crashes =
        manifest(&place, "crashes", json!({"image": crashes, "args": ["3", "--after", "500"]}));
    put(&place.node, "crashes.yaml", crashes.to_string());
    let log = || place.node.log();
    place.world.plane.wait(SOON, "it is started again", log, || {
        let prefix = format!("{}_{}_", place.namespace, shown(&place, "crashes"));
        let entries = fs::read_dir(place.node.logs()).ok()?.flatten();
        let mut folders = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix));
        folders.any(|folder| folder.path().join("main/1.log").exists()).then_some(())
    });
    remove(&place.node, "goes.yaml");
    place.world.plane.wait(SOON, "its process ends", log, || {
        (!sandboxes(&place.node).contains_key(&goes)).then_some(())
    });
    remove(&place.node, "crashes.yaml");
    // Away and back: it has another life, whatever its mirror shows of the first.
    place.world.plane.wait(SOON, "nothing of it is left", log, || {
        (!place.node.logs().join(&first_life).exists()).then_some(())
    });
    put(&place.node, "returns.yaml", &returns);
    assert_eq!(folder(&place, "returns"), first_life, "the same pod");
    let processes = sandboxes(&place.node)[&comes].clone();

    // An agent that finds no API server runs them, and only them.
    place.node.kill9();
    put(&place.node, "later.yaml", hello(&place, "later", "100").to_string());
    place.node.run();
    let later = folder(&place, "later");
    let now = sandboxes(&place.node);
    assert_eq!(now[&comes], processes, "it goes on");
    assert!(now.contains_key(&later));
    let folder_of_ordinary = format!("{}_ordinary_{}", place.namespace, uid(&ordinary));
    assert!(now.contains_key(&folder_of_ordinary), "nobody has said that it is to end");

    world.plane.start_api_server();
    place.node.wait_ready(2 * SOON);
    for name in ["comes", "later", "returns"] {
        let mirror = place.wait_ready(&shown(&place, name));
        assert_eq!(container(&mirror, "main")["restartCount"], 0, "{name}");
        unbroken(name, &counted(&place.node, &of_logs(&mirror)));
    }
    wait_gone(&place, "goes");
    assert_eq!(container(&place.wait_ready("ordinary"), "main"), container(&ordinary, "main"));
    assert_eq!(sandboxes(&place.node)[&comes], processes);
    fs::remove_dir_all(place.node.file("manifests")).expect("removed");
    place.finish();
    world.finish();
}

pub(crate) fn an_address_is_followed_and_its_failures_end_nothing(world: &World) {
    let given: Arc<Mutex<Act>> = Arc::new(Mutex::new(answer("503 Service Unavailable", &[], "")));
    let of_server = Arc::clone(&given);
    let server = Proxy::alone(move |_| of_server.lock().expect("whole").clone());
    let give = |act: Act| {
        *given.lock().expect("whole") = act;
        // The answer before may be on its way: two more are not.
        let before = server.requests().len();
        copepod_tests::wait_until(SOON, "it is asked", || server.requests().len() >= before + 3);
    };
    let config = json!({
        "staticPodURL": format!("http://{}/pods", server.host()),
        "staticPodURLHeader": {"X-Token": ["sesame"]}, "httpCheckFrequency": "200ms",
    });
    let mut place = Place::with(world, NodeOptions { config, ..Default::default() });
    place.node.wait_ready(SOON);
    let list = |items: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "PodList", "items": items});
        answer("200 OK", &[], list.to_string())
    };
    let (one, two) = (hello(&place, "one", "100"), hello(&place, "two", "100"));
    give(list(&[one.clone(), two]));
    let [first, second] = ["one", "two"].map(|name| place.wait_ready(&shown(&place, name)));
    assert_eq!(first["metadata"]["annotations"][format!("{CONFIG}.source")], "http");
    assert_eq!(server.requests()[0].header("x-token"), Some("sesame"));
    let processes = sandboxes(&place.node);
    for broken in [
        answer("500 Internal Server Error", &[], "{}"),
        answer("200 OK", &[], ""),
        answer("200 OK", &[], "nothing: [of a pod"),
        Act::Answer(b"nonsense".to_vec()),
        answer("404 Not Found", &[], r#"{"apiVersion": "v1", "kind": "PodList", "items": []}"#),
    ] {
        give(broken);
    }
    // Nor does a new agent end them, which has heard nothing else.
    place.node.kill9();
    place.node.run();
    place.node.wait(SOON, "the agent is back", || {
        std::net::TcpStream::connect(place.node.healthz()).ok()
    });
    give(answer("500 Internal Server Error", &[], ""));
    assert_eq!(sandboxes(&place.node), processes);
    give(list(&[one]));
    wait_gone(&place, "two");
    let now = place.wait_ready(&shown(&place, "one"));
    assert_eq!((uid(&now), container(&now, "main")), (uid(&first), container(&first, "main")));
    assert!(second["metadata"]["uid"].is_string());
    give(list(&[]));
    place.wait_none(SOON);
    place.finish();
}
