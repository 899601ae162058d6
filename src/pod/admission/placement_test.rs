//! Which nodes a pod may be on, by its affinity, its selector, its node's name and its operating
//! system.

use super::*;

pub(super) fn requiring(terms: Value) -> Pod {
    let required = json!({"nodeSelectorTerms": terms});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": required});
    pod("a", json!({"affinity": {"nodeAffinity": required}}))
}

#[test]
fn node_affinity_has_all_its_operators() {
    let label = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let field = |key: &str, operator: &str, values: &[&str]| json!({"matchFields": [{"key": key, "operator": operator, "values": values}]});
    for (term, is_met) in [
        (label("zone", "In", &["b", "a"]), true),
        (label("zone", "In", &["b"]), false),
        (label("none", "In", &["b"]), false),
        (label("zone", "NotIn", &["b"]), true),
        (label("zone", "NotIn", &["a"]), false),
        (label("none", "NotIn", &["a"]), true),
        (label("wasm", "Exists", &[]), true),
        (label("none", "Exists", &[]), false),
        (label("none", "DoesNotExist", &[]), true),
        (label("wasm", "DoesNotExist", &[]), false),
        (label("cores", "Gt", &["3"]), true),
        (label("cores", "Gt", &["4"]), false),
        (label("cores", "Lt", &["5"]), true),
        (label("cores", "Lt", &["4"]), false),
        (label("cores", "Lt", &["-5"]), false),
        (label("zone", "Gt", &["3"]), false),
        (label("none", "Lt", &["3"]), false),
        (field("metadata.name", "In", &["edge-7"]), true),
        (field("metadata.name", "In", &["edge-8"]), false),
        (field("metadata.name", "NotIn", &["edge-8"]), true),
        (field("metadata.name", "NotIn", &["edge-7"]), false),
        // What is no requirement is no node's.
        (label("zone", "In", &[]), false),
        (label("wasm", "Exists", &["a"]), false),
        (label("cores", "Gt", &["many"]), false),
        (label("zone", "Is", &["a"]), false),
        (label("a b", "DoesNotExist", &[]), false),
        (label("none", "NotIn", &["a b"]), false),
        (field("metadata.name", "In", &["edge-7", "edge-8"]), false),
        (field("metadata.name", "Exists", &[]), false),
        (json!({}), false),
    ] {
        let why = refused(&requiring(json!([term])), &node(), &[]);
        assert_eq!(why.is_none(), is_met, "{term}");
    }
    // Terms are alternatives, and what is in one belongs together.
    let (good, bad) = (label("zone", "In", &["a"]), label("zone", "In", &["b"]));
    assert_taken(&requiring(json!([bad, good])), &node());
    let mut both = good;
    both["matchFields"] = field("metadata.name", "In", &["edge-8"])["matchFields"].clone();
    assert_refused(
        &requiring(json!([bad, both])),
        &node(),
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    );
    assert!(refused(&requiring(json!([])), &node(), &[]).is_some());
}

#[test]
fn a_selector_and_a_name_are_met_exactly() {
    assert_taken(&pod("a", json!({"nodeSelector": {"zone": "a", "wasm": ""}})), &node());
    let other = pod("a", json!({"nodeSelector": {"zone": "a", "none": ""}}));
    assert_eq!(refused(&other, &node(), &[]).unwrap().0, NODE_AFFINITY);
    assert_taken(&pod("a", json!({"nodeName": "edge-7"})), &node());
    assert_refused(
        &pod("a", json!({"nodeName": "edge-8"})),
        &node(),
        "NodeName",
        "Predicate NodeName failed: node(s) didn't match the requested node name",
    );
}

#[test]
fn the_operating_system_is_the_nodes() {
    let mut labelled = pod("a", json!({"os": {"name": "linux"}}));
    let label = |os: &str| Some([(OS_LABEL.to_owned(), os.to_owned())].into());
    labelled.metadata.labels = label("linux");
    assert_taken(&labelled, &node());
    labelled.metadata.labels = label("windows");
    assert_refused(
        &labelled,
        &node(),
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    );
    assert_refused(
        &pod("a", json!({"os": {"name": "windows"}})),
        &node(),
        "PodOSNotSupported",
        "Failed to admit pod as the OS field doesn't match node OS",
    );
}
