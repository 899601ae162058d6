//! A pod's pull secrets.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::docker::ConfigFile;
use super::place::{Place, Places};
use super::{Candidate, CredentialsError};
use crate::image::digest::Digest;

/// The two types of secret that count (upstream `SecretTypeDockerConfigJson`,
/// `SecretTypeDockercfg`), each with the key of what it holds, and whether that is the older form.
const TYPES: [(&str, &str, bool); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", false),
    ("kubernetes.io/dockercfg", ".dockercfg", true),
];

/// The secrets that a pod names for its images (`spec.imagePullSecrets`), those that are there.
#[derive(Clone)]
pub(crate) struct PullSecrets {
    all: Arc<[Arc<Secret>]>,
    /// Equal for those that hold the same: what one pod's secrets opened stays shut to another's.
    id: Digest,
}

impl fmt::Debug for PullSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|secret| name(secret))).finish()
    }
}

impl PullSecrets {
    /// Takes them in the pod's order. `None` if none of them is for images: of another type, or
    /// without content.
    pub(crate) fn new(secrets: Vec<Arc<Secret>>) -> Option<Self> {
        let all: Arc<[_]> = secrets.into_iter().filter(|one| content(one).is_some()).collect();
        let mut bytes = Vec::new();
        for (_, content, flat) in all.iter().filter_map(|secret| content(secret)) {
            bytes.extend(content.len().to_be_bytes());
            bytes.push(u8::from(flat));
            bytes.extend(content);
        }
        (!all.is_empty()).then(|| Self { id: Digest::of(&bytes), all })
    }

    /// The same for secrets with the same content.
    pub(crate) fn id(&self) -> &Digest {
        &self.id
    }

    /// What is in them.
    ///
    /// # Errors
    /// [`CredentialsError::Secret`].
    pub(super) fn places(&self) -> Result<Places, CredentialsError> {
        let mut places = Vec::new();
        for secret in &*self.all {
            let Some((key, content, flat)) = content(secret) else { continue };
            let wrong = |text: String| CredentialsError::Secret {
                name: name(secret),
                text: format!("{key}: {text}"),
            };
            let from = format!("secret {}", name(secret));
            for (place, credentials) in
                ConfigFile::read(content, flat).map_err(wrong)?.entries().map_err(wrong)?
            {
                let candidate = Candidate { credentials, from: from.clone() };
                places.push((Place::parse(place), candidate));
            }
        }
        Ok(Places::new(places))
    }
}

/// The key and bytes of what a secret holds for images, and whether they are of the older form.
fn content(secret: &Secret) -> Option<(&'static str, &[u8], bool)> {
    let (_, key, flat) =
        TYPES.into_iter().find(|(name, ..)| secret.type_.as_deref() == Some(name))?;
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    (!bytes.is_empty()).then_some((key, bytes.as_slice(), flat))
}

fn name(secret: &Secret) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&secret.metadata.namespace), part(&secret.metadata.name))
}
