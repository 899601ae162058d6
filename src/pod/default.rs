//! What the API server fills into a pod (upstream `pkg/apis/core/v1/defaults.go`), for pods that
//! never saw one. Left out: defaults of volume sources that a node without a cluster refuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use crate::ephemeral::{as_container, as_ephemeral};
use crate::quantity::Quantity;
use crate::resources::{
    Amounts, container_limits, container_requests, counts_for_a_pod, is_huge_pages, of_containers,
};
use crate::validate::volume_sources;

/// Mode of the files of configMap, secret, downwardAPI and projected volumes.
pub(crate) const DEFAULT_FILE_MODE: i32 = 0o644;
/// Life of a projected service account token, in seconds.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// Sets every field that the API server would set in this pod, and its namespace to `default`.
/// A second time changes nothing.
pub fn apply_defaults(pod: &mut Pod) {
    set_text(&mut pod.metadata.namespace, "default");
    let spec = pod.spec.get_or_insert_default();
    set_text(&mut spec.dns_policy, "ClusterFirst");
    set_text(&mut spec.restart_policy, "Always");
    set_text(&mut spec.scheduler_name, "default-scheduler");
    spec.enable_service_links.get_or_insert(true);
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    spec.volumes.iter_mut().flatten().for_each(volume);
    let host_network = spec.host_network == Some(true);
    for container in all_containers(spec) {
        container_defaults(container);
        if host_network {
            for port in container.ports.iter_mut().flatten() {
                if port.host_port.unwrap_or(0) == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
    pod_resources(spec);
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        let mut container = as_container(ephemeral);
        container_defaults(&mut container);
        *ephemeral = as_ephemeral(container, ephemeral.target_container_name.take());
    }
    if let Some(overhead) = &mut spec.overhead {
        quantities(overhead);
    }
}

fn all_containers(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten())
}

/// As in Go, where an empty text is a missing one.
fn set_text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.into());
    }
}

/// As in Go, where zero is missing.
fn set_number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(default);
    }
}

fn container_defaults(container: &mut Container) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    set_text(&mut container.image_pull_policy, policy);
    set_text(&mut container.termination_message_path, "/dev/termination-log");
    set_text(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, "TCP");
    }
    container.env.iter_mut().flatten().for_each(variable);
    if let Some(needs) = &mut container.resources {
        resources(needs);
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(probe);
    if let Some(hooks) = &mut container.lifecycle {
        [&mut hooks.post_start, &mut hooks.pre_stop].into_iter().flatten().for_each(hook);
    }
}

/// `Always` for the tag `latest`, which a name without tag and digest has too; else
/// `IfNotPresent`. A path is no image name, so it has no tag.
fn pull_policy(image: &str) -> &'static str {
    let is_path = image.starts_with(['.', '/']) || image.contains("://");
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        _ if is_path || image.is_empty() => "IfNotPresent",
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        Some(_) | None => "IfNotPresent",
    }
}

