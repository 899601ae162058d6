//! From files to pods that are ready to run: what `run` does before the first start, and all that
//! `check` does.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use copepod_pod::{Objects, apply_defaults, validate};
use copepod_wasm::GuestKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ports;
use crate::image::{Images, Prepared, Progress};
use crate::sources::objects::Catalogue;
use crate::sources::support::{self, HostCapabilities, Notice};
use crate::sources::{self, Documents, LoadedPod};
use crate::telemetry::chain;
use crate::volume;
use crate::worker::{Host, http_port, image_request};

/// A pod that may be run.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The pod, with its defaults and a uid.
    pub(super) pod: Arc<Pod>,
    /// The folder from which its images' paths start.
    pub(super) base: PathBuf,
    /// The config maps and secrets that it may name.
    pub(super) objects: Arc<Objects>,
    /// What its images turned out to be, in the order of [`Loaded::containers`].
    pub(super) modules: Vec<Module>,
}

/// A container's image, looked at and compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// The container's name.
    pub(super) container: String,
    /// The image as the pod names it.
    pub(super) image: String,
    /// Its digest.
    pub(super) image_id: String,
    /// What it holds.
    pub(super) kind: GuestKind,
    /// Where it answers, if it is an HTTP server.
    pub(super) port: Option<u16>,
}

impl Module {
    fn new(container: &Container, prepared: Prepared) -> Self {
        Self {
            container: container.name.clone(),
            image: prepared.image,
            image_id: prepared.image_id,
            kind: prepared.kind,
            port: http_port(prepared.kind, container),
        }
    }

    /// Where a browser finds it, if it is an HTTP server.
    pub(super) fn url(&self) -> Option<String> {
        self.port.map(|port| format!("http://localhost:{port}"))
    }
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

    /// Where the container answers, if it is an HTTP server.
    pub(super) fn url(&self, container: &str) -> Option<String> {
        self.modules.iter().find(|module| module.container == container)?.url()
    }

    /// Makes it a pod that has never run.
    pub(super) fn renew(&mut self) {
        let metadata = &mut Arc::make_mut(&mut self.pod).metadata;
        metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        metadata.creation_timestamp = Some(Time(Timestamp::now()));
    }
}

/// The pods of files, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The pods, in the order of the files.
    pub(super) pods: Vec<Candidate>,
    /// What is wrong with a file, or with objects that are no pods.
    pub(super) problems: Vec<String>,
}

/// A pod, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The pod.
    pub(super) loaded: Loaded,
    /// Where it stands: `pods.yaml, document 2`.
    pub(super) source: String,
    /// Why it cannot run.
    pub(super) problems: Vec<String>,
}

