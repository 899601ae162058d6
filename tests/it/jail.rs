//! The jail: what a guest that broke out of wasmtime would find.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use copepod_tests::{Home, Run};
use rustix::process::{Pid, Signal};

use crate::survive::sandboxes;
use crate::{SOON, Scene, one};

/// Tries of `tests/escape.rs` that have to be there and to fail.
const REFUSED: [&str; 24] = [
    "read-outside",
    "list-outside",
    "write-outside",
    "remove-outside",
    "rename-out",
    "link-out",
    "through-dots",
    "through-link",
    "passwd",
    "own-memory",
    "make-executable",
    "fork",
    "execve",
    "thread",
    "ptrace",
    "kill",
    "probe",
    "kill-all",
    "mount",
    "unshare",
    "join-network",
    "join-group",
    "back-to-root",
    "unix-socket",
];

/// Tries that have to work.
const ALLOWED: [&str; 4] = ["may-write", "may-read", "may-remove", "may-listen"];

fn escape() -> PathBuf {
    // Of this very build: the jail's source is one with the sandbox's.
    env!("CARGO_BIN_EXE_copepod-escape").into()
}

#[test]
fn what_breaks_out_of_the_engine_is_still_in_the_jail() {
    for uid in [0, 54321] {
        let home = Home::new();
        let dir = tempfile::tempdir().expect("makes");
        let (allowed, outside) = (dir.path().join("allowed"), dir.path().join("outside"));
        for path in [&allowed, &outside] {
            fs::create_dir(path).expect("makes");
        }
        fs::write(allowed.join("given"), "x").expect("writes");
        fs::write(outside.join("secret"), "x").expect("writes");
        symlink(&outside, allowed.join("link")).expect("links");
        for path in [dir.path(), &allowed, &outside] {
            // Open to the user by its mode: only the jail is in the way.
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(path, all).expect("opens");
        }
        let mut command = Command::new("sleep");
        command.arg("600");
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        let mut victim = Run::spawn(command);

        let mut command = home.command(escape());
        command.args([&allowed, &outside]);
        command.args([victim.pid().as_raw_nonzero().to_string(), uid.to_string()]);
        let output = Run::spawn(command).output(SOON);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}{output:?}");
        let results: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.split_once('\t')).collect();
        let result = |name| results.iter().find(|(n, _)| *n == name).map(|(_, result)| *result);
        for name in REFUSED {
            let result = result(name).unwrap_or_else(|| panic!("{name} was not tried: {text}"));
            assert!(
                result.contains("denied")
                    || result.contains("not permitted")
                    || result.contains("EPERM"),
                "uid {uid}: {name}: {result}"
            );
        }
        for name in ALLOWED {
            assert_eq!(result(name), Some("done"), "uid {uid}: {name}: {text}");
        }
        assert!(outside.join("secret").exists() && allowed.join("given").exists());
        victim.signal(Signal::KILL);
        victim.wait(SOON);
    }
}

/// A live guest's own account of its jail.
#[track_caller]
pub(crate) fn assert_jailed(pid: Pid) {
    let status =
        fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("lives");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(field("NoNewPrivs"), "1", "{status}");
    assert_eq!(field("Seccomp"), "2", "{status}");
    assert_eq!(field("Threads"), "1", "{status}");
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}: {status}");
    }
}

#[test]
fn every_kind_of_guest_is_jailed_and_has_one_thread() {
    let forever = "args: [--every, '60000']";
    for (guest, container) in [("hello", forever), ("hello-p2", forever), ("http", "")] {
        let scene = Scene::new();
        let port = crate::http::free_port();
        let ports = format!("{container}\nports: [{{containerPort: {port}}}]");
        let mut run = scene.start(&one(guest, "Always", &ports), &["-o", "json"]);
        run.wait_line("\"running\"", SOON);
        let [pid] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };
        assert_jailed(pid);
        run.signal(Signal::INT);
        run.wait(SOON);
        scene.guard.finish();
    }
}

#[test]
fn run_as_user_is_the_sandboxs_user() {
    let scene = Scene::new();
    let security = "args: [--every, '60000']\nsecurityContext: {runAsUser: 1234, runAsGroup: 2345}";
    let mut run = scene.start(&one("hello", "Always", security), &["-o", "json"]);
    run.wait_line("\"running\"", SOON);
    let [pid] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };
    let status =
        fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("lives");
    assert!(status.contains("Uid:\t1234\t1234\t1234\t1234"), "{status}");
    assert!(status.contains("Gid:\t2345\t2345\t2345\t2345"), "{status}");
    assert_jailed(pid);
    run.signal(Signal::INT);
    run.wait(SOON);
    scene.guard.finish();
}
