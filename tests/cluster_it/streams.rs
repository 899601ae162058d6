//! kubectl's exec, attach and port-forward by WebSocket and by SPDY, which is all that an older one
//! knows, and logs that many follow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use copepod_tests::cluster::{Node, kubernetes};
use copepod_tests::{Run, holds_within};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::place::{Place, Shared};
use crate::verbs::{SPDY, old_kubectl};
use crate::{SOON, World};

/// Each way, in one test.
const MUCH: usize = 100 << 20;
/// Followers of one log.
const FOLLOWERS: usize = 200;

/// One kubectl for one namespace.
struct Cli<'a> {
    world: &'a World,
    namespace: String,
    program: PathBuf,
    first: &'static [&'static str],
    spdy: bool,
}

/// The API server's own, and an older one.
fn kubectls<'a, 'n, N: Deref<Target = Node<'n>>>(place: &Place<'a, N>) -> Vec<Cli<'a>> {
    let cli = |(program, first), spdy| {
        let namespace = place.namespace.clone();
        Cli { world: place.world, namespace, program, first, spdy }
    };
    vec![cli((kubernetes(), &["kubectl"]), false), cli(old_kubectl(), true)]
}

impl Cli<'_> {
    #[track_caller]
    fn start(&self, args: &[&str]) -> Kubectl {
        let args = [self.first, &["-n", &self.namespace], args].concat();
        let mut command = self.world.plane.as_admin(&self.program, &args);
        if self.spdy {
            command.envs(SPDY);
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Kubectl(pipes.spawn().expect("starts"))
    }

    /// Runs it with an input to its end: exit code, output and errors.
    #[track_caller]
    fn run(&self, args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
        let (code, out, err) = self.start(args).done(input);
        (code, String::from_utf8_lossy(&out).into_owned(), err)
    }

    /// On a terminal of its own, to its good end.
    #[track_caller]
    fn on_terminal(&self, args: &[&str]) -> String {
        let program = self.program.display().to_string();
        let words = [&[&*program], self.first, &["-n", &self.namespace], args].concat();
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let args = ["-qec", &words.join(" "), "/dev/null"];
        let mut command = self.world.plane.as_admin(Path::new("script"), &args);
        if self.spdy {
            command.envs(SPDY);
        }
        let output = Run::spawn(command).output(SOON);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn name(&self) -> String {
        let how = if self.spdy { "SPDY" } else { "WebSocket" };
        format!("{} ({how})", self.program.display())
    }

    /// Attaches to a `cat`, tells it a line and hears it back.
    #[track_caller]
    fn told(&self, pod: &str, line: &str) {
        let mut attached = self.start(&["attach", "-i", pod]);
        let mut stdin = attached.0.stdin.take().expect("a pipe");
        let mut stdout = attached.0.stdout.take().expect("a pipe");
        stdin.write_all(line.as_bytes()).expect("is sent");
        let mut back = vec![0; line.len()];
        let back = in_time(move || {
            stdout.read_exact(&mut back).expect("comes back");
            back
        });
        assert_eq!(String::from_utf8_lossy(&back), line, "{}", self.name());
    }

    /// A `kubectl port-forward` at work, and where it listens.
    #[track_caller]
    fn forward(&self, pod: &str, port: &str) -> (Kubectl, SocketAddr) {
        let mut one = self.start(&["port-forward", pod, &format!(":{port}")]);
        // The pipe stays open: it writes on.
        let mut stdout = one.0.stdout.take().expect("a pipe");
        let (line, stdout) = in_time(move || (until(&mut stdout, "\n"), stdout));
        one.0.stdout = Some(stdout);
        let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let local = local.and_then(|port| port.parse().ok());
        let local = local.unwrap_or_else(|| panic!("{}: {line:?}", self.name()));
        (one, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local))
    }
}

