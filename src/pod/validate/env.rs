//! Environment variables and where they come from.

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, FileKeySelector};

use super::container::Scope;
use super::name::{check_name, config_key, dns_subdomain, env_name};
use super::path::local_file;
use super::{Errors, selector};
use crate::expand::{MAX_EXPANDED_BYTES, expanded_bytes};

/// Longest key of a `fileKeyRef`.
const FILE_KEY_MAX: usize = 128;

/// Checks `env` and `envFrom` of the container at `path`.
pub(super) fn environment(errors: &mut Errors, path: &str, one: &Container, scope: &Scope<'_>) {
    for (i, var) in one.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{i}]");
        check_name(errors, &format!("{path}.name"), &var.name, env_name);
        if let Some(source) = &var.value_from {
            value_from(errors, &format!("{path}.valueFrom"), var, source, scope);
        }
    }
    for (i, from) in one.env_from.iter().flatten().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        let prefix = from.prefix.as_deref().unwrap_or_default();
        errors.check(&format!("{path}.prefix"), prefix, env_name);
        let map = from.config_map_ref.as_ref().map(|of| ("configMapRef", &of.name));
        let secret = from.secret_ref.as_ref().map(|of| ("secretRef", &of.name));
        for (field, name) in [map, secret].into_iter().flatten() {
            check_name(errors, &format!("{path}.{field}.name"), name, dns_subdomain);
        }
        match (map, secret) {
            (None, None) => {
                errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            (Some(_), Some(_)) => {
                errors.invalid(&path, "", "may not have more than one field specified at a time");
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
    }
    if expanded_bytes(one) > MAX_EXPANDED_BYTES {
        let text = format!(
            "Too long: environment, command and arguments may not be more than \
             {MAX_EXPANDED_BYTES} bytes once their $(VAR) references are expanded"
        );
        errors.add(path, text);
    }
}

fn value_from(
    errors: &mut Errors,
    path: &str,
    var: &EnvVar,
    source: &EnvVarSource,
    scope: &Scope<'_>,
) {
    // Whole on purpose: a source of a newer API breaks the build here.
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = source;
    let mut sources = 0;
    if let Some(field) = field_ref {
        sources += 1;
        selector::field_ref(errors, &format!("{path}.fieldRef"), field, &selector::ENV_FIELDS);
    }
    if let Some(resource) = resource_field_ref {
        sources += 1;
        selector::resource_ref(errors, &format!("{path}.resourceFieldRef"), resource, false);
    }
    let map = config_map_key_ref.as_ref().map(|of| ("configMapKeyRef", &of.name, &of.key));
    let secret = secret_key_ref.as_ref().map(|of| ("secretKeyRef", &of.name, &of.key));
    for (field, name, key) in [map, secret].into_iter().flatten() {
        sources += 1;
        check_name(errors, &format!("{path}.{field}.name"), name, dns_subdomain);
        check_name(errors, &format!("{path}.{field}.key"), key, config_key);
    }
    if let Some(file) = file_key_ref {
        sources += 1;
        file_key(errors, &format!("{path}.fileKeyRef"), file, scope);
    }
    if sources == 0 {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                    `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", text);
    } else if var.value.as_deref().is_some_and(|value| !value.is_empty()) {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// The file must be in an emptyDir, where only the pod itself writes.
fn file_key(errors: &mut Errors, path: &str, file: &FileKeySelector, scope: &Scope<'_>) {
    let at = format!("{path}.key");
    check_name(errors, &at, &file.key, env_name);
    if file.key.len() > FILE_KEY_MAX {
        errors.invalid(&at, &file.key, "must be no more than 128 characters");
    }
    local_file(errors, &format!("{path}.path"), &file.path);
    let at = format!("{path}.volumeName");
    let name = file.volume_name.as_str();
    match scope.volumes.get(name) {
        _ if name.is_empty() => errors.required(&at, ""),
        None => errors.not_found(&at, name),
        Some(volume) if volume.empty_dir.is_none() => {
            errors.invalid(&at, name, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}
