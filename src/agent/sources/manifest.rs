//! A manifest of static pods: a `Pod`, or from an address also a `PodList`.
//!
//! Read as a kubelet reads it: unknown fields are left out (and named in a warning, since they may be
//! typing errors as well as fields of a later version), wrong types and duplicate keys are errors.

use copepod_pod::{FullName, Origin, StaticPodError, static_pod};
use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use super::file::{SourceError, line, text};
use super::node::{self, MAX_DOCUMENTS, Node, Value};
use super::strict::{self, Problem};

/// Why a manifest, or one pod of it, is not used. Each names where it is from.
#[derive(Debug, Error)]
pub(crate) enum ManifestError {
    /// It is no text of a pod.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is no pod that can be a static one.
    #[error("{name}: {source}")]
    Pod {
        /// The file or address, and the place in it.
        name: String,
        /// Why not; upstream's words.
        source: StaticPodError,
    },
    /// It is something else.
    #[error("{name}: found apiVersion {version:?} and kind {kind:?}: expected {expected}")]
    Kind {
        /// The file or address.
        name: String,
        /// What stands there, empty if nothing does.
        version: String,
        /// Likewise.
        kind: String,
        /// What could stand there.
        expected: &'static str,
    },
}

/// What a manifest says.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Its good pods.
    pub(super) pods: Vec<Pod>,
    /// Its other ones.
    pub(super) bad: Vec<Bad>,
    /// What is passed over in it.
    pub(super) warnings: Vec<String>,
}

/// A pod of a list that cannot be used.
#[derive(Debug)]
pub(super) struct Bad {
    /// Its name here, if it says one.
    pub(super) name: Option<FullName>,
    pub(super) error: ManifestError,
}

/// Reads a file's one pod; gives what is passed over in it too, a line each.
///
/// # Errors
/// [`ManifestError`].
pub(super) fn one(
    name: &str,
    content: &str,
    origin: Origin<'_>,
    node: &str,
) -> Result<(Pod, Vec<String>), ManifestError> {
    let mut warnings = Vec::new();
    let document = document(name, content, &mut warnings)?;
    if !is(&document, "Pod") {
        return Err(other(name, &document, "a v1 Pod"));
    }
    pod(name, document, origin, node, &mut warnings).map(|pod| (pod, warnings))
}

/// Reads a `Pod` or a `PodList`. A list in which a pod is wrong still has its others, as long as each
/// wrong one has a name.
///
/// # Errors
/// [`ManifestError`]: nothing of it can be used.
pub(super) fn any(
    name: &str,
    content: &str,
    origin: Origin<'_>,
    node: &str,
) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::default();
    let mut document = document(name, content, &mut manifest.warnings)?;
    if is(&document, "Pod") {
        manifest.pods.push(pod(name, document, origin, node, &mut manifest.warnings)?);
        return Ok(manifest);
    }
    if !is(&document, "PodList") {
        return Err(other(name, &document, "a v1 Pod or PodList"));
    }
    let Value::Map(entries) = &mut document.value else {
        return Err(other(name, &document, "a v1 Pod or PodList"));
    };
    let items = entries.iter_mut().find(|(key, _)| key == "items");
    let items = match items.map(|(_, node)| &mut node.value) {
        Some(Value::List(items)) => std::mem::take(items),
        Some(Value::Null) | None => Vec::new(),
        Some(_) => {
            let problem = Problem { line: document.line, text: "items: expected a list".into() };
            return Err(SourceError::Wrong(vec![line(name, &problem)]).into());
        }
    };
    if items.len() > MAX_DOCUMENTS {
        return Err(SourceError::TooMany { name: name.into(), count: items.len() }.into());
    }
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("{name}, item {}", index + 1);
        let named = named(&item, node);
        match pod(&place, item, origin, node, &mut manifest.warnings) {
            Ok(pod) => manifest.pods.push(pod),
            Err(error) if named.is_some() => manifest.bad.push(Bad { name: named, error }),
            Err(error) => return Err(error),
        }
    }
    Ok(manifest)
}

/// The first document; a kubelet reads no further.
fn document(name: &str, content: &str, warnings: &mut Vec<String>) -> Result<Node, ManifestError> {
    let documents = node::documents(content).map_err(|error| SourceError::Yaml {
        name: name.into(),
        text: error.without_snippet().to_string(),
    })?;
    if documents.len() > 1 {
        warnings.push(format!("{name}: only the first of {} documents is read", documents.len()));
    }
    let first = documents.into_iter().next();
    first.ok_or_else(|| SourceError::Empty(name.into()).into())
}

