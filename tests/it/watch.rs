//! `copepod run --watch`: a container restarts when its Wasm file changes.

use std::fs;
use std::path::{Path, PathBuf};

use copepod_tests::{Run, guest, wait_until};
use rustix::process::Signal;

use crate::survive::sandboxes;
use crate::{SOON, Scene};

/// A pod of `app.wasm` in the scene's home.
fn pod(scene: &Scene, first: &str, policy: &str, args: &str) -> (PathBuf, PathBuf) {
    let app = scene.home.path().join("home/app.wasm");
    fs::copy(guest(first), &app).expect("copies");
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  restartPolicy: {policy}\n  \
         containers: [{{name: main, image: ./app.wasm, args: [{args}]}}]\n"
    );
    (scene.pod(&yaml), app)
}

fn watch(scene: &Scene, file: &Path) -> Run {
    scene.home.copepod(["run", "--watch", file.to_str().expect("UTF-8")])
}

/// Puts another file in the place of `app`, as compilers do.
fn replace(app: &Path, by: &Path) {
    let new = app.with_extension("new");
    fs::copy(by, &new).expect("copies");
    fs::rename(&new, app).expect("renames");
}

#[test]
fn a_changed_file_restarts_its_container_and_a_broken_one_does_not() {
    let scene = Scene::new();
    let (file, app) = pod(&scene, "hello", "Always", "--every, '20'");
    let mut run = watch(&scene, &file);
    run.wait_line("count 3", SOON);
    let [first] = sandboxes(&scene.home)[..] else { panic!("one sandbox was expected") };

    fs::write(&app, b"\0asm, and no more").expect("writes");
    run.wait_line("has changed and is not used", SOON);
    // The same bytes again are no change, wherever they come from.
    replace(&app, &guest("hello"));
    fs::write(&app, b"nothing like it").expect("writes");
    wait_until(SOON, "the second broken one is told", || {
        run.stderr().matches("has changed and is not used").count() == 2
    });
    assert_eq!(sandboxes(&scene.home), [first], "the old one goes on");

    replace(&app, &guest("exit"));
    run.wait_line("app.wasm has changed: the container restarts", SOON);
    run.wait_line("Error, exit code 2", SOON);
    let usage = run.wait_line("usage: exit", SOON);
    assert!(usage.contains("CODE"), "{usage}");
    // Into the same file, by a program that writes it piece by piece.
    fs::copy(guest("hello-p2"), &app).expect("copies");
    let before = run.stdout().matches("args: --every 20").count();
    wait_until(SOON, "the new one runs", || {
        run.stdout().matches("args: --every 20").count() > before
    });
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn a_pod_that_has_ended_runs_anew() {
    let scene = Scene::new();
    let (file, app) = pod(&scene, "exit", "Never", "'5'");
    let mut run = watch(&scene, &file);
    run.wait_line("Error, exit code 5", SOON);
    let uid = scene.told(&["ps", "-o", "wide"]);
    replace(&app, &guest("hello"));
    run.wait_line("app.wasm has changed: the pod runs anew", SOON);
    run.wait_line("Error, exit code 2", SOON);
    run.wait_line("usage: hello", SOON);
    assert_ne!(scene.told(&["ps", "-o", "wide"]), uid, "it is another pod of that name");
    assert!(scene.told(&["logs", "one"]).contains("usage: hello"), "with logs of its own");
    replace(&app, &guest("exit"));
    wait_until(SOON, "it ran a third time", || run.stderr().matches("runs anew").count() == 2);
    wait_until(SOON, "and has ended", || run.stderr().matches("exit code 5").count() == 2);
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(5), "{}", run.stderr());
    scene.guard.finish();
}

#[test]
fn a_pod_that_was_stopped_stays_so_and_ends_the_run() {
    let scene = Scene::new();
    let (file, _) = pod(&scene, "hello", "Always", "--every, '20'");
    let mut run = watch(&scene, &file);
    run.wait_line("count 3", SOON);
    assert_eq!(scene.told(&["stop", "one"]), "pod/one stopped\n");
    assert_eq!(run.wait(SOON).code(), Some(143), "{}", run.stderr());
    scene.guard.finish();
}
