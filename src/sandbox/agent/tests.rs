//! The other end of the socket: an agent that describes, leaves, comes back and sends logs.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use copepod_wasm::frame::MAX_FROM_SANDBOX;
use copepod_wasm::{GuestKind, Stdin};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
use tempfile::TempDir;
use wasmtime::ResourceLimiter;

use super::*;
use crate::limit::Limiter;

fn description() -> Description {
    Description {
        artefact: "/cache/a.cwasm".into(),
        kind: GuestKind::Http,
        args: vec!["a".into()],
        env: vec![("K".into(), "V".into())],
        preopens: Vec::new(),
        mounts: Vec::new(),
        streams: false,
        stdin: Stdin::Closed,
        user: None,
        cgroups: Vec::new(),
        oom_score_adj: None,
        network: None,
        memory_limit_bytes: Some(1 << 20),
        log_limit_bytes: 1 << 20,
        listen: vec!["127.0.0.1:80".parse().expect("an address")],
        grace_seconds: 30,
        die_with_agent: true,
    }
}

/// The agent's side: a socket in a directory, and the connection made before the sandbox is.
struct Peer {
    dir: TempDir,
    stream: UnixStream,
}

impl Peer {
    fn new() -> (Self, OwnedFd) {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("binds");
        let stream = UnixStream::connect(dir.path().join("s")).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        (Self { dir, stream }, listener.into())
    }

    fn send(&mut self, frame: &ToSandbox) {
        self.stream.write_all(&frame.encode().expect("encodes")).expect("writes");
    }

    /// Sends bytes of a frame with a descriptor of each file.
    fn send_with(&mut self, bytes: &[u8], files: &[File]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [IoSlice::new(bytes)];
        sendmsg(&self.stream, &bytes, &mut ancillary, SendFlags::empty()).expect("sends");
    }

    fn described(mut self) -> (Self, Agent) {
        let listener = UnixListener::bind(self.dir.path().join("l")).expect("binds");
        self.stream = UnixStream::connect(self.dir.path().join("l")).expect("connects");
        self.send(&ToSandbox::Describe(Box::new(description())));
        let accepted = Agent::accept(listener.into()).expect("accepts").expect("is there");
        assert_eq!(accepted.description, description());
        assert!(accepted.streams.is_none());
        (self, accepted.agent)
    }

    fn connect_again(&mut self) {
        self.stream = UnixStream::connect(self.dir.path().join("l")).expect("connects");
    }

    fn got(&self) -> FromSandbox {
        let mut head = [0; HEADER_LEN];
        std::io::Read::read_exact(&mut &self.stream, &mut head).expect("a header");
        let (kind, len) = header(head, MAX_FROM_SANDBOX).expect("is one");
        let mut payload = vec![0; len];
        std::io::Read::read_exact(&mut &self.stream, &mut payload).expect("a payload");
        FromSandbox::decode(kind, payload).expect("a frame")
    }

    /// Sends a new log whose frame comes in two pieces, the descriptor with the first.
    fn send_log(&mut self, path: &Path) {
        let log = File::create(path).expect("makes");
        let bytes = ToSandbox::Log.encode().expect("encodes");
        self.send_with(&bytes[..2], &[log]);
        self.stream.write_all(&bytes[2..]).expect("writes");
    }
}

#[test]
fn an_agent_that_leaves_without_a_description_is_none() {
    let (peer, listener) = Peer::new();
    drop(peer);
    assert!(Agent::accept(listener).expect("accepts").is_none());
    let (mut peer, listener) = Peer::new();
    peer.send(&ToSandbox::Log);
    assert!(matches!(Agent::accept(listener), Err(AgentError::NotADescription)));
}

