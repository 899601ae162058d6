//! Probes, hooks, and what a pod asks of its node: upstream's texts.

use serde_json::{Value, json};

use super::tests::errors_in;

fn errors(changes: &[(&str, Value)]) -> Vec<String> {
    let tcp = json!({"tcpSocket": {"port": "http"}});
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {
            "containers": [{"name": "a", "image": "a",
                "lifecycle": {"postStart": {"exec": {"command": ["a"]}},
                              "preStop": {"sleep": {"seconds": 30}}},
                "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "X-A", "value": ""}]},
                                  "terminationGracePeriodSeconds": 1},
                "readinessProbe": {"grpc": {"port": 80}, "successThreshold": 2},
                "startupProbe": tcp}],
            "initContainers": [
                {"name": "s", "image": "s", "restartPolicy": "Always", "readinessProbe": tcp}],
            "tolerations": [{"operator": "Exists"},
                {"key": "a/b", "value": "c", "effect": "NoExecute", "tolerationSeconds": 5}],
            "overhead": {"cpu": "1m"},
            "securityContext": {"sysctls": [
                {"name": "net.ipv4.tcp_syncookies", "value": "1"}, {"name": "kernel/sem", "value": ""}]}}
    });
    errors_in(pod, changes)
}

/// What is wrong with a container where the value at a pointer in it is another one.
fn of_container(pointer: &str, value: Value) -> Vec<String> {
    let all = errors(&[(&format!("/spec/containers/0/{pointer}"), value)]);
    let path = "spec.containers[0].";
    all.iter().map(|error| error.strip_prefix(path).unwrap_or(error).to_owned()).collect()
}

#[test]
fn a_good_pod_has_no_errors() {
    assert_eq!(errors(&[]), [""; 0]);
}

#[test]
fn each_has_exactly_one_handler() {
    let none = "Required value: must specify a handler type";
    for (pointer, path) in [
        ("livenessProbe", "livenessProbe"),
        ("lifecycle/postStart", "lifecycle.postStart"),
        ("lifecycle/preStop", "lifecycle.preStop"),
    ] {
        assert_eq!(of_container(pointer, json!({})), [format!("{path}: {none}")]);
    }
    let many = json!({"exec": {"command": ["a"]}, "httpGet": {"port": 80}, "tcpSocket": {"port": 0},
        "grpc": {"port": 0}});
    let more = "Forbidden: may not specify more than 1 handler type";
    let fields = ["httpGet", "tcpSocket", "grpc"];
    assert_eq!(
        of_container("startupProbe", many),
        fields.map(|field| format!("startupProbe.{field}: {more}"))
    );
    let both = json!({"exec": {"command": ["a"]}, "sleep": {"seconds": 1}});
    assert_eq!(
        of_container("lifecycle/postStart", both),
        [format!("lifecycle.postStart.sleep: {more}")]
    );
}

#[test]
fn handlers() {
    for (handler, error) in [
        (json!({"exec": {}}), "exec.command: Required value"),
        (
            json!({"tcpSocket": {"port": 0}}),
            "tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"tcpSocket": {"port": "80"}}),
            "tcpSocket.port: Invalid value: \"80\": must contain at least one letter (a-z)",
        ),
        (
            json!({"grpc": {"port": 70000}}),
            "grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"httpGet": {"port": 80, "scheme": "http"}}),
            "httpGet.scheme: Unsupported value: \"http\": supported values: \"HTTP\", \"HTTPS\"",
        ),
        (
            json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}),
            "httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of \
             alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is \
             '[-A-Za-z0-9]+')",
        ),
    ] {
        assert_eq!(of_container("livenessProbe", handler), [format!("livenessProbe.{error}")]);
    }
    for seconds in [-1, 31] {
        let error = format!(
            "lifecycle.preStop.sleep: Invalid value: {seconds}: must be non-negative and less than \
             terminationGracePeriodSeconds (30)"
        );
        assert_eq!(of_container("lifecycle/preStop/sleep/seconds", json!(seconds)), [error]);
    }
    assert_eq!(
        of_container("lifecycle/stopSignal", json!("SIGUSR1")),
        [
            "lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"
        ]
    );
    let os = ("/spec/os", json!({"name": "linux"}));
    assert_eq!(
        errors(&[os, ("/spec/containers/0/lifecycle/stopSignal", json!("SIGUSR1"))]),
        [""; 0]
    );
}

