//! The sandbox's side of the socket to its agent.
//!
//! Owns: the listening socket and the one connection of the agent. The agent has connected before
//! it starts the sandbox; an agent that was started again connects again. What it sends is heard when
//! the log is full, now and then when the guest writes, and by [`attend`] while the guest waits.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_wasm::Description;
use copepod_wasm::frame::{
    Attached, FrameError, FromSandbox, HEADER_LEN, MAX_NEWS, ToSandbox, header,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketFlags,
    accept_with, recv, recvmsg, send, shutdown,
};
use thiserror::Error;
use tokio::io::Interest;

use crate::attached::Input;
use crate::limit::Budget;
use crate::linux;
use crate::log::{Log, NextLog, Stream};

#[cfg(test)]
mod tests;

/// How long the first connection and the description may take: both are there before the sandbox
/// is, so this is only for an agent that is stopped or starved.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How often a look for a new log may wait, or go on to a next connection: there is one connection
/// for each former agent that left, and one frame on the last.
const TURNS: usize = 16;
/// Descriptors that come with one frame.
const FDS_MAX: usize = 3;
/// Copies that wait for the log to take them: the agent sends no more at a time.
const COPIES_MAX: usize = 16;

/// Why there is no description.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    #[error("cannot accept the agent's connection")]
    Accept(#[source] io::Error),
    #[error("cannot read the description")]
    Describe(#[source] FrameError),
    #[error("the first frame is not a description")]
    NotADescription,
    #[error("{0} descriptors came with the description, expected three standard streams")]
    Streams(usize),
}

/// What an agent's first frame brings.
pub(crate) struct Accepted {
    pub(crate) agent: Agent,
    pub(crate) description: Description,
    /// The guest's standard input, output and error, where the description says that they came.
    pub(crate) streams: Option<[OwnedFd; 3]>,
}

/// The agent, as the sandbox has it; all clones are one.
#[derive(Clone)]
pub(crate) struct Agent(Arc<Mutex<Link>>);

struct Link {
    listener: OwnedFd,
    connection: Option<OwnedFd>,
    /// Whether the present connection was asked for a new log.
    asked: bool,
    /// A frame as far as it has come, and the descriptors that came with it.
    frame: [u8; HEADER_LEN + MAX_NEWS],
    got: usize,
    came: Vec<OwnedFd>,
    /// A log and copies that came when nobody took them.
    log: Option<OwnedFd>,
    copies: Vec<(Stream, OwnedFd)>,
    /// What the guest reads.
    input: Option<Input>,
    /// What its memories may hold.
    budget: Option<Arc<Budget>>,
    /// Counts connections, and their ends.
    generation: u64,
}

/// What a frame brings once all is there.
enum Heard {
    Log(OwnedFd),
    Attach(Attached, Vec<OwnedFd>),
    Limit(Option<u64>),
}

impl Agent {
    /// Takes the agent's connection from the listening socket, and its description from there.
    /// `None` if the agent has gone without one.
    pub(crate) fn accept(listener: OwnedFd) -> Result<Option<Accepted>, AgentError> {
        let accept = |e: Errno| AgentError::Accept(e.into());
        ioctl_fionbio(&listener, true).map_err(accept)?;
        if !readable(&listener, START_PATIENCE) {
            return Ok(None);
        }
        let connection = accept_with(&listener, SocketFlags::CLOEXEC).map_err(accept)?;
        let stream = UnixStream::from(connection);
        stream.set_read_timeout(Some(START_PATIENCE)).map_err(AgentError::Accept)?;
        let mut reader = Reader { stream: &stream, came: Vec::new() };
        let description = match ToSandbox::read(&mut reader).map_err(AgentError::Describe)? {
            Some(ToSandbox::Describe(description)) => *description,
            Some(ToSandbox::Log | ToSandbox::Attach(_) | ToSandbox::Limit(_)) => {
                return Err(AgentError::NotADescription);
            }
            None => return Ok(None),
        };
        let streams = match (description.streams, <[OwnedFd; 3]>::try_from(reader.came)) {
            (true, Ok(streams)) => Some(streams),
            (true, Err(came)) => return Err(AgentError::Streams(came.len())),
            (false, _) => None,
        };
        let link = Link {
            listener,
            connection: Some(stream.into()),
            asked: false,
            frame: [0; HEADER_LEN + MAX_NEWS],
            got: 0,
            came: Vec::new(),
            log: None,
            copies: Vec::new(),
            input: None,
            budget: None,
            generation: 0,
        };
        let agent = Self(Arc::new(Mutex::new(link)));
        Ok(Some(Accepted { agent, description, streams }))
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        // Each change is whole at every step, so what a panic left is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent has closed its end.
    pub(crate) fn gone(&self) -> bool {
        self.lock().gone()
    }

    /// Clients that are attached are read by the guest through this.
    pub(crate) fn set_input(&self, input: Input) {
        self.lock().input = Some(input);
    }

    /// The agent may change this from now on.
    pub(crate) fn set_budget(&self, budget: Arc<Budget>) {
        self.lock().budget = Some(budget);
    }

    /// Takes what the agent has said and nobody has heard.
    pub(crate) fn hear(&self) {
        self.lock().hear_all();
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

    fn new_copies(&mut self) -> Vec<(Stream, OwnedFd)> {
        let mut link = self.lock();
        link.hear_all();
        std::mem::take(&mut link.copies)
    }
}

/// Hears the agent whenever the guest waits for anything: this is polled then. Ends with the event
/// loop.
pub(crate) async fn attend(agent: Agent, log: Log) {
    loop {
        // A connection of its own description would be another one to the agent: these are the same.
        let awaited = {
            let link = agent.lock();
            let fd = link.connection.as_ref().unwrap_or(&link.listener);
            fcntl_dupfd_cloexec(fd, 0).map(|fd| (link.generation, fd))
        };
        // Without descriptors nobody can be attached, and the guest runs all the same.
        let Ok((generation, fd)) = awaited else { return };
        let Ok(watched) = linux::watch(fd, Interest::READABLE) else { return };
        while agent.lock().generation == generation {
            let Ok(mut ready) = watched.readable().await else { return };
            ready.clear_ready();
            log.take_copies();
        }
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
        if let Some(connection) = self.connection.take() {
            // Whoever waits for it has a descriptor of its own. One that is closed already is well.
            let _ = shutdown(&connection, Shutdown::Both);
        }
        self.asked = false;
        self.got = 0;
        self.came.clear();
        self.generation += 1;
    }

    /// Has a connection if one is to be had at once.
    fn reach(&mut self) -> bool {
        if self.connection.is_none()
            && let Ok(connection) = accept_with(&self.listener, SocketFlags::CLOEXEC)
        {
            self.connection = Some(connection);
            self.generation += 1;
        }
        self.connection.is_some()
    }

    /// Has a connection if one is to be had at once, and has asked it for a log.
    fn ask(&mut self) -> bool {
        if self.reach() && !self.asked {
            self.tell(&FromSandbox::LogFull);
            self.asked = self.connection.is_some();
        }
        self.connection.is_some()
    }

    /// Reads what has come; `Ok` once a whole frame is there.
    fn receive(&mut self) -> Result<Heard, Errno> {
        let connection = self.connection.as_ref().ok_or(Errno::NOTCONN)?;
        // The frames that are taken now are short, some with descriptors.
        let mut whole = HEADER_LEN;
        if self.got >= HEADER_LEN {
            whole += self.payload_len()?;
        }
        while self.got < whole {
            let rest = &mut self.frame[self.got..whole];
            match receive(connection, rest, RecvFlags::DONTWAIT, &mut self.came)? {
                0 => return Err(Errno::PIPE),
                n => self.got += n,
            }
            if self.came.len() > FDS_MAX {
                return Err(Errno::PROTO);
            }
            if self.got >= HEADER_LEN {
                whole = HEADER_LEN + self.payload_len()?;
            }
        }
        self.got = 0;
        let mut came = std::mem::take(&mut self.came);
        match ToSandbox::read(&mut &self.frame[..whole]) {
            Ok(Some(ToSandbox::Log)) => came.pop().map(Heard::Log).ok_or(Errno::PROTO),
            Ok(Some(ToSandbox::Attach(which))) if which.count() == came.len() => {
                Ok(Heard::Attach(which, came))
            }
            Ok(Some(ToSandbox::Limit(limit))) => Ok(Heard::Limit(limit)),
            _ => Err(Errno::PROTO),
        }
    }

    /// How long the payload is of the frame whose header has come.
    fn payload_len(&self) -> Result<usize, Errno> {
        let mut head = [0; HEADER_LEN];
        head.copy_from_slice(&self.frame[..HEADER_LEN]);
        header(head, MAX_NEWS).map(|(_, len)| len).map_err(|_| Errno::PROTO)
    }

    fn limit(&self, limit: Option<u64>) {
        if let Some(budget) = &self.budget {
            budget.set_limit(limit);
        }
    }

    /// Connects what came to the guest's streams.
    fn attach(&mut self, which: Attached, came: Vec<OwnedFd>) {
        let mut came = came.into_iter();
        if which.stdin
            && let (Some(pipe), Some(input)) = (came.next(), &self.input)
        {
            input.add(pipe);
        }
        let wanted = [(which.stdout, Stream::Stdout), (which.stderr, Stream::Stderr)];
        let outputs = wanted.into_iter().filter_map(|(is, stream)| is.then_some(stream));
        self.copies.extend(outputs.zip(came));
        self.copies.truncate(COPIES_MAX);
    }

    /// Takes all that has come, of this agent or of the next.
    fn hear_all(&mut self) {
        for _ in 0..TURNS {
            if !self.reach() {
                return;
            }
            match self.receive() {
                Ok(Heard::Log(log)) => self.log = Some(log),
                Ok(Heard::Attach(which, came)) => self.attach(which, came),
                Ok(Heard::Limit(limit)) => self.limit(limit),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Gone, or not to be understood: another agent may be waiting already.
                Err(_) => self.disconnect(),
            }
        }
    }

    fn next_log(&mut self, patience: Duration) -> Option<OwnedFd> {
        let until = Instant::now() + patience;
        for _ in 0..TURNS {
            if !self.ask() {
                break;
            }
            let received = match self.log.take() {
                Some(log) => Ok(Heard::Log(log)),
                None => self.receive(),
            };
            match received {
                Ok(Heard::Log(log)) => {
                    self.asked = false;
                    return Some(log);
                }
                Ok(Heard::Attach(which, came)) => self.attach(which, came),
                Ok(Heard::Limit(limit)) => self.limit(limit),
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

/// Reads bytes, and adds the descriptors that come with them: three at most a time, which is what
/// any one frame brings; the kernel closes further ones.
fn receive(
    from: impl AsFd,
    bytes: &mut [u8],
    flags: RecvFlags,
    came: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            came.extend(descriptors);
        }
    }
    Ok(message.bytes)
}

/// Reads a stream with the descriptors that come.
struct Reader<'a> {
    stream: &'a UnixStream,
    came: Vec<OwnedFd>,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(receive(self.stream, bytes, RecvFlags::empty(), &mut self.came)?)
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
