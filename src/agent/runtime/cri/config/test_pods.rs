//! Pods and nodes of the tests.

use copepod_cri::{ContainerConfig, PodSandboxConfig};
use copepod_pod::{Facts, Resolver};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::*;

/// A pod of these parts of a spec, with one container `c` if it names none.
pub(super) fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "busybox:1"}]);
    }
    let meta = json!({"name": "web-0", "namespace": "ns", "uid": "u-1"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod")
}

/// A container `c` of these parts.
pub(super) fn spec_of(container: &Value) -> Container {
    let mut whole = json!({"name": "c", "image": "busybox:1"});
    for (key, value) in container.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).expect("a container")
}

pub(super) fn node() -> NodeOptions {
    NodeOptions { memory_bytes: 1 << 30, cgroup_v2: false, ..NodeOptions::default() }
}

/// What a pod and its node make of it.
pub(super) fn of<'a>(pod: &'a Pod, node: &'a NodeOptions) -> PodInput<'a> {
    PodInput { pod, handler: "", user_namespace: None, node }
}

/// The sandbox of this pod on the plain node.
pub(super) fn sandbox_of(pod: &Pod) -> Result<PodSandboxConfig, ConfigError> {
    let resolver = Resolver { servers: vec!["10.96.0.10".into()], ..Resolver::default() };
    sandbox(&SandboxInput {
        of: of(pod, &node()),
        attempt: 0,
        facts: &Facts::default(),
        resolver: &resolver,
        log_dir: "/var/log/pods/ns_web-0_u-1/".as_ref(),
        cgroup_parent: "/kubepods/besteffort/podu-1",
    })
}

/// The container `c` of these parts in a pod of these parts, on the plain node, of an image that
/// runs as `user`.
pub(super) fn container_of(
    pod: &Pod,
    spec: &Value,
    user: ImageUser,
) -> Result<ContainerConfig, ConfigError> {
    let image = ImageFacts { reference: "sha256:1".into(), user, ..ImageFacts::default() };
    container(&ContainerInput {
        of: of(pod, &node()),
        container: &spec_of(spec),
        attempt: 0,
        image: &image,
        command: &[],
        args: &[],
        env: &[],
        binds: &[],
        target: None,
    })
}
