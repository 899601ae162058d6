//! Hooks of both kinds of containers, and the time that they have.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use copepod_tests::wait_until;
use serde_json::{Value, json};

use crate::place::{Shared, container, ready};
use crate::probes::{Act, KINDS, Kind, events, wait, wait_told};
use crate::runtimes::{processes, wasm_class};
use crate::{SOON, World};

/// A grace that no test waits for.
const LONG: Duration = Duration::from_secs(40);
/// For a pod's hook to ask: its start and the ends of others come before.
const COMES: Duration = Duration::from_secs(600);

fn hooks(hooks: Value) -> Value {
    json!({"lifecycle": hooks})
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("a name")
}

/// Whether the process would do something about SIGTERM, or is no shell: one that has not come to its
/// `trap` yet ignores it, as the first of its pids.
fn hears(pid: u32) -> bool {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if of("comm").trim() != "sh" {
        return true;
    }
    let status = of("status");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (15 - 1)) != 0)
}

/// Deletes a pod and gives what its end took.
#[track_caller]
fn deleted(place: &Shared<'_>, pod: &Value, grace: Duration) -> Duration {
    place.node.wait(SOON, &format!("{} hears signals", name(pod)), || {
        processes(&place.node, pod).into_iter().all(hears).then_some(())
    });
    let started = Instant::now();
    let path = format!("/api/v1/namespaces/{}/pods/{}", place.namespace, name(pod));
    let grace = json!({"gracePeriodSeconds": grace.as_secs()});
    let (code, answer) = place.api().request("DELETE", &path, Some(&grace));
    assert_eq!(code, 200, "{answer}");
    place.node.wait(2 * SOON, &format!("{} is gone", name(pod)), || {
        place.api().get("pods", &place.namespace, name(pod)).is_none().then_some(())
    });
    started.elapsed()
}

pub(crate) fn a_hook_after_the_start_is_waited_for(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let write = json!({"exec": {"command": kind.command(Act::Write("/state/up"))}});
        // A probe that would fail without what the hook does first.
        let read = json!({"exec": {"command": kind.command(Act::Read("/state/up"))}});
        let mut more = hooks(json!({"postStart": write}));
        more["livenessProbe"] = read;
        more["livenessProbe"]["failureThreshold"] = json!(1);
        more["livenessProbe"]["periodSeconds"] = json!(1);
        more["livenessProbe"]["timeoutSeconds"] = json!(30);
        more["readinessProbe"] = more["livenessProbe"].clone();
        place.create(&kind.waiting(&place, "begins", more))
    };
    for pod in KINDS.map(make) {
        let now = wait(&place, &pod, "Ready", ready);
        assert_eq!(container(&now, "main")["restartCount"], 0, "{now}");
        let told = events(&place, &pod);
        assert!(!told.iter().any(|(what, ..)| what.starts_with("Warning")), "{told:#?}");
    }
    place.leave();
}

pub(crate) fn a_hook_after_the_start_that_fails_ends_its_container(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let read = json!({"exec": {"command": kind.command(Act::Read("/state/$(A)"))}});
        place.create(&kind.waiting(&place, "fails", hooks(json!({"postStart": read}))))
    };
    for pod in KINDS.map(make) {
        wait_told(&place, &pod, "Warning FailedPostStartHook", "PostStartHook failed");
        wait_told(&place, &pod, "Normal Killing", "FailedPostStartHook");
        let now = wait(&place, &pod, "it is started again", |pod| {
            container(pod, "main")["restartCount"].as_u64() >= Some(1)
        });
        assert_eq!(container(&now, "main")["ready"], false, "{now}");
        // No output in what anybody may read.
        let told = events(&place, &pod);
        assert!(!told.iter().any(|(_, message, ..)| message.contains("No such file")), "{told:#?}");
    }
    place.leave();
}

pub(crate) fn a_hook_after_the_start_that_hangs_holds_the_next_and_no_end(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let wait = json!({"exec": {"command": kind.command(Act::Wait)}});
        let mut pod = kind.waiting(&place, "hangs", hooks(json!({"postStart": wait})));
        let mut next = pod["spec"]["containers"][0].clone();
        next["name"] = json!("next");
        pod["spec"]["containers"].as_array_mut().expect("a list").push(next);
        (kind, place.create(&pod))
    };
    for (kind, pod) in KINDS.map(make) {
        place.node.wait(SOON, "the first one has started", || {
            let mut told = events(&place, &pod).into_iter();
            told.any(|(what, ..)| what == "Normal Started").then_some(())
        });
        let now = wait(&place, &pod, "it runs", |pod| pod["status"]["podIP"].is_string());
        assert_ne!(container(&now, "main")["ready"], true, "{now}");
        let took = deleted(&place, &pod, LONG);
        assert!(took < LONG / 2, "{kind:?}: {took:?}");
        let told = events(&place, &pod);
        let mut started = told.iter().filter(|(what, ..)| what == "Normal Started");
        assert!(!started.any(|(.., field, _)| field == "spec.containers{next}"), "{told:#?}");
    }
    place.leave();
}

