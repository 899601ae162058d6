//! Probes of both kinds of containers, and what a user reads of them.

use std::fs;
use std::time::{Duration, Instant};

use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::metrics::Metrics;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::place::{Shared, container, ready};
use crate::runtimes::{CLASS, wasm_class};
use crate::{SOON, World};

/// Which runtime has a pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Wasm,
    Ordinary,
}

/// Both.
pub(crate) const KINDS: [Kind; 2] = [Kind::Wasm, Kind::Ordinary];

/// A command on the files that a container sees, in words that both kinds understand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Read(&'static str),
    Write(&'static str),
    Remove(&'static str),
    /// Never ends by itself.
    Wait,
}

impl Kind {
    /// A name for a pod of this kind.
    pub(crate) fn name(self, name: &str) -> String {
        match self {
            Self::Wasm => format!("{name}-w"),
            Self::Ordinary => format!("{name}-o"),
        }
    }

    /// The command.
    pub(crate) fn command(self, act: Act) -> Value {
        match (self, act) {
            (Self::Wasm, Act::Read(file)) => json!(["files", "read", file]),
            (Self::Ordinary, Act::Read(file)) => json!(["cat", file]),
            (Self::Wasm, Act::Write(file)) => json!(["files", "write", file, "yes"]),
            (Self::Ordinary, Act::Write(file)) => json!(["sh", "-c", format!("echo yes > {file}")]),
            (Self::Wasm, Act::Remove(file)) => json!(["files", "remove", file]),
            (Self::Ordinary, Act::Remove(file)) => json!(["rm", file]),
            (Self::Wasm, Act::Wait) => json!(["files", "wait", "3600000"]),
            (Self::Ordinary, Act::Wait) => json!(["sleep", "3600"]),
        }
    }

    /// What reading a file that is not there says.
    fn missing(self, file: &str) -> String {
        match self {
            Self::Wasm => format!("read {file}: No such file or directory (os error 44)\n"),
            Self::Ordinary => format!("cat: can't open '{file}': No such file or directory\n"),
        }
    }

    /// A pod whose container `main` waits until it is told to end, with a volume at `/state`.
    pub(crate) fn waiting(self, place: &Shared<'_>, name: &str, more: Value) -> Value {
        let wait = "trap 'exit 143' TERM; while :; do sleep 0.1; done";
        let mut pod = match self {
            Self::Wasm => place.pod(&self.name(name), "files", &["wait", "3600000"]),
            Self::Ordinary => place.shell(&self.name(name), wait),
        };
        self.finished(&mut pod, more);
        pod
    }

    /// A pod whose container `main` serves the files that it sees at `web`, and whose container
    /// `hand` can do something to them.
    fn serving(self, place: &Shared<'_>, name: &str, more: Value) -> Value {
        let mut pod = self.waiting(place, name, json!({}));
        let mut hand = pod["spec"]["containers"][0].take();
        hand["name"] = json!("hand");
        let mut main = match self {
            Self::Wasm => json!({"image": place.world.image("http")}),
            Self::Ordinary => {
                json!({"image": BUSYBOX, "command": ["httpd", "-f", "-p", "8080", "-h", "/"]})
            }
        };
        main["name"] = json!("main");
        main["ports"] = json!([{"name": "web", "containerPort": 8080}]);
        pod["spec"]["containers"] = json!([main, hand]);
        self.finished(&mut pod, more);
        pod
    }

    /// The path at which a file is served.
    fn served(self, file: &str) -> String {
        match self {
            Self::Wasm => format!("/files{file}"),
            Self::Ordinary => file.to_owned(),
        }
    }

    fn finished(self, pod: &mut Value, more: Value) {
        if self == Self::Wasm {
            pod["spec"]["runtimeClassName"] = json!(CLASS);
        }
        pod["spec"]["volumes"] = json!([{"name": "state", "emptyDir": {}}]);
        for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
            container["volumeMounts"] = json!([{"name": "state", "mountPath": "/state"}]);
        }
        let main = pod["spec"]["containers"][0].as_object_mut().expect("an object");
        main.extend(more.as_object().expect("an object").clone());
    }
}

