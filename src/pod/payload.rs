//! The files of a volume that comes from objects: configMap, secret, downwardAPI, projected
//! (upstream `pkg/volume/{configmap,secret,downwardapi,projected}`, and the checks of its
//! `AtomicWriter`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecurityContext, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use thiserror::Error;

use crate::default::DEFAULT_FILE_MODE;
use crate::downward::{self, DownwardError};
use crate::object::{Facts, NotFound, Objects, TokenKey};

/// Most bytes of a volume's files. One object has at most a megabyte, but `items` may name each key
/// any number of times.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// Longest path of a file (upstream: `maxPathLength`).
const MAX_PATH_BYTES: usize = 4096;
/// Longest name in a path (upstream: `maxFileNameLength`).
const MAX_NAME_BYTES: usize = 255;
/// Mode of a token that is a user's or a group's own.
const TOKEN_MODE: u32 = 0o600;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// The user whose it is; `None`: the agent's own.
    pub owner: Option<u32>,
}

/// The files of a volume by relative path, which is clean: no `.`, `..` or empty part in it. No
/// file's path is the directory of another.
pub type Payload = BTreeMap<String, PayloadFile>;

/// Why a volume has no files, in upstream's words where it has them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PayloadError {
    /// An object is not there.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// `items` names a key that the config map does not have.
    #[error("configmap references non-existent config key: {0}")]
    ConfigMapKey(String),
    /// `items` names a key that the secret does not have.
    #[error("secret references non-existent secret key: {0}")]
    SecretKey(String),
    /// A `fieldRef` or `resourceFieldRef`.
    #[error(transparent)]
    Downward(#[from] DownwardError),
    /// A path that is no place for a file.
    #[error("invalid path: {rule}: {path}")]
    Path {
        /// What it must be.
        rule: &'static str,
        /// The path.
        path: String,
    },
    /// A file where another file needs a directory.
    #[error("conflicting paths: {file} is a file, so that {below} cannot be below it")]
    Conflict {
        /// The path of the file.
        file: String,
        /// The path below it.
        below: String,
    },
    /// More than any volume of this kind needs.
    #[error("its files are more than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// A projected source that only a cluster has.
    #[error("a projected {0} needs an API server, which there is none here")]
    NeedsApiServer(&'static str),
}

/// The files of a volume; `None` for a kind that does not come from objects.
///
/// # Errors
/// [`PayloadError`].
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    facts: &Facts,
) -> Result<Option<Payload>, PayloadError> {
    let mut files = Files::new(None);
    if let Some(of) = &volume.config_map {
        files.mode = file_mode(of.default_mode);
        let map = objects.config_map(&of.name, of.optional)?;
        files.config_map(map, of.items.as_deref(), of.optional)?;
    } else if let Some(of) = &volume.secret {
        files.mode = file_mode(of.default_mode);
        let name = of.secret_name.as_deref().unwrap_or_default();
        files.secret(objects.secret(name, of.optional)?, of.items.as_deref(), of.optional)?;
    } else if let Some(of) = &volume.downward_api {
        files.mode = file_mode(of.default_mode);
        files.downward(pod, of.items.as_deref(), facts)?;
    } else if let Some(of) = &volume.projected {
        files.mode = file_mode(of.default_mode);
        files.projected(pod, of, objects, facts)?;
    } else {
        return Ok(None);
    }
    files.finish().map(Some)
}

/// The user as whom all containers of the pod run by its spec, if it is one (upstream `FsUserFrom`).
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let init = spec.init_containers.iter().flatten();
    let own = init.chain(&spec.containers).map(|container| container.security_context.as_ref());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let own = own.chain(ephemeral.map(|container| container.security_context.as_ref()));
    let user = |own: Option<&SecurityContext>| own.and_then(|own| own.run_as_user).or(of_pod);
    let mut users = own.map(user);
    let first = users.next()??;
    let is_common = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| is_common)
}

/// The permission bits of a mode of the API, which validation has bounded.
fn file_mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_FILE_MODE)).unwrap_or(0) & 0o777
}

/// The files so far. Of two with one path the later holds: it is in the later source.
struct Files {
    files: Payload,
    bytes: usize,
    /// Of those that name no mode of their own.
    mode: u32,
}

impl Files {
    fn new(mode: Option<i32>) -> Files {
        Files { files: Payload::new(), bytes: 0, mode: file_mode(mode) }
    }

    fn add(&mut self, path: &str, bytes: &[u8], mode: Option<i32>) -> Result<(), PayloadError> {
        let mode = mode.map_or(self.mode, |mode| file_mode(Some(mode)));
        self.add_file(path, PayloadFile { bytes: bytes.to_vec(), mode, owner: None })
    }

