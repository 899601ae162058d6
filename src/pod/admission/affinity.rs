//! The node that a pod asks for: `nodeSelector` and the required part of its node affinity
//! (upstream `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`, `apimachinery/labels`).

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use super::{NODE_AFFINITY, NodeFacts, Rejection};
use crate::validate::{label_value, qualified_name};

/// The only field that a node is asked for by.
const NAME_FIELD: &str = "metadata.name";

/// Refuses a pod that asks for another node.
pub(super) fn check(spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let mut selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let is_selected = selector.all(|(key, value)| node.labels.get(key) == Some(value));
    let matches = |terms: &[NodeSelectorTerm]| terms.iter().any(|term| is_term_met(term, node));
    if is_selected && required.is_none_or(|selector| matches(&selector.node_selector_terms)) {
        return Ok(());
    }
    let why = "node(s) didn't match Pod's node affinity/selector";
    Err(Rejection::predicate(NODE_AFFINITY, why))
}

/// Terms are alternatives; one that is empty, or has a wrong requirement, is no node's.
fn is_term_met(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let is_empty = labels.is_empty() && fields.is_empty();
    !is_empty
        && labels.iter().all(|one| is_label_met(one, node) == Some(true))
        && fields.iter().all(|one| is_field_met(one, node) == Some(true))
}

/// Nothing for a requirement that is none.
fn is_label_met(one: &NodeSelectorRequirement, node: &NodeFacts) -> Option<bool> {
    let values = one.values.as_deref().unwrap_or_default();
    let is_sound = qualified_name(&one.key).is_empty()
        && values.iter().all(|value| label_value(value).is_empty());
    if !is_sound {
        return None;
    }
    let label = node.labels.get(&one.key);
    let is_in = || label.is_some_and(|label| values.contains(label));
    match (one.operator.as_str(), values) {
        ("In", [_, ..]) => Some(is_in()),
        ("NotIn", [_, ..]) => Some(!is_in()),
        ("Exists", []) => Some(label.is_some()),
        ("DoesNotExist", []) => Some(label.is_none()),
        (operator @ ("Gt" | "Lt"), [bound]) => {
            let bound: i64 = bound.parse().ok()?;
            let Some(number) = label.and_then(|label| label.parse::<i64>().ok()) else {
                return Some(false);
            };
            Some(if operator == "Gt" { number > bound } else { number < bound })
        }
        _ => None,
    }
}

fn is_field_met(one: &NodeSelectorRequirement, node: &NodeFacts) -> Option<bool> {
    let value = match one.values.as_deref() {
        Some([value]) => value.as_str(),
        Some(_) | None => return None,
    };
    let field = if one.key == NAME_FIELD { node.name.as_str() } else { "" };
    match one.operator.as_str() {
        "In" => Some(field == value),
        "NotIn" => Some(field != value),
        _ => None,
    }
}
