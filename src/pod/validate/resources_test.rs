//! The rules for resources, each with upstream's text.

use serde_json::{Value, json};

use super::tests::errors_in;

/// What is wrong with a pod that has these resources of its own, and one container with these.
fn errors(own: Value, container: Value) -> Vec<String> {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "a:1", "resources": container}]}});
    errors_in(pod, &[("/spec/resources", own)])
}

#[test]
fn a_pods_own_resources_have_names_and_amounts() {
    let requests = |requests: Value| json!({ "requests": requests });
    for (own, expected) in [
        (requests(json!({"cpu": "1", "memory": "1Gi"})), [].as_slice()),
        (json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}}), &[]),
        (
            requests(json!({"ephemeral-storage": "1Gi"})),
            &["spec.resources.requests[ephemeral-storage]: Unsupported value: \
               \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\""],
        ),
        (
            requests(json!({"disk": "1"})),
            &[
                "spec.resources.requests[disk]: Invalid value: \"disk\": must be a standard resource \
               type or fully qualified",
            ],
        ),
        (
            requests(json!({"memory": "-1"})),
            &["spec.resources.requests[memory]: Invalid value: \"-1\": must be greater than or \
               equal to 0"],
        ),
        (
            requests(json!({"cpu": "much"})),
            &["spec.resources.requests[cpu]: Invalid value: \"much\": quantities must match the \
               regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"],
        ),
        (
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
            &["spec.resources.requests: Invalid value: \"1500m\": must be less than or equal to \
               cpu limit of 1"],
        ),
        (
            json!({"claims": [{"name": "gpu"}], "requests": {"cpu": "1"}}),
            &["spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"],
        ),
    ] {
        assert_eq!(errors(own.clone(), Value::Null), expected, "{own}");
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"os": {"name": "windows"},
        "resources": {"requests": {"cpu": "much"}}, "containers": [{"name": "c", "image": "a"}]}});
    let text = "spec.resources: Forbidden: may not be set for a windows pod";
    assert_eq!(errors_in(pod, &[]), [text]);
}

#[test]
fn what_containers_have_fits_into_what_their_pod_has() {
    for (own, container, expected) in [
        (json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "1"}}), [].as_slice()),
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1500m"}}),
            &["spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal \
               to aggregate container requests of 1500m"],
        ),
        (
            json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "2Gi"}, "requests": {"memory": "1Gi"}}),
            &["spec.resources.containers[0][memory].limits: Invalid value: \"2Gi\": must be less \
               than or equal to pod limits of 1Gi"],
        ),
        (
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "2Mi"}, "requests": {"cpu": "1"}}),
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}}),
            &[
                "spec.resources.requests[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater \
                 than or equal to aggregate container requests of 4Mi",
                "spec.resources.limits[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater \
                 than or equal to aggregate container limits of 4Mi",
                "spec.resources.containers[0][hugepages-2Mi].limits: Invalid value: \"4Mi\": must \
                 be less than or equal to pod limits of 2Mi",
            ],
        ),
    ] {
        assert_eq!(errors(own.clone(), container.clone()), expected, "{own} {container}");
    }
}

#[test]
fn what_cannot_be_shared_is_asked_for_as_it_is_limited() {
    let at = "spec.containers[0].resources";
    for (container, expected) in [
        (
            json!({"requests": {"example.com/gpu": "1"}}),
            [": limits: Required value: Limit must be set for non overcommitable resources"]
                .as_slice(),
        ),
        (
            json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
            &[": requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"],
        ),
        (
            json!({"limits": {"example.com/gpu": "500m"}, "requests": {"example.com/gpu": "500m"}}),
            &[
                ": limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                ": requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
            ],
        ),
        (
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            &[" Forbidden: HugePages require cpu or memory"],
        ),
        (
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "3Mi"}}),
            &[
                ": limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
                ": requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
            ],
        ),
    ] {
        let path = |text: &&str| match text.strip_prefix(": ") {
            Some(field) => format!("{at}.{field}"),
            None => format!("{at}:{text}"),
        };
        let expected: Vec<String> = expected.iter().map(path).collect();
        assert_eq!(errors(Value::Null, container.clone()), expected, "{container}");
    }
}

#[test]
fn names_of_resources_of_containers() {
    for (name, texts) in [
        ("cpu", [].as_slice()),
        ("kubernetes.io/any", &[]),
        (
            "gpu",
            &[
                "must be a standard resource type or fully qualified",
                "must be a standard resource for containers",
            ],
        ),
        ("pods", &["must be a standard resource for containers"]),
        ("requests.example.com/gpu", &["doesn't follow extended resource name standard"]),
    ] {
        let path = format!("spec.containers[0].resources.limits[{name}]");
        let expected: Vec<String> =
            texts.iter().map(|text| format!("{path}: Invalid value: {name:?}: {text}")).collect();
        // Only of the limits: what is asked for is the same.
        let found: Vec<String> = errors(Value::Null, json!({"limits": {name: "1"}}))
            .into_iter()
            .filter(|text| text.starts_with(&path))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}