/// What is told of a pod: type, reason, message, the container's field and how often.
pub(crate) fn events(place: &Shared<'_>, pod: &Value) -> Vec<(String, String, String, u64)> {
    let of = |event: &&Value| event["involvedObject"]["name"] == pod["metadata"]["name"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = place.api().list("events", &place.namespace);
    let told = |event: &Value| {
        let field = text(&event["involvedObject"]["fieldPath"]);
        let count = event["count"].as_u64().unwrap_or(1);
        let what = format!("{} {}", text(&event["type"]), text(&event["reason"]));
        (what, text(&event["message"]), field, count)
    };
    all.iter().filter(of).map(told).collect()
}

/// Waits until this is told of the container `main` of a pod.
#[track_caller]
pub(crate) fn wait_told(place: &Shared<'_>, pod: &Value, what: &str, message: &str) {
    let told = || {
        let of_main = |field: &str| field == "spec.containers{main}";
        let mut all = events(place, pod).into_iter();
        all.any(|(w, m, field, _)| w == what && m == message && of_main(&field)).then_some(())
    };
    let all = || format!("{:#?}", events(place, pod));
    place.world.plane.wait(SOON, &format!("{what}: {message}"), all, told);
}

/// Waits until this is so of a pod.
#[track_caller]
pub(crate) fn wait(
    place: &Shared<'_>,
    pod: &Value,
    what: &str,
    wanted: impl FnMut(&Value) -> bool,
) -> Value {
    place.wait_pod(pod["metadata"]["name"].as_str().expect("a name"), what, wanted)
}

/// Has the container `hand` or `main` of a pod do something.
#[track_caller]
fn act(place: &Shared<'_>, kind: Kind, pod: &Value, container: &str, act: Act) {
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let command = kind.command(act);
    let words = command.as_array().into_iter().flatten().filter_map(Value::as_str);
    let all: Vec<&str> = ["exec", name, "-c", container, "--"].into_iter().chain(words).collect();
    place.told(&all);
}

fn restarts(pod: &Value) -> u64 {
    container(pod, "main")["restartCount"].as_u64().unwrap_or(0)
}

pub(crate) fn a_liveness_probe_that_fails_restarts_its_container(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let exec = json!({"exec": {"command": kind.command(Act::Read("/state/alive"))}});
        let mut probe = exec;
        probe["periodSeconds"] = json!(1);
        probe["timeoutSeconds"] = json!(30);
        probe["failureThreshold"] = json!(2);
        place.create(&kind.waiting(&place, "dies", json!({"livenessProbe": probe})))
    };
    for (kind, pod) in KINDS.map(|kind| (kind, make(kind))) {
        let restarted = wait(&place, &pod, "it is restarted", |pod| restarts(pod) >= 1);
        let last = &container(&restarted, "main")["lastState"]["terminated"];
        // By SIGTERM, which neither of them withstands.
        assert_eq!(last["exitCode"], 143, "{restarted}");
        let text = format!("Liveness probe failed: {}", kind.missing("/state/alive"));
        wait_told(&place, &pod, "Warning Unhealthy", &text);
        let killed = "Container main failed liveness probe, will be restarted";
        wait_told(&place, &pod, "Normal Killing", killed);
        // With its file it lives on: the volume is the pod's.
        wait(&place, &pod, "it runs", |pod| container(pod, "main")["state"]["running"].is_object());
    }
    place.leave();
}

pub(crate) fn readiness_follows_its_probe(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let get = json!({"port": "web", "path": kind.served("/state/ready")});
        let probe = json!({"httpGet": get, "periodSeconds": 1, "failureThreshold": 1});
        place.create(&kind.serving(&place, "gate", json!({"readinessProbe": probe})))
    };
    for (kind, pod) in KINDS.map(|kind| (kind, make(kind))) {
        let not = |pod: &Value| {
            let condition = copepod_tests::cluster::node::condition(pod, "Ready");
            condition.is_some_and(|ready| {
                ready["status"] == "False"
                    && ready["reason"] == "ContainersNotReady"
                    && ready["message"] == "containers with unready status: [main]"
            })
        };
        let text = "Readiness probe failed: HTTP probe failed with statuscode: 404";
        wait_told(&place, &pod, "Warning Unhealthy", text);
        let first = wait(&place, &pod, "both run and one is not ready", |pod| {
            not(pod) && container(pod, "hand")["ready"] == true
        });
        assert_eq!(container(&first, "main")["started"], true, "{first}");
        act(&place, kind, &pod, "hand", Act::Write("/state/ready"));
        wait(&place, &pod, "Ready", ready);
        act(&place, kind, &pod, "hand", Act::Remove("/state/ready"));
        let last = wait(&place, &pod, "not ready", not);
        assert_eq!(restarts(&last), 0, "{last}");
        let page = format!("/api/v1/nodes/{}/proxy/metrics/probes", place.node.name());
        let figures = Metrics::parse(&place.told(&["get", "--raw", &page]));
        for result in ["successful", "failed"] {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
            let [kind, result] = [("probe_type", "Readiness"), ("result", result)];
            let labels = [kind, result, ("container", "main"), ("pod", &*name), ("pod_uid", &*uid)];
            assert!(figures.sum("prober_probe_total", &labels) >= 1.0, "{labels:?} {figures:?}");
        }
    }
    place.leave();
}

