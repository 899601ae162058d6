//! Order, restarts, stopping, exit codes: `src/pod`'s decisions on real processes.

use std::fs;
use std::time::{Duration, Instant};

use copepod_tests::wait_until;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::survive::sandboxes;
use crate::{SOON, Scene, one};

/// The grace of [`one`]'s pods.
const GRACE: Duration = Duration::from_secs(2);
/// A grace that nobody waits for: what ends before it was not killed by it.
const LONG_GRACE: Duration = Duration::from_secs(50);

fn with_long_grace(yaml: &str) -> String {
    let long = format!("terminationGracePeriodSeconds: {}", LONG_GRACE.as_secs());
    yaml.replace("terminationGracePeriodSeconds: 2", &long)
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let ended = Scene::new().run(
        "apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  restartPolicy: Never
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: first, image: '@files@', args: [write, /data/log, one], volumeMounts: &m [{name: data, mountPath: /data}]}
  - {name: second, image: '@files@', args: [append, /data/log, two], volumeMounts: *m}
  containers:
  - {name: main, image: '@files@', args: [read, /data/log], volumeMounts: *m}
",
        &[],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (one, two) = (ended.out.find("one"), ended.out.find("two"));
    assert!(one.is_some() && one < two, "{ended:?}");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let ended = Scene::new().run(
        "apiVersion: v1
kind: Pod
metadata: {name: fails}
spec:
  restartPolicy: Never
  initContainers:
  - {name: bad, image: '@exit@', args: ['5']}
  containers:
  - {name: main, image: '@hello@', args: [--count, '1']}
",
        &[],
    );
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(!ended.out.contains("count"), "the main container must not run: {ended:?}");
    assert!(ended.err.contains("fails/bad: Error, exit code 5"), "{ended:?}");
}

#[test]
fn the_first_code_in_the_specs_order_is_the_commands() {
    let ended = Scene::new().run(
        "apiVersion: v1
kind: Pod
metadata: {name: several}
spec:
  restartPolicy: Never
  containers:
  - {name: zero, image: '@exit@', args: ['0']}
  - {name: late, image: '@exit@', args: ['4', --after, '300']}
  - {name: early, image: '@exit@', args: ['9']}
",
        &[],
    );
    assert_eq!(ended.code, Some(4), "{ended:?}");
}

#[test]
fn on_failure_restarts_with_upstreams_back_off_until_it_succeeds() {
    let scene = Scene::new();
    let host = scene.home.path().join("host");
    fs::create_dir(&host).expect("makes");
    let yaml = one(
        "files",
        "OnFailure",
        "args: [read, /host/there]\nvolumeMounts: [{name: host, mountPath: /host}]",
    );
    let yaml =
        format!("{yaml}  volumes: [{{name: host, hostPath: {{path: {}}}}}]\n", host.display());
    let mut run = scene.start(&yaml, &["--output", "json"]);
    run.wait_line("back-off 10s restarting failed container=main pod=one_default(", SOON);
    // Two attempts by now: the first restart is at once.
    fs::write(host.join("there"), "at last\n").expect("writes");
    assert_eq!(run.wait(SOON).code(), Some(0), "{}", run.stderr());
    let last = last_status(&run.stdout());
    let container = &last["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 2, "{last}");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1, "{last}");
    assert_eq!(last["status"]["phase"], "Succeeded", "{last}");
    assert!(!run.stdout().contains("back-off 20s"), "only one back-off was waited for");
    scene.guard.finish();
}

#[test]
fn a_pod_that_is_stopped_in_its_back_off_ends_as_its_last_attempt_did() {
    let scene = Scene::new();
    let mut run = scene.start(&one("exit", "Always", "args: ['3']"), &["--output", "json"]);
    run.wait_line("back-off 10s", SOON);
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(3));
    let last = last_status(&run.stdout());
    assert_eq!(last["status"]["containerStatuses"][0]["restartCount"], 1, "{last}");
    assert_eq!(last["status"]["phase"], "Failed", "{last}");
    scene.guard.finish();
}

fn last_status(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("a status")).expect("JSON")
}

#[test]
fn a_killed_sandbox_is_137_and_restarts() {
    let scene = Scene::new();
    let mut run = scene.start(&one("hello", "Always", "args: [--every, '50']"), &["-o", "json"]);
    run.wait_line("\"running\"", SOON);
    let [first] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };
    kill_process(first, Signal::KILL).expect("kills");
    run.wait_line("\"restartCount\":1", SOON);
    wait_until(
        SOON,
        "another sandbox runs",
        || matches!(sandboxes(&scene.home)[..], [second] if second != first),
    );
    run.wait_line("\"exitCode\":137", SOON);
    run.signal(Signal::TERM);
    assert_eq!(run.wait(SOON).code(), Some(143));
    scene.guard.finish();
}