    fn add_file(&mut self, path: &str, file: PayloadFile) -> Result<(), PayloadError> {
        let path = clean(path)?;
        // What a later file replaces is counted too: the bound is for what this costs.
        self.bytes = self.bytes.saturating_add(file.bytes.len());
        if self.bytes > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLarge);
        }
        self.files.insert(path, file);
        Ok(())
    }

    /// A token's file. Where one user or one group is to have it, nobody else may read it; the
    /// group's bits come with the volume's group.
    fn token(
        &mut self,
        pod: &Pod,
        of: &ServiceAccountTokenProjection,
        objects: &Objects,
    ) -> Result<(), PayloadError> {
        let token = objects.tokens.get(&TokenKey::of(of));
        let token = token.ok_or(PayloadError::NeedsApiServer("serviceAccountToken"))?;
        let owner = common_user(pod);
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let own = owner.is_some() || context.is_some_and(|context| context.fs_group.is_some());
        let mode = if own { TOKEN_MODE } else { self.mode };
        let bytes = token.reveal().as_bytes().to_vec();
        self.add_file(&of.path, PayloadFile { bytes, mode, owner })
    }

    /// Files of keys: the items if there are any, else all of `keys`. `find` gives a key's bytes.
    fn of_keys<'a>(
        &mut self,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        keys: impl Iterator<Item = &'a String>,
        find: impl Fn(&str) -> Option<&'a [u8]>,
        missing: fn(String) -> PayloadError,
    ) -> Result<(), PayloadError> {
        let items = items.unwrap_or_default();
        if items.is_empty() {
            for key in keys {
                self.add(key, find(key).unwrap_or_default(), None)?;
            }
        }
        for item in items {
            match find(&item.key) {
                Some(bytes) => self.add(&item.path, bytes, item.mode)?,
                None if optional == Some(true) => {}
                None => return Err(missing(item.key.clone())),
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        map: Option<&ConfigMap>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), PayloadError> {
        let data = map.and_then(|map| map.data.as_ref());
        let binary = map.and_then(|map| map.binary_data.as_ref());
        let find = |key: &str| {
            let text = data.and_then(|data| data.get(key)).map(String::as_bytes);
            text.or_else(|| binary.and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]))
        };
        let keys = data.into_iter().flat_map(BTreeMap::keys);
        let keys = keys.chain(binary.into_iter().flat_map(BTreeMap::keys));
        self.of_keys(items, optional, keys, find, PayloadError::ConfigMapKey)
    }

    fn secret(
        &mut self,
        secret: Option<&Secret>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), PayloadError> {
        let data = secret.and_then(|secret| secret.data.as_ref());
        let find = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]);
        let keys = data.into_iter().flat_map(BTreeMap::keys);
        self.of_keys(items, optional, keys, find, PayloadError::SecretKey)
    }

    fn downward(
        &mut self,
        pod: &Pod,
        items: Option<&[DownwardAPIVolumeFile]>,
        facts: &Facts,
    ) -> Result<(), PayloadError> {
        for item in items.unwrap_or_default() {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => downward::field_file(pod, selector)?,
                (None, Some(selector)) => downward::resource(pod, None, selector, facts)?,
                (None, None) => String::new(),
            };
            self.add(&item.path, value.as_bytes(), item.mode)?;
        }
        Ok(())
    }

    fn projected(
        &mut self,
        pod: &Pod,
        volume: &ProjectedVolumeSource,
        objects: &Objects,
        facts: &Facts,
    ) -> Result<(), PayloadError> {
        for source in volume.sources.iter().flatten() {
            // Whole on purpose: a source of a newer API breaks the build here.
            let VolumeProjection {
                cluster_trust_bundle,
                config_map,
                downward_api,
                pod_certificate,
                secret,
                service_account_token,
            } = source;
            for (name, is_set) in [
                ("clusterTrustBundle", cluster_trust_bundle.is_some()),
                ("podCertificate", pod_certificate.is_some()),
            ] {
                if is_set {
                    return Err(PayloadError::NeedsApiServer(name));
                }
            }
            if let Some(of) = secret {
                let secret = objects.secret(&of.name, of.optional)?;
                self.secret(secret, of.items.as_deref(), of.optional)?;
            }
            if let Some(of) = config_map {
                let map = objects.config_map(&of.name, of.optional)?;
                self.config_map(map, of.items.as_deref(), of.optional)?;
            }
            if let Some(of) = downward_api {
                self.downward(pod, of.items.as_deref(), facts)?;
            }
            if let Some(of) = service_account_token {
                self.token(pod, of, objects)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Payload, PayloadError> {
        for below in self.files.keys() {
            let parents = below.match_indices('/').map(|(at, _)| &below[..at]);
            if let Some(file) = parents.into_iter().find(|parent| self.files.contains_key(*parent))
            {
                let (file, below) = (file.to_owned(), below.clone());
                return Err(PayloadError::Conflict { file, below });
            }
        }
        Ok(self.files)
    }
}

/// The path without empty and `.` parts, if a file may be there.
fn clean(path: &str) -> Result<String, PayloadError> {
    let wrong = |rule| Err(PayloadError::Path { rule, path: path.to_owned() });
    let parts: Vec<&str> = path.split('/').filter(|part| !["", "."].contains(part)).collect();
    if path.starts_with('/') {
        return wrong("must be relative path");
    }
    if path.len() > MAX_PATH_BYTES {
        return wrong("must be less than or equal to 4096 characters");
    }
    if parts.contains(&"..") {
        return wrong("must not contain '..'");
    }
    if parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
        return wrong("filenames must be less than or equal to 255 characters");
    }
    match parts.first() {
        None => wrong("must not be empty"),
        // Such names are the writer's own: `..data`.
        Some(first) if first.starts_with("..") => wrong("must not start with '..'"),
        Some(_) if path.contains('\0') => wrong("must not contain a NUL byte"),
        Some(_) => Ok(parts.join("/")),
    }
}

#[cfg(test)]
#[path = "payload_test.rs"]
mod tests;
