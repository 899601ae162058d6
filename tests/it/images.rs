//! Images of files in layers, and of shapes that are not run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use copepod_tests::registry::{Proxy, Registry, answer};
use copepod_tests::{guest, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::registry::{ONCE, refused, scene};
use crate::{SOON, Scene};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What makes the guest `exit` end with 3.
const EXIT: &str = "args: ['3']";

/// An image as it lies in a layout, made here from nothing.
#[derive(Default)]
struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
}

/// A layer: its media type, and its archive as unpacked and as packed.
struct Layer {
    media_type: String,
    unpacked: Vec<u8>,
    packed: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer of files, packed by `tar` and `gzip`.
fn layer(scene: &Scene, files: &[(&str, &[u8])], gzip: bool) -> Layer {
    let dir = tempfile::tempdir_in(scene.home.path()).expect("made");
    for (path, bytes) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        command.args(["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-C"]);
        let output = command.arg(dir.path()).args(args).arg("-cf-").arg(".").output().expect("tar");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let unpacked = tar(&[]);
    let packed = if gzip { tar(&["--gzip"]) } else { unpacked.clone() };
    let media_type = if gzip { format!("{LAYER}+gzip") } else { LAYER.to_owned() };
    Layer { media_type, unpacked, packed }
}

impl Image {
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// A manifest of these layers whose configuration says how it is run; its descriptor.
    fn manifest(&mut self, layers: &[Layer], run: &Value) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.unpacked)).collect();
        let config = json!({
            "architecture": "wasm", "os": "wasi", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(CONFIG, config.to_string().into_bytes());
        let layers: Vec<Value> =
            layers.iter().map(|layer| self.add(&layer.media_type, layer.packed.clone())).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.add(MANIFEST, manifest.to_string().into_bytes())
    }

    /// Pushes it by another client than ours.
    fn push(&self, scene: &Scene, top: &Value, image: &str) {
        let dir = tempfile::tempdir_in(scene.home.path()).expect("made");
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("made");
        for (digest, bytes) in &self.blobs {
            fs::write(blobs.join(&digest["sha256:".len()..]), bytes).expect("written");
        }
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        fs::write(dir.path().join("index.json"), index.to_string()).expect("written");
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("written");
        let output = Command::new("skopeo")
            .args(["copy", "--all", "--dest-tls-verify=false", "--insecure-policy"])
            .arg(format!("oci:{}", dir.path().display()))
            .arg(format!("docker://{image}"))
            .output()
            .expect("skopeo of `make setup`");
        assert!(output.status.success(), "{output:?}");
    }

    /// Serves it without a registry, which might refuse what it is.
    fn serve(self, top: &Value) -> Proxy {
        let top = self.blobs[top["digest"].as_str().expect("a digest")].clone();
        Proxy::alone(move |request| {
            let last = request.path.rsplit('/').next().unwrap_or_default();
            match self.blobs.get(last) {
                Some(bytes) => answer("200 OK", &[], bytes),
                None if request.path.contains("/manifests/") => answer("200 OK", &[], &top),
                None => answer("404 Not Found", &[], ""),
            }
        })
    }
}

fn wasm(name: &str) -> Vec<u8> {
    fs::read(guest(name)).expect("reads")
}