pub(crate) fn a_startup_probe_holds_the_others(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let exec = |act: Act| json!({"command": kind.command(act)});
        let read = |file: &'static str| exec(Act::Read(file));
        let mut more = json!({
            "startupProbe": {"exec": read("/state/up"), "failureThreshold": 60},
            "livenessProbe": {"exec": read("/state/alive"), "failureThreshold": 1},
            "readinessProbe": {"tcpSocket": {"port": 9}},
        });
        for probe in more.as_object_mut().into_iter().flatten().map(|(_, probe)| probe) {
            probe["periodSeconds"] = json!(1);
            probe["timeoutSeconds"] = json!(30);
        }
        place.create(&kind.waiting(&place, "slow", more))
    };
    for (kind, pod) in KINDS.map(|kind| (kind, make(kind))) {
        let failed = format!("Startup probe failed: {}", kind.missing("/state/up"));
        // Three periods, in which the others would have failed as well.
        place.node.wait(SOON, "its startup probe has failed three times", || {
            let told = events(&place, &pod);
            let mut of_it = told.iter().filter(|(_, message, ..)| *message == failed);
            of_it.any(|(.., count)| *count >= 3).then_some(())
        });
        let told = events(&place, &pod);
        assert!(!told.iter().any(|(_, message, ..)| message.starts_with("Liveness")), "{told:#?}");
        assert!(!told.iter().any(|(_, message, ..)| message.starts_with("Readiness")), "{told:#?}");
        let held = wait(&place, &pod, "it runs", |pod| {
            container(pod, "main")["state"]["running"].is_object()
        });
        assert_eq!(container(&held, "main")["started"], false, "{held}");
        assert_eq!(container(&held, "main")["ready"], false, "{held}");
        act(&place, kind, &pod, "main", Act::Write("/state/up"));
        let killed = "Container main failed liveness probe, will be restarted";
        wait_told(&place, &pod, "Normal Killing", killed);
        let address =
            wait(&place, &pod, "it has an address", |pod| pod["status"]["podIP"].is_string());
        let address = address["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        wait_told(
            &place,
            &pod,
            "Warning Unhealthy",
            &format!("Readiness probe failed: dial tcp {address}:9: connect: connection refused"),
        );
    }
    place.leave();
}

pub(crate) fn a_startup_probe_that_never_succeeds_restarts_its_container(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let make = |kind: Kind| {
        let probe = json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2});
        place.create(&kind.waiting(&place, "never", json!({"startupProbe": probe})))
    };
    for pod in KINDS.map(make) {
        wait(&place, &pod, "it is restarted", |pod| restarts(pod) >= 1);
        let killed = "Container main failed startup probe, will be restarted";
        wait_told(&place, &pod, "Normal Killing", killed);
    }
    place.leave();
}

pub(crate) fn each_handler_says_what_is_wrong(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    let probes = |kind: Kind| {
        let wait = json!({"exec": {"command": kind.command(Act::Wait)}});
        let grpc = json!({"grpc": {"port": 8080}});
        let get = |scheme: &str| json!({"httpGet": {"port": "web", "scheme": scheme}});
        let mut all = vec![
            (
                "grpc",
                grpc,
                "timeout: failed to connect service \"IP:8080\" within 1s: context deadline exceeded",
            ),
            (
                "https",
                get("HTTPS"),
                "Get \"https://IP:8080/\": http: server gave HTTP response to HTTPS client",
            ),
            (
                "none",
                json!({"httpGet": {"port": 9}}),
                "Get \"http://IP:9/\": dial tcp IP:9: connect: connection refused",
            ),
        ];
        match kind {
            // A server has no command.
            Kind::Wasm => all.push((
                "exec",
                json!({"exec": {"command": ["x"]}}),
                "exec failed: unable to \
                start container process: exec: \"x\": a component for wasi:http has no command",
            )),
            Kind::Ordinary => {
                all.push(("exec", wait, "command timed out: \"sleep 3600\" timed out after 1s"))
            }
        }
        all
    };
    let mut made = Vec::new();
    for kind in KINDS {
        for (name, probe, text) in probes(kind) {
            let more = json!({"readinessProbe": probe});
            made.push((place.create(&kind.serving(&place, name, more)), text));
        }
    }
    let probe = json!({"exec": {"command": Kind::Wasm.command(Act::Wait)}});
    let late_one = Kind::Wasm.waiting(&place, "late", json!({"readinessProbe": probe}));
    let text = "command timed out: \"files wait 3600000\" timed out after 1s";
    made.push((place.create(&late_one), text));
    for (pod, text) in made {
        let now = wait(&place, &pod, "it has an address", |pod| pod["status"]["podIP"].is_string());
        let text = text.replace("IP", now["status"]["podIP"].as_str().unwrap_or_default());
        wait_told(&place, &pod, "Warning Unhealthy", &format!("Readiness probe failed: {text}"));
    }
    place.leave();
}

