//! One connection to systemd, and its calls.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{self, Body, FIXED_LEN, Message, Method};
use super::wire::Writer;
use super::{Property, REPLACE, SystemdError};

/// Longest line at the door.
const LINE_MAX: usize = 512;
/// The signal that tells how a job ended.
const JOB_REMOVED: &str = "JobRemoved";
/// How a job ends well.
const DONE: &str = "done";

/// A connection, for one verb: it is to be done in time as a whole.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    timeout: Duration,
    deadline: Instant,
    /// The ends of jobs that were told while something else was waited for.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects, and tells who we are.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) fn open(socket: &Path, timeout: Duration) -> Result<Self, SystemdError> {
        let connect = |source| SystemdError::Connect { path: socket.into(), source };
        let stream = UnixStream::connect(socket).map_err(connect)?;
        let deadline = Instant::now() + timeout;
        let mut bus = Self { stream, serial: 0, timeout, deadline, ended: Vec::new() };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.write(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let line = bus.line()?;
        if !line.starts_with("OK ") {
            return Err(SystemdError::Login(line));
        }
        bus.write(b"BEGIN\r\n")?;
        Ok(bus)
    }

    /// Starts a transient unit and waits until it stands.
    pub(super) fn start(
        &mut self,
        unit: &str,
        properties: &[Property],
    ) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.text(REPLACE);
        body.named(properties.iter().map(|(name, value)| (*name, value)));
        // No other units with it.
        body.list(8, |_| ());
        let job = self.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)?;
        self.finish(&job)
    }

    /// Stops a unit and waits until it is gone.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.text(REPLACE);
        let job = self.call("StopUnit", "ss", body)?;
        self.finish(&job)
    }

    /// Sets properties of a unit for this boot.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.text(unit);
        body.bool(true);
        body.named(properties.iter().map(|(name, value)| (*name, value)));
        self.call("SetUnitProperties", "sba(sv)", body).map(drop)
    }

    /// Calls a method of systemd's manager, and waits for its answer.
    fn call(
        &mut self,
        member: &'static str,
        types: &'static str,
        body: Writer,
    ) -> Result<Body, SystemdError> {
        self.serial += 1;
        let serial = self.serial;
        let method = Method {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member,
            types,
        };
        self.write(&message::call(method, serial, &body.bytes()))?;
        loop {
            match self.next()? {
                Message::Return(to, body) if to == serial => return Ok(body),
                Message::Error(to, name, text) if to == serial => {
                    return Err(SystemdError::Refused { name, text });
                }
                Message::Signal(member, body) => self.note(&member, &body)?,
                Message::Return(..) | Message::Error(..) | Message::Other => {}
            }
        }
    }

    /// Waits for the end of the job that was the answer to a call.
    fn finish(&mut self, answer: &Body) -> Result<(), SystemdError> {
        let job = answer.reader().text().map_err(SystemdError::Message)?;
        loop {
            // Told before its answer at times.
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                let done = result == DONE;
                return if done { Ok(()) } else { Err(SystemdError::Job(result.clone())) };
            }
            if let Message::Signal(member, body) = self.next()? {
                self.note(&member, &body)?;
            }
        }
    }

    fn note(&mut self, member: &str, body: &Body) -> Result<(), SystemdError> {
        if member == JOB_REMOVED {
            // Its number, its path, its unit, its result.
            let mut values = body.reader();
            let mut read = || {
                values.u32()?;
                let job = values.text()?;
                values.text()?;
                Ok((job, values.text()?))
            };
            self.ended.push(read().map_err(SystemdError::Message)?);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Message, SystemdError> {
        let mut fixed = [0; FIXED_LEN];
        self.read(&mut fixed)?;
        let mut bytes = vec![0; FIXED_LEN + message::rest_len(&fixed)?];
        bytes[..FIXED_LEN].copy_from_slice(&fixed);
        self.read(&mut bytes[FIXED_LEN..])?;
        message::read(&bytes)
    }

    /// One line at the door, without its end.
    fn line(&mut self) -> Result<String, SystemdError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > LINE_MAX {
                return Err(SystemdError::Login(String::from_utf8_lossy(&line).into_owned()));
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), SystemdError> {
        while !buffer.is_empty() {
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left)).map_err(SystemdError::Transfer)?;
            match self.stream.read(buffer) {
                Ok(0) => {
                    return Err(SystemdError::Transfer(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(read) => buffer = &mut buffer[read..],
                Err(error) => Self::passing(error)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), SystemdError> {
        while !bytes.is_empty() {
            let left = self.left()?;
            self.stream.set_write_timeout(Some(left)).map_err(SystemdError::Transfer)?;
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => Self::passing(error)?,
            }
        }
        Ok(())
    }

    /// What is left of the time; never zero, which would be no bound.
    fn left(&self) -> Result<Duration, SystemdError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SystemdError::Timeout(self.timeout.as_secs()));
        }
        Ok(left)
    }

    /// An error that another try may not have; the next looks at the time.
    fn passing(error: io::Error) -> Result<(), SystemdError> {
        let passing = matches!(
            error.kind(),
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        if passing { Ok(()) } else { Err(SystemdError::Transfer(error)) }
    }
}
