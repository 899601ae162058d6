//! The commands that ask a running `copepod run`: ps, logs, stop; and completions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use copepod_tests::{Run, copepod, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::survive::sandboxes;
use crate::{Ended, SOON, Scene, one};

impl Scene {
    /// `copepod ARGS` to its end, beside a run that goes on.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Ended {
        let output = self.home.copepod(args).output(SOON);
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// As [`Scene::ask`]; its output, which must not come with an error.
    #[track_caller]
    pub(crate) fn told(&self, args: &[&str]) -> String {
        let ended = self.ask(args);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
        ended.out
    }

    /// As [`Scene::ask`]; its error, which must be its only line and its code 1.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let ended = self.ask(args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{args:?}: {ended:?}");
        ended.err.strip_prefix("copepod: ").expect("an error of ours").trim_end().to_owned()
    }
}

/// Documents of pods that count until they are stopped: namespace, name.
pub(crate) fn counting(pods: &[(&str, &str)]) -> String {
    let document = |(namespace, name): &(&str, &str)| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             containers: [{{name: main, image: '@hello@', args: [--every, '20']}}]\n---\n"
        )
    };
    pods.iter().map(document).collect()
}

/// Stops all pods of a run from outside and waits for its end.
#[track_caller]
pub(crate) fn end(scene: &Scene, mut run: Run) {
    scene.told(&["stop", "--all", "--now"]);
    run.wait(SOON);
}

/// Waits until all pods of this home are ready.
#[track_caller]
pub(crate) fn ready(scene: &Scene, pods: usize) {
    wait_until(SOON, "all pods are ready", || {
        let ended = scene.ask(&["ps"]);
        ended.out.lines().filter(|line| line.contains("1/1     Running")).count() == pods
    });
}

#[test]
fn ps_lists_the_pods_of_all_runs() {
    let scene = Scene::new();
    let text = scene.refused(&["ps"]);
    assert!(text.starts_with("nothing runs: copepod run FILE"), "{text}");
    let first = scene.start(&counting(&[("default", "a"), ("other", "b")]), &[]);
    ready(&scene, 2);
    let second = scene.start(&counting(&[("default", "a")]), &[]);
    ready(&scene, 3);

    let table = scene.told(&["ps"]);
    let titles: Vec<&str> = table.lines().next().expect("titles").split_whitespace().collect();
    let expected = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "PORTS", "PID"];
    assert_eq!(titles, expected);
    for run in [&first, &second] {
        let pid = run.pid().as_raw_nonzero().to_string();
        assert!(table.lines().any(|line| line.ends_with(&pid)), "{pid}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "no colour in a pipe: {table}");
    let names = scene.told(&["ps", "-n", "other", "-o", "name"]);
    assert_eq!(names, "pod/b\n");
    let wide = scene.told(&["ps", "-o", "wide"]);
    assert!(wide.contains("hello.wasm"), "{wide}");
    let list: Value = serde_json::from_str(&scene.told(&["ps", "-o", "json"])).expect("JSON");
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["items"].as_array().expect("a list").len(), 3);
    assert_eq!(list["items"][0]["status"]["phase"], "Running", "{list}");
    assert!(scene.refused(&["ps", "-n", "none"]).contains("nothing runs in namespace \"none\""));

    let several = scene.refused(&["logs", "a"]);
    assert!(several.starts_with("2 pods are called \"a\""), "{several}");
    let uids = several.lines().filter(|line| line.contains("default/a of process"));
    let uid = uids.filter_map(|line| line.rsplit(' ').next()).next().expect("a uid").to_owned();
    assert!(scene.told(&["logs", &uid[..8]]).contains("count 1"), "{uid}");

    // Only its own user can ask, whatever the directory allows.
    let sockets = || fs::read_dir(scene.home.run().join("copepod")).expect("lists").flatten();
    for socket in sockets().filter(|entry| entry.path().extension().is_some_and(|e| e == "api")) {
        let mode = socket.metadata().expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    }
    scene.told(&["stop", "--all", "--now"]);
    for mut run in [first, second] {
        run.wait(SOON);
    }
    scene.guard.finish();
}

