//! The two forms in which docker writes credentials: `config.json` (of a secret
//! `kubernetes.io/dockerconfigjson`) and the older `.dockercfg` (`kubernetes.io/dockercfg`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::Credentials;

/// Base64 with its padding or without, as upstream reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Entries by their place's key.
pub(super) type Entries = BTreeMap<String, Entry>;

/// docker's config.json, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    auths: Option<Entries>,
    cred_helpers: Option<BTreeMap<String, String>>,
    /// The helper of all others; empty: none.
    pub(super) creds_store: Option<String>,
}

impl ConfigFile {
    /// Reads a file's or a secret's bytes, of the older form if `flat`.
    ///
    /// # Errors
    /// The line that is no such JSON; never a part of it.
    pub(super) fn read(bytes: &[u8], flat: bool) -> Result<Self, String> {
        let failed = |e: serde_json::Error| format!("line {}: not that JSON", e.line());
        if flat {
            let auths = serde_json::from_slice(bytes).map_err(failed)?;
            return Ok(Self { auths: Some(auths), ..Self::default() });
        }
        serde_json::from_slice(bytes).map_err(failed)
    }

    /// The credentials in it, by key; those without any are left out.
    ///
    /// # Errors
    /// The key whose `auth` cannot be read.
    pub(super) fn entries(&self) -> Result<Vec<(&String, Credentials)>, String> {
        let each = self.auths.iter().flatten().filter_map(|(key, entry)| {
            let credentials = entry
                .credentials()
                .map_err(|()| format!("auths: the auth of {key} is not base64 of NAME:PASSWORD"));
            Some((key, credentials.transpose()?))
        });
        each.map(|(key, credentials)| Ok((key, credentials?))).collect()
    }

    /// The helpers in it, by key.
    pub(super) fn helpers(&self) -> impl Iterator<Item = (&String, &String)> {
        self.cred_helpers.iter().flatten()
    }
}

/// What is known of one place.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, ()> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credentials::Identity(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let text = BASE64.decode(auth.trim()).ok().and_then(|raw| String::from_utf8(raw).ok());
            let (username, password) = text.as_deref().and_then(|t| t.split_once(':')).ok_or(())?;
            // docker pads what it writes.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Basic { username: username.into(), password }));
        }
        let (username, password) = (given(&self.username), given(&self.password));
        let both = username.zip(password);
        Ok(both.map(|(username, password)| Credentials::Basic { username, password }))
    }
}
