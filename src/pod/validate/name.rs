//! Forms of names (upstream `k8s.io/apimachinery/pkg/util/validation`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Errors;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;
/// Largest sum of the annotations' keys and values, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with a text, upstream's words; nothing for a good one.
pub(super) type Rule = fn(&str) -> Vec<String>;

/// A name that must be there and keep to a rule.
pub(super) fn check_name(errors: &mut Errors, path: &str, value: &str, rule: Rule) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        errors.check(path, value, rule);
    }
}

fn too_long(value: &str, most: usize) -> Option<String> {
    (value.len() > most).then(|| format!("must be no more than {most} characters"))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// `IsDNS1123Label`.
pub(super) fn dns_label(value: &str) -> Vec<String> {
    let form = (!is_label(value)).then(|| {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
         and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
         regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            .into()
    });
    too_long(value, LABEL_MAX).into_iter().chain(form).collect()
}

/// What is wrong with a DNS name such as a node's, upstream's words (`IsDNS1123Subdomain`).
#[must_use]
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let form = (!value.split('.').all(is_label)).then(|| {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .into()
    });
    too_long(value, SUBDOMAIN_MAX).into_iter().chain(form).collect()
}

/// `IsValidPortName`.
pub(super) fn port_name(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let mut wrong: Vec<String> = too_long(value, PORT_NAME_MAX).into_iter().collect();
    let mut rule = |broken: bool, text: &str| {
        if broken {
            wrong.push(text.into());
        }
    };
    rule(
        bytes.is_empty()
            || !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    rule(!bytes.iter().any(u8::is_ascii_lowercase), "must contain at least one letter (a-z)");
    rule(value.contains("--"), "must not contain consecutive hyphens");
    rule(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    wrong
}

/// `IsRelaxedEnvVarName`.
pub(super) fn env_name(value: &str) -> Vec<String> {
    let good = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    if value.bytes().all(good) {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='"
            .into(),
    ]
}

/// `IsConfigMapKey`.
pub(super) fn config_key(value: &str) -> Vec<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let form = (value.is_empty() || !value.bytes().all(good)).then(|| {
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
         'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            .into()
    });
    // Names that are no file's, or the volume writer's own.
    let reserved = match value {
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        _ if value.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    };
    too_long(value, SUBDOMAIN_MAX)
        .into_iter()
        .chain(form)
        .chain(reserved.map(str::to_owned))
        .collect()
}

fn is_label_text(text: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

/// What is wrong with a label's value, upstream's words (`IsValidLabelValue`).
#[must_use]
pub fn label_value(value: &str) -> Vec<String> {
    let form = (!value.is_empty() && !is_label_text(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
         '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            .into()
    });
    too_long(value, LABEL_MAX).into_iter().chain(form).collect()
}

/// What is wrong with a label's key, upstream's words (`IsQualifiedName`).
#[must_use]
pub fn qualified_name(value: &str) -> Vec<String> {
    let (prefix, name) = value.split_once('/').map_or((None, value), |(p, n)| (Some(p), n));
    let mut wrong: Vec<String> = Vec::new();
    match prefix {
        Some("") => wrong.push("prefix part must be non-empty".into()),
        Some(prefix) => {
            wrong.extend(
                dns_subdomain(prefix).into_iter().map(|text| format!("prefix part {text}")),
            );
        }
        None => {}
    }
    if name.is_empty() {
        wrong.push("name part must be non-empty".into());
    } else if let Some(text) = too_long(name, LABEL_MAX) {
        wrong.push(format!("name part {text}"));
    }
    if !is_label_text(name) {
        wrong.push(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
             and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                .into(),
        );
    }
    wrong
}

/// Labels and annotations.
pub(super) fn labels(errors: &mut Errors, meta: &ObjectMeta) {
    for (key, value) in meta.labels.iter().flatten() {
        errors.check("metadata.labels", key, qualified_name);
        errors.check("metadata.labels", value, label_value);
    }
    let mut size = 0_usize;
    for (key, value) in meta.annotations.iter().flatten() {
        // Upstream takes the key's letters as lower case here.
        errors.check("metadata.annotations", &key.to_lowercase(), qualified_name);
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX {
        let text = format!("Too long: may not be more than {ANNOTATIONS_MAX} bytes");
        errors.add("metadata.annotations", text);
    }
}
