//! Where pods come from beside an API server: files and standard input, read strictly, for a run; a
//! node's static pods, from files ([`static_files`]) and from an address ([`static_url`]).
//!
//! Of a node: in: a path, an address. Out: [`Update`]s, each with all pods of its source, as
//! [`copepod_pod::static_pod`] makes them; what cannot be read leaves its last good version there.
//! Starts one task for each of the two sources, which ends with the receiver.
//!
//! Of a run:
//! In: paths. Out: [`Documents`] exactly as written ([`read`]), without defaults and not yet
//! validated, or one [`file::SourceError`] with all that is wrong in a file; the config maps and
//! secrets of all files by namespace ([`objects`]); what a pod names that is not among them
//! ([`reference`]); and [`support`], which says what of a pod a host without a cluster refuses or
//! does otherwise. One object of another kind (a node's configuration) comes by [`single`], as
//! strictly. Starts no task.

mod file;
mod manifest;
mod node;
pub(crate) mod objects;
pub(crate) mod reference;
mod single;
pub(crate) mod static_files;
pub(crate) mod static_url;
mod strict;
pub(crate) mod support;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use file::{SourceError, read};
pub(crate) use single::single;

/// Words of sources that wait for who works with them: each replaces all earlier ones of its source.
pub(crate) const UPDATES: usize = 4;

/// All static pods that a source has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    /// The source.
    pub(crate) source: copepod_pod::Source,
    /// Its pods, in its order.
    pub(crate) pods: Vec<Pod>,
    /// Whether the source itself said so; else that is what is remembered of it.
    pub(crate) is_seen: bool,
}

/// Longest DNS label, which a container's name is.
const NAME_MAX: usize = 63;

/// A file of pods, or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its path as given, or `<stdin>`.
    pub(crate) name: String,
    /// The folder that relative image paths start from: the file's own, the current one for
    /// standard input.
    pub(crate) base: PathBuf,
}

/// What files hold, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    /// Pods, to be run.
    pub(crate) pods: Vec<LoadedPod>,
    /// What pods may name.
    pub(crate) config_maps: Vec<LoadedObject<ConfigMap>>,
    /// What pods may name.
    pub(crate) secrets: Vec<LoadedObject<Secret>>,
}

impl Documents {
    /// Adds what another file holds.
    pub(crate) fn extend(&mut self, other: Self) {
        self.pods.extend(other.pods);
        self.config_maps.extend(other.config_maps);
        self.secrets.extend(other.secrets);
    }

    /// How many objects these are.
    fn len(&self) -> usize {
        self.pods.len() + self.config_maps.len() + self.secrets.len()
    }
}

/// An object that pods read, as its file has it.
#[derive(Clone, Debug)]
pub(crate) struct LoadedObject<T> {
    /// The object, nothing added.
    pub(crate) object: T,
    /// For messages: `pods.yaml, document 2`.
    pub(crate) source: String,
}

/// A pod as its file has it.
#[derive(Clone, Debug)]
pub(crate) struct LoadedPod {
    /// The pod, nothing added.
    pub(crate) pod: Pod,
    /// The folder that relative image paths start from.
    pub(crate) base: PathBuf,
    /// For messages: `pods.yaml`, `pods.yaml, document 2`.
    pub(crate) source: String,
}

/// The pod of a bare Wasm file: policy `Never`, one container of the file's name, whose arguments
/// reach the guest exactly as given.
pub(crate) fn bare_wasm(path: &Path, args: &[String]) -> LoadedPod {
    let image = absolute(path);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = label(&stem);
    let container = Container {
        name: name.clone(),
        image: Some(image.to_string_lossy().into_owned()),
        // Typed on a command line, not in a pod: a `$` is a `$`.
        args: Some(args.iter().map(|arg| arg.replace('$', "$$")).collect()),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
        ..PodSpec::default()
    };
    let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
    LoadedPod {
        pod: Pod { metadata, spec: Some(spec), status: None },
        base: image.parent().unwrap_or(Path::new("/")).into(),
        source: path.display().to_string(),
    }
}

/// The path from the root; as it is where the current folder is gone.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// A DNS label that is as near to the text as one can be.
fn label(text: &str) -> String {
    let letter = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
    };
    let all: String = text.chars().map(letter).collect();
    let cut: String = all.trim_matches('-').chars().take(NAME_MAX).collect();
    let cut = cut.trim_matches('-');
    if cut.is_empty() { "wasm".into() } else { cut.into() }
}

#[cfg(test)]
mod tests {
    use copepod_pod::{apply_defaults, argv, validate};

    use super::*;

    #[test]
    fn a_bare_file_becomes_a_good_pod() {
        for (file, name) in [
            ("hello.wasm", "hello"),
            ("/srv/Hello_World.v2.wasm", "hello-world-v2"),
            ("_x_.wasm", "x"),
            ("é.wasm", "wasm"),
            ("-.wasm", "wasm"),
            (&format!("{}.wasm", "a".repeat(80)), &"a".repeat(63)),
        ] {
            let args = ["--count".to_owned(), "$(HOME) $$".to_owned()];
            let mut loaded = bare_wasm(Path::new(file), &args);
            apply_defaults(&mut loaded.pod);
            assert_eq!(validate(&loaded.pod), [], "{file}");
            assert_eq!(loaded.pod.metadata.name.as_deref(), Some(name), "{file}");
            let spec = loaded.pod.spec.unwrap();
            assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
            let container = &spec.containers[0];
            assert_eq!(container.name, name);
            let image = Path::new(container.image.as_deref().unwrap());
            assert!(image.is_absolute() && image.ends_with(file.trim_start_matches('/')));
            assert_eq!(image.parent(), Some(loaded.base.as_path()));
            assert_eq!(argv(container, &[]).1, args, "arguments arrive as typed");
        }
    }
}
