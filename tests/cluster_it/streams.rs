//! kubectl's exec, attach and port-forward, of an older release (SPDY) and of the API server's own
//! (WebSocket), and logs that many follow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use copepod_tests::cluster::kubernetes;
use copepod_tests::holds_within;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::place::Place;
use crate::{SOON, World};

/// Each way, in one test.
const MUCH: usize = 100 << 20;
/// Followers of one log.
const FOLLOWERS: usize = 200;
/// The kubectl of Debian, if there is one.
const OLD: &str = "/usr/bin/kubectl";

/// The kubectls that there are: program and its first arguments.
fn kubectls() -> Vec<(PathBuf, Vec<&'static str>)> {
    let mut all = vec![(kubernetes(), vec!["kubectl"])];
    if PathBuf::from(OLD).exists() {
        all.push((OLD.into(), Vec::new()));
    }
    all
}

/// A kubectl at work, killed with this value.
struct Kubectl(Child);

impl Drop for Kubectl {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Kubectl {
    #[track_caller]
    fn start(place: &Place<'_>, (program, first): &(PathBuf, Vec<&str>), args: &[&str]) -> Self {
        let kubeconfig = place.world.plane.dir().join("admin.kubeconfig");
        let mut command = Command::new(program);
        command.args(first).arg("--kubeconfig").arg(kubeconfig).args(["-n", &place.namespace]);
        command.args(args).env_clear().env("HOME", place.world.plane.dir().join("home"));
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(pipes.spawn().expect("starts"))
    }

    #[track_caller]
    fn end(&mut self, within: Duration) -> ExitStatus {
        let mut ended = None;
        let has = holds_within(within, || {
            ended = self.0.try_wait().expect("is asked");
            ended.is_some()
        });
        assert!(has, "kubectl did not end within {within:?}");
        ended.expect("it has")
    }

