//! A pod with both kinds of containers, and a containerd that goes away and comes back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Build, Node};
use copepod_tests::{holds_within, let_pass};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::runtimes::{CLASS, kill, processes, wasm_class};
use crate::{SOON, World};

/// Where the guest listens.
const PORT: u16 = 8080;
/// Between two requests of the load.
const PAUSE: Duration = Duration::from_millis(5);
/// Requests that show that all is well again.
const ENOUGH: usize = 50;
/// How long containerd is away at least, by `COPEPOD_CONTAINERD_AWAY_SECONDS` (60 for the minute);
/// a node says so after half a minute.
const AWAY: Duration = Duration::from_secs(20);
/// A runtime is given up after 30 s, looked at every 5 s, and told with the node's next status.
const NOTICED: Duration = Duration::from_secs(75);

/// A Wasm server, a busybox that asks it over localhost and writes into what they share, and a Wasm
/// container that does nothing. Each of the latter two leaves a line in a file of the host.
fn mixed(place: &Place<'_>) -> Value {
    let starts = place.node.file("starts");
    fs::create_dir_all(&starts).expect("made");
    fs::write(starts.join("log"), "").expect("written");
    let ask = format!(
        "echo ordinary >> /starts/log; \
         test -f /shared/note || echo shared > /shared/note; \
         while :; do wget -qO- http://127.0.0.1:{PORT}/files/shared/note >> /shared/answers; \
         usleep 100000; done"
    );
    let mounts = json!([
        {"name": "shared", "mountPath": "/shared"}, {"name": "starts", "mountPath": "/starts"}]);
    let mut pod = place.pod("mixed", "http", &[]);
    pod["spec"]["runtimeClassName"] = json!(CLASS);
    pod["spec"]["volumes"] = json!([
        {"name": "shared", "emptyDir": {}},
        {"name": "starts", "hostPath": {"path": starts, "type": "Directory"}},
    ]);
    pod["spec"]["containers"] = json!([
        {
            "name": "web", "image": place.world.image("http"), "volumeMounts": mounts,
            "ports": [{"containerPort": PORT}],
        },
        {"name": "asks", "image": BUSYBOX, "command": ["sh", "-c", ask], "volumeMounts": mounts},
        {
            "name": "idle", "image": place.world.image("files"), "volumeMounts": mounts,
            "args": ["append", "/starts/log", "wasm", "--", "wait", "86400000"],
        },
    ]);
    pod
}

/// How often each line is in the file that the containers write when they start.
fn starts(node: &Node<'_>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(node.file("starts/log")).expect("a file").lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// Asks again and again: the moments and whether it was answered.
struct Load {
    address: SocketAddr,
    ended: AtomicBool,
    requests: Mutex<Vec<(Instant, bool)>>,
}

impl Load {
    fn new(pod: &Value) -> Self {
        let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an IP");
        let address = SocketAddr::new(ip, PORT);
        Self { address, ended: AtomicBool::new(false), requests: Mutex::default() }
    }

    fn run(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            let begin = Instant::now();
            let well = asked(self.address).is_some_and(|answer| answer.ends_with("shared\n"));
            self.requests.lock().expect("no panic in between").push((begin, well));
            thread::park_timeout(PAUSE);
        }
    }

    /// How many were answered and how many not since a moment.
    fn since(&self, begin: Instant) -> (usize, usize) {
        let requests = self.requests.lock().expect("no panic in between");
        let new: Vec<bool> =
            requests.iter().filter(|(at, _)| *at >= begin).map(|(_, well)| *well).collect();
        let well = new.iter().filter(|well| **well).count();
        (well, new.len() - well)
    }

    /// Waits until there were enough requests since a moment, none of which may be lost.
    #[track_caller]
    fn none_lost(&self, begin: Instant, what: &str) {
        holds_within(SOON, || self.since(begin).0 >= ENOUGH);
        let (well, lost) = self.since(begin);
        assert!(well >= ENOUGH && lost == 0, "{what}: {well} answered and {lost} lost");
    }
}

