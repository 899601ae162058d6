//! When a container starts again: its own policy and its rules (upstream
//! `validateContainerRestartPolicy`, `validateInitContainerRestartPolicy`).

use k8s_openapi::api::core::v1::Container;

use super::Errors;

/// Most rules of a container (upstream's own number).
const RULES_MAX: usize = 20;
/// Most exit codes of a rule (upstream's own number).
const CODES_MAX: usize = 255;
/// What a container's own policy may be.
const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// Checks the policy and the rules of a container at `path`.
pub(super) fn of_container(errors: &mut Errors, path: &str, one: &Container) {
    let rules = one.restart_policy_rules.as_deref().unwrap_or_default();
    let at = format!("{path}.restartPolicy");
    match one.restart_policy.as_deref() {
        None if rules.is_empty() => {}
        None => errors.required(&at, "must specify restartPolicy when restart rules are used"),
        Some(policy) if POLICIES.contains(&policy) => {}
        Some(policy) => errors.unsupported(&at, policy, &POLICIES),
    }
    let at = format!("{path}.restartPolicyRules");
    errors.at_most(&at, rules.len(), RULES_MAX);
    for (i, rule) in rules.iter().enumerate() {
        let action = (format!("{at}[{i}].action"), rule.action.as_str());
        if !["Restart", "RestartAllContainers"].contains(&action.1) {
            errors.unsupported(&action.0, action.1, &["Restart", "RestartAllContainers"]);
        }
        let at = format!("{at}[{i}].exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.required(&at, "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            errors.unsupported(&format!("{at}.operator"), &codes.operator, &["In", "NotIn"]);
        }
        let values = codes.values.as_ref().map_or(0, Vec::len);
        errors.at_most(&format!("{at}.values"), values, CODES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::source_tests::good;
    use super::super::tests::errors_in;

    /// The errors of a main container and those of an init container with these fields.
    fn errors(policy: Option<&str>, rules: &Value) -> Vec<String> {
        let one = json!({"name": "r", "image": "i", "imagePullPolicy": "Always",
            "terminationMessagePolicy": "File", "terminationMessagePath": "/t",
            "restartPolicy": policy, "restartPolicyRules": rules});
        let both = ["containers", "initContainers"].map(|list| {
            let errors = errors_in(good(), &[(&format!("/spec/{list}"), json!([one]))]);
            let before = format!("spec.{list}[0].");
            let cut = |error: String| error.strip_prefix(&before).map(str::to_owned);
            errors.into_iter().filter_map(cut).collect::<Vec<_>>()
        });
        assert_eq!(both[0], both[1]);
        both[0].clone()
    }

    fn rule(action: &str, operator: &str, codes: usize) -> Value {
        json!({"action": action, "exitCodes": {"operator": operator, "values": vec![1; codes]}})
    }

    #[test]
    fn a_policy_is_one_of_three_and_rules_need_one() {
        let good = json!([rule("Restart", "In", 255), rule("RestartAllContainers", "NotIn", 1)]);
        for policy in ["Always", "OnFailure", "Never"] {
            assert_eq!(errors(Some(policy), &good), [""; 0], "{policy}");
        }
        assert_eq!(errors(None, &json!([])), [""; 0]);
        let text = "restartPolicy: Required value: must specify restartPolicy when restart rules \
                    are used";
        assert_eq!(errors(None, &good), [text]);
        let text = "restartPolicy: Unsupported value: \"never\": supported values: \"Always\", \
                    \"Never\", \"OnFailure\"";
        assert_eq!(errors(Some("never"), &json!([])), [text]);
    }

    #[test]
    fn a_rule_has_an_action_and_codes_and_there_are_not_too_many() {
        let rules = json!([rule("Stop", "Is", 256), {"action": "Restart"}]);
        let texts = [
            "restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \
             \"Restart\", \"RestartAllContainers\"",
            "restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported \
             values: \"In\", \"NotIn\"",
            "restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items",
            "restartPolicyRules[1].exitCodes: Required value: must be specified",
        ];
        assert_eq!(errors(Some("Never"), &rules), texts);
        let rules = json!(vec![rule("Restart", "In", 1); 21]);
        let text = "restartPolicyRules: Too many: 21: must have at most 20 items";
        assert_eq!(errors(Some("Never"), &rules), [text]);
    }
}
