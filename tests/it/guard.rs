//! The leak guard: what a run of `copepod` must not leave behind it.
//!
//! Each test's [`Home`] has a path that nobody else uses, so whatever still names it is a leak of
//! that test, also while other tests run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use copepod_tests::{Home, holds_within};
use rustix::process::{Pid, Signal, getpid, kill_process};

/// A process that was killed or let go is gone from /proc a moment later: this long at most.
const SETTLE: Duration = Duration::from_secs(2);

/// Levels of folders looked into for files: deeper than any path the agent makes.
const DEPTH_MAX: usize = 16;

/// Watches over one [`Home`]; fails the test by [`Guard::finish`] or, at the latest, when dropped.
pub(crate) struct Guard {
    home: PathBuf,
    tmp: PathBuf,
    finished: bool,
}

impl Guard {
    /// Watches over `home`, which has to outlive it.
    pub(crate) fn new(home: &Home) -> Self {
        Self { home: home.path().into(), tmp: home.tmp(), finished: false }
    }

    /// Fails the test, naming each leak, if anything is left: a process with the home in its
    /// arguments, environment or open files (killed then), a mount, a bound or forgotten socket, a
    /// temporary file. A [`copepod_tests::Run`] is waited for before.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.check();
    }

    #[track_caller]
    fn check(&mut self) {
        self.finished = true;
        let mut left = Vec::new();
        let clean = holds_within(SETTLE, || {
            left = self.leaks();
            left.is_empty()
        });
        for (pid, _) in processes(&self.home) {
            let _ = kill_process(pid, Signal::KILL); // found, and must not meet the next test
        }
        assert!(clean, "left behind:\n{}", left.join("\n"));
    }

    /// What is left now, a line each.
    fn leaks(&self) -> Vec<String> {
        let mut left: Vec<String> =
            processes(&self.home).into_iter().map(|(_, about)| about).collect();
        for (what, table) in [("mount", "/proc/self/mountinfo"), ("socket", "/proc/net/unix")] {
            let text = fs::read_to_string(table).expect("/proc is mounted");
            let home = self.home.to_string_lossy();
            let lines = text.lines().filter(|line| line.contains(&*home));
            left.extend(lines.map(|line| format!("{what}: {line}")));
        }
        let mut files = Vec::new();
        walk(&self.home, DEPTH_MAX, &mut files);
        for file in files {
            let socket = fs::symlink_metadata(&file).is_ok_and(|f| f.file_type().is_socket());
            if socket || file.starts_with(&self.tmp) {
                left.push(format!("file: {}", file.display()));
            }
        }
        left
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            self.check();
        }
    }
}

/// All processes but this one that have `home` in their arguments, environment or open files.
fn processes(home: &Path) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(process) = Pid::from_raw(pid).filter(|process| *process != getpid()) else {
            continue;
        };
        // One that ends meanwhile has no files left here, and one of another user shows none.
        let about = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let arguments = about("cmdline");
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let named = has(&arguments, home)
            || has(&about("environ"), home)
            || open.flat_map(|fd| fs::read_link(fd.path())).any(|to| to.starts_with(home));
        if named {
            let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
            let name = String::from_utf8_lossy(&about("comm")).trim().to_owned();
            found.push((process, format!("process: {pid} {name}: {text}")));
        }
    }
    found
}

fn has(text: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    text.windows(path.len()).any(|part| part == path)
}

/// Collects everything below `dir` that is not a folder.
fn walk(dir: &Path, depth: usize, into: &mut Vec<PathBuf>) {
    assert!(depth > 0, "{} is deeper than any path the agent makes", dir.display());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth - 1, into);
        } else {
            into.push(entry.path());
        }
    }
}

#[test]
fn each_kind_of_leak_is_found_and_nothing_else() {
    use copepod_tests::Run;
    use std::os::unix::net::UnixListener;

    let home = Home::new();
    let other = Home::new();
    let watch = Guard::new(&home);
    assert_eq!(watch.leaks(), Vec::<String>::new());

    let mut command = other.command("sleep");
    command.arg("600");
    let stranger = Run::spawn(command);
    assert_eq!(watch.leaks(), Vec::<String>::new(), "of another home");

    let mut command = home.command("sleep");
    command.arg("600");
    let process = Run::spawn(command);
    let pid = process.pid().to_string();
    let found = || watch.leaks().iter().any(|l| l.starts_with("process: ") && l.contains(&pid));
    assert!(holds_within(SETTLE, found), "by its environment");
    drop(process);

    // `/` makes it invisible but for the file that it holds.
    let mut command = other.command("sh");
    command
        .current_dir("/")
        .arg("-c")
        .arg(format!("exec 5>{}/held; exec tail -f /dev/null", home.state().display()));
    let process = Run::spawn(command);
    let found = || watch.leaks().iter().any(|l| l.contains("tail -f /dev/null"));
    assert!(holds_within(SETTLE, found), "by its open file");
    drop(process);
    drop(stranger);
    assert!(holds_within(SETTLE, || watch.leaks().is_empty()), "{:?}", watch.leaks());

    let path = home.run().join("s.sock");
    let socket = UnixListener::bind(&path).expect("bound");
    assert_eq!(watch.leaks().len(), 2, "bound, and as a file: {:?}", watch.leaks());
    drop(socket);
    assert_eq!(watch.leaks().len(), 1, "as a file: {:?}", watch.leaks());
    fs::remove_file(path).expect("removed");

    fs::write(home.tmp().join("scratch"), "").expect("written");
    assert!(std::panic::catch_unwind(|| Guard::new(&home).finish()).is_err(), "a temporary file");
    fs::remove_file(home.tmp().join("scratch")).expect("removed");
    watch.finish();
}
