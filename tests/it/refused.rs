//! Bad input: one clear error each, a non-zero exit, nothing left behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use copepod_tests::{Home, Run, copepod, guest};

use crate::hostile::artefact;
use crate::{Ended, SOON, Scene, one};

const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n";

#[track_caller]
fn refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.out, "", "nothing ran: {ended:?}");
    assert!(ended.err.starts_with("copepod: "), "{ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    for text in texts {
        assert!(ended.err.contains(text), "{text:?} is not in {ended:?}");
    }
}

#[test]
fn fields_that_are_unknown_mistyped_or_wrong_are_named() {
    let cases: [(&str, &[&str]); 12] = [
        ("  containers: [{name: a, image: ./a.wasm, imagee: b}]", &["spec.containers[0].imagee"]),
        ("  container: []", &["spec.container"]),
        (
            "  containers: [{name: a, image: ./a.wasm, ports: [{containerPort: http}]}]",
            &["spec.containers[0].ports[0].containerPort", "http"],
        ),
        (
            "  containers: [{name: a, image: ./a.wasm}, {name: a, image: ./a.wasm}]",
            &["spec.containers[1].name", "\"a\""],
        ),
        ("  containers: []", &["spec.containers"]),
        (
            "  restartPolicy: Sometimes\n  containers: [{name: a, image: ./a.wasm}]",
            &["spec.restartPolicy", "Sometimes", "Never"],
        ),
        (
            "  containers: [{name: a, image: ./a.wasm, resources: {limits: {memory: lots}}}]",
            &["spec.containers[0].resources.limits", "lots"],
        ),
        (
            "  containers: [{name: a, image: ./a.wasm, volumeMounts: [{name: v, mountPath: /v}]}]",
            &["spec.containers[0].volumeMounts[0].name", "\"v\""],
        ),
        (
            "  volumes: [{name: v, configMap: {name: c}}]\n  containers: [{name: a, image: ./a.wasm}]",
            &["spec.volumes[0]", "configMap"],
        ),
        (
            "  volumes: [{name: v, hostPath: {path: /dev/log, type: Socket}}]\n  containers: [{name: a, image: ./a.wasm}]",
            &["spec.volumes[0].hostPath.type"],
        ),
        (
            "  volumes: [{name: v, hostPath: {path: /nowhere/at/all}}]\n  containers: [{name: a, image: ./a.wasm}]",
            &["volume \"v\"", "/nowhere/at/all is not a directory"],
        ),
        (
            "  containers: [{name: a, image: ./a.wasm, securityContext: {privileged: true}}]",
            &["spec.containers[0].securityContext.privileged"],
        ),
    ];
    for (spec, texts) in cases {
        refused(&Scene::new().run(&format!("{HEAD}{spec}\n"), &[]), texts);
    }
}

#[test]
fn files_that_hold_no_pod_are_named() {
    for (text, texts) in [
        ("", &["pod.yaml"][..]),
        ("a: [", &["pod.yaml"]),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", &["Service"]),
        ("apiVersion: apps/v1\nkind: Deployment\n", &["Deployment"]),
        ("just text", &["pod.yaml"]),
    ] {
        refused(&Scene::new().run(text, &[]), texts);
    }
    refused(&Scene::new().copepod(&["run", "/nowhere/pod.yaml"]), &["/nowhere/pod.yaml"]);
}

/// Address space that the agent may take to refuse a file, in KiB: its program and its threads are
/// some 70 MiB of it.
const REFUSAL_KIB_MAX: u64 = 330_000;

/// Runs a file of these lines with no more memory than a refusal may take.
fn run_small(text: &str) -> Ended {
    let scene = Scene::new();
    let file = scene.home.path().join("pod.yaml");
    fs::write(&file, text).expect("writes");
    let mut command: Command = scene.home.command("/bin/sh");
    command.args(["-c", "ulimit -v \"$1\" && exec \"$0\" run \"$2\""]);
    command.arg(copepod()).arg(REFUSAL_KIB_MAX.to_string()).arg(file);
    let output = Run::spawn(command).output(SOON);
    scene.end(output)
}