impl Plan {
    /// Reads the files, or makes a pod of a bare `.wasm` with `args`, for this host.
    pub(super) fn read(files: &[PathBuf], args: &[String], host: &Host) -> Self {
        let mut read = Documents::default();
        let mut problems = Vec::new();
        for file in files {
            match documents(file, args) {
                Ok(documents) => read.extend(documents),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        let (catalogue, wrong) = Catalogue::new(read.config_maps, read.secrets);
        problems.extend(wrong);
        if read.pods.is_empty() && problems.is_empty() {
            problems.push("no pod in any of the files".into());
        }
        let mut names = BTreeSet::new();
        let pods = read.pods.into_iter().map(|LoadedPod { mut pod, base, source }| {
            apply_defaults(&mut pod);
            let objects = catalogue.of(pod.metadata.namespace.as_deref().unwrap_or_default());
            let wrong = validate(&pod).into_iter();
            let wrong = wrong.chain(support::refusals(&pod, capabilities(host), &|_| true));
            let wrong = wrong.chain(sources::reference::missing(&pod, &objects));
            let mut problems: Vec<String> =
                wrong.map(|problem| format!("{source}: {problem}")).collect();
            let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
            if !names.insert(name) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                problems.push(format!("{source}: metadata.name: Duplicate value: {name:?}"));
            }
            let (pod, objects, modules) = (Arc::new(pod), Arc::new(objects), Vec::new());
            let mut loaded = Loaded { pod, base, objects, modules };
            loaded.renew();
            Candidate { loaded, source, problems }
        });
        Self { pods: pods.collect(), problems }
    }

    /// Looks for the host's directories: a kubelet would wait for them.
    pub(super) fn look_at_host_paths(&mut self) {
        for Candidate { loaded, problems, .. } in &mut self.pods {
            let missing = volume::missing(&loaded.pod);
            problems.extend(missing.iter().map(|error| format!("{}: {error}", loaded.name())));
        }
    }

    /// Has every image of every pod pulled, looked at and compiled: what is wrong with one is an
    /// error of the command, not a container that is tried again and again.
    pub(super) async fn prepare(&mut self, images: &Images, progress: &dyn Progress) {
        for Candidate { loaded, problems, .. } in &mut self.pods {
            let mut modules = Vec::new();
            for container in loaded.containers() {
                let request = image_request(Some(container), &loaded.base);
                match images.prepare(request, progress).await {
                    Ok(prepared) => modules.push(Module::new(container, prepared)),
                    Err(error) => problems.push(format!(
                        "{}: container {:?}: {}",
                        loaded.name(),
                        container.name,
                        chain(&error)
                    )),
                }
            }
            loaded.modules = modules;
        }
    }

    /// Looks whether every HTTP server can have its port: a port that is taken would be a
    /// container that fails again and again.
    pub(super) fn look_at_ports(&mut self, addresses: &[IpAddr]) {
        let mut taken: HashMap<u16, String> = HashMap::new();
        for Candidate { loaded, problems, .. } in &mut self.pods {
            for Module { container, port, .. } in &loaded.modules {
                let Some(port) = *port else { continue };
                let other = taken.get(&port).map(|by| format!("is taken by {by}"));
                let wrong = other.or_else(|| ports::trouble(addresses, port));
                let pod = loaded.name();
                if let Some(wrong) = wrong {
                    problems.push(format!("{pod}: port {port} of container {container:?} {wrong}"));
                }
                let by = format!("container {container:?} of pod {pod:?}");
                taken.entry(port).or_insert(by);
            }
        }
    }

    /// Everything that is wrong so far.
    pub(super) fn all_problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter().chain(self.pods.iter().flat_map(|pod| &pod.problems))
    }

    /// Nothing is wrong so far.
    ///
    /// # Errors
    /// All that is, a line each.
    pub(super) fn sound(&self) -> Result<()> {
        match self.all_problems().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            problems => bail!("{}", problems.join("\ncopepod: ")),
        }
    }

    /// The pods, to be run.
    pub(super) fn into_pods(self) -> Vec<Loaded> {
        self.pods.into_iter().map(|candidate| candidate.loaded).collect()
    }
}

/// What stands in one file.
fn documents(file: &Path, args: &[String]) -> Result<Documents> {
    if is_wasm(file) {
        let path = file.canonicalize();
        let path = path.map_err(|e| anyhow::Error::new(e).context(file.display().to_string()))?;
        let pods = vec![sources::bare_wasm(&path, args)];
        return Ok(Documents { pods, ..Documents::default() });
    }
    if !args.is_empty() {
        bail!("arguments after -- are a bare .wasm file's: {} is a pod file", file.display());
    }
    Ok(sources::read(file)?)
}

fn is_wasm(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "wasm")
}

/// What a cluster's node would do for the pod and this host does not.
pub(super) fn notices(loaded: &Loaded, host: &Host) -> Vec<Notice> {
    support::notices(&loaded.pod, capabilities(host))
}

fn capabilities(&Host { changes_user, mounts, .. }: &Host) -> HostCapabilities {
    HostCapabilities { changes_user, mounts, cluster: false }
}
