//! Each refused field by its path, each noticed one once.

use copepod_pod::apply_defaults;
use serde_json::{Value, json};

use super::*;

fn pod(spec: Value, container: Value) -> Pod {
    let mut one = json!({"name": "c", "image": "./c.wasm"});
    for (key, value) in container.as_object().unwrap() {
        one[key] = value.clone();
    }
    let mut all = json!({"containers": [one]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    let mut pod = serde_json::from_value(json!({"spec": all})).unwrap();
    apply_defaults(&mut pod);
    pod
}

fn refused(spec: Value, container: Value) -> Vec<String> {
    let host = HostCapabilities { changes_user: true, mounts: true, cluster: false };
    refusals(&pod(spec, container), host, &|_| true).into_iter().map(|e| e.path).collect()
}

fn noticed(spec: Value, container: Value, changes_user: bool) -> Vec<String> {
    let host = HostCapabilities { changes_user, mounts: changes_user, cluster: false };
    let all = notices(&pod(spec, container), host);
    all.into_iter().map(|notice| notice.field).filter(|field| field != "hostNetwork").collect()
}

#[test]
fn a_pod_within_the_served_fields_is_neither_refused_nor_noticed() {
    let spec = json!({
        "hostNetwork": true, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": 5,
        "volumes": [{"name": "a"}, {"name": "b", "emptyDir": {}},
                    {"name": "c", "hostPath": {"path": "/srv", "type": "FileOrCreate"}},
                    {"name": "d", "configMap": {"name": "m"}}, {"name": "e", "secret": {"secretName": "s"}},
                    {"name": "f", "downwardAPI": {}}, {"name": "g", "projected": {"sources": [
                        {"configMap": {"name": "m"}}, {"secret": {"name": "s"}}, {"downwardAPI": {}}]}}],
        "initContainers": [{"name": "i", "image": "./i.wasm", "restartPolicy": "Always"}],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}});
    let probe = json!({"exec": {"command": ["a"]}});
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}});
    let container = json!({
        "livenessProbe": probe, "readinessProbe": probe, "startupProbe": probe,
        "lifecycle": {"preStop": probe}, "restartPolicy": "Never", "restartPolicyRules": [rule],
        "command": ["a"], "args": ["$(B)"], "env": [{"name": "B", "value": "b"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "envFrom": [{"configMapRef": {"name": "m"}}],
        "terminationMessagePath": "/x", "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [{"containerPort": 8080}], "workingDir": "/",
        "volumeMounts": [{"name": "a", "mountPath": "/a", "readOnly": true, "subPath": ""},
            {"name": "b", "mountPath": "/b", "subPath": "c"},
            {"name": "b", "mountPath": "/d", "subPathExpr": "$(B)"}],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "procMount": "Default", "privileged": false, "readOnlyRootFilesystem": true}});
    let pod = pod(spec, container);
    let root = HostCapabilities { changes_user: true, mounts: true, cluster: false };
    assert_eq!(refusals(&pod, root, &|_| true), []);
    assert_eq!(notices(&pod, HostCapabilities::default()), []);
    let without = refusals(&pod, HostCapabilities::default(), &|_| true);
    let text = "a single file takes a mount: expected copepod to run as root";
    let path = "spec.volumes[2].hostPath.type".into();
    assert_eq!(without, [FieldError { path, message: text.into() }]);
}

#[test]
fn what_would_change_a_pods_meaning_is_refused_by_path() {
    for (spec, path) in [
        (json!({"hostPID": true}), "spec.hostPID"),
        (json!({"hostIPC": true}), "spec.hostIPC"),
        (json!({"shareProcessNamespace": true}), "spec.shareProcessNamespace"),
        (json!({"os": {"name": "windows"}}), "spec.os.name"),
        (json!({"ephemeralContainers": [{"name": "e"}]}), "spec.ephemeralContainers"),
        (json!({"resourceClaims": [{"name": "r"}]}), "spec.resourceClaims"),
        (
            json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}),
            "spec.securityContext.sysctls",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "spec.securityContext.seccompProfile.type",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}}),
            "spec.securityContext.appArmorProfile.type",
        ),
        (
            json!({"volumes": [{"name": "a"}, {"name": "v", "nfs": {"server": "s", "path": "/"}}]}),
            "spec.volumes[1].nfs",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/s", "type": "Socket"}}]}),
            "spec.volumes[0].hostPath.type",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/s", "type": "CharDevice"}}]}),
            "spec.volumes[0].hostPath.type",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {}},
                {"serviceAccountToken": {"path": "t"}}]}}]}),
            "spec.volumes[0].projected.sources[1].serviceAccountToken",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {"medium": "HugePages-2Mi"}}]}),
            "spec.volumes[0].emptyDir.medium",
        ),
    ] {
        assert_eq!(refused(spec.clone(), json!({})), [path], "{spec}");
    }
    let text =
        refusals(&pod(json!({"hostPID": true}), json!({})), HostCapabilities::default(), &|_| true)
            [0]
        .to_string();
    assert_eq!(text, "spec.hostPID: not possible: a Wasm container sees no processes");
}

