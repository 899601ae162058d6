//! From files to pods that are ready to run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use copepod_pod::{Objects, apply_defaults, validate};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::sources::objects::Catalogue;
use crate::sources::support::HostCapabilities;
use crate::sources::{self, Documents, LoadedPod};
use crate::volume;
use crate::worker::Host;

/// A pod that may be run.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The pod, with its defaults and a uid.
    pub(super) pod: Arc<Pod>,
    /// The folder from which its images' paths start.
    pub(super) base: PathBuf,
    /// The config maps and secrets that it may name.
    pub(super) objects: Arc<Objects>,
}

impl Loaded {
    /// The pod's name.
    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// Init containers, then the others, in the order of the spec.
    pub(super) fn containers(&self) -> impl Iterator<Item = &Container> {
        let init = self.spec().and_then(|spec| spec.init_containers.as_deref());
        let main = self.spec().map(|spec| spec.containers.as_slice());
        init.unwrap_or_default().iter().chain(main.unwrap_or_default())
    }
}

/// Reads the files, or makes a pod of a bare `.wasm` with `args`.
///
/// # Errors
/// All that is wrong with all of them, a line each.
pub(super) fn load(files: &[PathBuf], args: &[String], host: &Host) -> Result<Vec<Loaded>> {
    let mut read = Documents::default();
    for file in files {
        if is_wasm(file) {
            let path = file.canonicalize().with_context(|| file.display().to_string())?;
            read.pods.push(sources::bare_wasm(&path, args));
        } else if !args.is_empty() {
            bail!("arguments after -- are a bare .wasm file's: {} is a pod file", file.display());
        } else {
            read.extend(sources::read(file)?);
        }
    }
    let (catalogue, mut problems) = Catalogue::new(read.config_maps, read.secrets);
    let mut names = BTreeSet::new();
    let mut loaded = Vec::new();
    for LoadedPod { mut pod, base, source } in read.pods {
        apply_defaults(&mut pod);
        let objects = catalogue.of(pod.metadata.namespace.as_deref().unwrap_or_default());
        let refusals = sources::support::refusals(&pod, capabilities(host));
        let wrong = validate(&pod).into_iter().chain(refusals);
        let wrong = wrong.chain(sources::reference::missing(&pod, &objects));
        problems.extend(wrong.map(|problem| format!("{source}: {problem}")));
        let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        if !names.insert(name) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            problems.push(format!("{source}: metadata.name: Duplicate value: {name:?}"));
        }
        pod.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        pod.metadata.creation_timestamp = Some(Time(Timestamp::now()));
        loaded.push(Loaded { pod: Arc::new(pod), base, objects: Arc::new(objects) });
    }
    match problems.as_slice() {
        [] if loaded.is_empty() => bail!("no pod in any of the files"),
        [] => Ok(loaded),
        problems => bail!("{}", problems.join("\ncopepod: ")),
    }
}

fn is_wasm(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "wasm")
}

/// Looks for the host's directories before anything runs: a kubelet would wait for them.
///
/// # Errors
/// Each that is not there, a line each.
pub(super) fn check_host_paths(loaded: &[Loaded]) -> Result<()> {
    let missing = |one: &Loaded| {
        let name = one.name().to_owned();
        volume::missing(&one.pod).into_iter().map(move |error| format!("{name}: {error}"))
    };
    match loaded.iter().flat_map(missing).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        problems => bail!("{}", problems.join("\ncopepod: ")),
    }
}

fn capabilities(&Host { changes_user, mounts, .. }: &Host) -> HostCapabilities {
    HostCapabilities { changes_user, mounts }
}

/// What a cluster's node would do and this host does not, each field once.
pub(super) fn notices(loaded: &[Loaded], host: &Host) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = loaded.iter().flat_map(|pod| sources::support::notices(&pod.pod, capabilities(host)));
    all.filter(|notice| seen.insert(notice.field.clone()))
        .map(|notice| format!("{}: {}", notice.field, notice.text))
        .collect()
}
