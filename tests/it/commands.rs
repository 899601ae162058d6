//! `copepod exec`: commands beside running containers.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use copepod_tests::{Home, Run, copepod, wait_until};

use crate::dev::end;
use crate::survive::sandboxes;
use crate::{Ended, Guard, SOON, Scene, one};

/// A run of a guest that waits, or counts, and can be asked for commands.
#[track_caller]
fn running(scene: &Scene, guest: &str, args: &str) -> Run {
    let run = scene.start(&one(guest, "Always", &format!("args: [{args}]")), &[]);
    wait_until(SOON, "it runs", || scene.ask(&["ps"]).out.contains("Running"));
    run
}

/// `copepod exec ARGS` with `input`.
#[track_caller]
fn fed(scene: &Scene, args: &[&str], input: impl Into<Vec<u8>>) -> Ended {
    let mut command = scene.home.command(copepod());
    command.arg("exec").args(args);
    let output = Run::spawn_with_input(command, input).output(SOON);
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_command_has_its_arguments_streams_and_exit_code() {
    // WASI 0.2 knows success and failure, no numbers.
    for (guest, failure) in [("hello", 2), ("hello-p2", 1)] {
        let scene = Scene::new();
        let run = running(&scene, guest, "--every, '50'");
        let told = scene.told(&["exec", "one", "--", "hello", "--count", "2", "--every", "1"]);
        assert_eq!(
            told, "args: --count 2 --every 1\nenv: HOSTNAME=one\ncount 1\ncount 2\n",
            "{guest}"
        );
        let wrong = scene.ask(&["exec", "one", "-c", "main", "--", "hello", "--bad"]);
        assert_eq!((wrong.code, wrong.out.as_str()), (Some(failure), ""), "{wrong:?}");
        assert!(wrong.err.starts_with("usage: hello"), "{wrong:?}");
        assert_eq!(sandboxes(&scene.home).len(), 1, "only its container is left");
        assert!(!scene.told(&["logs", "one"]).contains("usage"), "it is not in the log");
        end(&scene, run);
        scene.guard.finish();
    }
}

#[test]
fn standard_input_goes_to_the_command_and_comes_back() {
    for guest in ["cat", "cat-p2"] {
        let scene = Scene::new();
        let run = running(&scene, guest, "wait");
        let ended = fed(&scene, &["-i", "one", "--", "cat"], "one\ntwo");
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), "one\ntwo"), "{guest}: {ended:?}");
        // More than all pipes and messages on the way hold.
        let big: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
        let ended = fed(&scene, &["-i", "one", "--", "cat"], big.clone());
        assert!(ended.code == Some(0) && ended.out == big, "{guest}: {} bytes", ended.out.len());
        let without = fed(&scene, &["one", "--", "cat"], "not for it");
        assert_eq!((without.code, without.out.as_str()), (Some(0), ""), "{without:?}");
        end(&scene, run);
        scene.guard.finish();
    }
}