#[test]
fn stop_ends_one_pod_and_the_run_goes_on_with_the_rest() {
    let scene = Scene::new();
    let mut run = scene.start(&counting(&[("default", "a"), ("default", "b")]), &[]);
    ready(&scene, 2);
    assert_eq!(scene.told(&["stop", "default/a"]), "pod/a stopped\n");
    assert_eq!(sandboxes(&scene.home).len(), 1, "it has ended when its end is told");
    let table = scene.told(&["ps"]);
    assert!(table.lines().any(|line| line.contains("a      0/1     Error")), "{table}");
    assert!(scene.refused(&["stop", "a", "c"]).contains("pod \"c\" not found"));
    assert_eq!(scene.told(&["stop", "--all"]), "pod/b stopped\n");
    assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    assert!(scene.refused(&["stop", "--all"]).starts_with("nothing runs"));
    scene.guard.finish();
}

#[test]
fn stop_takes_a_grace_of_its_own() {
    let scene = Scene::new();
    let port = crate::http::free_port();
    let yaml = one("http", "Always", &format!("ports: [{{containerPort: {port}}}]"));
    let mut run = scene.start(&yaml.replace("Seconds: 2", "Seconds: 600"), &[]);
    assert_eq!(crate::http::get(port, "/healthz").0, 200);
    let busy = crate::http::send(port, "GET", "/burn?ms=600000", &[]);
    wait_until(SOON, "the guest burns", || {
        sandboxes(&scene.home).iter().any(|pid| crate::lifecycle::cpu_ticks(*pid) > 10)
    });
    assert_eq!(scene.told(&["stop", "one", "--grace-period", "1"]), "pod/one stopped\n");
    assert_eq!(run.wait(SOON).code(), Some(137));
    drop(busy);
    scene.guard.finish();
}

