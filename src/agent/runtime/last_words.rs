//! The termination message of a container: what its guest left in a file, or the end of its log.
//!
//! All of it is the guest's: the file may be anything by now, so it is opened without following a
//! link, looked at before it is read, and read off the event loop.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use tokio::task::spawn_blocking;

use super::TerminationMessage;
use crate::{linux, logs};

/// Bytes read of the file, its last ones (upstream's `MaxContainerTerminationMessageLength`).
const FILE_MAX: u64 = 4096;
/// Bytes of a log file's end that surely hold all that is taken of it, the last 2 KiB and 80 lines:
/// one part of a line, 16 KiB, which may be cut off, and what stands before the text of each line,
/// 64 bytes at most.
const LOG_READ_MAX: u64 = 24 << 10;

/// The message of an attempt that ended with `code`: the runtime's own, the file's, the log's.
pub(super) async fn of(
    message: &TerminationMessage,
    log: &Path,
    code: i32,
    of_runtime: String,
) -> String {
    if message.file.as_os_str().is_empty() && !(message.fallback_to_logs && code != 0) {
        return of_runtime;
    }
    let (message, log) = (message.clone(), log.to_path_buf());
    let read = spawn_blocking(move || {
        // Without a file the log stands in all the same (upstream `getTerminationMessage`).
        let file = match message.file.as_os_str().is_empty() {
            true => String::new(),
            false => from_file(&message.dir, &message.file),
        };
        let wanted = message.fallback_to_logs && code != 0 && file.is_empty();
        (file, wanted.then(|| from_log(&log)))
    });
    match read.await {
        Ok((file, log)) => copepod_pod::termination_message(&of_runtime, &file, log.as_deref()),
        // The agent ends.
        Err(_) => of_runtime,
    }
}

/// What the file holds; upstream's text where it cannot be read, nothing where there is none.
fn from_file(dir: &Path, file: &Path) -> String {
    match read_file(dir, file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => {
            format!("Error on reading termination log {}: {e}", dir.join(file).display())
        }
    }
}

fn read_file(dir: &Path, file: &Path) -> io::Result<Vec<u8>> {
    let plainly = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let dir = openat2(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty(), plainly)?;
    let found = openat2(dir, file, flags, Mode::empty(), plainly | ResolveFlags::BENEATH)?;
    // Opened for reading only now that it is known to be harmless: a pipe or a device is not.
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    read_end(File::open(linux::proc_path(&found))?, FILE_MAX)
}

/// The last bytes of a file, `max` at most even if it grows meanwhile.
fn read_end(mut file: File, max: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The end of the log, as the guest wrote it; a log that cannot be read has none.
fn from_log(log: &Path) -> String {
    let end = File::open(log).and_then(|file| read_end(file, LOG_READ_MAX)).unwrap_or_default();
    let lines = end.split_inclusive(|byte| *byte == b'\n');
    let mut text = Vec::new();
    // The first one may have lost its start: nothing of it is needed then.
    for line in lines.filter_map(|line| logs::parse(line.strip_suffix(b"\n")?)) {
        text.extend_from_slice(line.text);
        if line.whole {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mknodat;

    use super::*;

    #[test]
    fn only_a_regular_file_below_the_directory_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("exists");
        let read = |file: &str| from_file(&root, Path::new(file));
        fs::write(root.join("plain"), "last words").expect("writes");
        assert_eq!(read("plain"), "last words");
        assert_eq!(read("nowhere"), "");
        let long = format!("{}{}", "a".repeat(1 << 20), "b".repeat(FILE_MAX as usize));
        fs::write(root.join("long"), long).expect("writes");
        assert_eq!(read("long"), "b".repeat(FILE_MAX as usize));
        fs::write(root.join("bytes"), b"\xff\xfe").expect("writes");
        assert_eq!(read("bytes"), "\u{fffd}\u{fffd}");

        symlink("/etc/passwd", root.join("link")).expect("links");
        symlink("/etc", root.join("etc")).expect("links");
        symlink(&root, root.join("self")).expect("links");
        fs::create_dir(root.join("dir")).expect("makes");
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).expect("makes");
        for file in ["link", "etc/passwd", "self/plain", "dir", "pipe", "../outside", "/etc/passwd"]
        {
            let text = read(file);
            assert!(text.starts_with("Error on reading termination log "), "{file}: {text}");
        }
        let through = from_file(&root.join("self"), Path::new("plain"));
        assert!(through.starts_with("Error on reading"), "a link to the directory: {through}");
    }

    #[tokio::test]
    async fn the_log_stands_in_for_a_file_that_there_cannot_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        fs::write(&log, "2026-11-22T03:00:00.123456789Z stdout F last\n").expect("writes");
        for (fallback_to_logs, code, said) in
            [(true, 1, "runtime: last\n"), (true, 0, "runtime"), (false, 1, "runtime")]
        {
            let message = TerminationMessage { fallback_to_logs, ..TerminationMessage::default() };
            assert_eq!(of(&message, &log, code, "runtime".into()).await, said);
        }
    }

    #[test]
    fn the_end_of_a_log_stands_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        assert_eq!(from_log(&log), "");
        let line =
            |tag: &str, text: &str| format!("2026-11-22T03:00:00.123456789Z stdout {tag} {text}\n");
        let many: String = (0..1000).map(|n| line("F", &n.to_string())).collect();
        fs::write(&log, many).expect("writes");
        let text = from_log(&log);
        assert!(text.ends_with("\n998\n999\n") && text.lines().count() > 80, "{text}");
        let part = line("P", &"x".repeat(16 << 10));
        let parts = [part.clone(), part, line("F", "end")].concat();
        fs::write(&log, parts).expect("writes");
        let text = from_log(&log);
        assert!(text == format!("{}end\n", "x".repeat(16 << 10)), "{} bytes", text.len());
    }
}
