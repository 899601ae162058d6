//! One file, or standard input, into its objects.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::node::{self, MAX_DOCUMENTS, Node, Value};
use super::strict::{self, Problem};
use super::{Documents, LoadedObject, LoadedPod, Source, absolute};

/// Largest file, in bytes: upstream's bound for a static pod's (`maxConfigLength`).
pub(super) const MAX_BYTES: u64 = 10 << 20;
/// What stands for standard input.
const STDIN: &str = "-";
/// Fields of a list of objects.
const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];
/// What an object has to be.
const EXPECTED: &str = "expected an object of apiVersion \"v1\" and kind \"Pod\", \"ConfigMap\" or \
                        \"Secret\" (or a List of them)";

/// Why a file gives no objects. Each names the file.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    /// It cannot be read.
    #[error("{name}: cannot be read")]
    Read {
        /// The file.
        name: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is longer than any file of pods.
    #[error("{0}: longer than 10 MiB, the most that a pod file may be")]
    TooLong(String),
    /// It is no text.
    #[error("{0}: not UTF-8 text: expected a pod in YAML or JSON")]
    NotText(String),
    /// It is no YAML, or too much of it.
    #[error("{name}: not usable as YAML: {text}")]
    Yaml {
        /// The file.
        name: String,
        /// What is wrong, and where.
        text: String,
    },
    /// It has no document, or only empty ones.
    #[error("{0}: no pod in it")]
    Empty(String),
    /// It holds more than any node runs.
    #[error("{name}: {count} objects in it: expected at most {MAX_DOCUMENTS}")]
    TooMany {
        /// The file.
        name: String,
        /// How many.
        count: usize,
    },
    /// Its documents are of other kinds, or have unknown fields, wrong types and the like: a line
    /// for each, with file, document, line and field.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// Reads all objects of a file (`-` is standard input): YAML of several documents, or JSON; each a
/// pod, config map or secret, or a list of them; as written, without defaults.
///
/// # Errors
/// [`SourceError`]; everything wrong in any of the documents at once, where the file is YAML.
pub(crate) fn read(file: &Path) -> Result<Documents, SourceError> {
    if file == Path::new(STDIN) {
        let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let source = Source { name: "<stdin>".into(), base };
        return parse(&source, &bounded(&source, io::stdin().lock())?);
    }
    let base = absolute(file).parent().unwrap_or(Path::new("/")).into();
    let source = Source { name: file.display().to_string(), base };
    let opened = File::open(file);
    let opened = opened.map_err(|e| SourceError::Read { name: source.name.clone(), source: e })?;
    parse(&source, &bounded(&source, opened)?)
}

/// All bytes, if they are few enough and text; a byte order mark is no part of it.
pub(super) fn bounded(source: &Source, from: impl Read) -> Result<String, SourceError> {
    let name = || source.name.clone();
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| SourceError::Read { name: name(), source: e })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SourceError::TooLong(name()));
    }
    let text = String::from_utf8(bytes).map_err(|_| SourceError::NotText(name()))?;
    Ok(text.strip_prefix('\u{feff}').map(Into::into).unwrap_or(text))
}

/// Reads the objects of a text.
fn parse(source: &Source, text: &str) -> Result<Documents, SourceError> {
    let name = || source.name.clone();
    let documents = node::documents(text)
        .map_err(|e| SourceError::Yaml { name: name(), text: e.without_snippet().to_string() })?;
    let mut objects = VecDeque::new();
    let mut wrong = Vec::new();
    let several = documents.len() > 1;
    for (i, document) in documents.into_iter().enumerate() {
        // Empty documents are not counted: the line tells.
        let name = if several { format!("{}, document {}", source.name, i + 1) } else { name() };
        match items(document) {
            Ok(Items::One(node)) => objects.push_back((name, node)),
            Ok(Items::List(list)) => {
                let of = |(i, node)| (format!("{name}, item {}", i + 1), node);
                objects.extend(list.into_iter().enumerate().map(of));
            }
            Err(problem) => wrong.push(line(&name, &problem)),
        }
    }
    if objects.len() > MAX_DOCUMENTS {
        return Err(SourceError::TooMany { name: name(), count: objects.len() });
    }
    let mut all = Documents::default();
    for (name, node) in objects {
        let read = decode(&mut all, source, &name, node);
        wrong.extend(read.err().iter().flatten().map(|problem| line(&name, problem)));
    }
    match (wrong.is_empty(), all.len()) {
        (false, _) => Err(SourceError::Wrong(wrong)),
        (true, 0) => Err(SourceError::Empty(name())),
        (true, _) => Ok(all),
    }
}

/// Puts one object among `all`.
fn decode(
    all: &mut Documents,
    source: &Source,
    name: &str,
    mut node: Node,
) -> Result<(), Vec<Problem>> {
    match kind(&node).map_err(|problem| vec![problem])? {
        Kind::Pod => {
            let pod = strict::decode(node)?;
            all.pods.push(LoadedPod { pod, base: source.base.clone(), source: name.into() });
        }
        Kind::ConfigMap => {
            let wrong = bytes(&mut node, "binaryData", "data takes text as it is");
            let object = decode_with(node, wrong)?;
            all.config_maps.push(LoadedObject { object, source: name.into() });
        }
        Kind::Secret => {
            let wrong = bytes(&mut node, "data", "stringData takes text as it is");
            let object = decode_with(node, wrong)?;
            all.secrets.push(LoadedObject { object, source: name.into() });
        }
    }
    Ok(())
}

