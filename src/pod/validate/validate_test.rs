//! Each rule with upstream's text.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::validate;
use crate::apply_defaults;

/// A good pod with everything that is checked in it.
fn good() -> Value {
    json!({
        "metadata": {"name": "web.v1", "labels": {"app": "a", "example.com/x": ""}},
        "spec": {
            "containers": [
                {"name": "a", "image": "./a.wasm",
                 "ports": [{"containerPort": 80, "hostPort": 8080, "name": "http"},
                           {"containerPort": 81, "name": "more"}],
                 "env": [{"name": "A", "value": "1"}, {"name": "a b.c-d", "value": "$(A)"}],
                 "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "h", "mountPath": "/h"}],
                 "resources": {"limits": {"cpu": "1", "memory": "64Mi", "example.com/gpu": "1"},
                               "requests": {"cpu": "500m"}}},
                {"name": "b", "image": "./b.wasm"}],
            "initContainers": [{"name": "i", "image": "./i.wasm"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}},
                        {"name": "h", "hostPath": {"path": "/srv", "type": "Directory"}}],
            "securityContext": {"runAsUser": 1000, "supplementalGroups": [5]},
            "terminationGracePeriodSeconds": 0}
    })
}

fn errors(changes: &[(&str, Value)]) -> Vec<String> {
    errors_in(good(), changes)
}

/// The errors of a pod with the value at a JSON pointer set to another (null takes it out).
pub(super) fn errors_in(mut value: Value, changes: &[(&str, Value)]) -> Vec<String> {
    for (pointer, new) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = value.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match key.parse::<usize>() {
            Ok(at) => parent[at] = new.clone(),
            Err(_) => parent[key] = new.clone(),
        }
    }
    let mut pod: Pod = serde_json::from_value(value).unwrap();
    apply_defaults(&mut pod);
    validate(&pod).iter().map(ToString::to_string).collect()
}

fn table(cases: &[(&str, Value, &str)]) {
    for (pointer, value, expected) in cases {
        assert_eq!(errors(&[(pointer, value.clone())]), [*expected], "{pointer} = {value}");
    }
}

#[test]
fn a_good_pod_has_no_errors() {
    assert_eq!(errors(&[]), [""; 0]);
}

#[test]
fn names() {
    table(&[
        (
            "/metadata/name",
            Value::Null,
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            "/metadata/name",
            json!("Web_1"),
            "metadata.name: Invalid value: \"Web_1\": a lowercase RFC 1123 subdomain must consist \
             of lower case alphanumeric characters, '-' or '.', and must start and end with an \
             alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            "/metadata/name",
            json!("a".repeat(254)),
            &format!(
                "metadata.name: Invalid value: \"{}\": must be no more than 253 characters",
                "a".repeat(254)
            ),
        ),
        ("/spec/containers/1/name", json!("a"), "spec.containers[1].name: Duplicate value: \"a\""),
        (
            "/spec/initContainers/0/name",
            json!("b"),
            "spec.initContainers[0].name: Duplicate value: \"b\"",
        ),
        ("/spec/containers/1/name", json!(""), "spec.containers[1].name: Required value"),
        (
            "/spec/containers/1/name",
            json!("a.b"),
            "spec.containers[1].name: Invalid value: \"a.b\": a lowercase RFC 1123 label must \
             consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            "/spec/containers/0/env/0/name",
            json!("A=B"),
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable \
             name must consist only of printable ASCII characters other than '='",
        ),
        (
            "/spec/containers/0/env/0/name",
            json!(""),
            "spec.containers[0].env[0].name: Required value",
        ),
    ]);
    assert_eq!(errors(&[("/metadata/labels/-x", json!("?"))]).len(), 2);
}