/// What reads from a program that may say nothing: by a thread of its own, which ends with the program.
#[track_caller]
fn in_time<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, heard) = mpsc::channel();
    thread::spawn(move || told.send(read()));
    heard.recv_timeout(SOON).expect("it says something")
}

/// What comes, until it has the text or its end.
fn until(from: &mut impl Read, text: &str) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(text.as_bytes()) && from.read(&mut byte).expect("reads") > 0 {
        said.push(byte[0]);
    }
    String::from_utf8_lossy(&said).into_owned()
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
    fn end(&mut self, within: Duration) -> ExitStatus {
        let mut ended = None;
        let has = holds_within(within, || {
            ended = self.0.try_wait().expect("is asked");
            ended.is_some()
        });
        if !has {
            // Else whoever reads what it says would wait for ever.
            let _ = self.0.kill();
        }
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

pub(crate) fn a_command_is_run_with_its_streams_and_its_end(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.wait_ready("cat");
    for kubectl in &kubectls(&place) {
        let name = kubectl.name();
        let exec =
            |args: &[&str], input: &[u8]| kubectl.run(&[&["exec", "cat"], args].concat(), input);
        let (code, out, err) = exec(&["-i", "--", "cat"], b"through and back\n");
        assert_eq!((code, &*out), (Some(0), "through and back\n"), "{name}: {err}");
        let (code, out, err) = exec(&["--", "cat", "tty"], b"");
        assert_eq!((code, out.matches("no terminal").count()), (Some(0), 3), "{name}: {err}");
        let out = kubectl.on_terminal(&["exec", "-it", "cat", "--", "cat", "tty"]);
        assert_eq!(out.matches(": terminal\r\n").count(), 3, "{name}: {out:?}");
        let (code, _, err) = exec(&["--", "cat", "no such thing"], b"");
        assert_eq!(code, Some(2), "{name}: {err}");
        assert!(err.contains("usage: cat") && err.contains("exit code 2"), "{name}: {err}");
        let (code, _, err) = exec(&["-c", "none", "--", "cat"], b"");
        assert!(code == Some(1) && err.contains("none"), "{name}: {err}");
    }
    place.finish();
}

pub(crate) fn a_command_whose_client_is_killed_ends(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.wait_ready("cat");
    let sandboxes = || copepod_tests::cluster::leaks::processes(&place.node.file("")).len();
    let before = sandboxes();
    for kubectl in &kubectls(&place) {
        let one = kubectl.start(&["exec", "cat", "--", "cat", "wait"]);
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
    for kubectl in &kubectls(&place) {
        let name = kubectl.name();
        // Output from now on, of one that reads nothing.
        let mut heard = kubectl.start(&["attach", "hello"]);
        let mut stdout = heard.0.stdout.take().expect("a pipe");
        assert!(in_time(move || stdout.read(&mut [0; 64]).expect("reads")) > 0, "{name}");
        drop(heard);
        kubectl.told("cat", "one\n");
    }
    // An agent that is started again has nobody attached; the container is the same, and waits.
    place.node.kill9();
    place.node.run();
    place.node.wait(SOON, "the agent is back", || TcpStream::connect(place.node.healthz()).ok());
    place.wait_ready("cat");
    for kubectl in &kubectls(&place) {
        kubectl.told("cat", "two\n");
    }
    let pod = place.api().get("pods", &place.namespace, "cat").expect("is there");
    assert_eq!(crate::place::container(&pod, "main")["restartCount"], 0, "{pod}");
    let kubectl = &kubectls(&place)[0];
    let (_, out, err) = kubectl.run(&["attach", "-i", "once"], b"the last\n");
    assert_eq!(out, "the last\n", "{err}");
    place.wait_pod("once", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    place.finish();
}

/// Asks an HTTP server by hand; head and body.
fn ask(at: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(at).expect("connects");
    stream.set_read_timeout(Some(2 * SOON)).expect("is set");
    stream.set_write_timeout(Some(2 * SOON)).expect("is set");
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
    for kubectl in &kubectls(&place) {
        let name = kubectl.name();
        let (mut one, at) = kubectl.forward("web", "80");
        for _ in 0..3 {
            let request = b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n";
            let (head, body) = ask(at, request);
            assert!(head.starts_with("HTTP/1.0 200 "), "{name}: {head}");
            assert_eq!(body, b"ok\n", "{name}");
        }
        drop(one.0.stdin.take());
        // A port that nobody listens on is told of, and the rest goes on or ends with it.
        let (mut none, at) = kubectl.forward("web", "81");
        let mut stream = TcpStream::connect(at).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("is set");
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing);
        assert!(nothing.is_empty(), "{name}");
        let expected = "error forwarding port 81 to pod";
        let mut stderr = none.0.stderr.take().expect("a pipe");
        let said = in_time(move || until(&mut stderr, expected));
        assert!(said.ends_with(expected), "{name}: {said}");
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

/// Sends all to a port and hears all back; `head` comes before it, and one with an empty line before
/// the answer if so.
#[track_caller]
fn echoed(at: SocketAddr, head: &str, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).expect("connects");
    stream.set_read_timeout(Some(2 * SOON)).expect("is set");
    stream.set_write_timeout(Some(2 * SOON)).expect("is set");
    let mut writer = stream.try_clone().expect("shares");
    let mut answer = Vec::with_capacity(sent.len() + 1024);
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(head.as_bytes()).expect("is sent");
            writer.write_all(sent).expect("is sent");
            if head.is_empty() {
                writer.shutdown(Shutdown::Write).expect("ends");
            }
        });
        stream.read_to_end(&mut answer).expect("is read");
    });
    if !head.is_empty() {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        answer.drain(..end + 4);
    }
    answer
}