/// Which restart is the first that waits.
const WAITS: u64 = 3;
/// For that one to have begun.
const LONG: Duration = Duration::from_secs(180);
/// Its back-off (upstream: `backOffPeriod`), less what times of whole seconds lose.
const BACK_OFF: Duration = Duration::from_secs(9);

pub(crate) fn a_liveness_kill_under_load_loses_no_line_and_its_restart_waits(world: &World) {
    let place = Shared::shared(world);
    wasm_class(world);
    // Nobody listens there.
    let tcp = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
    let make = |(kind, n): (Kind, usize)| {
        let mut probe = tcp.clone();
        probe["initialDelaySeconds"] = json!(3);
        let name = kind.name(&format!("talks-{n}"));
        let mut pod = match kind {
            Kind::Wasm => place.pod(&name, "hello", &["--every", "1"]),
            Kind::Ordinary => {
                let talk = "trap 'exit 143' TERM; i=0; while :; do i=$((i+1)); echo count $i; \
                            sleep 0.005; done";
                place.shell(&name, talk)
            }
        };
        kind.finished(&mut pod, json!({"livenessProbe": probe}));
        place.create(&pod)
    };
    let mut watch = place.api().watch("pods", &place.namespace);
    let all = (0..3).flat_map(|n| KINDS.map(|kind| (kind, n)));
    let mut left: Vec<Value> = all.map(|one| make(one)["metadata"]["name"].clone()).collect();
    let end = Instant::now() + LONG;
    // It runs for a few seconds: whoever looks now and then may miss it, and its files go with it.
    while !left.is_empty() {
        let change = watch.next(end.saturating_duration_since(Instant::now()));
        let (_, now, _) = change.unwrap_or_else(|| panic!("no restart that waits: {left:?}"));
        let runs = container(&now, "main")["state"]["running"].is_object();
        if restarts(&now) == WAITS && runs && left.contains(&now["metadata"]["name"]) {
            left.retain(|name| *name != now["metadata"]["name"]);
            waited_and_said_all(&place, &now);
        }
    }
    place.leave();
}

/// A pod whose container runs again after a wait: for how long, and what it said before.
#[track_caller]
fn waited_and_said_all(place: &Shared<'_>, now: &Value) {
    let main = container(now, "main");
    let time =
        |value: &Value| value.as_str().expect("a time").parse::<Timestamp>().expect("RFC 3339");
    let ended = time(&main["lastState"]["terminated"]["finishedAt"]);
    let waited = time(&main["state"]["running"]["startedAt"]).duration_since(ended);
    let waited = Duration::try_from(waited).expect("it started after the end");
    assert!(waited >= BACK_OFF, "{waited:?}: {now}");
    // What it said until it was stopped is all there, to the last whole line.
    let text = |name: &Value| name.as_str().expect("a name").to_owned();
    let meta = &now["metadata"];
    let folder =
        format!("{}_{}_{}", text(&meta["namespace"]), text(&meta["name"]), text(&meta["uid"]));
    let file = place.node.logs().join(folder).join(format!("main/{}.log", WAITS - 1));
    let log = fs::read_to_string(&file).expect("the log of the one before");
    let said: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once(" stdout F "))
        .map(|(_, said)| said)
        .collect();
    assert_eq!(said.len(), log.lines().count(), "whole lines alone: {file:?}");
    let counted = said.iter().filter_map(|said| said.strip_prefix("count "));
    let counted: Vec<u64> = counted.map(|n| n.parse().expect("a number")).collect();
    assert!(!counted.is_empty(), "it did not talk: {file:?}");
    assert!(counted.iter().copied().eq(1..=counted.len() as u64), "lines are missing: {file:?}");
}