#[test]
fn a_huge_file_is_refused_in_little_memory() {
    let most = 10 << 20;
    let containers = |form: &dyn Fn(usize) -> String, count: usize| {
        format!("{HEAD}  containers:\n") + &(0..count).map(form).collect::<String>()
    };
    let line = |n: usize| format!("  - {{name: c{n}, image: ./nowhere.wasm}}\n");
    let mut full = containers(&line, most / 42);
    full.truncate(full[..most].rfind('\n').expect("lines") + 1);
    assert!(full.len() > most - 100, "{} bytes are just under the bound", full.len());
    refused(&run_small(&full), &["pod.yaml", "Nodes"]);
    full.push_str(&"#".repeat(100));
    refused(&run_small(&full), &["pod.yaml: longer than 10 MiB"]);
    // As many as are taken for a file, and none of them right.
    let many = run_small(&containers(&line, 49_000));
    refused(&many, &["nowhere.wasm"]);
    let wrong = |n: usize| format!("  - {{name: C_{n}, imagee: ''}}\n");
    let ended = run_small(&containers(&wrong, 49_000));
    refused(&ended, &["spec.containers[0].imagee"]);
    assert!(ended.err.lines().count() < 50, "all of them are not told");
    let text = "x".repeat(most - 1000);
    let one = format!("metadata: {{name: a, annotations: {{a: \"{text}\"}}}}\n{HEAD}");
    refused(&run_small(&one), &["pod.yaml"]);
}

#[test]
fn a_yaml_bomb_is_refused_in_little_memory() {
    let mut nested = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let again = vec![format!("*a{}", n - 1); 10].join(",");
        nested += &format!("a{n}: &a{n} [{again}]\n");
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(10_000), "*a,".repeat(10_000));
    let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
    for (text, said) in [(nested, "alias"), (wide, "alias"), (deep, "recursion")] {
        let ended = run_small(&text);
        refused(&ended, &["pod.yaml", said]);
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}

fn with_image(scene: Scene, path: &Path) -> Ended {
    let yaml = format!("{HEAD}  containers: [{{name: a, image: '{}'}}]\n", path.display());
    scene.run(&yaml, &[])
}

#[test]
fn images_that_are_no_wasm_are_named_with_what_they_are() {
    let dir = tempfile::tempdir().expect("makes");
    let wasm = fs::read(guest("hello")).expect("reads");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("writes");
        path
    };
    let cases = [
        (dir.path().join("missing.wasm"), "missing.wasm"),
        (file("elf.wasm", &fs::read("/bin/true").expect("reads")[..512]), "ELF"),
        (file("elf", &fs::read(copepod()).expect("reads")), "ELF"),
        (
            file("own.cwasm", &fs::read(artefact(&Home::new(), "hello")).expect("reads")),
            "own.cwasm",
        ),
        (file("empty.wasm", b""), "empty.wasm"),
        (file("text.wasm", b"hello there"), "text.wasm"),
        (file("half.wasm", &wasm[..wasm.len() / 2]), "half.wasm"),
        (dir.path().to_path_buf(), "directory"),
    ];
    for (path, text) in cases {
        refused(&with_image(Scene::new(), &path), &[text, "container \"a\""]);
    }
    let never = "{name: a, image: 'ghcr.io/x/y:1', imagePullPolicy: Never}";
    let text = "Container image \"ghcr.io/x/y:1\" is not present with pull policy of Never";
    refused(&Scene::new().run(&format!("{HEAD}  containers: [{never}]\n"), &[]), &[text]);
}

#[test]
fn an_import_that_nobody_serves_is_named() {
    // (module (import "env" "frobnicate" (func)) (func (export "_start")))
    let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x12\x01\x03env\x0afrobnicate\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\x01\x0a\x04\x01\x02\0\x0b";
    let dir = tempfile::tempdir().expect("makes");
    let path = dir.path().join("imports.wasm");
    fs::write(&path, module).expect("writes");
    refused(&with_image(Scene::new(), &path), &["env", "frobnicate"]);
}

#[test]
fn an_interface_that_nobody_serves_is_named() {
    let mut component = fs::read(guest("hello-p2")).expect("reads");
    let (theirs, other) = (b"wasi:cli/environment@", b"acme:cli/environment@");
    let at = |bytes: &[u8]| bytes.windows(theirs.len()).position(|window| window == theirs);
    while let Some(at) = at(&component) {
        component[at..at + other.len()].copy_from_slice(other);
    }
    let dir = tempfile::tempdir().expect("makes");
    let path = dir.path().join("acme.wasm");
    fs::write(&path, component).expect("writes");
    refused(&with_image(Scene::new(), &path), &["acme:cli/environment@0.2", "is not served"]);
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once() {
    let ended = Scene::new().run(
        &format!(
            "{HEAD}  restartPolicy: Sometimes\n  containers: [{{name: A_b, image: ./a.wasm}}]\n"
        ),
        &[],
    );
    refused(&ended, &["spec.restartPolicy", "spec.containers[0].name"]);
}

#[test]
fn what_the_host_does_otherwise_is_named_once() {
    let ended = Scene::new().run(
        &one("exit", "Never", "args: ['0']\nresources: {limits: {cpu: 500m, memory: 64Mi}}"),
        &[],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.contains("cpu")).collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
}
