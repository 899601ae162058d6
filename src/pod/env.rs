//! A container's environment, every kind of source resolved (upstream
//! `makeEnvironmentVariables`).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, FileKeySelector, Pod};
use thiserror::Error;

use crate::downward::{self, DownwardError};
use crate::env_file::{self, EnvFileError};
use crate::expand::{MAX_EXPANDED_BYTES, expand, expanded_len};
use crate::object::{Facts, NotFound, Objects};
use crate::service_env::service_env;

/// Why a container has no environment: the message of its waiting reason
/// `CreateContainerConfigError`, in upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EnvError {
    /// An object is not there.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A config map has no such key.
    #[error("couldn't find key {key} in ConfigMap {object}")]
    ConfigMapKey {
        /// The key.
        key: String,
        /// The config map, with its namespace.
        object: String,
    },
    /// A secret has no such key.
    #[error("couldn't find key {key} in Secret {object}")]
    SecretKey {
        /// The key.
        key: String,
        /// The secret, with its namespace.
        object: String,
    },
    /// The file of a `fileKeyRef` has no such key, an empty value, or is not there.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    FileKey {
        /// The key.
        key: String,
        /// The file's path in its volume.
        path: String,
    },
    /// The file of a `fileKeyRef` has a wrong line.
    #[error("couldn't parse env file {path:?}: {problem}")]
    File {
        /// The file's path in its volume.
        path: String,
        /// The line.
        problem: EnvFileError,
    },
    /// A `fieldRef` or `resourceFieldRef`.
    #[error(transparent)]
    Downward(#[from] DownwardError),
    /// WASI's environment is UTF-8, a secret's value any bytes.
    #[error("the value of key {key} in Secret {object} is not UTF-8, so no environment variable")]
    NotText {
        /// The key.
        key: String,
        /// The secret, with its namespace.
        object: String,
    },
    /// The pod does not say whether it wants services' variables; defaults do.
    #[error("nil pod.spec.enableServiceLinks encountered, cannot construct envvars")]
    NoServiceLinks,
    /// No process can have such a variable.
    #[error("environment variable {0:?}: its value contains a NUL byte")]
    Nul(String),
    /// A bomb of references, or objects that are too large for an environment.
    #[error(
        "environment, command and arguments are more than {MAX_EXPANDED_BYTES} bytes once their \
         $(VAR) references are expanded"
    )]
    TooLong,
}

/// The files that `fileKeyRef`s of the container read, as `(volume, path)`: their texts are to be
/// given to [`environment`].
#[must_use]
pub fn env_files(container: &Container) -> Vec<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref()).map(file);
    // The paths are few and repeat: one file has many keys.
    files.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn file(key: &FileKeySelector) -> (String, String) {
    (key.volume_name.clone(), key.path.clone())
}

/// A container's environment in order: `envFrom`, then `env`, each expanded with the variables
/// before it and those of services, then the services' variables that are not among them. Of two
/// with one name the later value holds, at the earlier place.
///
/// `files` has the texts of those of [`env_files`] that are there. The objects were validated, so
/// the names are good; environment, command and arguments ([`argv`](crate::argv)) together are
/// bounded.
///
/// # Errors
/// [`EnvError`].
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    facts: &Facts,
    files: &BTreeMap<(String, String), String>,
) -> Result<Vec<(String, String)>, EnvError> {
    let scope = Scope { pod, container, objects, facts, files };
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = links.ok_or(EnvError::NoServiceLinks)?;
    let services = service_env(&objects.services, namespace, links);
    let mut table = Table { services, ..Table::default() };
    scope.take_from(&mut table)?;
    for var in container.env.iter().flatten() {
        match (var.value.as_deref().unwrap_or_default(), &var.value_from) {
            ("", Some(source)) => {
                if let Some(value) = scope.value(source)? {
                    table.set(&var.name, &value)?;
                }
            }
            (raw, _) => table.set_expanded(var, raw)?,
        }
    }
    table.add_services()?;
    let mut bytes = table.bytes;
    for text in [&container.command, &container.args].into_iter().flatten().flatten() {
        bytes = within_bound(bytes.saturating_add(table.len_of(text)))?;
    }
    Ok(table.env)
}

fn within_bound(bytes: usize) -> Result<usize, EnvError> {
    if bytes > MAX_EXPANDED_BYTES { Err(EnvError::TooLong) } else { Ok(bytes) }
}

/// The variables so far.
#[derive(Default)]
struct Table {
    env: Vec<(String, String)>,
    /// Where in `env` each name is.
    places: HashMap<String, usize>,
    /// Of all names and values.
    bytes: usize,
    /// Variables of services, not in `env` yet.
    services: BTreeMap<String, String>,
}

impl Table {
    fn get(&self, name: &str) -> Option<&str> {
        match self.places.get(name) {
            Some(&place) => Some(self.env[place].1.as_str()),
            None => self.services.get(name).map(String::as_str),
        }
    }

