//! Labels, taints, addresses and the name of a node, from the texts of flags.

use std::collections::BTreeMap;
use std::net::IpAddr;

use copepod_pod::{dns_subdomain, label_value, qualified_name};
use k8s_openapi::api::core::v1::Taint;

/// Labels below `kubernetes.io` that a node may set on itself, in upstream's order
/// (`k8s.io/kubelet/pkg/apis`, `kubeletLabels`).
const OWN_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Namespaces whose labels a node may set on itself (`kubeletLabelNamespaces`).
const OWN_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Namespaces that are the project's.
const PROJECT: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Effects of taints.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Reads `key=value,key=value` (upstream `cliflag.ConfigurationMap`); a key alone has the empty
/// value, the last of two wins.
pub(super) fn labels(texts: &[String]) -> BTreeMap<String, String> {
    let pairs = texts.iter().flat_map(|text| text.split(',')).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// What is wrong with a node's labels, in upstream's words (`ValidateKubeletFlags`).
pub(super) fn wrong_labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let unknown: Vec<&str> =
        labels.keys().map(String::as_str).filter(|key| is_projects(key) && !is_own(key)).collect();
    if !unknown.is_empty() {
        wrong.push(format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{}]\n\
             --node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({}) \
             or be in the specifically allowed set ({})",
            unknown.join(" "),
            OWN_NAMESPACES.join(", "),
            OWN_LABELS.join(", ")
        ));
    }
    let mut invalid = Vec::new();
    for (key, value) in labels {
        for (text, errors) in [(key, qualified_name(key)), (value, label_value(value))] {
            if !errors.is_empty() {
                invalid.push(format!("'{text}' - {}", errors.join(", ")));
            }
        }
    }
    if !invalid.is_empty() {
        wrong.push(format!("invalid node labels: {}", invalid.join("; ")));
    }
    wrong
}

/// Is `namespace` this one, or below it?
fn is_below(namespace: &str, top: &str) -> bool {
    namespace.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_projects(key: &str) -> bool {
    key.split_once('/').is_some_and(|(space, _)| PROJECT.iter().any(|top| is_below(space, top)))
}

fn is_own(key: &str) -> bool {
    OWN_LABELS.contains(&key)
        || key
            .split_once('/')
            .is_some_and(|(space, _)| OWN_NAMESPACES.iter().any(|top| is_below(space, top)))
}

/// Reads `key=value:Effect,key:Effect` (upstream `ParseTaints`). A taint needs its effect here,
/// as the API server does; upstream lets one without it go on to be refused there.
///
/// # Errors
/// What is wrong with each, upstream's words.
pub(super) fn taints(text: &str) -> Result<Vec<Taint>, Vec<String>> {
    let (mut taints, mut wrong): (Vec<Taint>, Vec<String>) = (Vec::new(), Vec::new());
    for spec in text.split(',').filter(|_| !text.is_empty()) {
        match taint(spec) {
            Ok(taint) => {
                let same = |other: &&Taint| other.key == taint.key && other.effect == taint.effect;
                if taints.iter().any(|other| same(&other)) {
                    wrong.push(format!(
                        "duplicated taints with the same key and effect: {spec}, expected each once"
                    ));
                }
                taints.push(taint);
            }
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(taints) } else { Err(wrong) }
}

fn taint(spec: &str) -> Result<Taint, String> {
    let form = || format!("invalid taint spec: {spec}, expected key=value:Effect or key:Effect");
    let (pair, effect) = spec.split_once(':').ok_or_else(form)?;
    if effect.contains(':') || pair.matches('=').count() > 1 {
        return Err(form());
    }
    let (key, value) =
        pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value.to_owned())));
    let taint = Taint {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()),
        effect: effect.to_owned(),
        time_added: None,
    };
    wrong_taint(&taint).map_or(Ok(taint), |text| Err(format!("invalid taint spec: {spec}, {text}")))
}

/// What is wrong with a taint (upstream `CheckTaintValidation`, with the effect needed).
pub(super) fn wrong_taint(taint: &Taint) -> Option<String> {
    let key = qualified_name(&taint.key);
    let value = label_value(taint.value.as_deref().unwrap_or_default());
    if !key.is_empty() {
        return Some(format!("invalid taint key: {}", key.join("; ")));
    }
    if !value.is_empty() {
        return Some(format!("invalid taint value: {}", value.join("; ")));
    }
    (!EFFECTS.contains(&taint.effect.as_str())).then(|| {
        format!(
            "invalid taint effect: {}, unsupported taint effect: expected {}",
            taint.effect,
            EFFECTS.join(", ")
        )
    })
}

/// Reads one address, or one of each family (upstream `ParseNodeIPArgument`; what is no address is
/// an error here and only logged there).
///
/// # Errors
/// Upstream's words.
pub(super) fn node_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |text: &str| {
        let text = text.trim();
        text.parse::<IpAddr>()
            .map_err(|_| format!("could not parse {text:?}: expected an IP address"))
    };
    let ips = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    match ips[..] {
        [_] => Ok(ips),
        [a, b] if a.is_ipv6() == b.is_ipv6() => {
            Err("must contain either a single IP or a dual-stack pair of IPs".into())
        }
        [a, b] if a.is_unspecified() || b.is_unspecified() => {
            Err("dual-stack node IP cannot include '0.0.0.0' or '::'".into())
        }
        [_, _] => Ok(ips),
        _ => Err("must contain either a single IP or a dual-stack pair of IPs".into()),
    }
}

/// The node's name from what was given, or the machine's (upstream `GetHostname`).
///
/// # Errors
/// It is empty, or no name of an object.
pub(super) fn node_name(given: Option<&str>, machine: &str) -> Result<String, String> {
    let name = given.filter(|name| !name.is_empty()).unwrap_or(machine).trim().to_lowercase();
    if name.is_empty() {
        return Err("empty hostname is invalid".into());
    }
    match &dns_subdomain(&name)[..] {
        [] => Ok(name),
        wrong => Err(format!("{name:?} cannot name a node: {}", wrong.join("; "))),
    }
}

/// A flag's boolean, as Go reads one (`strconv.ParseBool`).
///
/// # Errors
/// It is none.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("{other:?} is no boolean: expected true or false")),
    }
}