fn is(node: &Node, kind: &str) -> bool {
    text(node, "apiVersion") == Some("v1") && text(node, "kind") == Some(kind)
}

fn other(name: &str, node: &Node, expected: &'static str) -> ManifestError {
    let field = |key| text(node, key).unwrap_or_default().to_owned();
    let (version, kind) = (field("apiVersion"), field("kind"));
    ManifestError::Kind { name: name.into(), version, kind, expected }
}

fn pod(
    name: &str,
    node: Node,
    origin: Origin<'_>,
    here: &str,
    warnings: &mut Vec<String>,
) -> Result<Pod, ManifestError> {
    let (pod, unknown) = strict::decode_known::<Pod>(node).map_err(|problems| {
        SourceError::Wrong(problems.iter().map(|problem| line(name, problem)).collect())
    })?;
    warnings.extend(unknown.iter().map(|problem| format!("{}: passed over", line(name, problem))));
    static_pod(pod, origin, here).map_err(|source| ManifestError::Pod { name: name.into(), source })
}

/// The full name that a pod has on this node, as far as it says one.
fn named(item: &Node, here: &str) -> Option<FullName> {
    let meta = item.get("metadata")?;
    let name = text(meta, "name").filter(|name| !name.is_empty())?;
    let namespace = text(meta, "namespace").filter(|namespace| !namespace.is_empty());
    Some((namespace.unwrap_or("default").into(), format!("{name}-{}", here.to_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: Origin<'_> = Origin::Url("http://h/");

    fn list(content: &str) -> Result<Manifest, ManifestError> {
        any("http://h/", content, URL, "n1")
    }

    fn names(manifest: &Manifest) -> Vec<&str> {
        manifest.pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, creationTimestamp: null}\n\
                       spec: {containers: [{name: c, image: a}]}\nstatus: {}\n";

    #[test]
    fn a_pod_is_read_as_a_kubelet_reads_it() {
        let (pod, warnings) = one("w.yaml", POD, Origin::File("w.yaml"), "n1").expect("a pod");
        assert_eq!((pod.metadata.name.as_deref(), warnings), (Some("web-n1"), vec![]));
        let later = format!("{POD}novel: 1\n---\nkind: Pod\n");
        let (pod, warnings) = one("w.yaml", &later, Origin::File("w.yaml"), "n1").expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        let told = [
            "w.yaml: only the first of 2 documents is read",
            "w.yaml, line 6: unknown field \"novel\": passed over",
        ];
        assert_eq!(warnings, told);
        for (content, why) in [
            ("", "w.yaml: no pod in it"),
            ("a: [", "w.yaml: not usable as YAML"),
            ("apiVersion: v1\nkind: List\n", "expected a v1 Pod"),
            ("[1, 2]", "expected a v1 Pod"),
            ("apiVersion: v1\nkind: Pod\nspec: 1", "w.yaml, line 3: spec"),
            ("apiVersion: v1\nkind: Pod\nkind: Pod", "duplicate field \"kind\""),
            ("apiVersion: v1\nkind: Pod\n", "w.yaml: invalid pod: name is needed for the pod"),
        ] {
            let error = one("w.yaml", content, Origin::File("w.yaml"), "n1").expect_err(content);
            assert!(error.to_string().contains(why), "{content}: {error}");
        }
    }

    #[test]
    fn an_address_has_a_pod_or_a_list() {
        assert_eq!(names(&list(POD).expect("a pod")), ["web-n1"]);
        let none = r#"{"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": []}"#;
        assert_eq!(names(&list(none).expect("a list")), [""; 0]);
        let two = r#"{"apiVersion": "v1", "kind": "PodList", "items": [
            {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            {"metadata": {"name": "b"}, "spec": {"containers": []}},
            {"metadata": {"name": "c", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}]}"#;
        let read = list(two).expect("a list");
        assert_eq!(names(&read), ["a-n1", "c-n1"]);
        assert_eq!(read.bad.len(), 1);
        assert_eq!(read.bad[0].name, Some(("default".into(), "b-n1".into())));
        let error = read.bad[0].error.to_string();
        assert!(error.starts_with("http://h/, item 2: invalid pod: spec.containers"), "{error}");
        let nameless = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"spec": {}}]}"#;
        assert!(list(nameless).is_err(), "whose old version could not be told");
        assert!(list(r#"{"apiVersion": "v1", "kind": "PodList", "items": 3}"#).is_err());
    }
}