    /// Those of services that nothing of the pod's own has replaced.
    fn add_services(&mut self) -> Result<(), EnvError> {
        for (name, value) in std::mem::take(&mut self.services) {
            if !self.places.contains_key(&name) {
                self.set(&name, &value)?;
            }
        }
        Ok(())
    }

    fn len_of(&self, text: &str) -> usize {
        expanded_len(text, |name| self.get(name).map(str::len))
    }

    fn set_expanded(&mut self, var: &EnvVar, raw: &str) -> Result<(), EnvError> {
        within_bound(self.len_of(raw))?;
        let value = expand(raw, |name| self.get(name));
        self.set(&var.name, &value)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), EnvError> {
        if value.contains('\0') {
            return Err(EnvError::Nul(name.to_owned()));
        }
        if let Some(&place) = self.places.get(name) {
            let old = self.env[place].1.len();
            self.bytes = within_bound((self.bytes - old).saturating_add(value.len()))?;
            value.clone_into(&mut self.env[place].1);
            return Ok(());
        }
        let more = name.len().saturating_add(value.len());
        self.bytes = within_bound(self.bytes.saturating_add(more))?;
        self.places.insert(name.to_owned(), self.env.len());
        self.env.push((name.to_owned(), value.to_owned()));
        Ok(())
    }
}

/// What the sources are looked up in.
struct Scope<'a> {
    pod: &'a Pod,
    container: &'a Container,
    objects: &'a Objects,
    facts: &'a Facts,
    files: &'a BTreeMap<(String, String), String>,
}

impl Scope<'_> {
    /// All of `envFrom`. Of a config map only `data`: `binaryData` is no text.
    fn take_from(&self, table: &mut Table) -> Result<(), EnvError> {
        for from in self.container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            if let Some(source) = &from.config_map_ref {
                let map = self.objects.config_map(&source.name, source.optional)?;
                for (key, value) in map.and_then(|map| map.data.as_ref()).into_iter().flatten() {
                    table.set(&format!("{prefix}{key}"), value)?;
                }
            }
            if let Some(source) = &from.secret_ref {
                let secret = self.objects.secret(&source.name, source.optional)?;
                let data = secret.and_then(|secret| secret.data.as_ref());
                for (key, value) in data.into_iter().flatten() {
                    let value = self.text(&source.name, key, &value.0)?;
                    table.set(&format!("{prefix}{key}"), value)?;
                }
            }
        }
        Ok(())
    }

    /// The value of a source; `None` where it is not there and may be.
    fn value(&self, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
        let or_missing = |value: Option<String>, optional: Option<bool>, error: EnvError| {
            if value.is_none() && optional != Some(true) { Err(error) } else { Ok(value) }
        };
        if let Some(selector) = &source.field_ref {
            return Ok(Some(downward::field(self.pod, selector, self.facts)?));
        }
        if let Some(selector) = &source.resource_field_ref {
            let own = Some(self.container);
            return Ok(Some(downward::resource(self.pod, own, selector, self.facts)?));
        }
        if let Some(of) = &source.config_map_key_ref {
            let map = self.objects.config_map(&of.name, of.optional)?;
            let value = map.and_then(|map| map.data.as_ref()?.get(&of.key)).cloned();
            let object = self.object(&of.name);
            let missing = EnvError::ConfigMapKey { key: of.key.clone(), object };
            return or_missing(value, of.optional, missing);
        }
        if let Some(of) = &source.secret_key_ref {
            let secret = self.objects.secret(&of.name, of.optional)?;
            let bytes = secret.and_then(|secret| secret.data.as_ref()?.get(&of.key));
            let value = bytes.map(|bytes| self.text(&of.name, &of.key, &bytes.0)).transpose()?;
            let object = self.object(&of.name);
            let missing = EnvError::SecretKey { key: of.key.clone(), object };
            return or_missing(value.map(str::to_owned), of.optional, missing);
        }
        if let Some(of) = &source.file_key_ref {
            let text = self.files.get(&file(of)).map_or("", String::as_str);
            let value = env_file::find(text, &of.key)
                .map_err(|problem| EnvError::File { path: of.path.clone(), problem })?;
            let missing = EnvError::FileKey { key: of.key.clone(), path: of.path.clone() };
            // Upstream cannot tell an empty value from none.
            return or_missing(value.filter(|value| !value.is_empty()), of.optional, missing);
        }
        // As upstream; validation refuses it.
        Ok(Some(String::new()))
    }

    fn text<'b>(&self, secret: &str, key: &str, bytes: &'b [u8]) -> Result<&'b str, EnvError> {
        let error = |_| EnvError::NotText { key: key.to_owned(), object: self.object(secret) };
        std::str::from_utf8(bytes).map_err(error)
    }

    fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.pod.metadata.namespace.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "env_test.rs"]
mod tests;