#[test]
fn a_command_stops_at_once_and_says_143() {
    let scene = Scene::new();
    let yaml = one("hello", "Always", "args: [--every, '50']");
    let mut run = scene.start(&with_long_grace(&yaml), &[]);
    run.wait_line("count 2", SOON);
    let begin = Instant::now();
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    assert!(begin.elapsed() < LONG_GRACE, "before its grace is over");
    scene.guard.finish();
}

#[test]
fn a_busy_http_guest_is_killed_after_its_grace_and_at_once_when_asked_twice() {
    for signals in [1, 2] {
        let scene = Scene::new();
        let port = crate::http::free_port();
        let yaml = one("http", "Always", &format!("ports: [{{containerPort: {port}}}]"));
        let yaml = if signals == 2 { with_long_grace(&yaml) } else { yaml };
        let mut run = scene.start(&yaml, &["-o", "json"]);
        assert_eq!(crate::http::get(port, "/healthz").0, 200);
        let busy = crate::http::send(port, "GET", "/burn?ms=60000", &[]);
        let burning = || sandboxes(&scene.home).iter().any(|pid| cpu_ticks(*pid) > 10);
        wait_until(SOON, "the guest burns", burning);
        let begin = Instant::now();
        run.signal(Signal::INT);
        if signals == 2 {
            run.wait_line("once more", SOON);
            run.signal(Signal::INT);
        }
        assert_eq!(run.wait(SOON).code(), Some(137), "{}", run.stderr());
        let took = begin.elapsed();
        let in_time = if signals == 1 { took >= GRACE } else { took < LONG_GRACE };
        assert!(in_time, "{signals} signals: {took:?}");
        drop(busy);
        scene.guard.finish();
    }
}

pub(crate) fn cpu_ticks(pid: rustix::process::Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    after_name.split(' ').nth(11).and_then(|utime| utime.parse().ok()).unwrap_or(0)
}

#[test]
fn traps_are_told_with_their_code_text_and_backtrace() {
    for (what, code, text) in [
        ("panic", 134, "unreachable"),
        ("unreachable", 134, "unreachable"),
        ("oob", 139, "out of bounds"),
        ("stack", 139, "wasm"),
        ("div, '1', '0'", 136, "divide by zero"),
    ] {
        let ended = Scene::new().run(&one("trap", "Never", &format!("args: [{what}]")), &[]);
        assert_eq!(ended.code, Some(code), "{what}: {ended:?}");
        assert!(ended.err.contains(&format!("one/main: Error, exit code {code}: ")), "{ended:?}");
        assert!(ended.err.contains(text) && ended.err.contains("backtrace"), "{what}: {ended:?}");
    }
}

#[test]
fn memory_has_its_limit_and_a_guest_that_copes_goes_on() {
    let limit = "resources: {limits: {memory: 64Mi}}";
    let killed = Scene::new().run(&one("hog", "Never", &format!("args: ['128']\n{limit}")), &[]);
    assert_eq!(killed.code, Some(137), "{killed:?}");
    assert!(killed.err.contains("one/main: OOMKilled, exit code 137"), "{killed:?}");
    let copes =
        Scene::new().run(&one("hog", "Never", &format!("args: ['128', --try]\n{limit}")), &[]);
    assert_eq!(copes.code, Some(3), "{copes:?}");
    let fits = Scene::new().run(&one("hog", "Never", &format!("args: ['32']\n{limit}")), &[]);
    assert_eq!(fits.code, Some(0), "{fits:?}");
}

#[test]
fn several_pods_of_several_documents_run_at_once() {
    let scene = Scene::new();
    let out = scene.home.path().join("out");
    fs::create_dir(&out).expect("made");
    let document = |name: &str, code: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
             volumes: [{{name: out, hostPath: {{path: {}}}}}]\n  \
             containers: [{{name: main, image: '@actor@', \
             args: [await, /out/go, --, exit, '{code}'], \
             volumeMounts: [{{name: out, mountPath: /out}}]}}]\n",
            out.display()
        )
    };
    let yaml = format!("{}---\n{}---\n", document("a", 0), document("b", 6));
    let mut run = scene.start(&yaml, &[]);
    wait_until(SOON, "both run at once", || sandboxes(&scene.home).len() == 2);
    fs::write(out.join("go"), "").expect("written");
    assert_eq!(run.wait(SOON).code(), Some(6), "{}", run.stderr());
    scene.guard.finish();
}
