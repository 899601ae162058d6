//! Bad input: one clear error each, a non-zero exit, nothing left behind.

use std::fs;
use std::path::Path;

use copepod_tests::guest;

use crate::{Ended, Scene, one};

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
            "  volumes: [{name: v, hostPath: {path: /etc/passwd, type: File}}]\n  containers: [{name: a, image: ./a.wasm}]",
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
        (file("empty.wasm", b""), "empty.wasm"),
        (file("text.wasm", b"hello there"), "text.wasm"),
        (file("half.wasm", &wasm[..wasm.len() / 2]), "half.wasm"),
        (dir.path().to_path_buf(), "directory"),
    ];
    for (path, text) in cases {
        refused(&with_image(Scene::new(), &path), &[text, "container \"a\""]);
    }
    let registry = format!("{HEAD}  containers: [{{name: a, image: 'ghcr.io/x/y:1'}}]\n");
    refused(&Scene::new().run(&registry, &[]), &["ghcr.io/x/y:1", "./FILE.wasm"]);
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
