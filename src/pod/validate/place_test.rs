//! The rules for mounts and DNS, each with upstream's text.

use serde_json::{Value, json};

use super::source_tests::{errors, good, table};
use super::tests::errors_in;

#[test]
fn mounts() {
    table(
        "/spec/containers/0/volumeMounts",
        "spec.containers[0].volumeMounts",
        &[
            (
                "/1/subPath",
                json!("/a"),
                "[1].subPath: Invalid value: \"/a\": must be a relative path",
            ),
            (
                "/1/subPath",
                json!("a/../b"),
                "[1].subPath: Invalid value: \"a/../b\": must not contain '..'",
            ),
            (
                "/1/subPathExpr",
                json!("$(A)"),
                "[1].subPathExpr: Invalid value: \"$(A)\": subPathExpr \
            and subPath are mutually exclusive",
            ),
            (
                "/0/subPathExpr",
                json!("/$(A)"),
                "[0].subPathExpr: Invalid value: \"/$(A)\": must be a relative path",
            ),
            (
                "/0/readOnly",
                json!(false),
                "[0].recursiveReadOnly: Forbidden: may only be specified \
            when readOnly is true",
            ),
            (
                "/0/recursiveReadOnly",
                json!("Yes"),
                "[0].recursiveReadOnly: Unsupported value: \
            \"Yes\": supported values: \"Disabled\", \"Enabled\", \"IfPossible\"",
            ),
            (
                "/0/mountPropagation",
                json!("HostToContainer"),
                "[0].recursiveReadOnly: Forbidden: may \
            only be specified when mountPropagation is None or not specified",
            ),
            (
                "/1/mountPropagation",
                json!("Bidirectional"),
                "[1].mountPropagation: Forbidden: \
            Bidirectional mount propagation is available only to privileged containers",
            ),
        ],
    );
}

#[test]
fn network() {
    let ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    table(
        "/spec",
        "spec",
        &[
            (
                "/dnsConfig/nameservers/0",
                json!("dns"),
                &format!(".dnsConfig.nameservers[0]: Invalid value: \"dns\": {ip}"),
            ),
            (
                "/dnsConfig/nameservers",
                json!(["::1", "::2", "::3", "::4"]),
                ".dnsConfig.nameservers: Invalid value: [\"::1\",\"::2\",\"::3\",\"::4\"]: must not \
            have more than 3 nameservers",
            ),
            (
                "/dnsConfig/options/0/name",
                json!(""),
                ".dnsConfig.options[0]: Required value: must not be empty",
            ),
            (
                "/hostAliases/0/ip",
                json!("x"),
                &format!(".hostAliases[0].ip: Invalid value: \"x\": {ip}"),
            ),
            (
                "/hostnameOverride",
                json!("x".repeat(65)),
                &format!(
                    ".hostnameOverride: Invalid value: \
            \"{0}\": must be no more than 64 characters",
                    "x".repeat(65)
                ),
            ),
        ],
    );
    let none = |config: Value| {
        errors_in(good(), &[("/spec/dnsPolicy", json!("None")), ("/spec/dnsConfig", config)])
    };
    assert_eq!(
        none(Value::Null),
        ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
    );
    assert_eq!(
        none(json!({})),
        ["spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver \
         when `dnsPolicy` is None"]
    );
    for searches in [vec!["a b".to_owned()], vec!["s".to_owned(); 33], vec!["s".repeat(253); 9]] {
        assert_eq!(errors("/spec/dnsConfig/searches", &json!(searches)).len(), 1);
    }
}
