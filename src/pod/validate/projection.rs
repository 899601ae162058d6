//! Volumes that come from objects: configMap, secret, downwardAPI, projected.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume,
};

use super::path::local_file;
use super::{Errors, selector};

/// Largest file mode.
const MODE_MAX: i32 = 0o777;
/// Shortest and longest life of a token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// Checks the sources of this kind that the volume at `path` has.
pub(super) fn sources(errors: &mut Errors, path: &str, volume: &Volume) {
    if let Some(source) = &volume.config_map {
        let path = format!("{path}.configMap");
        named(errors, &format!("{path}.name"), &source.name);
        mode(errors, &format!("{path}.defaultMode"), source.default_mode);
        items(errors, &path, source.items.as_deref());
    }
    if let Some(source) = &volume.secret {
        let path = format!("{path}.secret");
        let name = source.secret_name.as_deref().unwrap_or_default();
        named(errors, &format!("{path}.secretName"), name);
        mode(errors, &format!("{path}.defaultMode"), source.default_mode);
        items(errors, &path, source.items.as_deref());
    }
    if let Some(source) = &volume.downward_api {
        let path = format!("{path}.downwardAPI");
        mode(errors, &format!("{path}.defaultMode"), source.default_mode);
        files(errors, &path, source.items.as_deref());
    }
    if let Some(source) = &volume.projected {
        let path = format!("{path}.projected");
        mode(errors, &format!("{path}.defaultMode"), source.default_mode);
        projected(errors, &path, source);
    }
}

fn named(errors: &mut Errors, path: &str, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    }
}

fn mode(errors: &mut Errors, path: &str, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|mode| !(0..=MODE_MAX).contains(mode)) {
        let text = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.add(path, format!("Invalid value: {mode}: {text}"));
    }
}

fn items(errors: &mut Errors, path: &str, items: Option<&[KeyToPath]>) {
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        named(errors, &format!("{path}.key"), &item.key);
        local_file(errors, &format!("{path}.path"), &item.path);
        mode(errors, &format!("{path}.mode"), item.mode);
    }
}

fn files(errors: &mut Errors, path: &str, files: Option<&[DownwardAPIVolumeFile]>) {
    for (i, file) in files.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        local_file(errors, &format!("{path}.path"), &file.path);
        mode(errors, &format!("{path}.mode"), file.mode);
        let (field, resource) = (&file.field_ref, &file.resource_field_ref);
        if let Some(field) = field {
            selector::field_ref(errors, &format!("{path}.fieldRef"), field, &selector::FILE_FIELDS);
        } else if let Some(resource) = resource {
            let at = format!("{path}.resourceFieldRef");
            selector::resource_ref(errors, &at, resource, true);
        } else {
            errors.required(&path, "one of fieldRef and resourceFieldRef is required");
        }
        if field.is_some() && resource.is_some() {
            let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(&path, "resource", text);
        }
    }
}

fn projected(errors: &mut Errors, path: &str, volume: &ProjectedVolumeSource) {
    let mut paths = HashSet::new();
    let mut place = |errors: &mut Errors, file: &str, said: &str| {
        if !file.is_empty() && !paths.insert(file.to_owned()) {
            errors.invalid(path, said, "conflicting duplicate paths");
        }
    };
    for (i, source) in volume.sources.iter().flatten().enumerate() {
        let at = format!("{path}.sources[{i}]");
        let secret = source.secret.as_ref().map(|of| ("secret", &of.name, &of.items));
        let map = source.config_map.as_ref().map(|of| ("configMap", &of.name, &of.items));
        for (field, name, list) in [secret, map].into_iter().flatten() {
            named(errors, &format!("{at}.{field}.name"), name);
            items(errors, &format!("{at}.{field}"), list.as_deref());
            list.iter().flatten().for_each(|item| place(errors, &item.path, name));
        }
        if let Some(of) = &source.downward_api {
            files(errors, &format!("{at}.downwardAPI"), of.items.as_deref());
            of.items.iter().flatten().for_each(|item| place(errors, &item.path, &item.path));
        }
        if let Some(of) = &source.service_account_token {
            token(errors, &format!("{at}.serviceAccountToken"), of);
        }
        let given = [
            secret.is_some(),
            map.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        if given.into_iter().filter(|is_set| *is_set).count() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
        }
    }
}

fn token(errors: &mut Errors, path: &str, token: &ServiceAccountTokenProjection) {
    let seconds = token.expiration_seconds.unwrap_or_default();
    let text = if seconds < *TOKEN_SECONDS.start() {
        Some("may not specify a duration less than 10 minutes")
    } else if seconds > *TOKEN_SECONDS.end() {
        Some("may not specify a duration larger than 2^32 seconds")
    } else {
        None
    };
    if let Some(text) = text {
        let at = format!("{path}.expirationSeconds");
        errors.add(&at, format!("Invalid value: {seconds}: {text}"));
    }
    local_file(errors, &format!("{path}.path"), &token.path);
}
