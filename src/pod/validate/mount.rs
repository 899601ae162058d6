//! Volume mounts.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::Errors;
use super::container::Scope;
use super::path::descending;

/// Checks the mounts of the container at `path`.
pub(super) fn mounts(errors: &mut Errors, path: &str, one: &Container, scope: &Scope<'_>) {
    let mut paths = HashSet::new();
    let context = one.security_context.as_ref();
    let is_privileged = context.is_some_and(|context| context.privileged == Some(true));
    for (i, mount) in one.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if mount.name.is_empty() {
            errors.required(&format!("{path}.name"), "");
        } else if !scope.volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&format!("{path}.name"), &mount.name);
        }
        mount_path(errors, &format!("{path}.mountPath"), mount);
        if !paths.insert(mount.mount_path.as_str()) {
            errors.invalid(&format!("{path}.mountPath"), &mount.mount_path, "must be unique");
        }
        let sub = mount.sub_path.as_deref().unwrap_or_default();
        descending(errors, &format!("{path}.subPath"), sub);
        let at = format!("{path}.subPathExpr");
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        if !expression.is_empty() && !sub.is_empty() {
            errors.invalid(&at, expression, "subPathExpr and subPath are mutually exclusive");
        }
        descending(errors, &at, expression);
        propagation(errors, &path, mount, is_privileged);
    }
}

/// The API's own description forbids `:`, which older runtimes read as a separator.
fn mount_path(errors: &mut Errors, path: &str, mount: &VolumeMount) {
    if mount.mount_path.is_empty() {
        errors.required(path, "");
    } else if mount.mount_path.contains(':') {
        errors.invalid(path, &mount.mount_path, "must not contain ':'");
    }
}

fn propagation(errors: &mut Errors, path: &str, mount: &VolumeMount, is_privileged: bool) {
    if let Some(mode) = &mount.mount_propagation {
        let at = format!("{path}.mountPropagation");
        errors.one_of(&at, Some(mode), &["Bidirectional", "HostToContainer", "None"]);
        if mode == "Bidirectional" && !is_privileged {
            let text = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&at, text);
        }
    }
    let Some(mode) = &mount.recursive_read_only else { return };
    let at = format!("{path}.recursiveReadOnly");
    errors.one_of(&at, Some(mode), &["Disabled", "Enabled", "IfPossible"]);
    if ["Enabled", "IfPossible"].contains(&mode.as_str()) {
        if mount.read_only != Some(true) {
            errors.forbidden(&at, "may only be specified when readOnly is true");
        }
        if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
            let text = "may only be specified when mountPropagation is None or not specified";
            errors.forbidden(&at, text);
        }
    }
}