/// The answer to one request, if there is one.
fn asked(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, SOON).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET /files/shared/note HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.0 200").then_some(text)
}

/// What containers were restarted so far.
fn restarts(pod: &Value) -> [u64; 3] {
    ["web", "asks", "idle"]
        .map(|name| container(pod, name)["restartCount"].as_u64().expect("a count"))
}

/// The process of a container, by what is in its command line or the files it has open.
#[track_caller]
fn process(place: &Place<'_>, pod: &Value, name: &str) -> u32 {
    let found = processes(&place.node, pod).into_iter().find(|pid| {
        let proc = format!("/proc/{pid}");
        let line = fs::read(format!("{proc}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let open = fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten();
        let mut open = open.flat_map(|fd| fs::read_link(fd.path()));
        let log = format!("/{name}/");
        line.contains("wget") == (name == "asks")
            && (name == "asks" || open.any(|to| to.to_string_lossy().contains(&log)))
    });
    found.unwrap_or_else(|| panic!("no process of {name}"))
}

pub(crate) fn each_part_is_killed_under_load_and_nobody_else_notices(world: &World) {
    wasm_class(world);
    let mut place = Place::ordinary(world, Build::Usual);
    place.create(&mixed(&place));
    let pod = place.wait_ready("mixed");
    let load = Load::new(&pod);
    place.node.wait(SOON, "it answers with what they share", || {
        asked(load.address).filter(|answer| answer.ends_with("shared\n"))
    });
    place.node.wait(SOON, "it is heard over localhost in the pod", || {
        let answers = ["exec", "mixed", "-c", "asks", "--", "cat", "/shared/answers"];
        place.told(&answers).contains("shared").then_some(())
    });
    assert_eq!(starts(&place.node), both(1, 1));
    thread::scope(|scope| {
        scope.spawn(|| load.run());
        // So that a failure ends the load too.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_each(&mut place, &load);
        }));
        load.ended.store(true, Ordering::SeqCst);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    place.finish();
}

fn both(ordinary: usize, wasm: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([("ordinary".into(), ordinary), ("wasm".into(), wasm)])
}

#[track_caller]
fn kill_each(place: &mut Place<'_>, load: &Load) {
    let pod = place.wait_ready("mixed");
    let kill = |place: &Place<'_>, name: &str| {
        kill(process(place, &pod, name));
        Instant::now()
    };
    let again = |place: &Place<'_>, wanted: [u64; 3]| {
        place.wait_pod("mixed", &format!("restarted {wanted:?} times"), |pod| {
            restarts(pod) == wanted && ready(pod)
        })
    };

    let at = kill(place, "asks");
    let after = again(place, [0, 1, 0]);
    let last = &container(&after, "asks")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("Error")), "{after}");
    load.none_lost(at, "the ordinary container was killed");
    place.node.wait(SOON, "it has said so", || (starts(&place.node) == both(2, 1)).then_some(()));

    kill(place, "web");
    let after = again(place, [1, 1, 0]);
    let last = &container(&after, "web")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137, "{after}");
    load.none_lost(Instant::now(), "the server is Ready again");

    let at = kill(place, "idle");
    again(place, [1, 1, 1]);
    load.none_lost(at, "the idle container was killed");
    place.node.wait(SOON, "it has said so", || (starts(&place.node) == both(2, 2)).then_some(()));

    let (at, were) = (Instant::now(), processes(&place.node, &pod));
    let before = place.wait_ready("mixed");
    place.node.kill9();
    load.none_lost(at, "the agent is killed");
    place.node.run();
    place.node.wait(SOON, "the agent is back", || TcpStream::connect(place.node.healthz()).ok());
    place.node.wait_ready(SOON);
    unchanged(place, &before, &were);
    load.none_lost(at, "the agent came back");

    let at = Instant::now();
    place.node.containerd_mut().kill9();
    load.none_lost(at, "containerd is killed");
    place.node.containerd_mut().run();
    place.node.wait_ready(SOON);
    unchanged(place, &before, &were);
    load.none_lost(at, "containerd came back");
    assert_eq!(starts(&place.node), both(2, 2), "nothing was started twice");
    // What came back still does its work.
    let at = kill(place, "asks");
    again(place, [1, 2, 1]);
    load.none_lost(at, "the ordinary container was killed once more");
}

