//! wasi:http guests, asked over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use copepod_tests::{Run, wait_until};
use rustix::process::Signal;

use crate::{SOON, Scene, one};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("is bound").port()
}

/// Sends a request, waiting for the server to listen.
pub(crate) fn send(port: u16, method: &str, path: &str, body: &[u8]) -> TcpStream {
    let mut connected = None;
    wait_until(SOON, "the guest listens", || {
        connected = TcpStream::connect(("127.0.0.1", port)).ok();
        connected.is_some()
    });
    let mut stream = connected.expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("sets");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sends");
    let mut writer = stream.try_clone().expect("clones");
    let body = body.to_vec();
    // Beside the reading: an echo of a large body answers before it has read all.
    std::thread::spawn(move || writer.write_all(&body));
    stream
}

/// The answer's code and its body, chunks put together.
pub(crate) fn answer(mut stream: TcpStream) -> (u16, Vec<u8>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    let mut rest = &bytes[end..];
    if !head.contains("transfer-encoding: chunked") {
        return (code, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.iter().position(|byte| *byte == b'\n').expect("a chunk's size");
        let size = std::str::from_utf8(&rest[..line]).expect("hex").trim();
        let size = usize::from_str_radix(size, 16).expect("hex");
        body.extend_from_slice(&rest[line + 1..][..size]);
        if size == 0 {
            return (code, body);
        }
        rest = &rest[line + 1 + size + 2..];
    }
}

pub(crate) fn get(port: u16, path: &str) -> (u16, String) {
    let (code, body) = answer(send(port, "GET", path, &[]));
    (code, String::from_utf8_lossy(&body).into_owned())
}

fn serve(scene: &Scene, more: &str) -> (Run, u16) {
    let port = free_port();
    let ports = format!("ports: [{{containerPort: {port}}}]\nenv: [{{name: WHO, value: world}}]");
    let run = scene.start(&one("http", "Always", &format!("{ports}\n{more}")), &["-o", "json"]);
    (run, port)
}

#[test]
fn requests_are_answered_each_by_a_fresh_instance() {
    let scene = Scene::new();
    let (mut run, port) = serve(&scene, "");
    assert_eq!(get(port, "/healthz"), (200, "ok\n".into()));
    assert!(get(port, "/env").1.contains("WHO=world"));
    assert_eq!(get(port, "/none").0, 404);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (code, echo) = answer(send(port, "POST", "/echo", &body));
    assert_eq!(code, 200);
    assert!(echo == body, "{} bytes came back of {}", echo.len(), body.len());

    // A trap is that request's alone.
    assert_eq!(get(port, "/trap").0, 500);
    assert_eq!(get(port, "/healthz").0, 200);
    run.wait_line("unreachable", SOON);
    assert!(!run.stdout().contains("\"restartCount\":1"), "{}", run.stdout());

    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(0), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn many_connections_are_served_at_once_on_one_thread() {
    let scene = Scene::new();
    let (mut run, port) = serve(&scene, "");
    // Slow senders first: they must not hold up the others.
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = send(port, "GET", "/healthz", &[]);
            stream.shutdown(Shutdown::Read).expect("shuts");
            let mut other = TcpStream::connect(("127.0.0.1", port)).expect("connects");
            other.write_all(b"GET /heal").expect("sends half a head");
            stream.flush().expect("flushes");
            other
        })
        .collect();
    let threads: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || (0..25).all(|_| get(port, "/healthz").0 == 200)))
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().expect("ends")));
    let [pid] = crate::survive::sandboxes(&scene.home)[..] else { panic!("one was expected") };
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    assert_eq!(tasks.expect("lives").count(), 1, "one thread");
    drop(slow);
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(0), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn memory_past_the_limit_ends_the_container() {
    let scene = Scene::new();
    let (mut run, port) = serve(&scene, "resources: {limits: {memory: 32Mi}}");
    assert_eq!(get(port, "/alloc?mib=8").0, 200);
    let mut stream = send(port, "GET", "/alloc?mib=200", &[]);
    // Whatever the connection says, the container ends and comes back.
    let _ = stream.read_to_end(&mut Vec::new());
    run.wait_line("OOMKilled", SOON);
    run.wait_line("\"restartCount\":1", SOON);
    assert_eq!(get(port, "/healthz").0, 200);
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(0), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port();
    let ended = Scene::new()
        .run(&one("http", "Never", &format!("ports: [{{containerPort: {port}}}]")), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let text = format!("one: port {port} of container \"main\" is taken by another process: it-");
    assert!(ended.err.contains(&text), "{ended:?}");
}
