//! One file, or standard input, into its pods.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::node::{self, MAX_DOCUMENTS, Node, Value};
use super::strict::{self, Problem};
use super::{LoadedPod, Source, absolute};

/// Largest file, in bytes: upstream's bound for a static pod's (`maxConfigLength`).
const MAX_BYTES: u64 = 10 << 20;
/// What stands for standard input.
const STDIN: &str = "-";
/// Fields of a list of objects.
const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];

/// Why a file gives no pods. Each names the file.
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
    #[error("{name}: {count} pods in it: expected at most {MAX_DOCUMENTS}")]
    TooMany {
        /// The file.
        name: String,
        /// How many.
        count: usize,
    },
    /// Its documents are not all pods, or have unknown fields, wrong types and the like: a line
    /// for each, with file, document, line and field.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// Reads all pods of a file (`-` is standard input): YAML of several documents, or JSON; each a
/// pod or a list of pods; as written, without defaults.
///
/// # Errors
/// [`SourceError`]; everything wrong in any of the documents at once, where the file is YAML.
pub(crate) fn read(file: &Path) -> Result<Vec<LoadedPod>, SourceError> {
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
fn bounded(source: &Source, from: impl Read) -> Result<String, SourceError> {
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

/// Reads the pods of a text.
fn parse(source: &Source, text: &str) -> Result<Vec<LoadedPod>, SourceError> {
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
    let mut pods = Vec::new();
    for (name, node) in objects {
        match kind(&node).map_err(|problem| vec![problem]).and_then(|()| strict::decode(node)) {
            Ok(pod) => pods.push(LoadedPod { pod, base: source.base.clone(), source: name }),
            Err(problems) => wrong.extend(problems.iter().map(|problem| line(&name, problem))),
        }
    }
    match (wrong.is_empty(), pods.is_empty()) {
        (false, _) => Err(SourceError::Wrong(wrong)),
        (true, true) => Err(SourceError::Empty(name())),
        (true, false) => Ok(pods),
    }
}

/// `pods.yaml, document 2, line 7: ...`.
fn line(name: &str, problem: &Problem) -> String {
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

/// Opens a list of objects (`List`, `PodList`); anything else is one object.
fn items(mut document: Node) -> Result<Items, Problem> {
    let is_list = matches!(text(&document, "kind"), Some("List" | "PodList"));
    if !is_list || text(&document, "apiVersion") != Some("v1") {
        return Ok(Items::One(document));
    }
    let of_pods = text(&document, "kind") == Some("PodList");
    let Value::Map(entries) = &mut document.value else { return Ok(Items::One(document)) };
    let at = document.line;
    if let Some((key, node)) = entries.iter().find(|(key, _)| !LIST_FIELDS.contains(&key.as_str()))
    {
        return Err(Problem { line: node.line, text: format!("unknown field {key:?}") });
    }
    let items = entries.iter_mut().find(|(key, _)| key == "items");
    let Some(Node { value: Value::List(list), .. }) = items.map(|(_, node)| node) else {
        return Err(Problem { line: at, text: "items: expected a list of pods".into() });
    };
    let mut list = std::mem::take(list);
    if of_pods {
        // The items of a typed list need not say what they are.
        for item in &mut list {
            name_kind(item);
        }
    }
    Ok(Items::List(list))
}

fn name_kind(item: &mut Node) {
    for (key, value) in [("apiVersion", "v1"), ("kind", "Pod")] {
        if item.get(key).is_none()
            && let Value::Map(entries) = &mut item.value
        {
            let node = Node { line: item.line, value: Value::Text(value.into()) };
            entries.push((key.into(), node));
        }
    }
}

/// The text of a key of an object.
fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
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

/// Refuses what is no pod, by name.
fn kind(node: &Node) -> Result<(), Problem> {
    let expected = "expected an object of apiVersion \"v1\" and kind \"Pod\" (or a List of them)";
    let problem = |text: String| Err(Problem { line: node.line, text });
    let Value::Map(_) = &node.value else { return problem(expected.into()) };
    match (text(node, "apiVersion"), text(node, "kind")) {
        (Some("v1"), Some("Pod")) => Ok(()),
        (Some("v1"), Some(kind @ ("ConfigMap" | "Secret"))) => {
            problem(format!("kind {kind:?} is not served yet: {expected}"))
        }
        (version, Some(kind)) => {
            let version = version.unwrap_or_default();
            problem(format!("found apiVersion {version:?} and kind {kind:?}: {expected}"))
        }
        (_, None) => problem(format!("kind is missing: {expected}")),
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
