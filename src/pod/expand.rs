//! `$(VAR)` in environment, command and arguments (upstream `third_party/forked/golang/expansion`
//! and the kubelet's `makeEnvironmentVariables`).
//!
//! One difference: upstream breaks a character above U+007F that follows a lone `$`; here it stays.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Container;

/// Most bytes of environment, command and arguments of a container once expanded. Upstream has no
/// limit of its own; Linux gives an exec two megabytes by default.
pub(crate) const MAX_EXPANDED_BYTES: usize = 2 * 1024 * 1024;

/// What is left of a text at a `$`.
enum Piece<'a> {
    /// Goes out as it stands.
    Text(&'a str),
    /// `$(NAME)`: the name, and the whole reference.
    Reference(&'a str, &'a str),
}

/// Replaces each `$(NAME)` for which `lookup` has a value. `$$` is one `$` (so `$$(NAME)` is the
/// text `$(NAME)`), a reference without a value and everything else stay as they are.
#[must_use]
pub fn expand<'a>(input: &'a str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    for piece in pieces(input) {
        out.push_str(match piece {
            Piece::Text(text) => text,
            Piece::Reference(name, whole) => lookup(name).unwrap_or(whole),
        });
    }
    out
}

/// A container's command and arguments with the variables of its environment
/// ([`environment`](crate::environment), which bounds their size) put in. Either may be empty: then
/// the image's own holds.
#[must_use]
pub fn argv(container: &Container, env: &[(String, String)]) -> (Vec<String>, Vec<String>) {
    let values: HashMap<&str, &str> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let all = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| expand(text, |name| values.get(name).copied())).collect()
    };
    (all(&container.command), all(&container.args))
}

/// How many bytes environment, command and arguments of a container take once expanded, without
/// the values that come from elsewhere (`valueFrom`, `envFrom`). Counted without doing it: a few
/// lines of references to references could fill any memory.
#[must_use]
pub fn expanded_bytes(container: &Container) -> usize {
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    let mut total = 0_usize;
    for var in container.env.iter().flatten() {
        let raw = var.value.as_deref().unwrap_or_default();
        let size = expanded_len(raw, |name| sizes.get(name).copied());
        sizes.insert(&var.name, size);
        total = total.saturating_add(size).saturating_add(var.name.len());
    }
    for text in [&container.command, &container.args].into_iter().flatten().flatten() {
        total = total.saturating_add(expanded_len(text, |name| sizes.get(name).copied()));
    }
    total
}

/// The length of what [`expand`] would give, from the lengths of the values.
pub(crate) fn expanded_len(input: &str, lookup: impl Fn(&str) -> Option<usize>) -> usize {
    pieces(input).fold(0, |sum, piece| {
        sum.saturating_add(match piece {
            Piece::Text(text) => text.len(),
            Piece::Reference(name, whole) => lookup(name).unwrap_or(whole.len()),
        })
    })
}

/// Cuts a text at its references and escapes.
fn pieces(input: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = input;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = next_piece(rest);
        rest = after;
        Some(piece)
    })
}