    /// Gives it `input`, and its end; exit code, output and errors.
    #[track_caller]
    fn done(mut self, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
        let mut stdin = self.0.stdin.take().expect("a pipe");
        let mut stdout = self.0.stdout.take().expect("a pipe");
        let mut stderr = self.0.stderr.take().expect("a pipe");
        thread::scope(|scope| {
            // A command that reads no more is no failure of this side.
            scope.spawn(move || drop(stdin.write_all(input)));
            let out = scope.spawn(move || {
                let mut bytes = Vec::new();
                stdout.read_to_end(&mut bytes).map(|_| bytes).expect("reads")
            });
            let err = scope.spawn(move || std::io::read_to_string(&mut stderr).expect("reads"));
            let code = self.end(4 * SOON).code();
            (code, out.join().expect("reads"), err.join().expect("reads"))
        })
    }
}

/// Runs kubectl with an input to its end.
#[track_caller]
fn run(
    place: &Place<'_>,
    kubectl: &(PathBuf, Vec<&str>),
    args: &[&str],
    input: &[u8],
) -> (Option<i32>, String, String) {
    let (code, out, err) = Kubectl::start(place, kubectl, args).done(input);
    (code, String::from_utf8_lossy(&out).into_owned(), err)
}

pub(crate) fn a_command_is_run_with_its_streams_and_its_end(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.wait_ready("cat");
    for kubectl in &kubectls() {
        let exec = |args: &[&str], input: &[u8]| {
            run(&place, kubectl, &[&["exec", "cat"], args].concat(), input)
        };
        let (code, out, err) = exec(&["-i", "--", "cat"], b"through and back\n");
        assert_eq!((code, &*out), (Some(0), "through and back\n"), "{kubectl:?}: {err}");
        let (code, out, err) = exec(&["--", "cat", "tty"], b"");
        assert_eq!((code, out.matches("no terminal").count()), (Some(0), 3), "{kubectl:?}: {err}");
        let (code, out, err) = exec(&["-t", "--", "cat", "tty"], b"");
        assert_eq!((code, out.matches(": terminal\r\n").count()), (Some(0), 3), "{out} {err}");
        let (code, _, err) = exec(&["--", "cat", "no such thing"], b"");
        assert_eq!(code, Some(2), "{kubectl:?}: {err}");
        assert!(err.contains("usage: cat") && err.contains("exit code 2"), "{kubectl:?}: {err}");
        let (code, _, err) = exec(&["-c", "none", "--", "cat"], b"");
        assert!(code == Some(1) && err.contains("none"), "{kubectl:?}: {err}");
    }
    place.finish();
}

pub(crate) fn a_command_whose_client_is_killed_ends(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.wait_ready("cat");
    let sandboxes = || copepod_tests::cluster::leaks::processes(&place.node.file("")).len();
    let before = sandboxes();
    for kubectl in &kubectls() {
        let one = Kubectl::start(&place, kubectl, &["exec", "cat", "--", "cat", "wait"]);
        place.node.wait(SOON, "the command runs", || (sandboxes() > before).then_some(()));
        drop(one);
        place.node.wait(SOON, "it has ended", || (sandboxes() == before).then_some(()));
    }
    place.finish();
}

pub(crate) fn an_attached_client_hears_and_is_read(world: &World) {
    let mut place = Place::new(world);
    let mut cat = place.pod("cat", "cat", &[]);
    cat["spec"]["containers"][0]["stdin"] = json!(true);
    cat["spec"]["restartPolicy"] = json!("Never");
    let mut once = cat.clone();
    once["metadata"]["name"] = json!("once");
    once["spec"]["containers"][0]["stdinOnce"] = json!(true);
    place.create(&cat);
    place.create(&once);
    place.create(&place.pod("hello", "hello", &["--every", "50"]));
    for name in ["cat", "once", "hello"] {
        place.wait_ready(name);
    }
    for kubectl in &kubectls() {
        // Output from now on, of one that reads nothing.
        let mut heard = Kubectl::start(&place, kubectl, &["attach", "hello"]);
        let mut bytes = [0; 64];
        let mut stdout = heard.0.stdout.take().expect("a pipe");
        assert!(stdout.read(&mut bytes).expect("reads") > 0, "{kubectl:?}");
        drop(heard);
        told(&place, kubectl, "cat", "one\n");
    }
    // An agent that is started again has nobody attached; the container is the same, and waits.
    place.node.kill9();
    place.node.run();
    place.node.wait(SOON, "the agent is back", || TcpStream::connect(place.node.healthz()).ok());
    place.wait_ready("cat");
    for kubectl in &kubectls() {
        told(&place, kubectl, "cat", "two\n");
    }
    let pod = place.api().get("pods", &place.namespace, "cat").expect("is there");
    assert_eq!(crate::place::container(&pod, "main")["restartCount"], 0, "{pod}");
    let kubectl = &kubectls()[0];
    let (_, out, err) = run(&place, kubectl, &["attach", "-i", "once"], b"the last\n");
    assert_eq!(out, "the last\n", "{err}");
    place.wait_pod("once", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    place.finish();
}

/// Attaches to a `cat`, tells it a line and hears it back.
#[track_caller]
fn told(place: &Place<'_>, kubectl: &(PathBuf, Vec<&str>), name: &str, line: &str) {
    let mut attached = Kubectl::start(place, kubectl, &["attach", "-i", name]);
    let mut stdin = attached.0.stdin.take().expect("a pipe");
    let mut stdout = attached.0.stdout.take().expect("a pipe");
    stdin.write_all(line.as_bytes()).expect("is sent");
    let mut back = vec![0; line.len()];
    stdout.read_exact(&mut back).expect("comes back");
    assert_eq!(String::from_utf8_lossy(&back), line, "{kubectl:?}");
}

/// A `kubectl port-forward` at work: where it listens.
fn forwarded(
    place: &Place<'_>,
    kubectl: &(PathBuf, Vec<&str>),
    pod: &str,
    port: &str,
) -> (Kubectl, SocketAddr) {
    let mut one = Kubectl::start(place, kubectl, &["port-forward", pod, &format!(":{port}")]);
    let mut stdout = one.0.stdout.take().expect("a pipe");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && stdout.read(&mut byte).expect("reads") > 0 {
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).expect("UTF-8");
    let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let local = local.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
    one.0.stdout = Some(stdout);
    (one, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local))
}

/// Asks an HTTP server by hand; head and body.
fn ask(at: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(at).expect("connects");
    stream.set_read_timeout(Some(2 * SOON)).expect("is set");
    let mut answer = Vec::new();
    let mut writer = stream.try_clone().expect("shares");
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(request).expect("is sent"));
        stream.read_to_end(&mut answer).expect("is read");
    });
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8_lossy(&answer).into_owned(), body)
}

