//! Ephemeral containers: each rule with upstream's text.

use serde_json::{Value, json};

use super::tests::errors_in;

fn errors(field: &str, value: Value) -> Vec<String> {
    let mut one = json!({"name": "e", "image": "busybox", "targetContainerName": "c", "resources": {},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    one[field] = value;
    let spec = json!({"containers": [{"name": "c", "image": "x"}], "ephemeralContainers": [one],
        "initContainers": [{"name": "i", "image": "x"}], "volumes": [{"name": "v"}]});
    errors_in(json!({"metadata": {"name": "p"}, "spec": spec}), &[])
}

#[test]
fn a_good_one_has_no_errors() {
    assert_eq!(errors("tty", json!(true)), [""; 0]);
}

#[test]
fn each_rule() {
    let mount = |field: &str| json!([{"name": "v", "mountPath": "/v", field: "a"}]);
    let probe = json!({"exec": {"command": ["x"]}});
    for (field, value, expected) in [
        ("name", json!("c"), ".name: Duplicate value: \"c\""),
        ("name", json!("i"), ".name: Duplicate value: \"i\""),
        ("image", Value::Null, ".image: Required value"),
        ("targetContainerName", json!("e"), ".targetContainerName: Not found: \"e\""),
        ("resources", json!({"limits": {"cpu": "1"}}), FORBIDDEN),
        ("ports", json!([{"containerPort": 80}]), FORBIDDEN),
        ("livenessProbe", probe.clone(), FORBIDDEN),
        ("readinessProbe", probe.clone(), FORBIDDEN),
        ("startupProbe", probe, FORBIDDEN),
        ("lifecycle", json!({}), FORBIDDEN),
        ("restartPolicy", json!("Always"), FORBIDDEN),
    ] {
        let expected = match expected {
            FORBIDDEN => format!(".{field}: Forbidden: cannot be set for an Ephemeral Container"),
            other => other.to_owned(),
        };
        assert_eq!(errors(field, value), [format!("spec.ephemeralContainers[0]{expected}")]);
    }
    for field in ["subPath", "subPathExpr"] {
        let at = format!("spec.ephemeralContainers[0].volumeMounts[0].{field}");
        let expected = format!("{at}: Forbidden: cannot be set for an Ephemeral Container");
        assert_eq!(errors("volumeMounts", mount(field)), [expected]);
    }
}

const FORBIDDEN: &str = "forbidden";