#[test]
fn the_wasm_of_an_images_files_is_run() {
    let scene = scene();
    let registry = Registry::start();
    let lower = layer(
        &scene,
        &[("app/old.wasm", b"\0asm gone"), ("etc/passwd", b"root:x:0:0::/:\nme:x:7:8::/:\n")],
        true,
    );
    let upper =
        layer(&scene, &[("app/hello.wasm", &wasm("hello")), ("app/.wh.old.wasm", b"")], false);
    let mut image = Image::default();
    let run = json!({"Entrypoint": ["/app/hello.wasm"], "User": "0", "WorkingDir": "/app"});
    let top = image.manifest(&[lower, upper], &run);
    let name = format!("{}/hello:1", registry.host());
    image.push(&scene, &top, &name);
    let ended = scene.run_image(&name, ONCE, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("count 1"), "{ended:?}");
    // Unpacked once, and again from the store alone.
    drop(registry);
    let ended = scene.run_image(&name, ONCE, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let files = scene.store().join("files");
    let unpacked: Vec<_> = fs::read_dir(&files).expect("there").collect();
    assert_eq!(unpacked.len(), 1);
    scene.guard.finish();
}

#[test]
fn a_guest_sees_its_images_files_and_changes_none() {
    let scene = scene();
    let registry = Registry::start();
    let files = [("app/files.wasm", &wasm("files")[..]), ("data/text", b"from the image\n")];
    let layers = [layer(&scene, &files, true), layer(&scene, &[("data/.wh.none", b"")], true)];
    let mut image = Image::default();
    let run = json!({"Entrypoint": ["/app/files.wasm"], "Cmd": ["read", "/data/text"]});
    let top = image.manifest(&layers, &run);
    let name = format!("{}/files:1", registry.host());
    image.push(&scene, &top, &name);
    let read = |lines: &str| {
        let ended = scene.run_image(&name, lines, &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    assert_eq!(read(""), "from the image\n");
    let changed = read("args: [write, /data/text, mine, --, read, /data/text]");
    assert_eq!(changed, "mine\n");
    assert_eq!(read(""), "from the image\n", "each container has its own");
    scene.guard.finish();
}

#[test]
fn of_several_platforms_wasm_is_taken_and_of_several_files_the_named_one() {
    let scene = scene();
    let registry = Registry::start();
    let mut image = Image::default();
    let files: [(&str, &[u8]); 2] = [("a.wasm", &wasm("hello")), ("bin/exit", &wasm("exit"))];
    let both = layer(&scene, &files, true);
    let mut ours = image.manifest(&[both], &json!({"Cmd": ["serve"]}));
    ours["platform"] = json!({"os": "wasi", "architecture": "wasm"});
    let other = layer(&scene, &[("bin/true", b"\x7fELF")], true);
    let mut linux = image.manifest(&[other], &json!({"Cmd": ["/bin/true"]}));
    linux["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut note = image.manifest(&[layer(&scene, &[], false)], &json!({}));
    note["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [note, linux, ours]});
    let top = image.add(INDEX, index.to_string().into_bytes());
    let name = format!("{}/multi:1", registry.host());
    image.push(&scene, &top, &name);
    let texts = ["its entrypoint \"serve\" is no Wasm file, and it has 2", "/a.wasm, /bin/exit"];
    refused(&scene.run_image(&name, "", &[]), &texts);
    for (command, args, code) in
        [("/a.wasm", ONCE, 0), ("a.wasm", ONCE, 0), ("/bin/exit", EXIT, 3), ("exit", EXIT, 3)]
    {
        let ended = scene.run_image(&name, &format!("command: [{command}]\n{args}"), &[]);
        assert_eq!(ended.code, Some(code), "{command}: {ended:?}");
    }
    scene.guard.finish();
}

#[test]
fn a_command_is_another_wasm_file_of_the_image_or_the_containers_own() {
    let scene = scene();
    let registry = Registry::start();
    let mut image = Image::default();
    let files: [(&str, &[u8]); 2] = [("cat.wasm", &wasm("cat")), ("bin/exit", &wasm("exit"))];
    let top = image.manifest(&[layer(&scene, &files, true)], &json!({"Entrypoint": ["/cat.wasm"]}));
    let name = format!("{}/two:1", registry.host());
    image.push(&scene, &top, &name);
    let run = scene.start_image(&name, "args: [wait]", &[]);
    wait_until(SOON, "it runs", || scene.ask(&["ps"]).out.contains("Running"));
    for (command, code) in [("exit", 7), ("/bin/exit", 4)] {
        let ended = scene.ask(&["exec", "one", "--", command, &code.to_string()]);
        assert_eq!(ended.code, Some(code), "{command}: {ended:?}");
    }
    let own = scene.told(&["exec", "one", "--", "anything", "tty"]);
    assert!(own.starts_with("stdin: no terminal"), "{own}");
    crate::dev::end(&scene, run);
    scene.guard.finish();
}

#[test]
fn a_command_is_of_the_files_that_the_container_was_started_with() {
    let scene = scene();
    let registry = Registry::start();
    let name = format!("{}/moves:1", registry.host());
    let mut image = Image::default();
    let mut push = |other: &str| {
        let files: [(&str, &[u8]); 2] = [("cat.wasm", &wasm("cat")), ("bin/exit", &wasm(other))];
        let run = json!({"Entrypoint": ["/cat.wasm"]});
        let top = image.manifest(&[layer(&scene, &files, true)], &run);
        image.push(&scene, &top, &name);
    };
    push("exit");
    let run = scene.start_image(&name, "args: [wait]", &[]);
    wait_until(SOON, "it runs", || scene.ask(&["ps"]).out.contains("Running"));
    let exec = |word: &str, code: &str| scene.ask(&["exec", "one", "--", word, code]);
    assert_eq!(exec("exit", "7").code, Some(7));

    // The name leads to another image now, here as well.
    push("hello");
    let pulled = scene.image(&["pull", &name]);
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    assert_eq!(exec("exit", "6").code, Some(6));
    assert_eq!(exec("/bin/exit", "5").code, Some(5));

    // Neither the registry nor what the store's names mean is asked.
    drop(registry);
    let store = scene.store();
    let away = |what: &str| fs::rename(store.join(what), store.join(format!("{what}-away")));
    away("index.json").expect("moves");
    assert_eq!(exec("bin/exit", "4").code, Some(4));

    // What a word means is found out once; its file is not looked at again.
    away("files").expect("moves");
    assert_eq!(exec("exit", "3").code, Some(3));
    let unknown = exec("../bin/exit", "2");
    let text = "cannot read its files";
    assert!(unknown.code == Some(1) && unknown.err.contains(text), "{unknown:?}");

    // But for an artefact that is gone.
    let artefacts = || {
        let all = fs::read_dir(scene.home.cache().join("copepod")).expect("reads");
        all.map(|entry| entry.expect("reads").path()).filter(|p| p.extension().is_some())
    };
    let made = artefacts().count();
    for artefact in artefacts() {
        fs::remove_file(artefact).expect("removes");
    }
    let gone = exec("exit", "2");
    assert!(gone.code == Some(1) && gone.err.contains(text), "{gone:?}");
    fs::rename(store.join("files-away"), store.join("files")).expect("moves");
    assert_eq!(exec("exit", "2").code, Some(2));
    assert!(made >= 2 && artefacts().count() == 1, "only what was asked for is compiled");
    crate::dev::end(&scene, run);
    scene.guard.finish();
}

#[test]
fn what_is_no_wasm_image_is_named() {
    let scene = scene();
    let elf = fs::read("/bin/true").expect("reads");
    for (files, run, texts) in [
        (
            [("bin/true", elf.as_slice())],
            json!({"Entrypoint": ["/bin/true"]}),
            ["an ordinary linux image without a Wasm file", "/bin/true"],
        ),
        (
            [("app.cwasm", elf.as_slice())],
            json!({"Entrypoint": ["/app.cwasm"]}),
            ["without a Wasm file", "/app.cwasm"],
        ),
        ([("app.wasm", b"#!/bin/sh".as_slice())], json!({}), ["without a Wasm file", ""]),
        ([("app.wasm", b"\0asm\x01\0\0\0".as_slice())], json!({}), ["no entry point", "_start"]),
        (
            [("app.wasm", b"\0asm\x01\0\0\0".as_slice())],
            json!({"User": "nobody"}),
            ["its user \"nobody\"", "/etc/passwd"],
        ),
    ] {
        let mut image = Image::default();
        let top = image.manifest(&[layer(&scene, &files, true)], &run);
        let proxy = image.serve(&top);
        refused(&scene.run_image(&format!("{}/x:1", proxy.host()), "", &[]), &texts);
    }
    let spin = "application/vnd.fermyon.spin.application.v1+config";
    let helm = "application/vnd.cncf.helm.config.v1+json";
    let wasm = "application/vnd.wasm.config.v0+json";
    for (config, layers, texts) in [
        (
            CONFIG,
            vec![spin, "application/vnd.wasm.content.layer.v1+wasm"],
            ["it is a Spin application (application/vnd.fermyon.spin", "not served yet"],
        ),
        (helm, vec!["application/gzip"], ["it is a Helm chart", "not served yet"]),
        (
            wasm,
            vec!["application/wasm", "application/wasm"],
            ["has one application/wasm layer", "it has 2 layers"],
        ),
    ] {
        let mut image = Image::default();
        let config = image.add(config, b"{}".to_vec());
        let layers: Vec<_> = layers.iter().map(|kind| image.add(kind, b"x".to_vec())).collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let top = image.add(MANIFEST, manifest.to_string().into_bytes());
        let proxy = image.serve(&top);
        refused(&scene.run_image(&format!("{}/x:1", proxy.host()), "", &[]), &texts);
        assert!(
            proxy.requests().iter().all(|r| !r.path.contains("/blobs/")),
            "nothing else is fetched"
        );
    }
    scene.guard.finish();
}

#[test]
fn a_hostile_layer_leaves_nothing() {
    let scene = scene();
    let dir = tempfile::tempdir().expect("made");
    let outside = dir.path().join("outside");
    let path = outside.to_str().expect("UTF-8");
    // `tar` itself makes the archive, told to keep names as they are.
    fs::write(&outside, "mine").expect("written");
    let make = |args: &[&str]| {
        let output = Command::new("tar").args(args).output().expect("tar");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let up = format!("s,^,../../../../../../../../../..{path}-,");
    let climbs = make(&["-P", "--transform", &up, "-cf-", "-C", "/", "bin/true", "--dereference"]);
    let device = make(&["-cf-", "-C", "/dev", "null"]);
    for (archive, text) in
        [(climbs, "it leads out of the image (..)"), (device, "a device, which no guest gets")]
    {
        let layer = Layer { media_type: LAYER.into(), unpacked: archive.clone(), packed: archive };
        let mut image = Image::default();
        let top = image.manifest(&[layer], &json!({}));
        let proxy = image.serve(&top);
        refused(&scene.run_image(&format!("{}/x:1", proxy.host()), "", &[]), &[text]);
        let left = |below: &str| fs::read_dir(scene.store().join(below)).expect("there").count();
        assert_eq!((left("files"), left("ingest")), (0, 0));
    }
    let entries: Vec<_> =
        fs::read_dir(dir.path()).expect("there").flatten().map(|e| e.path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(fs::read_to_string(Path::new(path)).expect("there"), "mine");
    scene.guard.finish();
}
