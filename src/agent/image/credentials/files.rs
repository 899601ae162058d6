//! Files of credentials: those of a user's `docker login`, or those that a kubelet looks for.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::docker::ConfigFile;
use super::place::{Place, Places};
use super::{Candidate, CredentialsError, helper};
use crate::image::blocking;
use crate::image::reference::Repository;
use crate::telemetry::chain;

/// Largest file of credentials: some thousand registries.
const FILE_MAX: u64 = 1 << 20;
/// The name of the older form.
const OLD_FORM: &str = ".dockercfg";

/// Which files count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeFiles {
    /// The one that the user named: it has to be there.
    Named(PathBuf),
    /// A user's, the first that has something for the image. One that cannot be read is an error.
    User(Vec<PathBuf>),
    /// A node's, the first that can be read.
    Node(Vec<PathBuf>),
}

impl NodeFiles {
    /// Those of the user who runs this program: docker's, podman's, a kubelet's for root.
    pub(crate) fn of_user() -> Self {
        let from = |variable: &str, below: &str| {
            std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(below))
        };
        let docker =
            from("DOCKER_CONFIG", "config.json").or_else(|| from("HOME", ".docker/config.json"));
        let podman = from("XDG_RUNTIME_DIR", "containers/auth.json");
        let root = rustix::process::geteuid().is_root();
        let kubelet = root.then(|| PathBuf::from("/var/lib/kubelet/config.json"));
        Self::User(docker.into_iter().chain(podman).chain(kubelet).collect())
    }

    /// Those that a kubelet with this root directory looks for (upstream
    /// `DefaultDockerConfigJSONPaths`, `DefaultDockercfgPaths`), but for those of the folder that
    /// it happens to be started in.
    pub(crate) fn of_node(root_dir: &Path) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let json = [
            Some(root_dir.join("config.json")),
            home.as_ref().map(|home| home.join(".docker/config.json")),
            Some("/.docker/config.json".into()),
        ];
        let old = [Some(root_dir.to_owned()), home, Some("/".into())];
        let old = old.into_iter().flatten().map(|dir| dir.join(OLD_FORM));
        Self::Node(json.into_iter().flatten().chain(old).collect())
    }

    /// All of them.
    pub(super) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Named(file) => std::slice::from_ref(file),
            Self::User(files) | Self::Node(files) => files,
        }
    }

    /// What they have for a repository.
    ///
    /// # Errors
    /// [`CredentialsError`], never for a node's.
    pub(super) async fn find(
        &self,
        repository: &Repository,
    ) -> Result<Vec<Candidate>, CredentialsError> {
        for path in self.paths() {
            match (look(path, repository).await, self) {
                (Ok(None), Self::Named(_)) => {
                    let source = io::ErrorKind::NotFound.into();
                    return Err(CredentialsError::File { path: path.clone(), source });
                }
                (Ok(Some(found)), Self::User(_)) if found.is_empty() => {}
                (Ok(Some(found)), Self::Named(_) | Self::User(_) | Self::Node(_)) => {
                    return Ok(found);
                }
                (Ok(None), Self::User(_) | Self::Node(_)) => {}
                (Err(error), Self::Named(_) | Self::User(_)) => return Err(error),
                (Err(error), Self::Node(_)) => tracing::warn!("{}", chain(&error)),
            }
        }
        Ok(Vec::new())
    }
}

/// What a file has for a repository; `None` if it is not there.
async fn look(
    path: &Path,
    repository: &Repository,
) -> Result<Option<Vec<Candidate>>, CredentialsError> {
    let own = path.to_owned();
    let Some(config) = blocking(move || read(&own)).await? else { return Ok(None) };
    let from = path.display().to_string();
    let form = |text| CredentialsError::Form { path: path.into(), text };
    let one = |credentials| Candidate { credentials, from: from.clone() };
    let helpers = config.helpers().filter(|(key, _)| Place::parse(key).holds(repository));
    // The most specific one.
    if let Some((_, name)) = helpers.max_by_key(|(key, _)| key.len()) {
        return Ok(Some(helper::ask(name, repository).await?.map(one).into_iter().collect()));
    }
    let entries = config.entries().map_err(form)?.into_iter();
    let places = entries.map(|(key, credentials)| (Place::parse(key), one(credentials)));
    let found = Places::new(places.collect()).of(repository);
    let store = config.creds_store.as_ref().filter(|name| !name.is_empty());
    match store.filter(|_| found.is_empty()) {
        Some(name) => Ok(Some(helper::ask(name, repository).await?.map(one).into_iter().collect())),
        None => Ok(Some(found)),
    }
}

fn read(path: &Path) -> Result<Option<ConfigFile>, CredentialsError> {
    let failed = |source| CredentialsError::File { path: path.into(), source };
    let form = |text: &str| CredentialsError::Form { path: path.into(), text: text.into() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(form("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(form("larger than 1 MiB"));
    }
    let flat = path.file_name().is_some_and(|name| name == OLD_FORM);
    ConfigFile::read(&bytes, flat).map(Some).map_err(|text| form(&text))
}