fn http_pod(place: &Place<'_>) -> Value {
    let mut pod = place.pod("web", "http", &[]);
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    pod
}

pub(crate) fn a_port_is_forwarded_into_the_pods_network(world: &World) {
    let place = Place::new(world);
    place.create(&http_pod(&place));
    place.wait_ready("web");
    for kubectl in &kubectls() {
        let (mut one, at) = forwarded(&place, kubectl, "web", "80");
        for _ in 0..3 {
            let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let (head, body) = ask(at, request);
            assert!(head.starts_with("HTTP/1.1 200 "), "{kubectl:?}: {head}");
            assert_eq!(body, b"ok\n", "{kubectl:?}");
        }
        drop(one.0.stdin.take());
        // A port that nobody listens on is told of, and the rest goes on or ends with it.
        let (mut none, at) = forwarded(&place, kubectl, "web", "81");
        let mut stream = TcpStream::connect(at).expect("connects");
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing);
        assert!(nothing.is_empty(), "{kubectl:?}");
        let (mut said, mut byte) = (Vec::new(), [0]);
        let mut stderr = none.0.stderr.take().expect("a pipe");
        while !String::from_utf8_lossy(&said).contains("error forwarding port 81 to pod")
            && stderr.read(&mut byte).expect("reads") > 0
        {
            said.push(byte[0]);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("error forwarding port 81 to pod"), "{kubectl:?}: {said}");
    }
    place.finish();
}

/// Bytes that repeat nowhere soon.
fn much() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(MUCH);
    while bytes.len() < MUCH {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

pub(crate) fn a_hundred_megabytes_go_each_way_without_loss(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.wait_ready("cat");
    let sent = much();
    let digest = Sha256::digest(&sent);
    for kubectl in &kubectls() {
        let begun = Instant::now();
        let args = ["exec", "-i", "cat", "--", "cat"];
        let (code, back, err) = Kubectl::start(&place, kubectl, &args).done(&sent);
        println!("{} MB each way through exec: {:?}", MUCH >> 20, begun.elapsed());
        assert_eq!((code, back.len()), (Some(0), sent.len()), "{kubectl:?}: {err}");
        assert_eq!(Sha256::digest(&back), digest, "{kubectl:?}");
    }
    place.finish();
}

pub(crate) fn a_log_has_two_hundred_followers(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("hello", "hello", &["--every", "20"]));
    place.wait_ready("hello");
    let path = format!(
        "/api/v1/namespaces/{}/pods/hello/log?follow=true&limitBytes=4000",
        place.namespace
    );
    let api = place.api();
    let logs: Vec<String> = thread::scope(|scope| {
        let follow = |_| scope.spawn(|| api.client().get(&path).expect("is followed"));
        let all: Vec<_> = (0..FOLLOWERS).map(follow).collect();
        all.into_iter()
            .map(|one| one.join().expect("ends"))
            .map(|(code, log)| {
                assert_eq!(code, 200, "{log}");
                log
            })
            .collect()
    });
    for log in &logs {
        assert_eq!(log.len(), 4000);
        assert_eq!(log, &logs[0], "each hears the same");
    }
    place.finish();
}
