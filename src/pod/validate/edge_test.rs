//! How far each limit goes, and what a rule says of what is just beyond it.

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::source_tests::good;
use super::tests::errors_in;
use crate::expand::{MAX_EXPANDED_BYTES, expanded_bytes};

/// The one error that the values at these pointers make holds this text; empty for none.
#[track_caller]
fn check(changes: &[(&str, Value)], text: &str) {
    let errors = errors_in(good(), changes);
    match errors.as_slice() {
        [] => assert_eq!(text, "", "nothing is wrong"),
        [error] => assert!(!text.is_empty() && error.contains(text), "{error}"),
        more => panic!("{more:?}"),
    }
}

#[test]
fn a_variable_has_one_source() {
    let field = || json!({"fieldPath": "metadata.name"});
    let secret = || json!({"name": "s", "key": "k"});
    for two in [
        json!({"fieldRef": field(), "secretKeyRef": secret()}),
        json!({"resourceFieldRef": {"resource": "limits.cpu"}, "secretKeyRef": secret()}),
        json!({"configMapKeyRef": secret(), "secretKeyRef": secret()}),
        json!({"fileKeyRef": {"volumeName": "e", "path": "x", "key": "K"}, "fieldRef": field()}),
    ] {
        let at = "/spec/containers/0/env/0/valueFrom";
        check(&[(at, two)], "may not have more than one field specified at a time");
    }
}

#[test]
fn what_is_just_enough() {
    let annotations = |bytes: usize| json!({"a": "x".repeat(bytes - 1)});
    let at = "/metadata/annotations";
    check(&[(at, annotations(256 << 10))], "");
    check(&[(at, annotations((256 << 10) + 1))], "Too long: may not be more than 262144 bytes");
    let at = "/spec/volumes/4/projected/sources/3/serviceAccountToken/expirationSeconds";
    check(&[(at, json!(1_u64 << 32))], "");
    check(&[(at, json!((1_u64 << 32) + 1))], "may not specify a duration larger than 2^32 seconds");
    let container = |bytes: usize| json!({"name": "a", "image": "a", "env": [{"name": "A", "value": "x".repeat(bytes)}]});
    let rest: Container = serde_json::from_value(container(0)).unwrap();
    let most = MAX_EXPANDED_BYTES - expanded_bytes(&rest);
    let at = "/spec/containers/0";
    check(&[(at, container(most))], "");
    check(&[(at, container(most + 1))], "Too long: environment");
}

#[test]
fn names_that_are_none() {
    let at = "/spec/containers/0/ports";
    for (name, text) in [
        ("a-b", ""),
        ("a_b", "must contain only alpha-numeric characters"),
        ("-ab", "must not begin or end with a hyphen"),
        ("ab-", "must not begin or end with a hyphen"),
    ] {
        check(&[(at, json!([{"containerPort": 1, "name": name}]))], text);
    }
    for (key, text) in
        [(".", "must not be '.'"), ("..", "must not be '..'"), ("..a", "must not start with '..'")]
    {
        check(&[("/spec/containers/0/env/2/valueFrom/configMapKeyRef/key", json!(key))], text);
    }
    for (name, text) in [("", ""), ("a", ""), ("a.b", "a lowercase RFC 1123 label")] {
        check(&[("/spec/hostname", json!(name))], text);
    }
}

#[test]
fn mounts_that_others_see_need_privileges() {
    let mode = ("/spec/containers/0/volumeMounts/1/mountPropagation", json!("Bidirectional"));
    check(std::slice::from_ref(&mode), "privileged");
    let context = ("/spec/containers/0/securityContext", json!({"privileged": true}));
    check(&[mode, context], "");
}

#[test]
fn divisors_of_bytes() {
    for (resource, text) in [
        ("limits.ephemeral-storage", "with the local ephemeral storage resource"),
        ("requests.hugepages-2Mi", "with the hugepages resource"),
        ("requests.memory", "with the memory resource"),
    ] {
        let at = "/spec/volumes/3/downwardAPI/items/1/resourceFieldRef";
        let of =
            |divisor: &str| json!({"containerName": "a", "resource": resource, "divisor": divisor});
        check(&[(at, of("1m"))], text);
        check(&[(at, of("1Ki"))], "");
    }
}
