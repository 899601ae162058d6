//! The rules for what comes from elsewhere, each with upstream's text: variables and volumes.

use serde_json::{Value, json};

use super::tests::errors_in;

/// A good pod with every kind of source.
pub(crate) fn good() -> Value {
    let item = json!({"key": "k", "path": "a/b", "mode": 0o400});
    let field = json!({"path": "f", "fieldRef": {"fieldPath": "metadata.labels"}});
    let resource = json!({"path": "g", "resourceFieldRef":
        {"containerName": "a", "resource": "limits.memory", "divisor": "1Mi"}});
    json!({
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "a", "image": "./a.wasm",
                "env": [
                    {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
                    {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "M", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "V", "valueFrom": {"fileKeyRef":
                        {"volumeName": "e", "path": "x/y", "key": "K"}}}],
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}},
                            {"secretRef": {"name": "s", "optional": true}}],
                "volumeMounts": [
                    {"name": "e", "mountPath": "/e", "subPathExpr": "$(F)/x", "readOnly": true,
                     "recursiveReadOnly": "Enabled", "mountPropagation": "None"},
                    {"name": "m", "mountPath": "/m", "subPath": "a/b"}]}],
            "volumes": [
                {"name": "e", "emptyDir": {"medium": "Memory"}},
                {"name": "m", "configMap": {"name": "m", "items": [item]}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o600, "items": [item]}},
                {"name": "d", "downwardAPI": {"items": [field, resource]}},
                {"name": "j", "projected": {"sources": [
                    {"configMap": {"name": "m", "items": [item]}},
                    {"secret": {"name": "s"}},
                    {"downwardAPI": {"items": [field]}},
                    {"serviceAccountToken": {"path": "t"}}]}}],
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a.b"]}],
            "dnsConfig": {"nameservers": ["10.0.0.53"], "searches": ["_tcp.a.", "."],
                          "options": [{"name": "ndots", "value": "1"}]}}
    })
}

pub(super) fn errors(pointer: &str, value: &Value) -> Vec<String> {
    errors_in(good(), &[(pointer, value.clone())])
}

/// Each line: where below `at`, the new value, the error below the field that `named` is.
pub(super) fn table(at: &str, named: &str, cases: &[(&str, Value, &str)]) {
    for (pointer, value, expected) in cases {
        let pointer = format!("{at}{pointer}");
        assert_eq!(errors(&pointer, value), [format!("{named}{expected}")], "{pointer} = {value}");
    }
}

#[test]
fn a_good_pod_has_no_errors() {
    assert_eq!(errors_in(good(), &[]), [""; 0]);
}