fn next_piece(input: &str) -> (Piece<'_>, &str) {
    let text = |at: usize| (Piece::Text(&input[..at]), &input[at..]);
    let at = input.find('$').unwrap_or(input.len());
    if at > 0 {
        return text(at);
    }
    match input.as_bytes().get(1) {
        // The escape: one of the two goes out.
        Some(b'$') => (Piece::Text("$"), &input[2..]),
        Some(b'(') => match input.find(')') {
            Some(end) => (Piece::Reference(&input[2..end], &input[..=end]), &input[end + 1..]),
            None => text(2),
        },
        Some(_) | None => text(1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Facts, Objects, environment};

    /// The environment of a container that has plain values only.
    fn env_of(container: &Container) -> Vec<(String, String)> {
        let (mut pod, objects, facts) = (Pod::default(), Objects::default(), Facts::default());
        pod.spec.get_or_insert_default().enable_service_links = Some(false);
        environment(&pod, container, &objects, &facts, &BTreeMap::new()).unwrap()
    }

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    /// Upstream's `TestMapping` cases.
    #[test]
    fn syntax() {
        let lookup = |name: &str| match name {
            "VAR_A" => Some("A"),
            "VAR_B" => Some("B"),
            "VAR_C" => Some("C"),
            "VAR_REF" => Some("$(VAR_A)"),
            "VAR_EMPTY" => Some(""),
            _ => None,
        };
        for (input, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("___$(VAR_C)", "___C"),
            ("$(VAR_A)-$(VAR_A)", "A-A"),
            ("$(VAR_A)-1", "A-1"),
            ("$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
            ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
            ("$$(VAR_A)_$$(VAR_B)", "$(VAR_A)_$(VAR_B)"),
            ("f000-$$VAR_A", "f000-$VAR_A"),
            ("foo\\$(VAR_C)bar", "foo\\Cbar"),
            ("foo\\\\$(VAR_C)bar", "foo\\\\Cbar"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("$(VAR_A", "$(VAR_A"),
            ("f00-$(VAR_A)_$(BAD", "f00-A_$(BAD"),
            ("$VAR_A)", "$VAR_A)"),
            ("${VAR_A}", "${VAR_A}"),
            ("$()", "$()"),
            ("$(VAR_DNE)", "$(VAR_DNE)"),
            ("foo-$(VAR_REF)", "foo-$(VAR_A)"),
            ("$$$$(BIG_MONEY)", "$$(BIG_MONEY)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$$$$(GOOD_ODDS)", "$$$$(GOOD_ODDS)"),
            ("$", "$"),
            ("a$", "a$"),
            ("$$", "$"),
            ("$é$(VAR_A)", "$éA"),
            ("\n$(VAR_A)", "\nA"),
            ("$((VAR_A)", "$((VAR_A)"),
            ("", ""),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input:?}");
        }
    }

    #[test]
    fn env_refers_to_earlier_variables_and_the_last_of_a_name_wins() {
        let container = container(json!({"name": "c", "env": [
            {"name": "EARLY", "value": "$(LATE)"},
            {"name": "LATE", "value": "1"},
            {"name": "BOTH", "value": "$(EARLY) $(LATE)"},
            {"name": "EMPTY"},
            {"name": "LATE", "value": "$(LATE)2"},
        ], "command": ["/bin/$(LATE)", "$$(LATE)"], "args": ["-$(BOTH)", "$(EMPTY)", "$(NONE)"]}));
        let env = env_of(&container);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            env,
            [
                pair("EARLY", "$(LATE)"),
                pair("LATE", "12"),
                pair("BOTH", "$(LATE) 1"),
                pair("EMPTY", "")
            ]
        );
        let (command, args) = argv(&container, &env);
        assert_eq!(command, ["/bin/12", "$(LATE)"]);
        assert_eq!(args, ["-$(LATE) 1", "", "$(NONE)"]);
    }

    #[test]
    fn a_bomb_of_references_is_counted_and_not_built() {
        let mut env = vec![json!({"name": "V0", "value": "xxxxxxxxxx"})];
        for i in 1..40 {
            env.push(
                json!({"name": format!("V{i}"), "value": format!("$(V{})", i - 1).repeat(50)}),
            );
        }
        assert_eq!(expanded_bytes(&container(json!({"name": "c", "env": env}))), usize::MAX);
    }

    proptest! {
        #[test]
        fn expansion_ends_and_is_counted_right(
            values in proptest::collection::vec("[$()aA\u{e9}]{0,12}", 0..6),
            text in "\\PC{0,20}",
        ) {
            let names = ["a", "A", "aa", ""];
            let env: Vec<_> = values
                .iter()
                .enumerate()
                .map(|(i, v)| json!({"name": (names[i % 4]), "value": v}))
                .collect();
            let container = container(json!({"name": "c", "env": env, "args": [text]}));
            let built = env_of(&container);
            let (command, args) = argv(&container, &built);
            prop_assert!(command.is_empty());
            // The count takes each line for itself, so names given twice count twice.
            let size: usize = built.iter().map(|(n, v)| n.len() + v.len()).sum();
            let size = size + args.iter().map(String::len).sum::<usize>();
            if values.len() <= 4 {
                prop_assert_eq!(expanded_bytes(&container), size);
            }
        }

        #[test]
        fn text_without_a_dollar_is_its_own_expansion(text in "[^$]{0,30}") {
            prop_assert_eq!(expand(&text, |_| Some("no")), text);
        }
    }
}
