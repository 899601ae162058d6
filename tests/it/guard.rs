//! The leak guard: what a run of `copepod` must not leave behind it.
//!
//! Each test's [`Home`] has a path that nobody else uses, so whatever still names it is a leak of
//! that test, also while other tests run.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use copepod_tests::cluster::leaks;
use copepod_tests::{Home, holds_within};
use rustix::process::{Signal, kill_process};

/// A process that was killed or let go is gone from /proc a moment later: this long at most, on a
/// machine with other work too.
const SETTLE: Duration = Duration::from_secs(30);
/// For the guard's own test, which leaves something that does not go.
const BRIEF: Duration = Duration::from_millis(200);

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
        self.check(SETTLE);
    }

    /// The same, for what is left after so long.
    #[track_caller]
    fn check(&mut self, settle: Duration) {
        self.finished = true;
        let mut left = Vec::new();
        let clean = holds_within(settle, || {
            left = self.leaks();
            left.is_empty()
        });
        for (pid, _) in leaks::processes(&self.home) {
            let _ = kill_process(pid, Signal::KILL); // found, and must not meet the next test
        }
        assert!(clean, "left behind:\n{}", left.join("\n"));
    }

    /// What is left now, a line each.
    fn leaks(&self) -> Vec<String> {
        let mut left: Vec<String> =
            leaks::processes(&self.home).into_iter().map(|(_, about)| about).collect();
        left.extend(leaks::mounts_and_sockets(&self.home));
        left.extend(leaks::files(&self.home, &[&self.tmp]));
        left
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            self.check(SETTLE);
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
    let finish = || Guard::new(&home).check(BRIEF);
    assert!(std::panic::catch_unwind(finish).is_err(), "a temporary file");
    fs::remove_file(home.tmp().join("scratch")).expect("removed");
    watch.finish();
}