pub(crate) fn a_hook_before_the_stop_is_done_within_the_grace(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let dir = tempfile::tempdir().expect("made");
    let make = |kind: Kind, name: &str, pre_stop: Value| {
        let mut pod = kind.waiting(&place, name, hooks(json!({"preStop": pre_stop})));
        pod["spec"]["volumes"] =
            json!([{"name": "state", "hostPath": {"path": dir.path(), "type": "Directory"}}]);
        place.create(&pod)
    };
    let exec = |kind: Kind| {
        let command = match kind {
            Kind::Wasm => json!(["files", "write", "/state/w", "bye", "--", "wait", "1500"]),
            Kind::Ordinary => json!(["sh", "-c", "echo bye > /state/o; sleep 1.5"]),
        };
        make(kind, "leaves", json!({"exec": {"command": command}}))
    };
    let sleeps = |kind: Kind| make(kind, "sleeps", json!({"sleep": {"seconds": 2}}));
    let hangs =
        |kind: Kind| make(kind, "hangs", json!({"exec": {"command": kind.command(Act::Wait)}}));
    for kind in KINDS {
        let (leaves, sleeps, hangs) = (exec(kind), sleeps(kind), hangs(kind));
        for pod in [&leaves, &sleeps, &hangs] {
            wait(&place, pod, "Ready", ready);
        }
        let took = deleted(&place, &leaves, LONG);
        assert!(took >= Duration::from_millis(1500) && took < LONG / 2, "{kind:?}: {took:?}");
        let file = dir.path().join(if kind == Kind::Wasm { "w" } else { "o" });
        assert_eq!(std::fs::read_to_string(file).expect("it was written"), "bye\n");
        let took = deleted(&place, &sleeps, LONG);
        assert!(took >= Duration::from_secs(2) && took < LONG / 2, "{kind:?}: {took:?}");
        // It has the grace, and then goes with its container.
        let took = deleted(&place, &hangs, Duration::from_secs(3));
        assert!(took >= Duration::from_secs(3) && took < LONG / 2, "{kind:?}: {took:?}");
    }
    place.leave();
}

/// The next who connects, and who then says something.
fn accepted(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).expect("is set");
    let mut next = None;
    wait_until(COMES, "somebody asks", || {
        next = server.accept().ok();
        next.is_some()
    });
    let (stream, _) = next.expect("it was waited for");
    stream.set_nonblocking(false).expect("is set");
    stream.set_read_timeout(Some(SOON)).expect("is set");
    stream
}

pub(crate) fn a_hook_by_http_is_asked_and_one_that_fails_stops_nothing(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let server = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = server.local_addr().expect("is bound").port();
    // One request for each kind; any answer will do.
    let heard = thread::spawn(move || {
        let answer = |_: Kind| {
            let mut stream = accepted(&server);
            let mut head = [0; 4096];
            let read = stream.read(&mut head).expect("reads");
            stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").expect("writes");
            String::from_utf8_lossy(&head[..read]).into_owned()
        };
        KINDS.map(answer)
    });
    for kind in KINDS {
        let get = json!({"httpGet": {"host": "127.0.0.1", "port": port, "path": "/bye?now"}});
        let pod = place.create(&kind.waiting(&place, "asks", hooks(json!({"preStop": get}))));
        let read = json!({"exec": {"command": kind.command(Act::Read("/none"))}});
        let bad = place.create(&kind.waiting(&place, "grieves", hooks(json!({"preStop": read}))));
        wait(&place, &pod, "Ready", ready);
        wait(&place, &bad, "Ready", ready);
        for pod in [&pod, &bad] {
            let took = deleted(&place, pod, LONG);
            assert!(took < LONG / 2, "{}: {took:?}", name(pod));
        }
        let failed = |pod: &Value| {
            let told = events(&place, pod);
            told.into_iter().any(|(what, message, ..)| {
                what == "Warning FailedPreStopHook" && message == "PreStopHook failed"
            })
        };
        place.node.wait(SOON, "the failure is told", || failed(&bad).then_some(()));
        assert!(!failed(&pod), "{:#?}", events(&place, &pod));
    }
    wait_until(SOON, "each is asked for", || heard.is_finished());
    for head in heard.join().expect("answers") {
        assert!(head.starts_with("GET /bye?now HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("User-Agent: kube-lifecycle/1.36\r\n"), "{head}");
    }
    place.leave();
}
