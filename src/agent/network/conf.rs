//! Which network pods are attached to: the first configuration by name in a directory, as
//! containerd takes it (go-cni `loadFromConfDir`, libcni `NetworkConfFromBytes`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// Most bytes of a configuration: real ones have a few KiB, and it is repeated in each record.
const CONF_MAX: u64 = 256 << 10;
/// Most entries of the directory that are looked at.
const ENTRIES_MAX: usize = 1024;
/// Most plugins of a chain; real ones have two to five.
const PLUGINS_MAX: usize = 32;

/// The versions of the specification whose results are understood, oldest first.
pub(super) const VERSIONS: [&str; 7] =
    ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why there is no network for pods. The beginning is containerd's text.
#[derive(Debug, Error)]
pub(crate) enum ConfError {
    /// There is no configuration.
    #[error("cni plugin not initialized")]
    Missing,
    /// It cannot be read.
    #[error("cni plugin not initialized: cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no JSON.
    #[error("cni plugin not initialized: cannot parse {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// It says what is no network.
    #[error("cni plugin not initialized: {path}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A network: a chain of plugins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkList {
    /// Its name.
    pub(super) name: String,
    /// The version of the specification that its plugins are called by.
    pub(super) version: String,
    /// Their configurations, in order.
    pub(super) plugins: Vec<Map<String, Value>>,
}

/// The place of a version among [`VERSIONS`]; without one it is the oldest, as libcni has it.
fn rank(version: &str) -> Option<usize> {
    let version = if version.is_empty() { VERSIONS[0] } else { version };
    VERSIONS.iter().position(|known| *known == version)
}

impl NetworkList {
    /// Whether plugins are given the result of their ADD again at DEL (0.4.0).
    pub(super) fn keeps_result(&self) -> bool {
        rank(&self.version) >= rank("0.4.0")
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ConfError> {
        let invalid = |why: String| ConfError::Invalid { path: path.into(), why };
        let parsed = serde_json::from_slice(bytes);
        let mut whole: Map<String, Value> =
            parsed.map_err(|source| ConfError::Parse { path: path.into(), source })?;
        let text = |of: &Map<String, Value>, key: &str| {
            of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let name = text(&whole, "name");
        if !is_name(&name) {
            return Err(invalid(format!("name {name:?}: expected letters, digits and \"_.-\"")));
        }
        let version = version(&whole).map_err(invalid)?;
        let plugins = if path.extension().is_some_and(|suffix| suffix == "conflist") {
            let plugins = whole.remove("plugins").unwrap_or_default();
            serde_json::from_value::<Vec<Map<String, Value>>>(plugins)
                .map_err(|_| invalid("plugins: expected a list of objects".to_owned()))?
        } else {
            vec![whole]
        };
        if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
            return Err(invalid(format!("plugins: expected 1 to {PLUGINS_MAX} of them")));
        }
        for plugin in &plugins {
            let kind = text(plugin, "type");
            if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
                return Err(invalid(format!("type {kind:?}: expected a plugin's file name")));
            }
        }
        Ok(Self { name, version, plugins })
    }
}

/// libcni's rule for the name of a network (`ValidateNetworkName`), which plugins use in paths.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The newest that both sides know, of `cniVersion` and `cniVersions` (1.1.0).
fn version(whole: &Map<String, Value>) -> Result<String, String> {
    let one = match whole.get("cniVersion") {
        None => "",
        Some(Value::String(version)) => version,
        Some(other) => return Err(format!("cniVersion {other}: expected a text")),
    };
    let listed = whole.get("cniVersions").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(Value::as_str);
    let known = listed.chain([one]).filter(|version| rank(version).is_some());
    known
        .max_by_key(|version| (rank(version), !version.is_empty()))
        .map(str::to_owned)
        .ok_or_else(|| format!("cniVersion {one:?}: expected one of {}", VERSIONS.join(", ")))
}

