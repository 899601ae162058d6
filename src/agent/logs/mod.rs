//! Container logs on disk, in the format and the places of a kubelet.
//!
//! Owns: the CRI log line, the rotation of a file, following a container's files over restarts
//! and rotations ([`follow::Follower`]), reading one attempt's log as `kubectl logs` does
//! ([`read::LogReader`]), and the one task that tells of changes ([`watch::LogWatch`]). Writes no
//! line (sandboxes do).

pub(crate) mod follow;
pub(crate) mod read;
pub(crate) mod watch;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;

/// Longest line that is put together from its parts, in bytes; a longer one is given in pieces.
const LINE_MAX: usize = 1 << 20;

/// Which of the guest's streams a line is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log, or a part of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// When, as RFC 3339.
    pub(crate) time: &'a [u8],
    /// Where the guest wrote it.
    pub(crate) stream: Stream,
    /// Whether the line ends here; else the next part goes on with it.
    pub(crate) whole: bool,
    /// What it wrote, without the line's end.
    pub(crate) text: &'a [u8],
}

/// Reads a log line, given without its end: `TIME STREAM TAG TEXT`.
///
/// `None` when it is not one; the format is CRI's (kubelet's pkg/kubelet/kuberuntime/logs).
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag, text) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first tells whether the line goes on.
    let whole = match tag.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line { time, stream, whole, text })
}

/// Opens a log; `None` where there is none yet.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Moves `log` aside as `LOG.YYYYMMDD-HHMMSS` (upstream's name) and removes the oldest, so that
/// there are `files` with the next one.
///
/// # Errors
/// That of the rename; a file that cannot be removed is left.
pub(crate) fn rotate(log: &Path, files: u32, now: Timestamp) -> io::Result<()> {
    let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
    let newest = rotated(log)?.pop().and_then(|path| path.file_name()?.to_str().map(String::from));
    // Several in one second, or a clock set back: a name that sorts behind all others.
    let to = match newest.as_deref().and_then(|name| name.split_once(".log.")) {
        Some((_, newest)) if *newest >= *stamp => with_suffix(log, &successor(newest)),
        Some(_) | None => with_suffix(log, &stamp),
    };
    fs::rename(log, to)?;
    let mut old = rotated(log)?;
    let surplus = (old.len() + 1).saturating_sub(files as usize);
    for path in old.drain(..surplus) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Moves the file that was rotated last back to `log`, whose writer still writes to it; nothing
/// happens where there is a file already, or none was rotated.
///
/// # Errors
/// That of the rename.
pub(crate) fn unrotate(log: &Path) -> io::Result<()> {
    match rotated(log)?.pop() {
        Some(newest) if !log.exists() => fs::rename(newest, log),
        Some(_) | None => Ok(()),
    }
}

/// Removes `log` and all that was rotated out of it; what is gone already is no matter.
pub(crate) fn remove(log: &Path) {
    for path in rotated(log).unwrap_or_default().iter().map(PathBuf::as_path).chain([log]) {
        let _ = fs::remove_file(path);
    }
}

/// The suffix after this one of the same second: `STAMP.0001`, `STAMP.0002`, …
fn successor(suffix: &str) -> String {
    let (stamp, number) = suffix.split_once('.').unwrap_or((suffix, "0"));
    format!("{stamp}.{:04}", number.parse::<u32>().unwrap_or(0).saturating_add(1))
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The rotated files of `log`, oldest first.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = parse(b"2026-11-22T03:00:00.000000001Z stdout F hello  world").expect("a line");
        let time = &b"2026-11-22T03:00:00.000000001Z"[..];
        assert_eq!(line, Line { time, stream: Stream::Stdout, whole: true, text: b"hello  world" });
        let part = parse(b"2026-11-22T03:00:00Z stderr P half").expect("a part");
        assert_eq!((part.stream, part.whole, part.text), (Stream::Stderr, false, &b"half"[..]));
        assert_eq!(parse(b"t stdout F ").expect("an empty line").text, b"");
        for bad in [&b""[..], b"t stdout F", b"t stdin F x", b"t stdout Q x"] {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn so_many_files_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        let now: Timestamp = "2026-11-22T03:00:00Z".parse().expect("a time");
        for n in 0..7 {
            fs::write(&log, n.to_string()).expect("writes");
            rotate(&log, 5, now).expect("rotates");
        }
        let kept = || -> Vec<String> {
            let files = rotated(&log).expect("lists");
            files.iter().map(|path| fs::read_to_string(path).expect("reads")).collect()
        };
        assert_eq!(kept(), ["3", "4", "5", "6"]);
        fs::write(&log, "7").expect("writes");
        rotate(&log, 2, now).expect("rotates");
        assert_eq!(kept(), ["7"]);
    }
}