#[test]
fn a_new_log_is_asked_for_once_and_taken_whole() {
    let (mut peer, mut agent) = Peer::new().0.described();
    for _ in 0..3 {
        assert!(agent.next_log(Duration::ZERO).is_none(), "none has come");
    }
    assert_eq!(peer.got(), FromSandbox::LogFull);
    let path = peer.dir.path().join("log");
    peer.send_log(&path);
    let log = agent.next_log(Duration::ZERO).expect("has come");
    rustix::io::write(&log, b"here").expect("writes");
    assert_eq!(std::fs::read(&path).expect("reads"), b"here");
    // The next frame tells that no second request came before it.
    agent.tell(&FromSandbox::Started);
    assert_eq!(peer.got(), FromSandbox::Started);
    assert!(agent.next_log(Duration::ZERO).is_none());
    assert_eq!(peer.got(), FromSandbox::LogFull, "the next log is asked for anew");
}

#[test]
fn an_agent_that_was_started_again_is_asked_again() {
    let (mut peer, mut agent) = Peer::new().0.described();
    assert!(!agent.gone());
    assert!(agent.next_log(Duration::ZERO).is_none());
    drop(std::mem::replace(&mut peer.stream, UnixStream::pair().expect("makes").0));
    assert!(agent.gone());
    assert!(agent.next_log(Duration::from_secs(60)).is_none(), "nobody is waited for");
    peer.connect_again();
    assert!(agent.next_log(Duration::ZERO).is_none());
    assert_eq!(peer.got(), FromSandbox::LogFull);
    // An agent that is there is waited for.
    let mut waiting = agent.clone();
    let waiter = std::thread::spawn(move || waiting.next_log(Duration::from_secs(10)));
    let path = peer.dir.path().join("log");
    peer.send_log(&path);
    assert!(waiter.join().expect("ends").is_some());
}

#[test]
fn a_frame_that_is_none_ends_the_connection() {
    let (mut peer, mut agent) = Peer::new().0.described();
    peer.send(&ToSandbox::Log);
    assert!(agent.next_log(Duration::ZERO).is_none(), "a log frame without a log");
    assert!(agent.gone());
}

#[test]
fn a_limit_is_heard_when_the_guest_wants_more() {
    let (mut peer, agent) = Peer::new().0.described();
    let budget = Budget::new(Some(1 << 20));
    budget.follow(&agent);
    let mut limiter = Limiter::new(budget);
    let mut grow = |from: usize, to: usize| limiter.memory_growing(from, to, None).expect("says");
    assert!(grow(0, 1 << 20) && !grow(1 << 20, 2 << 20));
    let bytes = ToSandbox::Limit(Some(2 << 20)).encode().expect("encodes");
    peer.stream.write_all(&bytes[..HEADER_LEN + 3]).expect("writes");
    assert!(!grow(1 << 20, 2 << 20), "the frame is not whole");
    peer.stream.write_all(&bytes[HEADER_LEN + 3..]).expect("writes");
    assert!(grow(1 << 20, 2 << 20));
    // What came before is heard as well.
    peer.send_log(&peer.dir.path().join("log"));
    peer.send(&ToSandbox::Limit(None));
    assert!(grow(2 << 20, 64 << 20));
    assert!(agent.clone().next_log(Duration::ZERO).is_some(), "the log is kept");
    assert!(!agent.gone());
}

#[test]
fn the_streams_of_an_exec_come_with_its_description() {
    let exec = || ToSandbox::Describe(Box::new(Description { streams: true, ..description() }));
    let bytes = exec().encode().expect("encodes");
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).expect("writes");
        File::open(path).expect("opens")
    };
    let (mut peer, listener) = Peer::new();
    peer.send_with(&bytes[..HEADER_LEN], &["in", "out", "err"].map(file));
    peer.stream.write_all(&bytes[HEADER_LEN..]).expect("writes");
    let accepted = Agent::accept(listener).expect("accepts").expect("is there");
    let names = accepted
        .streams
        .expect("came")
        .map(|fd| std::io::read_to_string(File::from(fd)).expect("reads"));
    assert_eq!(names, ["in", "out", "err"]);

    let (mut peer, listener) = Peer::new();
    peer.send_with(&bytes, &["in", "out"].map(file));
    assert!(matches!(Agent::accept(listener), Err(AgentError::Streams(2))));
    let (mut peer, listener) = Peer::new();
    peer.send(&exec());
    assert!(matches!(Agent::accept(listener), Err(AgentError::Streams(0))));
}
