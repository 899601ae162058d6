//! What a pod asks of its node: tolerations, sysctls.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{PodSpec, Sysctl, Toleration};

use super::Errors;
use super::name::{label_value, qualified_name};

/// Longest name of a sysctl (upstream `SysctlMaxLength`).
const SYSCTL_MAX: usize = 253;
/// Upstream's words for its form.
const SYSCTL_FORM: &str = "must have at most 253 characters and match regex \
                           ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks the tolerations.
pub(super) fn tolerations(errors: &mut Errors, spec: &PodSpec) {
    for (i, one) in spec.tolerations.iter().flatten().enumerate() {
        toleration(errors, &format!("spec.tolerations[{i}]"), one);
    }
}

fn toleration(errors: &mut Errors, path: &str, one: &Toleration) {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let (key, operator, value, effect) =
        (text(&one.key), text(&one.operator), text(&one.value), text(&one.effect));
    let at = format!("{path}.operator");
    if !key.is_empty() {
        errors.check(&format!("{path}.key"), &key, qualified_name);
    } else if operator != "Exists" {
        let text = "operator must be Exists when `key` is empty, which means \"match all values and \
                    all keys\"";
        errors.invalid(&at, &operator, text);
    }
    if one.toleration_seconds.is_some() && effect != "NoExecute" {
        let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&format!("{path}.effect"), &effect, text);
    }
    match operator.as_str() {
        "Equal" | "" => {
            let wrong = label_value(&value);
            if !wrong.is_empty() {
                errors.invalid(&at, &value, &wrong.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&at, &value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        // Known, and not let through: their gate is off in 1.36.
        "Lt" | "Gt" => {
            let all = ["Equal", "Exists", "Lt", "Gt"];
            errors.unsupported(&at, &operator, &all);
        }
        _ => errors.unsupported(&at, &operator, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        errors.one_of(&format!("{path}.effect"), Some(&effect), &EFFECTS);
    }
}

/// Checks the names of the pod's sysctls; whether a node takes them is admission's.
pub(super) fn sysctls(errors: &mut Errors, path: &str, all: &[Sysctl]) {
    let mut names = HashSet::new();
    for (i, sysctl) in all.iter().enumerate() {
        let (path, name) = (format!("{path}[{i}].name"), sysctl.name.as_str());
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            errors.invalid(&path, name, SYSCTL_FORM);
        } else if !names.insert(name) {
            errors.duplicate(&path, name);
        }
    }
}

/// Segments of small letters and digits, with `-` and `_` inside, between dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let is_end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_segment = |part: &str| {
        part.bytes().all(|b| is_end(b) || b == b'-' || b == b'_')
            && part.bytes().next().is_some_and(is_end)
            && part.bytes().last().is_some_and(is_end)
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(is_segment)
}