#[test]
fn what_cannot_be_run_says_why() {
    let scene = Scene::new();
    let run = running(&scene, "exit", "'0', --after, '600000'");
    assert_eq!(scene.ask(&["exec", "one", "--", "exit", "7"]).code, Some(7));
    assert!(scene.refused(&["exec", "two", "--", "x"]).contains("pod \"two\" not found"));
    let container = scene.refused(&["exec", "one", "-c", "x", "--", "x"]);
    assert!(container.contains("container \"x\" not found in pod \"one\""), "{container}");
    assert_eq!(scene.ask(&["exec", "one"]).code, Some(2), "without a command");
    let terminal = scene.ask(&["exec", "-it", "one", "--", "exit", "0"]);
    assert_eq!(terminal.code, Some(0), "{terminal:?}");
    assert!(terminal.err.contains("a guest has no terminal"), "{terminal:?}");
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn a_command_runs_though_the_compiled_guest_is_gone_or_spoilt() {
    let home = Home::with_empty_cache();
    let scene = Scene { guard: Guard::new(&home), home };
    let run = running(&scene, "exit", "'0', --after, '600000'");
    let artefact = || {
        let all = fs::read_dir(scene.home.cache().join("copepod")).expect("the cache").flatten();
        let mut all = all.map(|entry| entry.path());
        all.find(|path| path.extension().is_some_and(|suffix| suffix == "cwasm"))
    };
    let first = artefact().expect("is compiled");
    fs::remove_file(&first).expect("removes");
    assert_eq!(scene.ask(&["exec", "one", "--", "exit", "7"]).code, Some(7));
    assert_eq!(artefact().as_ref(), Some(&first), "it is compiled again");
    // A new file: what runs has the old one.
    fs::remove_file(&first).expect("removes");
    fs::write(&first, "no code").expect("writes");
    assert_ne!(scene.ask(&["exec", "one", "--", "exit", "7"]).code, Some(7));
    assert_eq!(scene.ask(&["exec", "one", "--", "exit", "7"]).code, Some(7));
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn an_http_server_has_no_command() {
    let scene = Scene::new();
    let port = crate::http::free_port();
    let run =
        scene.start(&one("http", "Always", &format!("ports: [{{containerPort: {port}}}]")), &[]);
    assert_eq!(crate::http::get(port, "/healthz").0, 200);
    let ended = scene.ask(&["exec", "one", "--", "ls"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(126), ""), "{ended:?}");
    assert!(ended.err.contains("has no command"), "{ended:?}");
    assert!(scene.told(&["ps"]).contains(&format!("http://localhost:{port}")));
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn a_container_that_has_ended_runs_no_command() {
    let scene = Scene::new();
    let yaml = one("exit", "Always", "args: ['1']");
    let run = scene.start(&yaml, &[]);
    run.wait_line("back-off 10s", SOON);
    let text = scene.refused(&["exec", "one", "--", "exit", "0"]);
    // As a kubelet's server says it.
    let start = "Internal error occurred: error executing command in container: ";
    assert_eq!(text.trim_end(), format!("{start}container not running (main)"));
    end(&scene, run);
    scene.guard.finish();
}

/// A client whose standard input stays open.
struct Client(Child);

impl Client {
    fn start(scene: &Scene, args: &[&str]) -> Self {
        let mut command = scene.home.command(copepod());
        command.arg("exec").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("starts"))
    }

    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until(SOON, "the client ends", || {
            status = self.0.try_wait().expect("a child of ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Gone already unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_command_ends_with_its_client_and_with_its_container() {
    let scene = Scene::new();
    let run = running(&scene, "cat", "wait");
    let guests = |count: usize| {
        wait_until(SOON, "so many guests run", || sandboxes(&scene.home).len() == count);
    };
    // Waits for input; waits for nothing and reads none of what is sent.
    let waits = Client::start(&scene, &["-i", "one", "--", "cat"]);
    let mut deaf = Client::start(&scene, &["-i", "one", "--", "cat", "wait"]);
    guests(3);
    let mut stdin = deaf.0.stdin.take().expect("piped");
    // Until no pipe on the way takes more, or it is killed.
    let flood = std::thread::spawn(move || while stdin.write_all(&[b'x'; 4096]).is_ok() {});
    drop(waits);
    guests(2);
    deaf.0.kill().expect("kills");
    guests(1);
    flood.join().expect("has ended");

    let mut orphan = Client::start(&scene, &["-i", "one", "--", "cat"]);
    guests(2);
    end(&scene, run);
    assert_eq!(orphan.code(), Some(137), "killed with its container");
    drop(orphan);
    scene.guard.finish();
}

#[test]
fn a_command_writes_no_further_than_its_client_reads() {
    let scene = Scene::new();
    let run = running(&scene, "hello", "--every, '50'");
    let mut client = Client::start(&scene, &["one", "--", "hello", "--every", "0"]);
    let pipe = client.0.stdout.take().expect("piped");
    let full = || rustix::io::ioctl_fionread(&pipe).is_ok_and(|bytes| bytes >= 32 << 10);
    wait_until(SOON, "its pipe is full", full);
    assert!(scene.told(&["ps"]).contains("Running"), "nobody else waits");
    // As `copepod exec … | head` does.
    drop(pipe);
    assert_eq!(client.code(), Some(1));
    wait_until(SOON, "the command ends with it", || sandboxes(&scene.home).len() == 1);
    end(&scene, run);
    scene.guard.finish();
}