fn variable(env: &mut EnvVar) {
    let Some(from) = &mut env.value_from else { return };
    selectors(from.field_ref.as_mut(), from.resource_field_ref.as_mut());
    if let Some(file) = &mut from.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

/// A divisor of zero is none: it counts as one.
fn selectors(
    field: Option<&mut ObjectFieldSelector>,
    resource: Option<&mut ResourceFieldSelector>,
) {
    if let Some(field) = field {
        set_text(&mut field.api_version, "v1");
    }
    if let Some(resource) = resource {
        resource.divisor.get_or_insert_with(|| Raw("0".to_owned()));
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    selectors(file.field_ref.as_mut(), file.resource_field_ref.as_mut());
}

/// Requests default to limits (`SetDefaults_Pod`), and both are rounded up to thousandths in
/// their canonical form (`SetDefaults_ResourceList`).
fn resources(needs: &mut ResourceRequirements) {
    if let Some(limits) = &mut needs.limits {
        quantities(limits);
        let requests = needs.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    if let Some(requests) = &mut needs.requests {
        quantities(requests);
    }
}

/// The pod's own resources, if it has any; after those of its containers, which they are made from.
fn pod_resources(spec: &mut PodSpec) {
    let limits = of_containers(spec, container_limits, |_| ());
    let requests = of_containers(spec, container_requests, |_| ());
    let Some(own) = &mut spec.resources else { return };
    let sums = |sums: Amounts| sums.into_iter().map(|(name, sum)| (name, Raw(sum.to_string())));
    // Of none at all nothing is made (upstream: `defaultHugePagePodLimits`).
    if [&own.limits, &own.requests].into_iter().flatten().any(|list| !list.is_empty()) {
        let asked = own.requests.clone().unwrap_or_default();
        let is_missing =
            |(name, _): &(String, Raw)| is_huge_pages(name) && !asked.contains_key(name);
        fill(&mut own.limits, sums(limits).filter(is_missing));
    }
    // Without limits requests are as they are given (upstream: `defaultPodRequests`).
    if let Some(limits) = own.limits.clone().filter(|limits| !limits.is_empty()) {
        let counts = |(name, _): &(String, Raw)| counts_for_a_pod(name);
        // Of huge pages as many are asked for as there may be.
        let requests = sums(requests).filter(|(name, _)| !is_huge_pages(name));
        fill(&mut own.requests, requests.chain(limits).filter(counts));
    }
    [&mut own.limits, &mut own.requests].into_iter().flatten().for_each(quantities);
}

/// Adds what a list lacks; one that is not there stays so for nothing.
fn fill(list: &mut Option<BTreeMap<String, Raw>>, from: impl Iterator<Item = (String, Raw)>) {
    for (name, amount) in from {
        list.get_or_insert_default().entry(name).or_insert(amount);
    }
}

/// What does not parse stays for validation to name.
fn quantities(list: &mut BTreeMap<String, Raw>) {
    for raw in list.values_mut() {
        if let Ok(quantity) = Quantity::parse(&raw.0) {
            raw.0 = quantity.rounded_to_milli().to_string();
        }
    }
}

fn probe(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    if let Some(action) = &mut probe.http_get {
        http_get(action);
    }
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_default();
    }
}

fn hook(handler: &mut LifecycleHandler) {
    if let Some(action) = &mut handler.http_get {
        http_get(action);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    set_text(&mut action.path, "/");
    set_text(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    if volume_sources(volume).is_empty() {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(DEFAULT_FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(DEFAULT_FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(DEFAULT_FILE_MODE);
        source.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(DEFAULT_FILE_MODE);
        source.sources.iter_mut().flatten().for_each(projection);
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(DEFAULT_TOKEN_SECONDS);
    }
    let items = source.downward_api.as_mut().and_then(|d| d.items.as_mut());
    items.into_iter().flatten().for_each(downward_file);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(value: Value) -> Value {
        let mut pod: Pod = serde_json::from_value(value).unwrap();
        apply_defaults(&mut pod);
        let once = pod.clone();
        apply_defaults(&mut pod);
        assert_eq!(pod, once, "not stable");
        serde_json::to_value(pod).unwrap()
    }

    #[test]
    fn an_almost_empty_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "./c.wasm"}]}});
        assert_eq!(
            defaulted(pod),
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {
                    "containers": [{
                        "name": "c", "image": "./c.wasm", "imagePullPolicy": "IfNotPresent",
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File"}],
                    "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
                    "restartPolicy": "Always", "schedulerName": "default-scheduler",
                    "securityContext": {}, "terminationGracePeriodSeconds": 30}})
        );
    }

    #[test]
    fn what_is_set_stays() {
        let spec = json!({
            "containers": [{"name": "c", "image": "a", "imagePullPolicy": "Never",
                "terminationMessagePath": "/x", "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}],
            "dnsPolicy": "None", "enableServiceLinks": false, "restartPolicy": "Never",
            "schedulerName": "mine", "securityContext": {"runAsUser": 1},
            "terminationGracePeriodSeconds": 0});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "mine"}, "spec": spec});
        assert_eq!(defaulted(pod.clone()), pod);
    }

    #[test]
    fn ephemeral_containers_are_no_exception() {
        let pod = defaulted(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "a:1"}],
            "ephemeralContainers": [{"name": "e", "image": "busybox", "targetContainerName": "c",
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}}));
        assert_eq!(
            pod["spec"]["ephemeralContainers"][0],
            json!({"name": "e", "image": "busybox", "targetContainerName": "c",
                "env": [{"name": "E", "valueFrom": {"fieldRef": {
                    "apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"})
        );
    }

    #[test]
    fn pull_policy_goes_by_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
            ("./hello.wasm", "IfNotPresent"),
            ("/srv/hello.wasm", "IfNotPresent"),
            ("file:///srv/hello.wasm", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image:?}");
        }
    }

    #[test]
    fn containers_and_volumes() {
        let pod = defaulted(json!({"metadata": {"name": "p"}, "spec": {
            "hostNetwork": true,
            "containers": [{"name": "c", "image": "a:1",
                "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081}],
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"},
                    "resourceFieldRef": {"resource": "limits.cpu"},
                    "fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}],
                "resources": {"limits": {"cpu": "1.5", "memory": "0.1m", "x": "bad"},
                              "requests": {"memory": "0"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0},
                "readinessProbe": {"grpc": {"port": 9}, "failureThreshold": 7},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}}}],
            "initContainers": [{"name": "i", "image": "a:1", "ports": [{"containerPort": 1}]}],
            "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/b"}},
                {"name": "c", "configMap": {}},
                {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                    {"downwardAPI": {"items": [
                        {"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}]}}));
        let spec = &pod["spec"];
        let container = &spec["containers"][0];
        for (found, expected) in [
            (
                &container["ports"][0],
                json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}),
            ),
            (&container["ports"][1]["hostPort"], json!(8081)),
            (&container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], json!("v1")),
            (&container["env"][0]["valueFrom"]["resourceFieldRef"]["divisor"], json!("0")),
            (&container["env"][0]["valueFrom"]["fileKeyRef"]["optional"], json!(false)),
            (
                &container["resources"]["limits"],
                json!({"cpu": "1500m", "memory": "1m", "x": "bad"}),
            ),
            (
                &container["resources"]["requests"],
                json!({"cpu": "1500m", "memory": "0", "x": "bad"}),
            ),
            (
                &container["livenessProbe"],
                json!({
                "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
            ),
            (&container["readinessProbe"]["grpc"], json!({"port": 9, "service": ""})),
            (&container["readinessProbe"]["failureThreshold"], json!(7)),
            (&container["lifecycle"]["preStop"]["httpGet"]["scheme"], json!("HTTP")),
            (&spec["initContainers"][0]["ports"][0]["hostPort"], json!(1)),
            (&spec["volumes"][0]["emptyDir"], json!({})),
            (&spec["volumes"][1]["hostPath"], json!({"path": "/b", "type": ""})),
            (&spec["volumes"][2]["configMap"]["defaultMode"], json!(0o644)),
            (
                &spec["volumes"][3]["projected"]["sources"][0]["serviceAccountToken"],
                json!({"path": "t", "expirationSeconds": 3600}),
            ),
            (&spec["volumes"][3]["projected"]["defaultMode"], json!(0o644)),
            (
                &spec["volumes"][3]["projected"]["sources"][1]["downwardAPI"]["items"][0]["fieldRef"],
                json!({"apiVersion": "v1", "fieldPath": "metadata.name"}),
            ),
        ] {
            assert_eq!(found, &expected);
        }
    }

    #[test]
    fn a_pods_own_resources_are_made_of_its_containers() {
        let containers = json!([
            {"name": "a", "image": "a:1", "resources": {
                "limits": {"hugepages-2Mi": "2Mi", "ephemeral-storage": "1Gi"},
                "requests": {"cpu": "100m"}}},
            {"name": "b", "image": "a:1", "resources": {"limits": {"cpu": "200m"}}}]);
        for (own, expected) in [
            (Value::Null, Value::Null),
            (json!({}), json!({})),
            // What is there stays as it is.
            (
                json!({"requests": {"memory": "1Gi", "hugepages-2Mi": "0"}}),
                json!({"requests": {"memory": "1Gi", "hugepages-2Mi": "0"}}),
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1.5Gi"}}),
                json!({"limits": {"cpu": "1", "memory": "1536Mi", "hugepages-2Mi": "2Mi"},
                    "requests": {"cpu": "300m", "memory": "1536Mi", "hugepages-2Mi": "2Mi"}}),
            ),
            (
                json!({"requests": {"memory": "1Gi"}}),
                json!({"limits": {"hugepages-2Mi": "2Mi"},
                    "requests": {"cpu": "300m", "memory": "1Gi", "hugepages-2Mi": "2Mi"}}),
            ),
            // What a pod cannot have for itself is not asked for.
            (
                json!({"limits": {"ephemeral-storage": "1Gi"}, "requests": {"cpu": "1"}}),
                json!({"limits": {"ephemeral-storage": "1Gi", "hugepages-2Mi": "2Mi"},
                    "requests": {"cpu": "1", "hugepages-2Mi": "2Mi"}}),
            ),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            pod["spec"]["resources"] = own.clone();
            assert_eq!(defaulted(pod)["spec"]["resources"], expected, "{own}");
        }
    }
}
