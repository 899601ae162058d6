//! Reads the log of one attempt as `kubectl logs` wants it: from a line on, since a time, up to a
//! number of bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use jiff::Timestamp;

use super::{LINE_MAX, Line, Stream, parse};

/// Bytes read at once, forwards and backwards.
const CHUNK: usize = 64 << 10;

/// What is wanted of a log (upstream's `PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// The last lines alone. As upstream a part of a long line counts as one.
    pub(crate) tail: Option<u64>,
    /// Lines from this time on.
    pub(crate) since: Option<Timestamp>,
    /// Each line with its time before it.
    pub(crate) timestamps: bool,
    /// That many bytes and no more.
    pub(crate) limit_bytes: Option<u64>,
    /// One of the two streams.
    pub(crate) stream: Option<Stream>,
}

/// How far a read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// There is more to read at once.
    More,
    /// The end of what is written so far.
    End,
    /// All bytes that were wanted.
    Limit,
}

/// Reads one attempt's log, from file to file where it is rotated meanwhile. What was rotated out
/// before is not read, as upstream does not. It waits for nothing: its owner knows when to look.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    options: LogOptions,
    file: Option<File>,
    /// The bytes of a log line that is not whole yet.
    rest: Vec<u8>,
    /// Whether the guest's line has begun already: its time was given with its first part.
    within: bool,
    /// Bytes that may still be given.
    left: u64,
}