#[test]
fn numbers_of_probes() {
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "failureThreshold"] {
        let error =
            format!("livenessProbe.{field}: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(of_container(&format!("livenessProbe/{field}"), json!(-1)), [error]);
        // Stands for the default.
        assert_eq!(of_container(&format!("livenessProbe/{field}"), json!(0)), [""; 0]);
    }
    for probe in ["livenessProbe", "startupProbe"] {
        let error = format!("{probe}.successThreshold: Invalid value: 2: must be 1");
        assert_eq!(of_container(&format!("{probe}/successThreshold"), json!(2)), [error]);
    }
    let grace = "terminationGracePeriodSeconds";
    assert_eq!(
        of_container(&format!("livenessProbe/{grace}"), json!(0)),
        [format!("livenessProbe.{grace}: Invalid value: 0: must be greater than 0")]
    );
    assert_eq!(
        of_container(&format!("readinessProbe/{grace}"), json!(5)),
        [format!("readinessProbe.{grace}: Invalid value: 5: must not be set for readinessProbes")]
    );
}

#[test]
fn init_containers_have_them_if_they_run_on() {
    let forbidden = "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init \
                     containers without restartPolicy=Always";
    for policy in [Value::Null, json!("Never")] {
        assert_eq!(errors(&[("/spec/initContainers/0/restartPolicy", policy)]), [forbidden]);
    }
    assert_eq!(
        errors(&[("/spec/initContainers/0/readinessProbe", json!({}))]),
        ["spec.initContainers[0].readinessProbe: Required value: must specify a handler type"]
    );
}

#[test]
fn tolerations() {
    let at = "spec.tolerations[1].";
    for (field, value, error) in [
        (
            "key",
            json!("a b"),
            "key: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
             'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
        (
            "key",
            Value::Null,
            "operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
        ),
        (
            "operator",
            json!("Exists"),
            "operator: Invalid value: \"c\": value must be empty when `operator` is 'Exists'",
        ),
        (
            "operator",
            json!("In"),
            "operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            "operator",
            json!("Lt"),
            "operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\", \"Lt\", \
             \"Gt\"",
        ),
        (
            "effect",
            json!("NoSchedule"),
            "effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
        ),
    ] {
        let pointer = format!("/spec/tolerations/1/{field}");
        assert_eq!(errors(&[(&pointer, value.clone())]), [format!("{at}{error}")], "{value}");
    }
    assert_eq!(
        errors(&[("/spec/tolerations/0/effect", json!("No"))]),
        [
            "spec.tolerations[0].effect: Unsupported value: \"No\": supported values: \"NoSchedule\", \
          \"PreferNoSchedule\", \"NoExecute\""
        ]
    );
}

#[test]
fn sysctls_and_overhead() {
    let at = "spec.securityContext.sysctls[1].name: ";
    let form = "must have at most 253 characters and match regex \
                ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let long = "a".repeat(254);
    for (name, error) in [
        ("", "Required value".to_owned()),
        ("net.ipv4.tcp_syncookies", "Duplicate value: \"net.ipv4.tcp_syncookies\"".into()),
        ("net..a", format!("Invalid value: \"net..a\": {form}")),
        ("net.A", format!("Invalid value: \"net.A\": {form}")),
        ("net.a_", format!("Invalid value: \"net.a_\": {form}")),
        (&long, format!("Invalid value: \"{long}\": {form}")),
    ] {
        let pointer = "/spec/securityContext/sysctls/1/name";
        assert_eq!(errors(&[(pointer, json!(name))]), [format!("{at}{error}")]);
    }
    assert_eq!(
        errors(&[("/spec/overhead/cpu", json!("-1"))]),
        ["spec.overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]
    );
}
