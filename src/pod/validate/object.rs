//! Config maps and secrets (upstream `ValidateConfigMap`, `ValidateSecret`).

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::name::config_key;
use super::{Errors, FieldError, metadata};

/// Most bytes of all values of an object (upstream: `MaxSecretSize`).
const DATA_MAX: usize = 1024 * 1024;
/// What a secret of a type must have.
const REQUIRED_KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

/// All that is wrong with a config map; empty for a good one.
#[must_use]
pub fn validate_config_map(map: &ConfigMap) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    metadata(&mut errors, &map.metadata);
    let mut size = 0_usize;
    let has = |keys: bool, other| keys.then(|| format!("duplicate of key present in {other}"));
    for (key, value) in map.data.iter().flatten() {
        let in_other = map.binary_data.as_ref().is_some_and(|data| data.contains_key(key));
        data_key(&mut errors, "data", key, has(in_other, "binaryData"));
        size = size.saturating_add(value.len());
    }
    for (key, value) in map.binary_data.iter().flatten() {
        let in_other = map.data.as_ref().is_some_and(|data| data.contains_key(key));
        data_key(&mut errors, "binaryData", key, has(in_other, "data"));
        size = size.saturating_add(value.0.len());
    }
    data_size(&mut errors, size);
    errors.0
}

/// All that is wrong with a secret whose `stringData` was merged
/// ([`normalise_secret`](crate::normalise_secret)); empty for a good one.
#[must_use]
pub fn validate_secret(secret: &Secret) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    metadata(&mut errors, &secret.metadata);
    let mut size = 0_usize;
    for (key, value) in secret.data.iter().flatten() {
        data_key(&mut errors, "data", key, None);
        size = size.saturating_add(value.0.len());
    }
    data_size(&mut errors, size);
    let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    let of_type = REQUIRED_KEYS.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys);
    let mut missing: Vec<&str> = of_type.copied().filter(|key| !has(key)).collect();
    let basic = ["username", "password"];
    if kind == "kubernetes.io/basic-auth" && !basic.into_iter().any(has) {
        missing.extend(basic);
    }
    for key in missing {
        errors.required(&format!("data[{key}]"), "");
    }
    errors.0
}

fn data_key(errors: &mut Errors, field: &str, key: &str, wrong: Option<String>) {
    let path = format!("{field}[{key}]");
    errors.check(&path, key, config_key);
    if let Some(text) = wrong {
        errors.invalid(&path, key, &text);
    }
}

fn data_size(errors: &mut Errors, size: usize) {
    if size > DATA_MAX {
        errors.add("data", format!("Too long: may not be more than {DATA_MAX} bytes"));
    }
}