#[test]
fn containers() {
    table(&[
        ("/spec/containers/1/image", Value::Null, "spec.containers[1].image: Required value"),
        (
            "/spec/containers/1/image",
            json!(" a"),
            "spec.containers[1].image: Invalid value: \" a\": must not have leading or trailing \
             whitespace",
        ),
        (
            "/spec/containers/1/imagePullPolicy",
            json!("Sometimes"),
            "spec.containers[1].imagePullPolicy: Unsupported value: \"Sometimes\": supported \
             values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"OnFailure\", \"Never\"",
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal \
             to 0",
        ),
        (
            "/spec/securityContext/runAsUser",
            json!(-1),
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, \
             inclusive",
        ),
        (
            "/spec/initContainers/0/livenessProbe",
            json!({"exec": {"command": ["a"]}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers \
             without restartPolicy=Always",
        ),
    ]);
    assert_eq!(errors(&[("/spec/containers", json!([]))]), ["spec.containers: Required value"]);
}

#[test]
fn ports() {
    table(&[
        (
            "/spec/containers/0/ports/0/containerPort",
            json!(70000),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 \
             and 65535, inclusive",
        ),
        (
            "/spec/containers/0/ports/0/containerPort",
            json!(0),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            "/spec/containers/0/ports/1/hostPort",
            json!(8080),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
        ),
        (
            "/spec/containers/1/ports",
            json!([{"containerPort": 1, "hostPort": 8080}]),
            "spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//8080\"",
        ),
        (
            "/spec/containers/0/ports/1/name",
            json!("http"),
            "spec.containers[0].ports[1].name: Duplicate value: \"http\"",
        ),
        (
            "/spec/containers/0/ports/1/name",
            json!("a-very-long-name"),
            "spec.containers[0].ports[1].name: Invalid value: \"a-very-long-name\": must be no \
             more than 15 characters",
        ),
        (
            "/spec/containers/0/ports/1/name",
            json!("80"),
            "spec.containers[0].ports[1].name: Invalid value: \"80\": must contain at least one \
             letter (a-z)",
        ),
        (
            "/spec/containers/0/ports/1/protocol",
            json!("HTTP"),
            "spec.containers[0].ports[1].protocol: Unsupported value: \"HTTP\": supported values: \
             \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            "/spec/hostNetwork",
            json!(true),
            "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` \
             when `hostNetwork` is true",
        ),
    ]);
}

#[test]
fn volumes_and_mounts() {
    table(&[
        (
            "/spec/containers/0/volumeMounts/0/name",
            json!("w"),
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            "/spec/containers/0/volumeMounts/1/mountPath",
            json!("/v"),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
        ),
        (
            "/spec/containers/0/volumeMounts/0/mountPath",
            json!(""),
            "spec.containers[0].volumeMounts[0].mountPath: Required value",
        ),
        (
            "/spec/containers/0/volumeMounts/0/mountPath",
            json!("/a:b"),
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a:b\": must not \
             contain ':'",
        ),
        (
            "/spec/volumes/1/emptyDir",
            json!({}),
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "/spec/volumes/1/hostPath/path",
            json!("/a/../b"),
            "spec.volumes[1].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            "/spec/volumes/1/hostPath/path",
            json!(""),
            "spec.volumes[1].hostPath.path: Required value",
        ),
        (
            "/spec/volumes/1/hostPath/type",
            json!("Folder"),
            "spec.volumes[1].hostPath.type: Unsupported value: \"Folder\": supported values: \"\", \
             \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
             \"FileOrCreate\", \"Socket\"",
        ),
    ]);
    assert_eq!(
        errors(&[("/spec/volumes/1/name", json!("v"))]),
        [
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.containers[0].volumeMounts[1].name: Not found: \"h\""
        ]
    );
}

#[test]
fn resources() {
    table(&[
        (
            "/spec/containers/0/resources/requests/cpu",
            json!("2"),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or \
             equal to cpu limit of 1",
        ),
        (
            "/spec/containers/0/resources/requests/memory",
            json!("-1Mi"),
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1Mi\": must be \
             greater than or equal to 0",
        ),
        (
            "/spec/containers/0/resources/requests/memory",
            json!("64MB"),
            "spec.containers[0].resources.requests[memory]: Invalid value: \"64MB\": quantities \
             must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "/spec/volumes/0/emptyDir/sizeLimit",
            json!("-1"),
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid \
             resource quantity",
        ),
    ]);
}

#[test]
fn a_bomb_of_variables_is_refused() {
    let mut env = vec![json!({"name": "V0", "value": "0123456789"})];
    for i in 1..30 {
        env.push(json!({"name": format!("V{i}"), "value": format!("$(V{})", i - 1).repeat(9)}));
    }
    assert_eq!(
        errors(&[("/spec/containers/0/env", json!(env))]),
        ["spec.containers[0]: Too long: environment, command and arguments may not be more than \
          2097152 bytes once their $(VAR) references are expanded"]
    );
}

#[test]
fn all_errors_come_at_once() {
    let found = errors(&[
        ("/metadata/name", Value::Null),
        ("/spec/containers/1/name", json!("a")),
        ("/spec/restartPolicy", json!("x")),
    ]);
    assert_eq!(found.len(), 3, "{found:?}");
}
