//! The real programs with real guests, run as a user would. `make test` builds what is run here.

mod check;
mod commands;
mod compile;
mod dev;
mod enter;
mod env;
mod exec;
mod faults;
mod files;
mod guard;
mod hostile;
mod http;
mod images;
mod jail;
mod layering;
mod lifecycle;
mod output;
mod probes;
mod refused;
mod registry;
mod survive;
mod symbols;
mod user;
mod volumes;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use copepod_tests::{Home, Run, guest};

use crate::guard::Guard;

/// Far longer than anything here takes, on a machine with other work too.
const SOON: Duration = Duration::from_secs(60);

/// A user of copepod, and the watch over what is left of what the user runs.
struct Scene {
    guard: Guard,
    home: Home,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        Self { guard: Guard::new(&home), home }
    }

    /// Writes a pod file; `@NAME@` in it is the path of the guest NAME.
    fn pod(&self, yaml: &str) -> PathBuf {
        let mut text = String::new();
        for (index, part) in yaml.split('@').enumerate() {
            if index % 2 == 0 {
                text.push_str(part);
            } else {
                text.push_str(&guest(part).display().to_string());
            }
        }
        let path = self.home.path().join("home/pod.yaml");
        fs::write(&path, text).expect("writes a pod file");
        path
    }

    /// `copepod run FILE ARGS`, not waited for.
    fn start(&self, yaml: &str, args: &[&str]) -> Run {
        let file = self.pod(yaml);
        let mut all = vec!["run", file.to_str().expect("a path in UTF-8")];
        all.extend(args);
        self.home.copepod(all)
    }

    /// `copepod run FILE ARGS` to its end; nothing may be left of it.
    #[track_caller]
    fn run(self, yaml: &str, args: &[&str]) -> Ended {
        let output = self.start(yaml, args).output(SOON);
        self.end(output)
    }

    /// `copepod ARGS` to its end; nothing may be left of it.
    #[track_caller]
    fn copepod(self, args: &[&str]) -> Ended {
        let output = self.home.copepod(args).output(SOON);
        self.end(output)
    }

    #[track_caller]
    fn end(self, output: Output) -> Ended {
        self.guard.finish();
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a user saw of a command.
#[derive(Debug)]
struct Ended {
    /// `None` when a signal ended it.
    code: Option<i32>,
    out: String,
    err: String,
}

/// A pod of one container `main` with the guest and the lines of YAML, indented for the container.
fn one(guest: &str, policy: &str, container: &str) -> String {
    let lines: String = container.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: one\nspec:\n  restartPolicy: {policy}\n  \
         terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    image: '@{guest}@'\n{lines}"
    )
}

#[test]
fn each_example_runs_as_its_file_says() {
    let expected: [(&str, i32, &str); 10] = [
        ("hello", 0, "hello, world"),
        ("hello-p2", 0, "hello, world"),
        ("files", 0, "written by a guest"),
        ("files-p2", 0, "written by a guest"),
        ("cat", 0, "stdout: no terminal"),
        ("cat-p2", 0, "stdout: no terminal"),
        ("exit", 3, ""),
        ("trap", 136, ""),
        ("burn", 0, "iterations"),
        ("hog", 137, ""),
    ];
    for (name, code, text) in expected {
        let file = copepod_tests::pod_file(name);
        let ended = Scene::new().copepod(&["run", file.to_str().expect("UTF-8")]);
        assert_eq!(ended.code, Some(code), "{name}: {ended:?}");
        assert!(ended.out.contains(text), "{name}: {ended:?}");
    }
}

#[test]
fn the_http_example_serves_as_its_file_says() {
    let text = fs::read_to_string(copepod_tests::pod_file("http")).expect("reads");
    // Its port may be taken on this machine.
    let port = http::free_port();
    let text = text.replace("./http.wasm", "@http@").replace("8080", &port.to_string());
    let scene = Scene::new();
    let mut run = scene.start(&text, &[]);
    assert_eq!(http::get(port, "/healthz"), (200, "ok\n".into()));
    assert!(http::get(port, "/env").1.contains("WHO=world"));
    run.signal(rustix::process::Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(0), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn a_bare_module_is_a_pod_with_its_arguments() {
    let hello = guest("hello");
    let hello = hello.to_str().expect("UTF-8");
    let ended = Scene::new().copepod(&["run", hello, "--", "--count", "2", "--every", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("--count") && ended.out.lines().count() >= 3, "{ended:?}");
}

#[test]
fn a_pod_comes_from_standard_input() {
    let scene = Scene::new();
    let file = scene.pod(&one("exit", "Never", "args: ['7']"));
    let mut command = scene.home.command(copepod_tests::copepod());
    command.args(["run", "-"]);
    let input = fs::read(file).expect("reads");
    let output = Run::spawn_with_input(command, input).output(SOON);
    assert_eq!(scene.end(output).code, Some(7));
}
