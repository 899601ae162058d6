//! Credentials for registries, for both kinds of images.
//!
//! Owns: whose credentials are tried for an image and in which order ([`Keyring::candidates`],
//! upstream's `pkg/credentialprovider`): the pod's pull secrets ([`secret`]), the files of this
//! node or user ([`files`], with docker's helpers, [`helper`]), credential provider plugins
//! ([`plugin`]). Within each, the most specific place first ([`place`]). Who has them tries each, and
//! asks without any last.
//! In: a repository and a pod's secrets. Out: [`Candidates`]. Starts no task; a helper or plugin is
//! a process that ends with the call.

mod docker;
mod files;
mod helper;
mod place;
pub(crate) mod plugin;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::place::Places;
use self::plugin::{Plugin, PluginOptions};
use super::reference::Repository;

pub(crate) use self::files::NodeFiles;
pub(crate) use self::secret::PullSecrets;

/// What docker calls its hub.
const HUB: &str = "docker.io";
/// What else it is called in files of credentials.
const HUB_NAMES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// What proves who we are; shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token from which others are made (`identitytoken`).
    Identity(String),
}

/// Credentials that may be right for an image.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What proves who we are.
    pub(crate) credentials: Credentials,
    /// Where they are from, for people: a file, a secret, a plugin.
    pub(crate) from: String,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest is secret.
        f.debug_struct("Candidate").field("from", &self.from).finish_non_exhaustive()
    }
}

/// All that may be tried for an image, in this order; without credentials after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Each once.
    pub(crate) all: Vec<Candidate>,
    /// Where they were looked for, for people.
    pub(crate) looked: String,
}

/// Why there are none although there should be.
#[derive(Debug, Error)]
pub(crate) enum CredentialsError {
    /// The file cannot be read.
    #[error("credentials: cannot read {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("credentials: {path}: {text}, expected docker's config.json", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong; never a part of the file, which holds secrets.
        text: String,
    },
    /// A pull secret is not what it should be.
    #[error("image pull secret {name}: {text}")]
    Secret {
        /// `NAMESPACE/NAME`.
        name: String,
        /// What is wrong; never a part of the secret.
        text: String,
    },
    /// The program that keeps them did not give them.
    #[error("credentials: docker-credential-{helper} get: {text}")]
    Helper {
        /// Its name in the file.
        helper: String,
        /// What went wrong.
        text: String,
    },
}

/// The credentials of a node, or of a user who runs pods.
pub(crate) struct Keyring {
    files: NodeFiles,
    plugins: Vec<Plugin>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest is secrets that plugins gave.
        f.debug_struct("Keyring").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Nothing is read and nobody asked yet.
    pub(crate) fn new(files: NodeFiles, plugins: Vec<PluginOptions>) -> Self {
        Self { files, plugins: plugins.into_iter().map(Plugin::new).collect() }
    }

    /// All credentials that may be right for a repository: a pod's own, then the files', then the
    /// plugins'. Files are read and plugins asked each time, but for what plugins say of how long
    /// that holds.
    ///
    /// # Errors
    /// [`CredentialsError`] for a secret that is not one, or a file of this user's own. A node's
    /// files and plugins that fail are named in the log and left out, as upstream does.
    pub(crate) async fn candidates(
        &self,
        repository: &Repository,
        secrets: Option<&PullSecrets>,
    ) -> Result<Candidates, CredentialsError> {
        let mut all = Vec::new();
        if let Some(secrets) = secrets {
            all.extend(secrets.places()?.of(repository));
        }
        all.extend(self.files.find(repository).await?);
        let mut provided = Vec::new();
        for plugin in &self.plugins {
            provided.extend(plugin.provide(repository).await);
        }
        all.extend(Places::new(provided).of(repository));
        let mut once: Vec<Candidate> = Vec::new();
        for candidate in all {
            if !once.iter().any(|known| known.credentials == candidate.credentials) {
                once.push(candidate);
            }
        }
        Ok(Candidates { all: once, looked: self.looked(secrets) })
    }

    fn looked(&self, secrets: Option<&PullSecrets>) -> String {
        let of_pod = secrets.map(|_| "the pod's imagePullSecrets".to_owned());
        let files = self.files.paths().iter().map(|path| shown_path(path));
        let plugins = self.plugins.iter().map(|plugin| plugin.label());
        of_pod.into_iter().chain(files).chain(plugins).collect::<Vec<_>>().join(" or ")
    }
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}