#[test]
fn what_would_change_a_containers_meaning_is_refused_by_path() {
    for (container, field) in [
        (json!({"env": [{"name": "A", "value": "a\0"}]}), "env[0].value"),
        (json!({"args": ["a", "\0"]}), "args[1]"),
        (json!({"volumeDevices": [{"name": "d", "devicePath": "/d"}]}), "volumeDevices"),
        (json!({"workingDir": "/srv"}), "workingDir"),
        (
            json!({"volumeMounts": [{"name": "a", "mountPath": "//./"}]}),
            "volumeMounts[0].mountPath",
        ),
        (json!({"resources": {"claims": [{"name": "r"}]}}), "resources.claims"),
        (
            json!({"resources": {"requests": {"example.com/gpu": "1"}}}),
            "resources.requests[example.com/gpu]",
        ),
        (json!({"securityContext": {"privileged": true}}), "securityContext.privileged"),
        (
            json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}),
            "securityContext.capabilities.add",
        ),
        (json!({"securityContext": {"procMount": "Unmasked"}}), "securityContext.procMount"),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "securityContext.seccompProfile.type",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}}),
            "securityContext.appArmorProfile.type",
        ),
    ] {
        let path = format!("spec.containers[0].{field}");
        assert_eq!(refused(json!({}), container.clone()), [path], "{container}");
    }
}

#[test]
fn what_a_node_would_do_is_noticed_once_by_field() {
    let container = json!({
        "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Mi"}}, "stdin": true, "tty": true, "ports": [{"containerPort": 80, "hostPort": 8080}],
        "securityContext": {"runAsUser": 7}});
    let spec = json!({
        "serviceAccountName": "s", "runtimeClassName": "wasm", "hostAliases": [], "dnsConfig": {},
        "dnsPolicy": "None", "nodeSelector": {"a": "b"},
        "affinity": {}, "tolerations": [], "priorityClassName": "p",
        "securityContext": {"runAsUser": 5, "fsGroup": 6},
        "initContainers": [{"name": "i", "image": "i", "resources": {"limits": {"cpu": "2"}}}],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]});
    let expected = [
        "serviceAccountName",
        "runtimeClassName",
        "hostAliases",
        "dnsConfig",
        "dnsPolicy",
        "nodeSelector",
        "affinity",
        "tolerations",
        "priorityClassName",
        "runAsUser",
        "fsGroup",
        "emptyDir.medium",
        "resources.limits.cpu",
        "hostPort",
        "resources.requests.memory",
        "stdin",
        "tty",
    ];
    assert_eq!(noticed(spec.clone(), container.clone(), false), expected);
    let by_root = ["runAsUser", "fsGroup", "emptyDir.medium"];
    let as_root: Vec<_> = expected.into_iter().filter(|field| !by_root.contains(field)).collect();
    assert_eq!(noticed(spec, container, true), as_root);
    let other = json!({"resources": {"limits": {"memory": "1Mi"}, "requests": {"cpu": "1"}}});
    let fields = ["resources.requests.cpu", "resources.limits.memory"];
    assert_eq!(noticed(json!({}), other, false), fields);
    let all = notices(&pod(json!({}), json!({})), HostCapabilities::default());
    assert_eq!(
        all,
        [Notice {
            field: "hostNetwork".into(),
            text: "the pod has no network of its own: its guests use this host's".into()
        }]
    );
}

#[test]
fn a_cluster_has_what_a_lone_host_has_not() {
    let token = json!({"volumes": [{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}},
    ]}}], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}});
    let needs = json!({"resources": {"limits": {"example.com/x": "1"}}});
    let pod = pod(token, needs);
    let alone = HostCapabilities { changes_user: true, mounts: true, cluster: false };
    let fields = |host| -> Vec<String> {
        refusals(&pod, host, &|_| true).into_iter().map(|refused| refused.path).collect()
    };
    assert_eq!(
        fields(alone),
        [
            "spec.securityContext.sysctls",
            "spec.volumes[0].projected.sources[0].serviceAccountToken",
            "spec.containers[0].resources.limits[example.com/x]",
            // The default of a request is its limit.
            "spec.containers[0].resources.requests[example.com/x]",
        ]
    );
    assert_eq!(fields(HostCapabilities { cluster: true, ..alone }), [""; 0]);
}