#[test]
fn sources_of_variables() {
    let many = json!({"fieldRef": {"fieldPath": "metadata.name"},
                      "secretKeyRef": {"name": "s", "key": "k"}});
    table(
        "/spec/containers/0/env",
        "spec.containers[0].env",
        &[
            (
                "/0/valueFrom",
                json!({}),
                "[0].valueFrom: Invalid value: \"\": must specify one of: \
            `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            (
                "/0/value",
                json!("x"),
                "[0].valueFrom: Invalid value: \"\": may not be specified when \
            `value` is not empty",
            ),
            (
                "/0/valueFrom",
                many,
                "[0].valueFrom: Invalid value: \"\": may not have more than one \
            field specified at a time",
            ),
            (
                "/0/valueFrom/fieldRef/fieldPath",
                json!(""),
                "[0].valueFrom.fieldRef.fieldPath: Required value",
            ),
            (
                "/0/valueFrom/fieldRef/fieldPath",
                json!("metadata.nom"),
                "[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.nom\": error converting \
            fieldPath: field label not supported: metadata.nom",
            ),
            (
                "/0/valueFrom/fieldRef/fieldPath",
                json!("status.phase"),
                "[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported \
            values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \
            \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \
            \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ),
            (
                "/0/valueFrom/fieldRef/fieldPath",
                json!("metadata.labels['/a']"),
                "[0].valueFrom.fieldRef: Invalid value: \"/a\": prefix part must be non-empty",
            ),
        ],
    );
}

#[test]
fn resources_of_variables() {
    table(
        "/spec/containers/0/env",
        "spec.containers[0].env",
        &[
            (
                "/1/valueFrom/resourceFieldRef/resource",
                json!("limits.gpu"),
                "[1].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": \
            supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \
            \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            ),
            (
                "/1/valueFrom/resourceFieldRef/divisor",
                json!("1Mi"),
                "[1].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
            divisor's values 1m and 1 are supported with the cpu resource",
            ),
        ],
    );
}

#[test]
fn objects_of_variables() {
    table(
        "/spec/containers/0/env",
        "spec.containers[0].env",
        &[
            (
                "/2/valueFrom/configMapKeyRef/name",
                json!(""),
                "[2].valueFrom.configMapKeyRef.name: Required value",
            ),
            (
                "/2/valueFrom/configMapKeyRef/key",
                json!(""),
                "[2].valueFrom.configMapKeyRef.key: Required value",
            ),
            (
                "/3/valueFrom/secretKeyRef/key",
                json!("a b"),
                "[3].valueFrom.secretKeyRef.key: Invalid value: \"a b\": a valid config key must \
            consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
            'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ),
            (
                "/3/valueFrom/secretKeyRef/name",
                json!("s".repeat(254)),
                &format!(
                    "[3].valueFrom.secretKeyRef.name: Invalid value: \"{}\": must be no more than 253 characters",
                    "s".repeat(254)
                ),
            ),
            (
                "/4/valueFrom/fileKeyRef/volumeName",
                json!("x"),
                "[4].valueFrom.fileKeyRef.volumeName: Not found: \"x\"",
            ),
            (
                "/4/valueFrom/fileKeyRef/volumeName",
                json!("m"),
                "[4].valueFrom.fileKeyRef.volumeName: Invalid value: \"m\": referenced volume must \
            be of type emptyDir",
            ),
            (
                "/4/valueFrom/fileKeyRef/path",
                json!("../x"),
                "[4].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
            ),
            (
                "/4/valueFrom/fileKeyRef/key",
                json!("K=V"),
                "[4].valueFrom.fileKeyRef.key: Invalid value: \"K=V\": a valid environment variable \
            name must consist only of printable ASCII characters other than '='",
            ),
        ],
    );
}

#[test]
fn whole_objects() {
    table(
        "/spec/containers/0/envFrom",
        "spec.containers[0].envFrom",
        &[
            (
                "/0/configMapRef",
                Value::Null,
                "[0]: Invalid value: \"\": must specify one of: \
            `configMapRef` or `secretRef`",
            ),
            (
                "/0/secretRef",
                json!({"name": "s"}),
                "[0]: Invalid value: \"\": may not have more than \
            one field specified at a time",
            ),
            ("/1/secretRef/name", json!(""), "[1].secretRef.name: Required value"),
            (
                "/0/prefix",
                json!("="),
                "[0].prefix: Invalid value: \"=\": a valid environment variable \
            name must consist only of printable ASCII characters other than '='",
            ),
        ],
    );
}

#[test]
fn volumes_of_objects() {
    let mode = "must be a number between 0 and 0777 (octal), both inclusive";
    table(
        "/spec/volumes",
        "spec.volumes",
        &[
            (
                "/0/emptyDir/medium",
                json!("Disk"),
                "[0].emptyDir.medium: Unsupported value: \"Disk\": \
            supported values: \"\", \"HugePages\", \"Memory\"",
            ),
            ("/1/configMap/name", json!(""), "[1].configMap.name: Required value"),
            (
                "/1/configMap/defaultMode",
                json!(512),
                &format!("[1].configMap.defaultMode: Invalid value: 512: {mode}"),
            ),
            ("/1/configMap/items/0/key", json!(""), "[1].configMap.items[0].key: Required value"),
            ("/1/configMap/items/0/path", json!(""), "[1].configMap.items[0].path: Required value"),
            (
                "/1/configMap/items/0/path",
                json!("/a"),
                "[1].configMap.items[0].path: Invalid value: \
            \"/a\": must be a relative path",
            ),
            (
                "/1/configMap/items/0/path",
                json!("..a"),
                "[1].configMap.items[0].path: Invalid value: \
            \"..a\": must not start with '..'",
            ),
            (
                "/2/secret/items/0/path",
                json!("a/.."),
                "[2].secret.items[0].path: Invalid value: \
            \"a/..\": must not contain '..'",
            ),
            (
                "/2/secret/items/0/mode",
                json!(-1),
                &format!("[2].secret.items[0].mode: Invalid value: -1: {mode}"),
            ),
            ("/2/secret/secretName", Value::Null, "[2].secret.secretName: Required value"),
        ],
    );
}

#[test]
fn volumes_of_fields() {
    table(
        "/spec/volumes",
        "spec.volumes",
        &[
            (
                "/3/downwardAPI/items/0/fieldRef",
                Value::Null,
                "[3].downwardAPI.items[0]: Required \
            value: one of fieldRef and resourceFieldRef is required",
            ),
            (
                "/3/downwardAPI/items/0/fieldRef/fieldPath",
                json!("status.podIP"),
                "[3].downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: \"status.podIP\": \
            supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \
            \"metadata.namespace\", \"metadata.uid\"",
            ),
            (
                "/3/downwardAPI/items/0/resourceFieldRef",
                json!({"containerName": "a", "resource": "limits.cpu"}),
                "[3].downwardAPI.items[0]: Invalid value: \"resource\": fieldRef and \
            resourceFieldRef can not be specified simultaneously",
            ),
            (
                "/3/downwardAPI/items/1/resourceFieldRef/containerName",
                json!(""),
                "[3].downwardAPI.items[1].resourceFieldRef.containerName: Required value",
            ),
            (
                "/3/downwardAPI/items/1/resourceFieldRef/divisor",
                json!("1m"),
                "[3].downwardAPI.items[1].resourceFieldRef.divisor: Invalid value: \
            \"limits.memory\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, \
            1Ti, 1Pi, 1Ei are supported with the memory resource",
            ),
        ],
    );
}

#[test]
fn projected_volumes() {
    table(
        "/spec/volumes",
        "spec.volumes",
        &[
            (
                "/4/projected/sources/1/secret/items",
                json!([{"key": "k", "path": "a/b"}]),
                "[4].projected: Invalid value: \"s\": conflicting duplicate paths",
            ),
            (
                "/4/projected/sources/2/downwardAPI/items/0/path",
                json!("a/b"),
                "[4].projected: Invalid value: \"a/b\": conflicting duplicate paths",
            ),
            (
                "/4/projected/sources/1/configMap",
                json!({"name": "m"}),
                "[4].projected.sources[1]: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/4/projected/sources/0/configMap/name",
                json!(""),
                "[4].projected.sources[0].configMap.name: Required value",
            ),
            (
                "/4/projected/sources/3/serviceAccountToken/expirationSeconds",
                json!(599),
                "[4].projected.sources[3].serviceAccountToken.expirationSeconds: Invalid value: 599: \
            may not specify a duration less than 10 minutes",
            ),
        ],
    );
}