/// Waits until the agent has looked, and then nothing of the pod may be another.
#[track_caller]
fn unchanged(place: &Place<'_>, before: &Value, were: &[u32]) {
    let name = before["metadata"]["name"].as_str().expect("a name");
    let after = place.wait_ready(name);
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    assert_eq!(processes(&place.node, &after), were, "{name}");
}

fn away() -> Duration {
    let seconds = std::env::var("COPEPOD_CONTAINERD_AWAY_SECONDS").ok();
    seconds.map_or(AWAY, |text| Duration::from_secs(text.parse().expect("a number of seconds")))
}

#[track_caller]
fn wait_node(place: &Place<'_>, status: &str) -> Value {
    place.node.wait(NOTICED, &format!("the node's condition Ready is {status}"), || {
        let node = place.api().get("nodes", "", place.node.name())?;
        condition(&node, "Ready").filter(|ready| ready["status"] == status).cloned()
    })
}

pub(crate) fn pods_outlive_an_absence_of_containerd(world: &World) {
    wasm_class(world);
    let mut place = Place::ordinary(world, Build::Usual);
    let wait = "trap 'exit 143' TERM; while :; do sleep 0.1; done";
    place.create(&place.shell("ordinary", wait));
    let mut wasm = place.pod("wasm", "hello", &["--every", "100"]);
    wasm["spec"]["runtimeClassName"] = json!(CLASS);
    place.create(&wasm);
    place.create(&mixed(&place));
    let mut ends = place.shell("ends", "trap 'exit 5' TERM; while :; do sleep 0.1; done");
    ends["spec"]["restartPolicy"] = json!("Never");
    place.create(&ends);
    let lives = ["ordinary", "wasm", "mixed"].map(|name| place.wait_ready(name));
    let were = lives.clone().map(|pod| processes(&place.node, &pod));
    let ending = place.wait_ready("ends");

    let begin = Instant::now();
    place.node.containerd_mut().stop();
    for pid in processes(&place.node, &ending) {
        // A child of its shell may have ended.
        let pid = Pid::from_raw(pid.cast_signed()).expect("not 0");
        let _ = kill_process(pid, Signal::TERM);
    }
    place.node.wait(SOON, "one ends while containerd is away", || {
        processes(&place.node, &ending).is_empty().then_some(())
    });
    let not_ready = wait_node(&place, "False");
    let message = not_ready["message"].as_str().expect("a message");
    assert!(message.contains("container runtime"), "{message}");
    // Pods without CRI go on being served: here a new one, let in despite the node's taint.
    let mut new = wasm.clone();
    new["metadata"]["name"] = json!("new");
    new["spec"]["nodeName"] = json!(place.node.name());
    new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    place.create(&new);
    place.wait_ready("new");
    let_pass(away().saturating_sub(begin.elapsed()), "containerd is away for so long");
    place.node.containerd_mut().run();
    wait_node(&place, "True");

    for (before, were) in lives.iter().zip(&were) {
        unchanged(&place, before, were);
    }
    assert_eq!(starts(&place.node), both(1, 1), "nothing was started twice");
    let ended = place.wait_pod("ends", "has ended", |pod| pod["status"]["phase"] == "Failed");
    let forgotten = place.node.containerd().forgets_ends();
    let (code, reason) = if forgotten { (255, "Unknown") } else { (5, "Error") };
    let state = &container(&ended, "main")["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(code), &json!(reason)), "{ended}");
    place.finish();
}
