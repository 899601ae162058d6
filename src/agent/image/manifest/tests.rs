//! Manifests as tools write them, and as nobody should.

use serde_json::{Value, json};

use super::*;

fn entry(kind: &str, byte: &str) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", byte.repeat(32)), "size": 7})
}

fn manifest(config: &str, layers: &[&str]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|kind| entry(kind, "bb")).collect();
    let config = entry(config, "aa");
    serde_json::to_vec(&json!({"schemaVersion": 2, "config": config, "layers": layers})).unwrap()
}

fn index(platforms: &[(&str, &str)]) -> Vec<u8> {
    let entries = platforms.iter().enumerate().map(|(at, (os, arch))| {
        let mut one = entry(MANIFEST, &format!("{at:02}"));
        one["platform"] = json!({"os": os, "architecture": arch});
        one
    });
    let entries: Vec<_> = entries.collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap()
}

fn says(bytes: &[u8]) -> String {
    read(bytes, false).unwrap_err().to_string()
}

#[test]
fn a_wasm_artefact_has_one_layer() {
    let one = read(&manifest(WASM_CONFIG, &[WASM_LAYER]), false).unwrap();
    let Content::Image(Shape::Artefact { wasm, .. }) = one else { panic!("{one:?}") };
    assert_eq!((wasm.digest.hex(), wasm.bytes), ("bb".repeat(32).as_str(), 7));
    let two = says(&manifest(WASM_CONFIG, &[WASM_LAYER, WASM_LAYER]));
    assert_eq!(
        two,
        "a Wasm artefact has one application/wasm layer: it has 2 layers of application/wasm"
    );
    assert!(says(&manifest(WASM_CONFIG, &[])).ends_with("it has none"));
    assert!(says(&manifest(WASM_CONFIG, &["text/plain"])).ends_with("it has text/plain"));
}

#[test]
fn layers_of_both_families_are_read() {
    for (config, layer, expected) in [
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar", Compression::None),
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        (DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
    ] {
        let read = read(&manifest(config, &[layer]), false).unwrap();
        let Content::Image(Shape::Image { layers, .. }) = read else { panic!("{read:?}") };
        assert_eq!(layers[0].1, expected, "{layer}");
    }
}

#[test]
fn what_is_not_served_is_named() {
    let spin = "application/vnd.fermyon.spin.application.v1+config";
    for (config, layers, text) in [
        (
            OCI_CONFIG,
            vec!["application/vnd.wasm.content.layer.v1+wasm", spin],
            "a Spin application (application/vnd.fermyon.spin",
        ),
        (
            "application/vnd.wasm.config.v1+json",
            vec!["application/vnd.wasm.content.layer.v1+wasm"],
            "a Wasm image of an older form",
        ),
        ("application/vnd.cncf.helm.config.v1+json", vec!["x"], "a Helm chart"),
        (OCI_CONFIG, vec![], "an image without layers"),
        ("a/b", vec!["c/d", "c/d"], "a/b with 2 layers of c/d: not served yet"),
    ] {
        let said = says(&manifest(config, &layers));
        assert!(said.contains(text), "{said}");
    }
    assert!(says(b"{\"schemaVersion\": 1}").contains("schema version 1"));
    for bytes in [&b""[..], b"[]", b"{}", b"\xff", b"{\"schemaVersion\": 2}"] {
        assert!(says(bytes).starts_with("its manifest is malformed: "), "{bytes:?}");
    }
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    assert!(says(both.as_bytes()).contains("both"));
    let nested = read(&index(&[("wasi", "wasm")]), true).unwrap_err();
    assert!(nested.to_string().contains("an index within"));
}

#[test]
fn bounds_and_digests_hold() {
    let mut one: Value = serde_json::from_slice(&manifest(WASM_CONFIG, &[WASM_LAYER])).unwrap();
    one["layers"][0]["size"] = json!(1_u64 << 40);
    let said = says(&serde_json::to_vec(&one).unwrap());
    assert_eq!(said, "its Wasm file has 1099511627776 bytes, more than 268435456");
    one["layers"][0] = entry(WASM_LAYER, "bb");
    one["layers"][0]["digest"] = json!(format!("sha512:{}", "b".repeat(128)));
    assert!(says(&serde_json::to_vec(&one).unwrap()).contains("expected sha256"));
    let many = vec!["application/vnd.oci.image.layer.v1.tar"; 128];
    assert_eq!(says(&manifest(OCI_CONFIG, &many)), "it has 128 layers, more than 127");
}

#[test]
fn wasm_is_chosen_before_this_host() {
    let host = ("linux", arch());
    for (platforms, expected) in [
        (vec![host, ("linux", "wasm"), ("wasi", "wasm")], 2),
        (vec![host, ("Wasip1", "wasm"), ("unknown", "unknown")], 1),
        (vec![host, ("darwin", "wasm64")], 1),
        (vec![("unknown", "unknown"), ("linux", "s390x"), host], 2),
    ] {
        let read = read(&index(&platforms), false).unwrap();
        let Content::Index(chosen) = read else { panic!("{read:?}") };
        assert_eq!(chosen.digest.hex(), format!("{expected:02}").repeat(32), "{platforms:?}");
    }
    let none = says(&index(&[("windows", "amd64"), ("unknown", "unknown")]));
    assert!(none.starts_with("it is made for windows/amd64: expected wasi/wasm"), "{none}");
}
