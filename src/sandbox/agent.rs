//! The sandbox's side of the socket to its agent.
//!
//! Owns: the listening socket and the one connection of the agent. The agent has connected before
//! it starts the sandbox; an agent that was started again connects again, and is found when the log
//! is full, since nothing else is ever asked of it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_wasm::Description;
use copepod_wasm::frame::{FrameError, FromSandbox, HEADER_LEN, ToSandbox, header};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, accept_with,
    recv, recvmsg, send,
};
use thiserror::Error;

use crate::log::NextLog;

/// How long the first connection and the description may take: both are there before the sandbox
/// is, so this is only for an agent that is stopped or starved.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How often a look for a new log may wait, or go on to a next connection: there is one connection
/// for each former agent that left, and one frame on the last.
const TURNS: usize = 16;

/// Why there is no description.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    #[error("cannot accept the agent's connection")]
    Accept(#[source] io::Error),
    #[error("cannot read the description")]
    Describe(#[source] FrameError),
    #[error("the first frame is not a description")]
    NotADescription,
}

/// The agent, as the sandbox has it; all clones are one.
#[derive(Clone)]
pub(crate) struct Agent(Arc<Mutex<Link>>);

struct Link {
    listener: OwnedFd,
    connection: Option<OwnedFd>,
    /// Whether the present connection was asked for a new log.
    asked: bool,
    /// The header of a frame as far as it has come, and the descriptor that came with it.
    head: [u8; HEADER_LEN],
    got: usize,
    log: Option<OwnedFd>,
}

impl Agent {
    /// Takes the agent's connection from the listening socket, and its description from there.
    /// `None` if the agent has gone without one.
    pub(crate) fn accept(listener: OwnedFd) -> Result<Option<(Self, Description)>, AgentError> {
        let accept = |e: Errno| AgentError::Accept(e.into());
        ioctl_fionbio(&listener, true).map_err(accept)?;
        if !readable(&listener, START_PATIENCE) {
            return Ok(None);
        }
        let connection = accept_with(&listener, SocketFlags::CLOEXEC).map_err(accept)?;
        let stream = UnixStream::from(connection);
        stream.set_read_timeout(Some(START_PATIENCE)).map_err(AgentError::Accept)?;
        let description = match ToSandbox::read(&mut &stream).map_err(AgentError::Describe)? {
            Some(ToSandbox::Describe(description)) => *description,
            Some(ToSandbox::Log) => return Err(AgentError::NotADescription),
            None => return Ok(None),
        };
        let link = Link {
            listener,
            connection: Some(stream.into()),
            asked: false,
            head: [0; HEADER_LEN],
            got: 0,
            log: None,
        };
        Ok(Some((Self(Arc::new(Mutex::new(link))), description)))
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        // Each change is whole at every step, so what a panic left is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent has closed its end.
    pub(crate) fn gone(&self) -> bool {
        self.lock().gone()
    }

    /// Tells the agent, if it is there. The frames are few and small: what does not fit into the
    /// socket's buffer is for an agent that has stopped reading, which is treated as gone.
    pub(crate) fn tell(&self, frame: &FromSandbox) {
        self.lock().tell(frame);
    }
}

impl NextLog for Agent {
    fn next_log(&mut self, patience: Duration) -> Option<OwnedFd> {
        self.lock().next_log(patience)
    }
}

impl Link {
    fn gone(&self) -> bool {
        let Some(connection) = &self.connection else { return true };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // A reset is as good as an end of file; data or none yet is a living agent.
        !matches!(recv(connection, &mut [0; 1], flags), Ok((1.., _)) | Err(Errno::AGAIN))
    }

    fn tell(&mut self, frame: &FromSandbox) {
        let Some(connection) = &self.connection else { return };
        let bytes = frame.encode();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if send(connection, &bytes, flags) != Ok(bytes.len()) {
            self.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.asked = false;
        self.got = 0;
        self.log = None;
    }

    /// Has a connection if one is to be had at once, and has asked it for a log.
    fn ask(&mut self) -> bool {
        if self.connection.is_none() {
            self.connection = accept_with(&self.listener, SocketFlags::CLOEXEC).ok();
        }
        if self.connection.is_some() && !self.asked {
            self.tell(&FromSandbox::LogFull);
            self.asked = self.connection.is_some();
        }
        self.connection.is_some()
    }

    /// Reads what has come; `Ok` once a whole frame is there.
    fn receive(&mut self) -> Result<OwnedFd, Errno> {
        let connection = self.connection.as_ref().ok_or(Errno::NOTCONN)?;
        while self.got < HEADER_LEN {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut rest = [IoSliceMut::new(&mut self.head[self.got..])];
            let message = recvmsg(connection, &mut rest, &mut ancillary, flags)?;
            if message.bytes == 0 {
                return Err(Errno::PIPE);
            }
            self.got += message.bytes;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    self.log = descriptors.next().or(self.log.take());
                }
            }
        }
        self.got = 0;
        // The only frame that is taken now is an empty one with a descriptor.
        let log = self.log.take();
        let taken = ToSandbox::read(&mut &self.head[..]);
        match (header(self.head, 0), taken, log) {
            (Ok(_), Ok(Some(ToSandbox::Log)), Some(log)) => Ok(log),
            _ => Err(Errno::PROTO),
        }
    }

    fn next_log(&mut self, patience: Duration) -> Option<OwnedFd> {
        let until = Instant::now() + patience;
        for _ in 0..TURNS {
            if !self.ask() {
                break;
            }
            match self.receive() {
                Ok(log) => {
                    self.asked = false;
                    return Some(log);
                }
                Err(Errno::AGAIN) => {
                    let left = until.saturating_duration_since(Instant::now());
                    let connection = self.connection.as_ref()?;
                    if left.is_zero() || !readable(connection, left) {
                        return None;
                    }
                }
                Err(Errno::INTR) => {}
                // Gone, or not to be understood: another agent may be waiting already.
                Err(_) => self.disconnect(),
            }
        }
        None
    }
}

/// Waits until something is to be read, at most `patience`.
fn readable(fd: &OwnedFd, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use copepod_wasm::GuestKind;
    use copepod_wasm::frame::MAX_FROM_SANDBOX;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use tempfile::TempDir;

    use super::*;

    fn description() -> Description {
        Description {
            artefact: "/cache/a.cwasm".into(),
            kind: GuestKind::Http,
            args: vec!["a".into()],
            env: vec![("K".into(), "V".into())],
            preopens: Vec::new(),
            mounts: Vec::new(),
            streams: false,
            user: None,
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

        fn described(mut self) -> (Self, Agent) {
            let listener = UnixListener::bind(self.dir.path().join("l")).expect("binds");
            self.stream = UnixStream::connect(self.dir.path().join("l")).expect("connects");
            self.send(&ToSandbox::Describe(Box::new(description())));
            let (agent, got) = Agent::accept(listener.into()).expect("accepts").expect("is there");
            assert_eq!(got, description());
            (self, agent)
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
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = [log.as_fd()];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let first = [IoSlice::new(&bytes[..2])];
            sendmsg(&self.stream, &first, &mut ancillary, SendFlags::empty()).expect("sends");
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
}
