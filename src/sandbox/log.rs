//! The log of the container: CRI lines, written by the sandbox itself.
//!
//! Owns: the log's descriptor and size, the unfinished line of each stream, what happens at the
//! size limit. A line is `2026-11-22T03:00:00.123456789Z stdout F text`, with the tag `P` for a
//! part of a line longer than [`PART`] (kubelet.md 10.4); one write(2) each, so that a reader never
//! sees half a line of a live container.
//!
//! The agent rotates: past the limit each further line first asks for a new log. While none comes,
//! lines go on into the old one up to twice the limit; then they are dropped and counted.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use rustix::io::{DupFlags, Errno, dup3, writev};

use crate::attached::Copies;
use crate::stamp;

/// Longest content of one log line in bytes (containerd's `max_container_log_line_size`).
pub(crate) const PART: usize = 16 << 10;

/// How long a guest waits at twice the limit for an agent that is connected: long enough for a
/// busy agent to rotate, short enough not to be taken for a hang. Once per new log.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a guest that writes without ever waiting has new copies looked for: a call of the kernel
/// for each line would be one too many.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The line that marks where lines are missing.
const DROPPING: &[u8] = b"copepod: log limit reached, lines dropped until the agent returns";

/// Which of the guest's streams a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// Where a new log comes from: the agent, or a script in a test.
pub trait NextLog: Send {
    /// A new log, if one is there; asks for one first where that was not done yet. Waits at most
    /// `patience`, and not at all if nobody is there who could send one.
    fn next_log(&mut self, patience: Duration) -> Option<OwnedFd>;

    /// The ends of pipes that have come, to which what is written is copied from now on. Waits for
    /// nothing.
    fn new_copies(&mut self) -> Vec<(Stream, OwnedFd)> {
        Vec::new()
    }
}

/// The log, shared by the guest's streams and the sandbox itself.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Inner>>);

struct Inner {
    file: OwnedFd,
    size: u64,
    limit: u64,
    next: Box<dyn NextLog>,
    waited: bool,
    dropped: u64,
    /// Unfinished lines, of [`PART`] bytes at most.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    copies: Copies,
    /// When new copies were last looked for.
    looked: Instant,
}

impl Log {
    /// A log that writes to `file` (append-only) and asks `next` for another past `limit` bytes.
    pub fn new(file: OwnedFd, limit: u64, next: impl NextLog + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            size: size(&file),
            file,
            limit,
            next: Box::new(next),
            waited: false,
            dropped: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            copies: Copies::default(),
            looked: Instant::now(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change of the log is whole at every step, so one that a panic left is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes of a stream; whole lines are written, the rest is kept. Who is attached has them at
    /// once.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.take(stream, bytes);
        if inner.looked.elapsed() >= LOOK_EVERY {
            inner.take_copies();
        }
        inner.copies.write(stream, bytes);
    }

    /// Copies what is written from now on to those who have come for it.
    pub(crate) fn take_copies(&self) {
        self.lock().take_copies();
    }

    /// Writes lines of the sandbox's own, as if from the guest's standard error. What is longer
    /// than [`PART`] is cut: no text of the sandbox is.
    pub(crate) fn note(&self, text: &str) {
        let mut inner = self.lock();
        for line in text.lines() {
            inner.line(Stream::Stderr, b'F', &[], &line.as_bytes()[..line.len().min(PART)]);
        }
    }

    /// Writes the unfinished lines as whole ones: the guest has ended.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(inner.unfinished(stream));
            if !rest.is_empty() {
                inner.line(stream, b'F', &[], &rest);
            }
        }
    }
}

impl Inner {
    fn take_copies(&mut self) {
        self.looked = Instant::now();
        for (stream, pipe) in self.next.new_copies() {
            self.copies.add(stream, pipe);
        }
    }

