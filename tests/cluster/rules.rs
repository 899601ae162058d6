//! The rules for address translation that CNI's plugins make: of each network, found by the comments
//! that name it.

use std::collections::BTreeSet;
use std::process::Command;

/// How the plugins' chains begin, and those that all networks share.
const CHAIN: &str = "CNI-";
const SHARED: &str = "CNI-HOSTPORT-";

/// The rules of a network, as `iptables` would be told to make them.
pub fn of(network: &str) -> Vec<String> {
    // In a comment the quotes are escaped.
    let name = format!("\\\"{network}\\\"");
    all().into_iter().filter(|rule| rule.contains(&name)).collect()
}

/// Removes them, and their chains.
pub fn remove(network: &str) {
    let mut chains = BTreeSet::new();
    for rule in of(network) {
        let mut words = words(&rule);
        words[0] = "-D".to_owned();
        let is_own = |word: &&String| word.starts_with(CHAIN) && !word.starts_with(SHARED);
        chains.extend(words.iter().filter(is_own).cloned());
        tell(&words);
    }
    for chain in &chains {
        tell(&["-F".to_owned(), chain.clone()]);
    }
    for chain in chains {
        tell(&["-X".to_owned(), chain]);
    }
}

/// The networks that any rule is of.
pub fn networks() -> BTreeSet<String> {
    let named =
        |rule: String| Some(rule.split_once("name: \\\"")?.1.split_once("\\\"")?.0.to_owned());
    all().into_iter().filter_map(named).collect()
}

fn all() -> Vec<String> {
    let output = Command::new("iptables").args(["-w", "-t", "nat", "-S"]).output();
    let output = output.expect("iptables of `make test-setup`");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|rule| rule.starts_with("-A ")).map(str::to_owned).collect()
}

fn tell(args: &[String]) {
    // What is gone already is no matter.
    let _ = Command::new("iptables").args(["-w", "-t", "nat"]).args(args).output();
}

/// The words of a rule: quoted ones may have spaces and escaped quotes in them.
fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for letter in rule.chars() {
        match letter {
            _ if is_escaped => word.push(letter),
            '\\' => {}
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    words.push(word);
    words
}