/// Reads an object in which `wrong` was found already.
fn decode_with<T: serde::de::DeserializeOwned>(
    node: Node,
    mut wrong: Vec<Problem>,
) -> Result<T, Vec<Problem>> {
    match strict::decode(node) {
        Ok(object) if wrong.is_empty() => Ok(object),
        read => {
            wrong.extend(read.err().into_iter().flatten());
            wrong.sort();
            Err(wrong)
        }
    }
}

/// Checks the values of a map of bytes, which are base64 that may go over several lines, as in Go.
/// What is none is marked and told.
fn bytes(node: &mut Node, field: &str, instead: &str) -> Vec<Problem> {
    let Value::Map(entries) = &mut node.value else { return Vec::new() };
    let of_field = entries.iter_mut().filter(|(key, _)| key == field);
    let values = of_field.filter_map(|(_, node)| match &mut node.value {
        Value::Map(values) => Some(values),
        Value::Null
        | Value::Bool(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Wrong => None,
    });
    let mut problems = Vec::new();
    for (key, node) in values.flatten() {
        let Value::Text(text) = &mut node.value else { continue };
        text.retain(|c| !matches!(c, '\r' | '\n'));
        if let Err(error) = STANDARD.decode(&*text) {
            let text = format!("{field}.{key}: expected base64 ({instead}): {error}");
            problems.push(Problem { line: node.line, text });
            node.value = Value::Wrong;
        }
    }
    problems.truncate(strict::MAX_PROBLEMS);
    problems
}

/// `pods.yaml, document 2, line 7: ...`.
pub(super) fn line(name: &str, problem: &Problem) -> String {
    match problem.line {
        0 => format!("{name}: {}", problem.text),
        at => format!("{name}, line {at}: {}", problem.text),
    }
}

/// What a document holds.
enum Items {
    One(Node),
    List(Vec<Node>),
}

/// Opens a list of objects (`List`, `PodList` and so on); anything else is one object.
fn items(mut document: Node) -> Result<Items, Problem> {
    let item_kind = match text(&document, "kind") {
        Some("List") => None,
        Some("PodList") => Some("Pod"),
        Some("ConfigMapList") => Some("ConfigMap"),
        Some("SecretList") => Some("Secret"),
        Some(_) | None => return Ok(Items::One(document)),
    };
    if text(&document, "apiVersion") != Some("v1") {
        return Ok(Items::One(document));
    }
    let Value::Map(entries) = &mut document.value else { return Ok(Items::One(document)) };
    let at = document.line;
    if let Some((key, node)) = entries.iter().find(|(key, _)| !LIST_FIELDS.contains(&key.as_str()))
    {
        return Err(Problem { line: node.line, text: format!("unknown field {key:?}") });
    }
    let items = entries.iter_mut().find(|(key, _)| key == "items");
    let Some(Node { value: Value::List(list), .. }) = items.map(|(_, node)| node) else {
        return Err(Problem { line: at, text: "items: expected a list of objects".into() });
    };
    let mut list = std::mem::take(list);
    if let Some(kind) = item_kind {
        // The items of a typed list need not say what they are.
        for item in &mut list {
            name_kind(item, kind);
        }
    }
    Ok(Items::List(list))
}

fn name_kind(item: &mut Node, kind: &str) {
    for (key, value) in [("apiVersion", "v1"), ("kind", kind)] {
        if item.get(key).is_none()
            && let Value::Map(entries) = &mut item.value
        {
            let node = Node { line: item.line, value: Value::Text(value.into()) };
            entries.push((key.into(), node));
        }
    }
}

/// The text of a key of an object.
pub(super) fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.get(key)?.value {
        Value::Text(text) => Some(text),
        Value::Null
        | Value::Bool(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Float(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Wrong => None,
    }
}

/// The kinds that are read.
enum Kind {
    Pod,
    ConfigMap,
    Secret,
}

/// What an object is; refuses other kinds, by name.
fn kind(node: &Node) -> Result<Kind, Problem> {
    let problem = |text: String| Err(Problem { line: node.line, text });
    let Value::Map(_) = &node.value else { return problem(EXPECTED.into()) };
    match (text(node, "apiVersion"), text(node, "kind")) {
        (Some("v1"), Some("Pod")) => Ok(Kind::Pod),
        (Some("v1"), Some("ConfigMap")) => Ok(Kind::ConfigMap),
        (Some("v1"), Some("Secret")) => Ok(Kind::Secret),
        (version, Some(kind)) => {
            let version = version.unwrap_or_default();
            problem(format!("found apiVersion {version:?} and kind {kind:?}: {EXPECTED}"))
        }
        (_, None) => problem(format!("kind is missing: {EXPECTED}")),
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
