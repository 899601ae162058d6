//! Taints as they are written on a command line (upstream's `ParseTaints`), pure.

use k8s_openapi::api::core::v1::Taint;
use thiserror::Error;

/// Why a text is no list of taints; the texts are upstream's.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TaintError {
    /// Not of the form `key[=value]:effect`.
    #[error("invalid taint spec: {0}")]
    Spec(String),
    /// No effect that there is.
    #[error("invalid taint effect: {effect}, unsupported taint effect")]
    Effect {
        /// What stands in its place.
        effect: String,
    },
    /// Two with one key and one effect.
    #[error("duplicated taints with the same key and effect: {0}")]
    Duplicate(String),
}

/// Reads `key=value:Effect,...`. Whether keys and values are good ones is not looked at.
///
/// # Errors
/// [`TaintError`].
pub(crate) fn parse_taints(text: &str) -> Result<Vec<Taint>, TaintError> {
    let mut taints: Vec<Taint> = Vec::new();
    for spec in text.split(',').filter(|spec| !spec.is_empty()) {
        let taint = parse_taint(spec)?;
        if taints.iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            return Err(TaintError::Duplicate(spec.into()));
        }
        taints.push(taint);
    }
    Ok(taints)
}

fn parse_taint(spec: &str) -> Result<Taint, TaintError> {
    let wrong = || TaintError::Spec(spec.into());
    let (name, effect) = spec.split_once(':').ok_or_else(wrong)?;
    if effect.contains(':') {
        return Err(wrong());
    }
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(TaintError::Effect { effect: effect.into() });
    }
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (name, None),
    };
    if key.is_empty() || value.is_some_and(|value| value.contains('=')) {
        return Err(wrong());
    }
    let value = value.filter(|value| !value.is_empty()).map(Into::into);
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_of_a_command_line() {
        let taints =
            parse_taints("a=b:NoSchedule,c:NoExecute,a=:PreferNoSchedule,").expect("taints");
        let shown: Vec<_> =
            taints.iter().map(|t| (&*t.key, t.value.as_deref(), &*t.effect)).collect();
        assert_eq!(
            shown,
            [
                ("a", Some("b"), "NoSchedule"),
                ("c", None, "NoExecute"),
                ("a", None, "PreferNoSchedule")
            ]
        );
        assert_eq!(parse_taints(""), Ok(Vec::new()));
        for (text, error) in [
            ("a=b", "invalid taint spec: a=b"),
            ("a=b:", "invalid taint effect: , unsupported taint effect"),
            ("a:NoSchedule:x", "invalid taint spec: a:NoSchedule:x"),
            ("a=b=c:NoSchedule", "invalid taint spec: a=b=c:NoSchedule"),
            (":NoSchedule", "invalid taint spec: :NoSchedule"),
            ("a:Never", "invalid taint effect: Never, unsupported taint effect"),
            (
                "a:NoExecute,a=b:NoExecute",
                "duplicated taints with the same key and effect: a=b:NoExecute",
            ),
        ] {
            assert_eq!(parse_taints(text).map_err(|e| e.to_string()), Err(error.into()), "{text}");
        }
    }
}