    fn unfinished(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut kept = std::mem::take(self.unfinished(stream));
            let room = PART - kept.len();
            let seen = &bytes[..bytes.len().min(room + 1)];
            if let Some(end) = seen.iter().position(|byte| *byte == b'\n') {
                self.line(stream, b'F', &kept, &bytes[..end]);
                kept.clear();
                bytes = &bytes[end + 1..];
            } else if bytes.len() > room {
                self.line(stream, b'P', &kept, &bytes[..room]);
                kept.clear();
                bytes = &bytes[room..];
            } else {
                kept.extend_from_slice(bytes);
                bytes = &[];
            }
            *self.unfinished(stream) = kept;
        }
    }

    /// Writes one line whose content lies in two pieces.
    fn line(&mut self, stream: Stream, tag: u8, head: &[u8], tail: &[u8]) {
        if self.size >= self.limit {
            self.ask();
        }
        if self.dropped > 0 {
            self.dropped += 1;
            return;
        }
        if self.size >= self.limit.saturating_mul(2) {
            self.dropped = 1;
            self.put(Stream::Stderr, b'F', &[], DROPPING);
            return;
        }
        self.put(stream, tag, head, tail);
    }

    /// Asks for a new log and takes it, if it has come.
    fn ask(&mut self) {
        let full = self.size >= self.limit.saturating_mul(2);
        let patience = if full && !self.waited { PATIENCE } else { Duration::ZERO };
        self.waited |= full;
        let Some(new) = self.next.next_log(patience) else { return };
        // The number stays; only close-on-exec is set anew. It fails for no open descriptor.
        if dup3(new, &mut self.file, DupFlags::CLOEXEC).is_err() {
            return;
        }
        self.size = size(&self.file);
        self.waited = false;
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let text = format!("copepod: {dropped} log lines were dropped");
            self.put(Stream::Stderr, b'F', &[], text.as_bytes());
        }
    }

    fn put(&mut self, stream: Stream, tag: u8, head: &[u8], tail: &[u8]) {
        let stamp = stamp::stamp(stamp::now());
        let tag = [b' ', tag, b' '];
        let mut pieces =
            [&stamp[..], b" ", stream.name(), &tag, head, tail, b"\n"].map(IoSlice::new);
        let mut rest = &mut pieces[..];
        while !rest.is_empty() {
            match writev(&self.file, rest) {
                Ok(n) if n > 0 => {
                    self.size += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                // A full disk must not end the guest, as it does not end one of a usual runtime.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn size(file: &OwnedFd) -> u64 {
    fstat(file).map_or(0, |stat| stat.st_size.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_to_string};
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tempfile::TempDir;

    use super::*;

    /// An agent that gives the logs that the test has sent, and counts how often it is asked.
    struct Script {
        logs: Receiver<OwnedFd>,
        asked: Sender<Duration>,
    }

    impl NextLog for Script {
        fn next_log(&mut self, patience: Duration) -> Option<OwnedFd> {
            self.asked.send(patience).expect("the test listens");
            self.logs.try_recv().ok()
        }
    }

    struct Setup {
        dir: TempDir,
        log: Log,
        logs: Sender<OwnedFd>,
        asked: Receiver<Duration>,
    }

    fn open(path: &Path) -> OwnedFd {
        File::options().create(true).append(true).open(path).expect("opens").into()
    }

    impl Setup {
        fn new(limit: u64) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let (logs, inbox) = channel();
            let (asked, count) = channel();
            let log = Log::new(open(&dir.path().join("0")), limit, Script { logs: inbox, asked });
            Self { dir, log, logs, asked: count }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The lines without their stamps, which are checked.
        fn lines(&self, name: &str) -> Vec<String> {
            let text = read_to_string(self.path(name)).expect("reads");
            assert!(text.is_empty() || text.ends_with('\n'), "whole lines only");
            text.lines()
                .map(|line| {
                    let (at, rest) = line.split_once(' ').expect("a stamp");
                    let at: jiff::Timestamp = at.parse().expect("a time");
                    let age = jiff::Timestamp::now().duration_since(at);
                    assert!(age.as_secs() < 60 && line.as_bytes()[stamp::LEN - 1] == b'Z');
                    rest.to_owned()
                })
                .collect()
        }
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let t = Setup::new(1 << 20);
        t.log.write(Stream::Stdout, b"one\ntwo");
        t.log.write(Stream::Stderr, b"thread 'main' ");
        t.log.write(Stream::Stdout, b"\n\nrest");
        t.log.write(Stream::Stderr, b"panicked\n");
        t.log.finish();
        assert_eq!(
            t.lines("0"),
            [
                "stdout F one",
                "stdout F two",
                "stdout F ",
                "stderr F thread 'main' panicked",
                "stdout F rest"
            ]
        );
        t.log.finish();
        assert_eq!(t.lines("0").len(), 5, "nothing is written twice");
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        for step in [1000, PART, PART + 1, usize::MAX] {
            let t = Setup::new(1 << 20);
            // Three whole parts end with the newline: the third is a full line, not a part.
            let mut text = vec![b'a'; PART];
            text.extend(vec![b'b'; PART]);
            text.extend(vec![b'c'; PART]);
            text.extend(b"\nshort\n");
            for piece in text.chunks(step.min(text.len())) {
                t.log.write(Stream::Stdout, piece);
            }
            let expected = [
                format!("stdout P {}", "a".repeat(PART)),
                format!("stdout P {}", "b".repeat(PART)),
                format!("stdout F {}", "c".repeat(PART)),
                "stdout F short".into(),
            ];
            assert!(t.lines("0") == expected, "written in pieces of {step}");
        }
    }

    #[test]
    fn past_the_limit_the_next_line_goes_into_the_new_log() {
        let t = Setup::new(100);
        t.log.write(Stream::Stdout, &[b'x'; 100]);
        t.log.write(Stream::Stdout, b"\n");
        assert!(t.asked.try_recv().is_err(), "below the limit nobody is asked");
        t.log.write(Stream::Stdout, b"late\n");
        assert_eq!(t.asked.try_iter().collect::<Vec<_>>(), [Duration::ZERO]);
        t.logs.send(open(&t.path("1"))).expect("sends");
        t.log.write(Stream::Stdout, b"moved\n");
        t.log.write(Stream::Stdout, b"stays\n");
        assert_eq!(t.lines("0").last().map(String::as_str), Some("stdout F late"));
        assert_eq!(t.lines("1"), ["stdout F moved", "stdout F stays"]);
        assert_eq!(t.asked.try_iter().count(), 1, "the new log is not full");
    }

    #[test]
    fn at_twice_the_limit_lines_are_dropped_and_counted() {
        let t = Setup::new(500);
        for i in 0..100 {
            t.log.write(Stream::Stdout, format!("line {i}\n").as_bytes());
        }
        let waits: Vec<_> = t.asked.try_iter().filter(|wait| *wait > Duration::ZERO).collect();
        assert_eq!(waits, [PATIENCE], "the guest waits once");
        let lines = t.lines("0");
        let (marker, kept) = lines.split_last().expect("lines");
        assert_eq!(
            marker,
            "stderr F copepod: log limit reached, lines dropped until the agent returns"
        );
        for (i, line) in kept.iter().enumerate() {
            assert_eq!(*line, format!("stdout F line {i}"));
        }
        t.logs.send(open(&t.path("1"))).expect("sends");
        t.log.write(Stream::Stdout, b"again\n");
        let told = format!("stderr F copepod: {} log lines were dropped", 100 - kept.len());
        assert_eq!(t.lines("1"), [told, "stdout F again".into()]);
    }
}
