//! Keys, items, modes, optional objects, paths, bounds.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::object::Token;

fn objects() -> Objects {
    let map = json!({"data": {"a": "1", "b": "22"}, "binaryData": {"c": "AP8="}});
    let secret = json!({"data": {"key": "c2VjcmV0"}});
    Objects {
        config_maps: [("map".to_owned(), Arc::new(serde_json::from_value(map).unwrap()))].into(),
        secrets: [("pass".to_owned(), Arc::new(serde_json::from_value(secret).unwrap()))].into(),
        ..Objects::default()
    }
}

fn run(volume: Value) -> Result<Option<Payload>, PayloadError> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "1"}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]}}))
    .unwrap();
    let mut volume = volume;
    volume["name"] = json!("v");
    payload(&pod, &serde_json::from_value(volume).unwrap(), &objects(), &Facts::default())
}

/// `PATH MODE=BYTES`, or the error.
fn shown(volume: Value) -> String {
    match run(volume) {
        Err(error) => format!("error: {error}"),
        Ok(None) => "none".to_owned(),
        Ok(Some(files)) => {
            let file = |(path, file): (String, PayloadFile)| {
                format!("{path} {:o}={}", file.mode, file.bytes.escape_ascii())
            };
            files.into_iter().map(file).collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn objects_become_files() {
    for (volume, expected) in [
        (json!({"emptyDir": {}}), "none"),
        (json!({"configMap": {"name": "map"}}), "a 644=1 b 644=22 c 644=\\x00\\xff"),
        (
            json!({"configMap": {"name": "map", "defaultMode": 0o400, "items": [
                {"key": "b", "path": "x/./y"}, {"key": "c", "path": "x//z", "mode": 0o755}]}}),
            "x/y 400=22 x/z 755=\\x00\\xff",
        ),
        (
            json!({"configMap": {"name": "map", "items": [{"key": "z", "path": "z"}]}}),
            "error: configmap references non-existent config key: z",
        ),
        (
            json!({"configMap": {"name": "map", "optional": true, "items": [
                {"key": "z", "path": "z"}, {"key": "a", "path": "a"}]}}),
            "a 644=1",
        ),
        (json!({"configMap": {"name": "none"}}), "error: configmap \"none\" not found"),
        (json!({"configMap": {"name": "none", "optional": true}}), ""),
        (
            json!({"configMap": {"name": "none", "optional": true, "items": [
                {"key": "z", "path": "z"}]}}),
            "",
        ),
        (json!({"secret": {"secretName": "pass", "defaultMode": 0o600}}), "key 600=secret"),
        (json!({"secret": {"secretName": "none"}}), "error: secret \"none\" not found"),
        (json!({"secret": {"secretName": "none", "optional": true}}), ""),
        (
            json!({"secret": {"secretName": "pass", "items": [{"key": "z", "path": "z"}]}}),
            "error: secret references non-existent secret key: z",
        ),
        (
            json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "name", "mode": 0o600, "fieldRef": {"fieldPath": "metadata.name"}},
                {"path": "mem", "resourceFieldRef": {"containerName": "c",
                    "resource": "limits.memory", "divisor": "1Mi"}}]}}),
            "labels 644=a=\\\"1\\\"\\nb=\\\"2\\\" mem 644=64 name 600=p",
        ),
        (
            json!({"downwardAPI": {"items": [
                {"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            "error: unsupported fieldPath: status.podIP",
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "mem", "resourceFieldRef": {
                "containerName": "x", "resource": "limits.memory"}}]}}),
            "error: container x not found",
        ),
    ] {
        assert_eq!(shown(volume.clone()), expected, "{volume}");
    }
}

