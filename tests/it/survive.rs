//! What is left when something is killed: nothing, or what the next start removes.

use std::fs;
use std::time::Duration;

use copepod_tests::{Home, Run, let_pass, sandbox, wait_until};
use rustix::process::{Pid, Signal};

use crate::{SOON, Scene, one};

/// The sandbox processes whose open files lie in this home.
pub(crate) fn sandboxes(home: &Home) -> Vec<Pid> {
    let program = sandbox();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let ours = exe.file_name() == program.file_name();
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let in_home =
            files.flat_map(|fd| fs::read_link(fd.path())).any(|to| to.starts_with(home.path()));
        if ours && in_home {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

const TWO: &str = "apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  restartPolicy: Always
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: init, image: '@files@', args: [write, /data/f, x], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - {name: counts, image: '@hello@', args: [--every, '5']}
  - {name: ends, image: '@exit@', args: ['0', --after, '20']}
";

/// Bytes in all logs of this home's runs.
pub(crate) fn log_bytes(home: &Home) -> u64 {
    let mut dirs = vec![home.state()];
    let mut bytes = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) if entry.path().to_string_lossy().contains(".log") => bytes += meta.len(),
                Ok(_) | Err(_) => {}
            }
        }
    }
    bytes
}

/// Sockets and directories of runs, as a user's directories show them.
fn traces(home: &Home) -> Vec<std::path::PathBuf> {
    let list = |dir: std::path::PathBuf| {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    list(home.run().join("copepod")).chain(list(home.state().join("copepod/run"))).collect()
}

#[test]
fn a_killed_run_leaves_nothing_alive_and_the_next_removes_the_rest() {
    let scene = Scene::new();
    let kill = |mut run: Run| {
        run.signal(Signal::KILL);
        run.wait(SOON);
        wait_until(SOON, "its sandboxes end with it", || sandboxes(&scene.home).is_empty());
    };
    for step in 0..40 {
        let run = scene.start(TWO, &[]);
        let time = Duration::from_micros(500 + step * step * 137);
        let_pass(time, "from before the first effect to well into restarts, in odd steps");
        kill(run);
    }
    // However slow it was, one kill meets running guests.
    let run = scene.start(TWO, &[]);
    wait_until(SOON, "a guest runs", || !sandboxes(&scene.home).is_empty());
    kill(run);
    let file = scene.pod(&one("exit", "Never", "args: ['0']"));
    let mut last = scene.home.copepod(["run", file.to_str().expect("UTF-8")]);
    assert_eq!(last.wait(SOON).code(), Some(0), "{}", last.stderr());
    assert_eq!(traces(&scene.home), Vec::<std::path::PathBuf>::new());
    scene.guard.finish();
}

#[test]
fn a_root_directory_has_one_agent_and_is_taken_over_after_a_kill() {
    let scene = Scene::new();
    let root = scene.home.path().join("root");
    let at_root = ["--root-dir", root.to_str().expect("UTF-8")];
    let yaml = one("hello", "Always", "args: [--every, '20']");
    let mut first = scene.start(&yaml, &at_root);
    first.wait_line("count 2", SOON);
    let second = scene.start(&yaml, &at_root).output(SOON);
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains(&format!("{} is in use by another copepod", root.display())), "{text}");
    assert_eq!(sandboxes(&scene.home).len(), 1, "the first goes on");

    first.signal(Signal::KILL);
    first.wait(SOON);
    let mut third = scene.start(&yaml, &at_root);
    third.wait_line("count 2", SOON);
    assert_eq!(sandboxes(&scene.home).len(), 1);
    third.signal(Signal::INT);
    assert_eq!(third.wait(SOON).code(), Some(143));
    scene.guard.finish();
}

#[test]
fn two_runs_side_by_side_do_not_meet() {
    let scene = Scene::new();
    let yaml = one("hello", "Always", "args: [--every, '20']");
    let mut runs = [scene.start(&yaml, &[]), scene.start(&yaml, &[])];
    for run in &runs {
        run.wait_line("count 2", SOON);
    }
    assert_eq!(sandboxes(&scene.home).len(), 2);
    for run in &mut runs {
        run.signal(Signal::TERM);
        assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    }
    assert_eq!(traces(&scene.home), Vec::<std::path::PathBuf>::new());
    scene.guard.finish();
}