/// The network that `dir` configures now.
///
/// # Errors
/// [`ConfError`]: there is none, or the first one by name is not usable; as with containerd, a
/// later one is not taken in its place.
pub(super) fn load(dir: &Path) -> Result<NetworkList, ConfError> {
    let path = first(dir)?.ok_or(ConfError::Missing)?;
    let failed = |source| ConfError::Read { path: path.clone(), source };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(CONF_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > CONF_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    NetworkList::parse(&bytes, &path)
}

fn first(dir: &Path) -> Result<Option<PathBuf>, ConfError> {
    let failed = |source| ConfError::Read { path: dir.into(), source };
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut least: Option<PathBuf> = None;
    for entry in listed.take(ENTRIES_MAX) {
        let path = entry.map_err(failed)?.path();
        let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        let is_conf = ["conf", "conflist", "json"].contains(&suffix) && !path.is_dir();
        if is_conf && least.as_ref().is_none_or(|least| path < *least) {
            least = Some(path);
        }
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::chain;

    #[test]
    fn the_first_by_name_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let loaded = || load(dir.path());
        assert!(matches!(load(&at("none")), Err(ConfError::Missing)));
        assert!(matches!(loaded(), Err(ConfError::Missing)));
        fs::write(at("00.txt"), "{}").expect("writes");
        fs::write(at("kubeconfig"), "{}").expect("writes");
        fs::create_dir(at("01.conf")).expect("makes");
        assert!(matches!(loaded(), Err(ConfError::Missing)));
        fs::write(at("20.conf"), r#"{"name":"b","type":"bridge","cniVersion":"0.3.1"}"#)
            .expect("writes");
        let network = loaded().expect("loads");
        assert_eq!((network.name.as_str(), network.keeps_result()), ("b", false));
        assert_eq!(network.plugins[0]["type"], "bridge");
        let list = r#"{"name":"a","cniVersions":["1.0.0","9.0.0","0.4.0"],"plugins":[{"type":"x"},{"type":"y"}]}"#;
        fs::write(at("10.conflist"), list).expect("writes");
        let network = loaded().expect("loads");
        assert_eq!((network.version.as_str(), network.plugins.len()), ("1.0.0", 2));
        assert!(network.keeps_result());
        fs::write(at("05.json"), r#"{"name":"c","type":"z"}"#).expect("writes");
        assert_eq!(loaded().expect("loads").version, "");
    }

    #[test]
    fn what_is_no_network_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text, why) in [
            ("1.conf", "{", "cannot parse"),
            ("1.conf", "[]", "cannot parse"),
            ("1.conf", r#"{"type":"x"}"#, "name \"\""),
            ("1.conf", r#"{"name":"../x","type":"x"}"#, "name \"../x\""),
            ("1.conf", r#"{"name":"x"}"#, "type \"\""),
            ("1.conf", r#"{"name":"x","type":"a/b"}"#, "type \"a/b\""),
            ("1.conf", r#"{"name":"x","type":".."}"#, "type \"..\""),
            ("1.conf", r#"{"name":"x","type":"a","cniVersion":"2.0.0"}"#, "\"2.0.0\": expected"),
            ("1.conf", r#"{"name":"x","type":"a","cniVersion":1}"#, "expected a text"),
            ("1.conflist", r#"{"name":"x","plugins":[]}"#, "expected 1 to"),
            ("1.conflist", r#"{"name":"x"}"#, "expected a list"),
            ("1.conflist", r#"{"name":"x","plugins":[1]}"#, "expected a list"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("writes");
            let error = chain(&load(dir.path()).expect_err(text));
            assert!(error.starts_with("cni plugin not initialized: "), "{error}");
            assert!(error.contains(why), "{text}: {error}");
            fs::remove_file(path).expect("removes");
        }
        fs::write(dir.path().join("1.conf"), vec![b' '; CONF_MAX as usize + 1]).expect("writes");
        assert!(matches!(load(dir.path()), Err(ConfError::Read { .. })));
    }
}
