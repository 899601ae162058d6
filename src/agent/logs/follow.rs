//! Follows the log of one container: its attempts one after the other, each over its rotations.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{LINE_MAX, Line, Stream, open, parse};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Reads what a container's log grew by. It waits for nothing: its owner knows when to look.
pub(crate) struct Follower {
    dir: PathBuf,
    attempt: u32,
    open: Option<File>,
    /// The bytes of a line that is not whole yet.
    rest: Vec<u8>,
    /// Parts of lines, by stream.
    parts: [Vec<u8>; 2],
}

impl Follower {
    /// A follower of the container whose log directory is `dir`, from the first attempt's start.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, attempt: 0, open: None, rest: Vec::new(), parts: [Vec::new(), Vec::new()] }
    }

    /// Gives every line that was written since the last look to `each`.
    ///
    /// # Errors
    /// That of reading; a file that is not there yet is none.
    pub(crate) fn look(&mut self, each: &mut dyn FnMut(Stream, &[u8])) -> io::Result<()> {
        loop {
            if self.open.is_none() {
                self.open = open(&self.path(self.attempt))?;
            }
            // Whether this file is the last must be known before it is read to its end: what is
            // written between the two would be lost otherwise.
            let next = self.next_attempt()?;
            let moved = self.moved_aside()?;
            self.read_to_end(each)?;
            if moved {
                self.open = None;
            } else if let Some(next) = next {
                (self.open, self.attempt) = (None, next);
                // What a killed attempt left half said.
                self.rest.clear();
                self.parts.iter_mut().for_each(Vec::clear);
            } else {
                return Ok(());
            }
        }
    }

    fn path(&self, attempt: u32) -> PathBuf {
        self.dir.join(format!("{attempt}.log"))
    }

    /// The next attempt that has a log.
    fn next_attempt(&self) -> io::Result<Option<u32>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut next = None;
        for entry in entries {
            let name = entry?.file_name();
            let attempt = name.to_str().and_then(|n| n.strip_suffix(".log")?.parse::<u32>().ok());
            let later = attempt.filter(|attempt| *attempt > self.attempt);
            next = [next, later].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// Whether the open file is no longer the one of its name, and another one is.
    fn moved_aside(&self) -> io::Result<bool> {
        let Some(file) = &self.open else { return Ok(false) };
        match fs::metadata(self.path(self.attempt)) {
            // Not before the new one is written to: until then lines may still come to this one.
            Ok(now) => Ok(now.ino() != file.metadata()?.ino() && now.len() > 0),
            // Between the rename and the new file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn read_to_end(&mut self, each: &mut dyn FnMut(Stream, &[u8])) -> io::Result<()> {
        let Some(mut file) = self.open.as_ref() else { return Ok(()) };
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = file.read(&mut chunk)?;
            if len == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&chunk[..len]);
            let mut from = 0;
            while let Some(end) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
                if let Some(line) = parse(&self.rest[from..from + end]) {
                    take(&mut self.parts, line, each);
                }
                from += end + 1;
            }
            self.rest.drain(..from);
            // No sandbox writes such a line: not one of ours, so it is not kept.
            if self.rest.len() > LINE_MAX {
                self.rest.clear();
            }
        }
    }
}

fn take(parts: &mut [Vec<u8>; 2], line: Line<'_>, each: &mut dyn FnMut(Stream, &[u8])) {
    let part = &mut parts[line.stream as usize];
    if part.is_empty() && line.whole {
        return each(line.stream, line.text);
    }
    part.extend_from_slice(line.text);
    if line.whole || part.len() > LINE_MAX {
        each(line.stream, part);
        part.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logs::rotate;

    fn append(path: &PathBuf, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    }

    fn seen(follower: &mut Follower) -> Vec<String> {
        let mut lines = Vec::new();
        follower
            .look(&mut |_, text| lines.push(String::from_utf8_lossy(text).into_owned()))
            .expect("looks");
        lines
    }

    #[test]
    fn lines_come_once_over_rotations_and_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        let mut follower = Follower::new(dir.path().into());
        assert!(seen(&mut follower).is_empty(), "no file yet");
        append(&log, "t stdout F one\nt stdout P tw");
        assert_eq!(seen(&mut follower), ["one"]);
        append(&log, "o-\nt stderr F err\nt stdout F three\n");
        assert_eq!(seen(&mut follower), ["err", "two-three"]);

        append(&log, "t stdout F before\n");
        rotate(&log, 5, jiff::Timestamp::now()).expect("rotates");
        assert_eq!(seen(&mut follower), ["before"]);
        append(&log, "t stdout F after\n");
        append(&dir.path().join("2.log"), "t stdout F second\n");
        assert_eq!(seen(&mut follower), ["after", "second"]);
        assert!(seen(&mut follower).is_empty());
    }
}
