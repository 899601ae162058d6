//! Kinds by what a registry says, of one that counts what it was asked for.

use std::collections::BTreeMap;
use std::future::ready;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::image::RegistryOptions;
use crate::image::digest::Digest;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Paths that were asked for, one a line.
type Asked = Arc<Mutex<Vec<String>>>;

/// A registry of images without layers, and a store that is empty.
struct Bench {
    host: String,
    asked: Asked,
    images: Images,
    _dir: TempDir,
}

impl Bench {
    /// Each image of `manifests` by its name; `blobs` by their digests.
    fn new(manifests: &[(&str, Value)], blobs: &[Value]) -> Self {
        let mut answers = BTreeMap::new();
        for (name, manifest) in manifests {
            let (bytes, digest) = written(manifest);
            answers.insert(format!("/v2/{name}/manifests/1"), bytes.clone());
            // What an index names is of the same repository.
            for (other, _) in manifests {
                answers.insert(format!("/v2/{other}/manifests/{digest}"), bytes.clone());
            }
            for blob in blobs {
                let (bytes, digest) = written(blob);
                answers.insert(format!("/v2/{name}/blobs/{digest}"), bytes);
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let host = listener.local_addr().expect("has one").to_string();
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        // It ends with the tests.
        thread::spawn(move || serve(&listener, &answers, &seen));
        let dir = tempfile::tempdir().expect("a directory");
        let images = Images::open(dir.path().join("cache"), "/none".into()).expect("opens");
        let plain_http = vec![host.clone()];
        let options = RegistryOptions { plain_http, ..RegistryOptions::default() };
        let images = images.with_registries(options);
        Self { host, asked, images, _dir: dir }
    }

    /// The kind of an image, where the container runtime has it or not.
    async fn kind(
        &self,
        name: &str,
        (policy, command): (PullPolicy, Option<&str>),
        elsewhere: bool,
    ) -> Result<ImageKind, String> {
        let image = format!("{}/{name}:1", self.host);
        let base = Path::new("/");
        let request = ImageRequest { image: &image, base, policy, command, secrets: None };
        let kind = self.images.kind(request, ready(elsewhere)).await;
        kind.map_err(|error| crate::telemetry::chain(&error).to_string())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("not poisoned"))
    }
}

fn written(value: &Value) -> (Vec<u8>, String) {
    let bytes = serde_json::to_vec(value).expect("written");
    let digest = Digest::of(&bytes).to_string();
    (bytes, digest)
}

fn serve(listener: &TcpListener, answers: &BTreeMap<String, Vec<u8>>, seen: &Asked) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        // The head ends with an empty line.
        while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
        let (code, body) = match answers.get(&path) {
            Some(body) => ("200 OK", &body[..]),
            None if path == "/v2/" => ("200 OK", &b"{}"[..]),
            None => ("404 Not Found", &b"{}"[..]),
        };
        let kind = if path.contains("/manifests/") { OCI_MANIFEST } else { "application/json" };
        let head = format!(
            "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        seen.lock().expect("not poisoned").push(path);
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    }
}

/// A manifest with this configuration and a layer that nobody has.
fn manifest(config_type: &str, config: &Value, layer: &str) -> Value {
    let (bytes, digest) = written(config);
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config_type, "digest": digest, "size": bytes.len()},
        "layers": [{"mediaType": layer, "digest": Digest::of(b"none").to_string(), "size": 4}],
    })
}

fn configuration(architecture: &str, entrypoint: &str) -> Value {
    json!({"architecture": architecture, "os": "linux", "config": {"Entrypoint": [entrypoint]},
           "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"none").to_string()]}})
}

fn bench() -> Bench {
    let busybox = configuration("amd64", "/bin/sh");
    let guest = configuration("amd64", "/app.wasm");
    let wasm = configuration("wasm", "app");
    let artefact = json!({"architecture": "wasm", "os": "wasip2"});
    let ordinary = manifest(OCI_CONFIG, &busybox, OCI_LAYER);
    let (bytes, digest) = written(&ordinary);
    let arch = copepod_arch();
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
         "platform": {"os": "linux", "architecture": arch}}]});
    let old = json!({"schemaVersion": 1, "name": "old", "tag": "1", "fsLayers": [], "history": []});
    Bench::new(
        &[
            ("busybox", ordinary),
            ("guest", manifest(OCI_CONFIG, &guest, OCI_LAYER)),
            ("wasm", manifest(OCI_CONFIG, &wasm, OCI_LAYER)),
            (
                "artefact",
                manifest("application/vnd.wasm.config.v0+json", &artefact, "application/wasm"),
            ),
            ("index", index),
            ("old", old),
        ],
        &[busybox, guest, wasm, artefact],
    )
}

/// This machine's, as images name it.
fn copepod_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[tokio::test]
async fn a_registry_tells_kinds_before_any_layer() {
    let bench = bench();
    let asks = (PullPolicy::IfNotPresent, None);
    for (name, (policy, command), expected) in [
        ("busybox", asks, ImageKind::Ordinary),
        ("guest", asks, ImageKind::Wasm),
        ("wasm", asks, ImageKind::Wasm),
        ("artefact", asks, ImageKind::Wasm),
        ("index", asks, ImageKind::Ordinary),
        ("old", asks, ImageKind::Ordinary),
        // What a container runs is what counts.
        ("busybox", (PullPolicy::IfNotPresent, Some("/tools/one.wasm")), ImageKind::Wasm),
        ("guest", (PullPolicy::IfNotPresent, Some("/bin/sh")), ImageKind::Ordinary),
    ] {
        let found = bench.kind(name, (policy, command), false).await;
        assert_eq!(found, Ok(expected), "{name} {command:?}");
        let asked = bench.asked();
        let layer = Digest::of(b"none").to_string();
        assert!(!asked.is_empty() && !asked.iter().any(|path| path.ends_with(&layer)), "{asked:?}");
    }
    let missing = bench.kind("none", asks, false).await.expect_err("there is none");
    assert!(missing.contains("none:1"), "{missing}");
}

#[tokio::test]
async fn what_the_runtime_has_is_asked_of_nobody_else() {
    let bench = bench();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(bench.kind("guest", (policy, None), true).await, Ok(ImageKind::Ordinary));
    }
    let never = bench.kind("guest", (PullPolicy::Never, None), false).await;
    assert!(never.expect_err("nobody has it").ends_with("policy of Never"));
    assert_eq!(bench.asked(), [""; 0]);
    // Who asks each time goes by what the registry has now.
    let always = bench.kind("guest", (PullPolicy::Always, None), true).await;
    assert_eq!((always, bench.asked().is_empty()), (Ok(ImageKind::Wasm), false));
}

#[tokio::test]
async fn a_file_is_wasm() {
    let bench = bench();
    let request = ImageRequest {
        image: "./guest.wasm",
        base: Path::new("/"),
        policy: PullPolicy::Always,
        command: None,
        secrets: None,
    };
    let found = bench.images.kind(request, ready(true)).await.expect("is one");
    assert_eq!((found, bench.asked().len()), (ImageKind::Wasm, 0));
}