#[test]
fn a_later_projected_source_wins() {
    let sources = json!([
        {"configMap": {"name": "map"}},
        {"secret": {"name": "pass", "items": [{"key": "key", "path": "b", "mode": 0o600}]}},
        {"configMap": {"name": "none", "optional": true}},
        {"downwardAPI": {"items": [{"path": "d/ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]);
    assert_eq!(
        shown(json!({"projected": {"defaultMode": 0o440, "sources": sources}})),
        "a 440=1 b 600=secret c 440=\\x00\\xff d/ns 440=ns"
    );
    for (source, error) in [
        (json!({"secret": {"name": "none"}}), "secret \"none\" not found"),
        (
            json!({"serviceAccountToken": {"path": "t"}}),
            "a projected serviceAccountToken needs an API server, which there is none here",
        ),
        (
            json!({"clusterTrustBundle": {"path": "t"}}),
            "a projected clusterTrustBundle needs an API server, which there is none here",
        ),
        (
            json!({"podCertificate": {"keyType": "x", "signerName": "x"}}),
            "a projected podCertificate needs an API server, which there is none here",
        ),
    ] {
        let volume = json!({"projected": {"sources": [source]}});
        assert_eq!(shown(volume), format!("error: {error}"));
    }
}

/// `PATH MODE OWNER=TEXT` of a pod with this spec, whose volume has two tokens.
fn tokens(spec: Value) -> String {
    let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
    let volume = serde_json::from_value(json!({"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "x//token"}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}},
        {"configMap": {"name": "map", "items": [{"key": "a", "path": "a"}]}}]}}))
    .unwrap();
    let mut objects = objects();
    for (audience, expiration_seconds, text) in [("", 3600, "one"), ("vault", 600, "two")] {
        let key = TokenKey { audience: audience.to_owned(), expiration_seconds };
        objects.tokens.insert(key, Token::new(text));
    }
    let files = payload(&pod, &volume, &objects, &Facts::default()).unwrap().unwrap();
    let file = |(path, file): (String, PayloadFile)| {
        let owner = file.owner.map(|owner| format!(" {owner}")).unwrap_or_default();
        format!("{path} {:o}{owner}={}", file.mode, file.bytes.escape_ascii())
    };
    files.into_iter().map(file).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_token_is_its_users_or_its_groups_alone() {
    let user = |user: Option<i64>| json!({"name": "c", "securityContext": {"runAsUser": user}});
    let open = "a 644=1 vault 644=two x/token 644=one";
    let of_1000 = "a 644=1 vault 600 1000=two x/token 600 1000=one";
    for (spec, expected) in [
        (json!({"containers": [{"name": "c"}]}), open),
        (json!({"containers": [user(Some(1000))]}), of_1000),
        (json!({"containers": [user(Some(1000)), user(Some(1000))]}), of_1000),
        (json!({"containers": [user(Some(1000)), user(None)]}), open),
        (json!({"containers": [user(Some(1000)), user(Some(0))]}), open),
        (json!({"containers": [user(None)], "securityContext": {"runAsUser": 1000}}), of_1000),
        (
            json!({"containers": [user(Some(7))], "securityContext": {"runAsUser": 1000}}),
            "a 644=1 vault 600 7=two x/token 600 7=one",
        ),
        (json!({"containers": [user(Some(1000))], "initContainers": [user(None)]}), open),
        (json!({"containers": [user(Some(1000))], "ephemeralContainers": [user(Some(1))]}), open),
        (
            json!({"containers": [user(None)], "securityContext": {"fsGroup": 5}}),
            "a 644=1 vault 600=two x/token 600=one",
        ),
    ] {
        assert_eq!(tokens(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn paths_that_are_no_place_for_a_file() {
    for (path, error) in [
        ("", "invalid path: must not be empty: "),
        ("./", "invalid path: must not be empty: ./"),
        ("/a", "invalid path: must be relative path: /a"),
        ("a/../b", "invalid path: must not contain '..': a/../b"),
        ("..a", "invalid path: must not start with '..': ..a"),
        ("a\0", "invalid path: must not contain a NUL byte: a\0"),
    ] {
        let items = json!([{"key": "a", "path": path}]);
        let found = shown(json!({"configMap": {"name": "map", "items": items}}));
        assert_eq!(found, format!("error: {error}"));
    }
    for most in ["x".repeat(255), "x/".repeat(2048)] {
        let items = json!([{"key": "a", "path": most}]);
        let found = run(json!({"configMap": {"name": "map", "items": items}}));
        assert_eq!(found.unwrap().map(|files| files.len()), Some(1));
    }
    for long in ["x".repeat(256), "x/".repeat(2049)] {
        let items = json!([{"key": "a", "path": long}]);
        let found = run(json!({"configMap": {"name": "map", "items": items}}));
        assert!(matches!(found, Err(PayloadError::Path { .. })), "{found:?}");
    }
    let items = json!([{"key": "a", "path": "d/e"}, {"key": "b", "path": "d"}]);
    assert_eq!(
        shown(json!({"configMap": {"name": "map", "items": items}})),
        "error: conflicting paths: d is a file, so that d/e cannot be below it"
    );
}

#[test]
fn a_key_named_many_times_is_bounded() {
    let big = json!({"data": {"k": "x".repeat(1 << 20)}});
    let objects = Objects {
        config_maps: [("big".to_owned(), Arc::new(serde_json::from_value(big).unwrap()))].into(),
        ..Objects::default()
    };
    // So many megabytes.
    let found = |count: u32| {
        let items: Vec<_> =
            (0..count).map(|i| json!({"key": "k", "path": format!("{}", i % 2)})).collect();
        let volume = json!({"name": "v", "configMap": {"name": "big", "items": items}});
        let volume = serde_json::from_value(volume).unwrap();
        payload(&Pod::default(), &volume, &objects, &Facts::default())
    };
    assert_eq!(found(64).unwrap().map(|files| files.len()), Some(2));
    assert_eq!(found(65), Err(PayloadError::TooLarge));
}

proptest! {
    /// Whatever the paths are, the files can all be written below one directory.
    #[test]
    fn files_have_places(
        items in proptest::collection::vec(("[abcz]", "([ab./]|\\PC){0,6}", 0..0o1000_i32), 0..8),
        optional in any::<bool>(),
    ) {
        let items: Vec<_> = items
            .iter()
            .map(|(key, path, mode)| json!({"key": key, "path": path, "mode": mode}))
            .collect();
        let source = json!({"name": "map", "optional": optional, "items": items});
        let Ok(Some(files)) = run(json!({"configMap": source})) else { return Ok(()) };
        for (path, file) in &files {
            prop_assert!(path.split('/').all(|part| !["", ".", ".."].contains(&part)));
            prop_assert!(!path.starts_with("..") && file.mode <= 0o777);
            let below = format!("{path}/");
            prop_assert!(files.keys().all(|other| !other.starts_with(&below)));
        }
    }
}