/// Much through a `cat` beside the container of the pod `cat`, and through port 80 of the pod `web`.
#[track_caller]
fn much_each_way(of: &str, kubectls: &[Cli<'_>], head: &str) {
    let sent = much();
    let digest = Sha256::digest(&sent);
    for kubectl in kubectls {
        let name = format!("{of}, {}", kubectl.name());
        let begun = Instant::now();
        let (code, back, err) = kubectl.start(&["exec", "-i", "cat", "--", "cat"]).done(&sent);
        let exec = begun.elapsed();
        assert_eq!((code, back.len()), (Some(0), sent.len()), "{name}: {err}");
        assert_eq!(Sha256::digest(&back), digest, "{name}");
        let (_running, at) = kubectl.forward("web", "80");
        let begun = Instant::now();
        let back = echoed(at, head, &sent);
        let forward = begun.elapsed();
        assert_eq!(back.len(), sent.len(), "{name}");
        assert_eq!(Sha256::digest(&back), digest, "{name}");
        println!("{name}: {} MiB each way: exec {exec:?}, port {forward:?}", MUCH >> 20);
    }
}

pub(crate) fn a_hundred_megabytes_go_each_way_without_loss(world: &World) {
    let place = Place::new(world);
    place.create(&place.pod("cat", "cat", &["wait"]));
    place.create(&http_pod(&place));
    place.wait_ready("cat");
    place.wait_ready("web");
    // Of this version, so that the answer is not in chunks.
    let head = format!("POST /echo HTTP/1.0\r\nHost: x\r\nContent-Length: {MUCH}\r\n\r\n");
    much_each_way("Wasm", &kubectls(&place), &head);
    place.finish();
}

pub(crate) fn a_hundred_megabytes_go_each_way_of_an_ordinary_pod(world: &World) {
    let place = Shared::shared(world);
    place.create(&place.shell("cat", "exec sleep 3600"));
    place.create(&place.shell("web", "exec nc -ll -p 80 -e cat"));
    place.wait_ready("cat");
    place.wait_ready("web");
    much_each_way("busybox", &kubectls(&place), "");
    place.leave();
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
