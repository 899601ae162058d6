//! Config maps and secrets, each rule with upstream's text.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::{FieldError, validate_config_map, validate_secret};
use crate::normalise_secret;

fn shown(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn config_maps() {
    let check = |value: Value| {
        let map: ConfigMap = serde_json::from_value(value).unwrap();
        shown(&validate_config_map(&map))
    };
    let good = json!({"metadata": {"name": "m"}, "data": {"a.b_c-D": ""}, "binaryData": {"z": ""}});
    assert_eq!(check(good), [""; 0]);
    assert_eq!(
        check(json!({"metadata": {"namespace": "X"}, "data": {"a": "", "..b": ""},
            "binaryData": {"a": "", ".": ""}})),
        [
            "metadata.name: Required value: name or generateName is required",
            "metadata.namespace: Invalid value: \"X\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "data[..b]: Invalid value: \"..b\": must not start with '..'",
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            "binaryData[.]: Invalid value: \".\": must not be '.'",
            "binaryData[a]: Invalid value: \"a\": duplicate of key present in data",
        ]
    );
    let full = |bytes: usize| {
        check(json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(bytes)},
            "binaryData": {"b": "MQ=="}}))
    };
    assert_eq!(full((1 << 20) - 1), [""; 0]);
    assert_eq!(full(1 << 20), ["data: Too long: may not be more than 1048576 bytes"]);
}

#[test]
fn secrets() {
    let check = |kind: &str, data: Value| {
        let value = json!({"metadata": {"name": "s"}, "type": kind, "stringData": data});
        let mut secret: Secret = serde_json::from_value(value).unwrap();
        normalise_secret(&mut secret);
        shown(&validate_secret(&secret))
    };
    let required = |keys: &[&str]| -> Vec<String> {
        keys.iter().map(|key| format!("data[{key}]: Required value")).collect()
    };
    for (kind, data, missing) in [
        ("Opaque", json!({}), &[][..]),
        ("example.com/mine", json!({}), &[]),
        ("kubernetes.io/tls", json!({"tls.crt": ""}), &["tls.key"]),
        ("kubernetes.io/ssh-auth", json!({}), &["ssh-privatekey"]),
        ("kubernetes.io/dockerconfigjson", json!({}), &[".dockerconfigjson"]),
        ("kubernetes.io/dockercfg", json!({".dockercfg": "{}"}), &[]),
        ("kubernetes.io/basic-auth", json!({}), &["username", "password"]),
        ("kubernetes.io/basic-auth", json!({"password": ""}), &[]),
    ] {
        assert_eq!(check(kind, data), required(missing), "{kind}");
    }
    assert_eq!(
        check("", json!({"a": "x".repeat((1 << 20) + 1)})),
        ["data: Too long: may not be more than 1048576 bytes"]
    );
}
