//! What is shown: in a pipe, as JSON, on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
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
    assert!(ended.out.contains("C=b-$(NONE)-$(A)"), "{ended:?}");
    assert!(!ended.out.contains('\u{1b}') && !ended.out.contains("main"), "{ended:?}");
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
    assert!(ended.err.contains("hello") || !ended.err.is_empty(), "logs are on standard error");
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

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let scene = Scene::new();
    let file = scene.pod(&one("hello", "Always", "args: [--every, '1']"));
    let mut command = scene.home.command(copepod());
    let mut child = command
        .arg("run")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut out = child.stdout.take().expect("piped");
    out.read_exact(&mut [0; 8]).expect("a first line");
    drop(out);
    wait_until(SOON, "it ends", || child.try_wait().expect("ours").is_some());
    scene.guard.finish();
}

/// Runs `copepod run FILE` on a terminal of its own and gives the terminal and what it shows.
struct Terminal {
    child: std::process::Child,
    keys: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn run(scene: &Scene, yaml: &str) -> Self {
        let file = scene.pod(yaml);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
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
        let keys = File::from(master);
        let mut reader = keys.try_clone().expect("clones");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(len @ 1..) = reader.read(&mut chunk) {
                shown.lock().expect("whole").push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
        });
        Self { child, keys, screen }
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let seen = || self.screen.lock().expect("whole").contains(text);
        let found = copepod_tests::holds_within(SOON, seen);
        assert!(found, "{text:?} is not in {:?}", self.screen.lock().expect("whole"));
    }
}

#[test]
fn a_terminal_shows_names_colours_and_a_table() {
    let scene = Scene::new();
    let mut terminal = Terminal::run(&scene, &one("hello", "Always", "args: [--every, '100']"));
    for text in ["main |", "\u{1b}[", "CONTAINER", "RESTARTS", "Running"] {
        terminal.shows(text);
    }
    // The child has no controlling terminal here, so the key is sent as what it means.
    terminal.keys.flush().expect("flushes");
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    wait_until(SOON, "it ends", || terminal.child.try_wait().expect("ours").is_some());
    terminal.shows("stopping");
    terminal.shows("(143)");
    scene.guard.finish();
}
