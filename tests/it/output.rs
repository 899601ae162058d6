//! What is shown: in a pipe, as JSON, on a terminal.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use copepod_tests::{copepod, wait_until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::{SOON, Scene, one};

#[test]
fn a_pipe_gets_the_guests_lines_and_nothing_else() {
    let ended = Scene::new().run(
        &one("hello", "Never", "args: [--count, '2', --every, '1']\nenv: [{name: A, value: b}, {name: C, value: $(A)-$(NONE)-$$(A)}]"),
        &[],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let expected = "args: --count 2 --every 1\nenv: A=b\nenv: C=b-$(NONE)-$(A)\n\
                    env: HOSTNAME=one\ncount 1\ncount 2\n";
    assert_eq!(ended.out, expected);
}

#[test]
fn json_streams_the_pods_status() {
    let ended = Scene::new()
        .run(&one("hello", "Never", "args: [--count, '1', --every, '1']"), &["-o", "json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let objects: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let phases: Vec<&str> =
        objects.iter().map(|object| object["status"]["phase"].as_str().expect("a phase")).collect();
    assert_eq!(phases.first(), Some(&"Pending"), "{phases:?}");
    assert!(phases.contains(&"Running"), "{phases:?}");
    assert_eq!(phases.last(), Some(&"Succeeded"), "{phases:?}");
    let last = &objects[objects.len() - 1];
    assert_eq!((&last["kind"], &last["metadata"]["name"]), (&"Pod".into(), &"one".into()));
    let container = &last["status"]["containerStatuses"][0];
    assert_eq!(container["state"]["terminated"]["reason"], "Completed", "{last}");
    assert!(container["containerID"].as_str().expect("an id").starts_with("wasm://"), "{last}");
    assert!(container["imageID"].as_str().expect("an id").contains("sha256:"), "{last}");
    assert!(ended.err.contains("count 1"), "logs are on standard error: {ended:?}");
}

#[test]
fn a_long_output_comes_whole_over_rotations() {
    // 400,000 lines are more than one log file of 10 MiB with their stamps.
    let ended =
        Scene::new().run(&one("hello", "Never", "args: [--count, '400000', --every, '0']"), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines = ended.out.lines().count();
    assert!(lines >= 400_000, "{lines} lines");
}

/// `copepod run` with a pipe for its standard output that only the caller reads.
fn piped(scene: &Scene, yaml: &str, args: &[&str]) -> (Piped, PipeReader) {
    let file = scene.pod(yaml);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = scene.home.command(copepod());
    command.arg("run").arg(file).args(args).stdin(Stdio::null()).stdout(writer);
    (Piped(command.stderr(Stdio::null()).spawn().expect("starts")), reader)
}

/// A child that is killed at the latest with this.
struct Piped(Child);

impl Piped {
    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    }

    #[track_caller]
    fn ends(&mut self) {
        wait_until(SOON, "it ends", || self.0.try_wait().expect("ours").is_some());
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Gone already unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    for args in [&[][..], &["--output", "json"]] {
        let scene = Scene::new();
        let yaml = one("exit", "Always", "args: ['0', --after, '200']");
        let (mut child, mut reader) = piped(&scene, &yaml, args);
        reader.read_exact(&mut [0; 4]).expect("a first line");
        drop(reader);
        child.ends();
        scene.guard.finish();
    }
}

#[test]
fn a_reader_that_stalls_holds_up_nothing_but_itself() {
    let scene = Scene::new();
    let yaml = one("hello", "Always", "args: [--every, '0']");
    let (mut child, reader) = piped(&scene, &yaml, &[]);
    // Filled but for the ends of pages, by a guest that goes on: more waits than will ever fit.
    let full = || rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes >= 32 << 10);
    wait_until(SOON, "the pipe is full", full);
    let log = || crate::survive::log_bytes(&scene.home);
    wait_until(SOON, "the guest has written more than that", || log() > 1 << 20);
    child.signal();
    wait_until(SOON, "its guest is stopped", || crate::survive::sandboxes(&scene.home).is_empty());
    child.signal();
    child.ends();
    drop(reader);
    scene.guard.finish();
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let scene = Scene::new();
    let file = scene.pod(&one("hello", "Never", "args: [--count, '1']"));
    let mut command = scene.home.command("sh");
    command.args(["-c", "exec \"$0\" run \"$1\" > /dev/full"]).arg(copepod()).arg(file);
    let output = copepod_tests::Run::spawn(command).output(SOON);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to standard output"), "{text}");
    scene.guard.finish();
}

/// Runs `copepod run FILE` on a terminal of its own and gives the terminal and what it shows.
struct Terminal {
    child: std::process::Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn run(scene: &Scene, yaml: &str) -> Self {
        let file = scene.pod(yaml);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("unlocks");
        let name = ptsname(&master, Vec::new()).expect("has a name");
        let open = || {
            let name = name.to_str().expect("UTF-8");
            OwnedFd::from(File::options().read(true).write(true).open(name).expect("opens"))
        };
        let mut command = scene.home.command(copepod());
        command.env("TERM", "xterm").arg("run").arg(file);
        let child = command
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .expect("starts");
        drop(command);
        let mut reader = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(len @ 1..) = reader.read(&mut chunk) {
                shown.lock().expect("whole").push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
        });
        Self { child, screen }
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let seen = || self.screen.lock().expect("whole").contains(text);
        let found = copepod_tests::holds_within(SOON, seen);
        assert!(found, "{text:?} is not in {:?}", self.screen.lock().expect("whole"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Gone already unless the test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_shows_names_colours_and_a_table() {
    let scene = Scene::new();
    let mut terminal = Terminal::run(&scene, &one("hello", "Always", "args: [--every, '100']"));
    for text in ["main |", "\u{1b}[", "CONTAINER", "RESTARTS", "Running"] {
        terminal.shows(text);
    }
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    wait_until(SOON, "it ends", || terminal.child.try_wait().expect("ours").is_some());
    terminal.shows("stopping");
    terminal.shows("(143)");
    scene.guard.finish();
}
