//! For which images credentials are: a registry's host and the beginning of a path, as docker's
//! files, pull secrets and plugins name it (upstream `pkg/credentialprovider/keyring.go`).

use super::{Candidate, HUB, HUB_NAMES};
use crate::image::reference::Repository;

/// Where credentials are good: `HOST[:PORT][/PATH]`, in a host's name `*` for any part of one
/// label. Schemes, and docker's `/v1/` and `/v2/` before a path, say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: String,
    /// With its first slash; empty: the whole host.
    path: String,
}

impl Place {
    /// Reads a key of a file, or one of a plugin's `matchImages`.
    pub(super) fn parse(key: &str) -> Self {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        let (authority, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
        let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let path = path.strip_prefix("/v2").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        // docker itself writes some without the last slash.
        let path = if matches!(path, "/" | "/v1" | "/v2") { "" } else { path };
        let (host, port) = split_port(authority);
        Self { host: host.to_owned(), port: port.to_owned(), path: path.to_owned() }
    }

    /// Whether it holds this repository: the same port, as many labels that fit each, and the
    /// repository's path begins with this one's.
    pub(super) fn holds(&self, repository: &Repository) -> bool {
        let (host, port) = split_port(&repository.host);
        let (mut ours, mut theirs) = (self.host.split('.'), host.split('.'));
        let same = loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break true,
                (Some(pattern), Some(label)) if fits(pattern, label) => {}
                (_, _) => break false,
            }
        };
        let path = self.path.strip_prefix('/').unwrap_or(&self.path);
        same && self.port == port && repository.name.starts_with(path)
    }

    /// Whether it is docker's hub by another of its names.
    fn is_hub(&self) -> bool {
        HUB_NAMES.contains(&self.host.as_str()) && self.port.is_empty() && self.path.is_empty()
    }

    /// What places are put in order by.
    fn key(&self) -> String {
        let colon = if self.port.is_empty() { "" } else { ":" };
        format!("{}{colon}{}{}", self.host, self.port, self.path)
    }
}

/// Credentials by where they are good, the most specific place first.
pub(super) struct Places(Vec<(Place, Candidate)>);

impl Places {
    /// Puts them in order: names backwards, so that a longer path comes before a shorter one and a
    /// name before a pattern. Those of one place stay as they came.
    pub(super) fn new(mut all: Vec<(Place, Candidate)>) -> Self {
        all.sort_by_key(|(place, _)| std::cmp::Reverse(place.key()));
        Self(all)
    }

    /// All that may be right for a repository. The hub's other names count where nothing else does.
    pub(super) fn of(&self, repository: &Repository) -> Vec<Candidate> {
        let those = |fits: &dyn Fn(&Place) -> bool| {
            let fitting = self.0.iter().filter(|(place, _)| fits(place));
            fitting.map(|(_, candidate)| candidate.clone()).collect::<Vec<_>>()
        };
        let found = those(&|place| place.holds(repository));
        if found.is_empty() && repository.host == HUB {
            return those(&Place::is_hub);
        }
        found
    }
}

fn split_port(authority: &str) -> (&str, &str) {
    authority.rsplit_once(':').unwrap_or((authority, ""))
}

/// Whether a label of a host's name fits a pattern, in which `*` stands for anything.
fn fits(pattern: &str, label: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == label };
    let Some(rest) = label.strip_prefix(before) else { return false };
    // The shortest match of this star first, then any longer one.
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(host: &str, name: &str) -> Repository {
        Repository { host: host.into(), name: name.into() }
    }

    #[test]
    fn a_place_holds_what_upstream_has_in_it() {
        for (key, host, name, holds) in [
            ("h.io", "h.io", "x", true),
            ("https://h.io/v1/", "h.io", "x", true),
            ("http://h.io/v2", "h.io", "x", true),
            ("h.io/", "h.io", "x", true),
            ("h.io/v2/a", "h.io", "a/b", true),
            ("h.io/a", "h.io", "a", true),
            ("h.io/a", "h.io", "a/b", true),
            ("h.io/a", "h.io", "ab/c", true),
            ("h.io/a/", "h.io", "ab/c", false),
            ("h.io/a", "h.io", "b", false),
            ("h.io", "h.io:5000", "x", false),
            ("h.io:5000", "h.io:5000", "x", true),
            ("h.io:5000", "h.io", "x", false),
            ("*.h.io", "a.h.io", "x", true),
            ("*.h.io", "a.b.h.io", "x", false),
            ("*.*.h.io", "a.b.h.io", "x", true),
            ("app*.h.io", "app-1.h.io", "x", true),
            ("a*p*.h.io", "app-1.h.io", "x", true),
            ("*a.h.io", "bab.h.io", "x", false),
            ("*.h.io:1", "a.h.io:1", "x", true),
            ("h.*", "h.io", "x", true),
            ("evil-h.io", "h.io", "x", false),
            ("", "h.io", "x", false),
            ("index.docker.io", "docker.io", "library/x", false),
        ] {
            let found = Place::parse(key).holds(&repository(host, name));
            assert_eq!(found, holds, "{key} {host}/{name}");
        }
    }

    #[test]
    fn a_pattern_of_stars_alone_ends() {
        assert!(fits(&"*".repeat(8), "abcdefgh"));
        assert!(!fits("*a*b*", "bbbbaaaa"));
    }
}