#[test]
fn logs_are_kubectls() {
    let scene = Scene::new();
    let run = scene.start(&one("hello", "Always", "args: [--every, '20']"), &[]);
    run.wait_line("count 9", SOON);
    let all = scene.told(&["logs", "one"]);
    assert!(all.starts_with("args: --every 20\n") && all.contains("\ncount 9\n"), "{all}");
    let tail = scene.told(&["logs", "one", "main", "--tail", "2"]);
    assert_eq!(tail.lines().count(), 2, "{tail}");
    assert_eq!(scene.told(&["logs", "one", "--tail", "0"]), "");
    assert_eq!(scene.told(&["logs", "one", "-c", "main", "--limit-bytes", "8"]), "args: --");
    let stamped = scene.told(&["logs", "one", "--timestamps"]);
    let first = stamped.lines().next().expect("a line");
    let (time, line) = first.split_once(' ').expect("a time");
    assert_eq!((time.len(), line), ("2026-11-22T03:00:00.000000000Z".len(), "args: --every 20"));
    let since = stamped.lines().nth(4).and_then(|line| line.split_once(' ')).expect("a line");
    let later = scene.told(&["logs", "one", "--since-time", since.0]);
    assert!(later.starts_with(&format!("{}\n", since.1)), "{later}");
    assert!(scene.told(&["logs", "one", "--since", "1h"]).starts_with("args"));
    let prefixed = scene.told(&["logs", "one", "--all-containers", "--limit-bytes", "10"]);
    assert_eq!(prefixed, "[pod/one/main] args: --ev\n");

    assert!(scene.refused(&["logs", "two"]).contains("pod \"two\" not found"));
    assert!(scene.refused(&["logs", "one", "x"]).contains("container \"x\" not found in pod"));
    let previous = scene.refused(&["logs", "one", "-p"]);
    assert_eq!(previous, "previous terminated container \"main\" in pod \"one\" not found");
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn logs_are_followed_to_the_containers_end() {
    let scene = Scene::new();
    // More than one file's bytes: the reader goes from file to file.
    let run = scene
        .start(&one("hello", "Never", "args: [--count, '300000', --every, '0']"), &["-o", "json"]);
    run.wait_line("\"running\"", SOON);
    let followed = scene.ask(&["logs", "-f", "one"]);
    let lines = followed.out.lines().filter(|line| line.starts_with("count ")).count();
    assert_eq!((followed.code, lines), (Some(0), 300_000), "{}", followed.err);
    let mut run = run;
    assert_eq!(run.wait(SOON).code(), Some(0));
    scene.guard.finish();
}

#[test]
fn a_followed_log_ends_with_its_pod_and_a_stalled_reader_holds_up_nobody() {
    let scene = Scene::new();
    let run = scene.start(&one("hello", "Always", "args: [--every, '0']"), &["-o", "json"]);
    run.wait_line("\"running\"", SOON);
    let mut follower = scene.home.copepod(["logs", "-f", "one", "--tail", "1"]);
    follower.wait_line("count", SOON);
    let mut command = scene.home.command(copepod());
    let stalled = command.args(["logs", "-f", "one"]).stdout(Stdio::piped());
    let mut stalled = stalled.spawn().expect("starts");
    let pipe = stalled.stdout.take().expect("piped");
    let full = || rustix::io::ioctl_fionread(&pipe).is_ok_and(|bytes| bytes >= 32 << 10);
    wait_until(SOON, "its pipe is full", full);
    end(&scene, run);
    assert_eq!(follower.wait(SOON).code(), Some(0), "{}", follower.stderr());
    stalled.kill().expect("kills");
    stalled.wait().expect("ends");
    scene.guard.finish();
}

#[test]
fn the_attempt_before_a_restart_has_its_log() {
    let scene = Scene::new();
    let run = scene.start(&one("hello", "Always", "args: [--every, '50']"), &["-o", "json"]);
    run.wait_line("count 3", SOON);
    let [guest] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };
    rustix::process::kill_process(guest, Signal::KILL).expect("kills");
    run.wait_line("\"restartCount\":1", SOON);
    wait_until(SOON, "the second attempt writes", || {
        scene.ask(&["logs", "one"]).out.contains("count 1\n")
    });
    let previous = scene.told(&["logs", "one", "--previous"]);
    assert!(previous.contains("count 3\n"), "{previous}");
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn sockets_of_dead_and_silent_agents_hold_up_nobody() {
    let scene = Scene::new();
    let mut killed = scene.start(&counting(&[("default", "a")]), &[]);
    ready(&scene, 1);
    killed.signal(Signal::KILL);
    killed.wait(SOON);
    assert!(
        scene.refused(&["ps"]).starts_with("nothing runs"),
        "its socket is there, nobody listens"
    );
    // Accepts and says nothing.
    let silent = UnixListener::bind(scene.home.run().join("copepod/silent.api")).expect("binds");
    let run = scene.start(&counting(&[("default", "b")]), &[]);
    let seen = || scene.ask(&["ps", "-o", "name"]);
    wait_until(SOON, "the other one is listed", || seen().out == "pod/b\n");
    assert!(seen().err.contains("did not answer within 5 s"), "{}", seen().err);
    drop(silent);
    fs::remove_file(scene.home.run().join("copepod/silent.api")).expect("removes");
    let sockets = fs::read_dir(scene.home.run().join("copepod")).expect("lists").flatten();
    let agents = sockets.filter(|entry| entry.path().extension().is_some_and(|e| e == "api"));
    assert_eq!(agents.count(), 1, "the next run removes what the killed one left");
    end(&scene, run);
    scene.guard.finish();
}

#[test]
fn clients_that_send_nothing_or_nonsense_are_let_go() {
    use std::io::{Read, Write};

    let scene = Scene::new();
    let run = scene.start(&counting(&[("default", "a")]), &[]);
    ready(&scene, 1);
    let mut sockets = fs::read_dir(scene.home.run().join("copepod")).expect("lists").flatten();
    let socket = sockets.find(|entry| entry.path().extension().is_some_and(|e| e == "api"));
    let socket = socket.expect("a socket").path();
    let idle: Vec<UnixStream> =
        (0..32).map(|_| UnixStream::connect(&socket).expect("connects")).collect();
    for (request, code) in [
        ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        ("PUT /pods HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "405"),
        ("GET /containerLogs/default/x/y HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        ("GET /containerLogs/default/a/main?tailLines=x HTTP/1.1\r\nHost: x\r\n\r\n".into(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20)), "4"),
    ] {
        let mut stream = UnixStream::connect(&socket).expect("connects");
        // The last one is refused before it is all sent.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{code}: {answer:?}");
    }
    assert!(scene.told(&["ps"]).contains("Running"));
    end(&scene, run);
    drop(idle);
    scene.guard.finish();
}

#[test]
fn each_shell_has_its_completions() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scene.told(&["completions", shell]);
        for command in ["run", "logs", "--follow", "completions"] {
            assert!(script.contains(command.trim_start_matches("--")), "{shell}: {command}");
        }
        if shell == "bash" {
            let file = scene.home.path().join("home/completions");
            fs::write(&file, &script).expect("writes");
            let checked = Command::new("bash").arg("-n").arg(&file).output().expect("runs bash");
            assert!(checked.status.success(), "{checked:?}");
        }
    }
    assert_eq!(scene.ask(&["completions", "tcsh"]).code, Some(2));
    scene.guard.finish();
}
