//! Hostname, `/etc/hosts`, DNS.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::Errors;
use super::name::{check_name, dns_label, dns_subdomain};
use crate::network::{MAX_NAME_SERVERS, MAX_SEARCH_CHARS, MAX_SEARCH_PATHS};

/// Longest `hostnameOverride`: what a kernel takes.
const OVERRIDE_MAX: usize = 64;

/// Checks what the pod says of its network.
pub(super) fn network(errors: &mut Errors, spec: &PodSpec) {
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            check_name(errors, &format!("spec.{field}"), value, dns_label);
        }
    }
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        let path = "spec.hostnameOverride";
        check_name(errors, path, name, dns_subdomain);
        if name.len() > OVERRIDE_MAX {
            errors.invalid(path, name, "must be no more than 64 characters");
        }
        if spec.host_network == Some(true) {
            errors.forbidden(path, "may not be set when `hostNetwork` is true");
        }
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(path, "may not be set when `setHostnameAsFQDN` is true");
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("spec.hostAliases[{i}]");
        ip(errors, &format!("{path}.ip"), &alias.ip);
        for (i, name) in alias.hostnames.iter().flatten().enumerate() {
            check_name(errors, &format!("{path}.hostnames[{i}]"), name, dns_subdomain);
        }
    }
    let is_none = spec.dns_policy.as_deref() == Some("None");
    match &spec.dns_config {
        None if is_none => {
            errors.required("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        None => {}
        Some(config) => dns_config(errors, config, is_none),
    }
}

fn ip(errors: &mut Errors, path: &str, value: &str) {
    if value.parse::<IpAddr>().is_err() {
        let text = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.invalid(path, value, text);
    }
}

fn dns_config(errors: &mut Errors, config: &PodDNSConfig, is_none: bool) {
    let path = "spec.dnsConfig";
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let searches = config.searches.as_deref().unwrap_or_default();
    let at = format!("{path}.nameservers");
    if servers.is_empty() && is_none {
        let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&at, text);
    }
    if servers.len() > MAX_NAME_SERVERS {
        let text = format!("must not have more than {MAX_NAME_SERVERS} nameservers");
        list(errors, &at, servers, &text);
    }
    for (i, server) in servers.iter().enumerate() {
        ip(errors, &format!("{at}[{i}]"), server);
    }
    let at = format!("{path}.searches");
    if searches.len() > MAX_SEARCH_PATHS {
        let text = format!("must not have more than {MAX_SEARCH_PATHS} search paths");
        list(errors, &at, searches, &text);
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARS {
        let text = format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the \
             search list"
        );
        list(errors, &at, searches, &text);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let bare = search.strip_suffix('.').unwrap_or(search);
        // An underscore may stand wherever a letter may.
        for text in dns_subdomain(&bare.replace('_', "x")) {
            errors.invalid(&format!("{at}[{i}]"), search, &text);
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&format!("{path}.options[{i}]"), "must not be empty");
        }
    }
}

fn list(errors: &mut Errors, path: &str, values: &[String], text: &str) {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    errors.add(path, format!("Invalid value: [{}]: {text}", values.join(",")));
}
