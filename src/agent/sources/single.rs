//! A text that holds one object of a known kind, such as a node's configuration, read as strictly
//! as pods are.

use serde::de::DeserializeOwned;

use super::file::{SourceError, line, text};
use super::node;
use super::strict::{self, Problem};

/// Reads the one object of a text (YAML or JSON): unknown fields, duplicate keys and wrong types
/// are all found, each with file, line and field.
///
/// # Errors
/// [`SourceError::Yaml`] or [`SourceError::Wrong`]; `name` is the file in their texts.
pub(crate) fn single<T: DeserializeOwned>(
    name: &str,
    content: &str,
    (api_version, kind): (&str, &str),
) -> Result<T, SourceError> {
    let wrong = |problem: &Problem| SourceError::Wrong(vec![line(name, problem)]);
    let expected = format!("expected one object of apiVersion {api_version:?} and kind {kind:?}");
    let mut documents = node::documents(content).map_err(|e| SourceError::Yaml {
        name: name.into(),
        text: e.without_snippet().to_string(),
    })?;
    if documents.len() > 1 {
        let text = format!("{} documents: {expected}", documents.len());
        return Err(wrong(&Problem { line: 0, text }));
    }
    let Some(node) = documents.pop() else {
        return Err(wrong(&Problem { line: 0, text: format!("empty: {expected}") }));
    };
    let found = (text(&node, "apiVersion"), text(&node, "kind"));
    if found != (Some(api_version), Some(kind)) {
        let shown = |text: Option<&str>| text.map_or("none".into(), |text| format!("{text:?}"));
        let (version, of) = (shown(found.0), shown(found.1));
        let text = format!("found apiVersion {version} and kind {of}: {expected}");
        return Err(wrong(&Problem { line: node.line, text }));
    }
    strict::decode(node).map_err(|problems| {
        SourceError::Wrong(problems.iter().map(|problem| line(name, problem)).collect())
    })
}