impl LogReader {
    /// A reader of the log at `path`, which need not be there yet.
    ///
    /// # Errors
    /// That of opening the file, and of looking for the first line that is wanted.
    pub(crate) fn open(path: PathBuf, options: LogOptions) -> io::Result<Self> {
        let file = super::open(&path)?;
        if let (Some(mut file), Some(lines)) = (file.as_ref(), options.tail) {
            let start = tail_start(file, lines)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(start))?;
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Self { path, options, file, rest: Vec::new(), within: false, left })
    }

    /// Puts what is wanted of the next bytes behind `into`.
    ///
    /// # Errors
    /// That of reading.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Reached> {
        if self.left == 0 {
            return Ok(Reached::Limit);
        }
        if self.file.is_none() {
            self.file = super::open(&self.path)?;
        }
        let Some(mut file) = self.file.as_ref() else { return Ok(Reached::End) };
        // Asked before the read: what is written between the two would be lost otherwise.
        let moved = self.moved_aside(file)?;
        let mut chunk = vec![0; CHUNK];
        let len = file.read(&mut chunk)?;
        if len == 0 {
            if !moved {
                return Ok(Reached::End);
            }
            self.file = None;
            return Ok(Reached::More);
        }
        self.rest.extend_from_slice(&chunk[..len]);
        self.give(into);
        Ok(if self.left == 0 { Reached::Limit } else { Reached::More })
    }

    /// Whether `file` is no longer the one of its name, and another one is written to.
    fn moved_aside(&self, file: &File) -> io::Result<bool> {
        match self.path.metadata() {
            Ok(now) => Ok(now.ino() != file.metadata()?.ino() && now.len() > 0),
            // Between the rename and the new file, or removed with its attempt.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Takes the whole lines out of `rest`.
    fn give(&mut self, into: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        let mut from = 0;
        while let Some(end) = rest[from..].iter().position(|byte| *byte == b'\n') {
            if let Some(line) = parse(&rest[from..from + end]) {
                self.line(&line, into);
            }
            from += end + 1;
        }
        // No sandbox writes a longer line: not one of ours, so it is not kept.
        if rest.len() - from <= LINE_MAX {
            self.rest = rest[from..].to_vec();
        }
    }

    fn line(&mut self, line: &Line<'_>, into: &mut Vec<u8>) {
        if self.options.stream.is_some_and(|stream| stream != line.stream) {
            return;
        }
        let needs_time = self.options.since.is_some() || self.options.timestamps;
        let time: Option<Timestamp> =
            needs_time.then(|| std::str::from_utf8(line.time).ok()?.parse().ok()).flatten();
        if self.options.since.is_some_and(|since| time.is_none_or(|time| time < since)) {
            return;
        }
        let begin = into.len();
        if let Some(time) = time.filter(|_| self.options.timestamps && !self.within) {
            // Upstream's format: always nine digits.
            into.extend_from_slice(time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().as_bytes());
        }
        into.extend_from_slice(line.text);
        if line.whole {
            into.push(b'\n');
        }
        self.within = !line.whole;
        let given = (into.len() - begin) as u64;
        if given > self.left {
            let surplus = given - self.left;
            into.truncate(into.len() - usize::try_from(surplus).unwrap_or(into.len()));
        }
        self.left = self.left.saturating_sub(given);
    }
}

/// Where the last `lines` lines of the file begin; read in blocks from its end.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    let mut at = file.metadata()?.len();
    // The line before the first one that is wanted ends there.
    let mut ends = lines.saturating_add(1);
    let mut block = vec![0; CHUNK];
    while at > 0 {
        let len = usize::try_from(at).unwrap_or(CHUNK).min(CHUNK);
        at -= len as u64;
        file.read_exact_at(&mut block[..len], at)?;
        let mut before = len;
        while let Some(end) = block[..before].iter().rposition(|byte| *byte == b'\n') {
            ends -= 1;
            if ends == 0 {
                return Ok(at + end as u64 + 1);
            }
            before = end;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use crate::logs::rotate;

    const LOG: &str = "2026-11-22T03:00:00Z stdout F one\n\
                       2026-11-22T03:00:01.5Z stderr P tw\n\
                       2026-11-22T03:00:02Z stderr F o\n\
                       no line of a log\n\
                       2026-11-22T03:00:03.000000001Z stdout F three\n";

    fn log() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).expect("writes");
        (dir, path)
    }

    fn all(reader: &mut LogReader) -> (String, Reached) {
        let mut text = Vec::new();
        loop {
            let reached = reader.read(&mut text).expect("reads");
            if reached != Reached::More {
                return (String::from_utf8(text).expect("UTF-8"), reached);
            }
        }
    }

    #[track_caller]
    fn shows(path: &Path, options: LogOptions, expected: &str) {
        let mut reader = LogReader::open(path.into(), options.clone()).expect("opens");
        assert_eq!(all(&mut reader).0, expected, "{options:?}");
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    }

    #[test]
    fn each_option_is_upstreams() {
        let (_dir, path) = log();
        let none = LogOptions::default();
        shows(&path, none.clone(), "one\ntwo\nthree\n");
        for (tail, text) in [(0, ""), (1, "three\n"), (3, "o\nthree\n"), (9, "one\ntwo\nthree\n")] {
            shows(&path, LogOptions { tail: Some(tail), ..none.clone() }, text);
        }
        shows(&path, LogOptions { tail: Some(u64::MAX), ..none.clone() }, "one\ntwo\nthree\n");
        let since = "2026-11-22T03:00:02Z".parse().ok();
        shows(&path, LogOptions { since, ..none.clone() }, "o\nthree\n");
        let stderr = LogOptions { stream: Some(Stream::Stderr), ..none.clone() };
        shows(&path, stderr, "two\n");
        shows(
            &path,
            LogOptions { timestamps: true, ..none },
            "2026-11-22T03:00:00.000000000Z one\n2026-11-22T03:00:01.500000000Z two\n\
             2026-11-22T03:00:03.000000001Z three\n",
        );
    }

    #[test]
    fn a_limit_cuts_within_a_line_and_ends() {
        let (_dir, path) = log();
        for (limit, text) in [(1, "o"), (4, "one\n"), (6, "one\ntw"), (99, "one\ntwo\nthree\n")] {
            let options = LogOptions { limit_bytes: Some(limit), ..LogOptions::default() };
            let mut reader = LogReader::open(path.clone(), options).expect("opens");
            let end = if limit == 99 { Reached::End } else { Reached::Limit };
            assert_eq!(all(&mut reader), (text.into(), end));
        }
    }

    #[test]
    fn a_long_log_has_its_tail_found_over_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        let text: String = (0..20_000).map(|n| format!("t stdout F line {n}\n")).collect();
        assert!(text.len() > 4 * CHUNK);
        fs::write(&path, &text).expect("writes");
        for tail in [1, 100, 5_000, 19_999, 20_000, 20_001] {
            let options = LogOptions { tail: Some(tail), ..LogOptions::default() };
            let mut reader = LogReader::open(path.clone(), options).expect("opens");
            let from = 20_000_u64.saturating_sub(tail);
            let expected: String = (from..20_000).map(|n| format!("line {n}\n")).collect();
            assert!(all(&mut reader).0 == expected, "the last {tail}");
        }
    }

    #[test]
    fn what_is_written_later_is_read_over_a_rotation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        let mut reader = LogReader::open(path.clone(), LogOptions::default()).expect("opens");
        assert_eq!(all(&mut reader), (String::new(), Reached::End), "no file yet");
        append(&path, "t stdout F one\nt stdout F tw");
        assert_eq!(all(&mut reader).0, "one\n");
        append(&path, "o\nt stdout F before\n");
        rotate(&path, 5, Timestamp::now()).expect("rotates");
        append(&path, "t stdout F after\n");
        assert_eq!(all(&mut reader).0, "two\nbefore\nafter\n");
        fs::remove_file(&path).expect("removes");
        assert_eq!(all(&mut reader), (String::new(), Reached::End), "removed with its attempt");
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (_dir, path) = log();
        append(&path, &"x".repeat(3 * LINE_MAX));
        append(&path, "\nt stdout F last\n");
        let mut reader = LogReader::open(path, LogOptions::default()).expect("opens");
        assert_eq!(all(&mut reader).0, "one\ntwo\nthree\nlast\n");
        assert!(reader.rest.capacity() <= 2 * LINE_MAX);
    }
}
