//! Who we are to a registry: the files of `docker login`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::image::reference::Repository;

/// Largest file of credentials: some thousand registries.
const FILE_MAX: u64 = 1 << 20;
/// Most bytes of a helper's answer: a token has a few KiB.
const HELPER_MAX: u64 = 64 << 10;
/// Longest run of a helper, which may ask a cloud.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// What docker calls its hub in these files.
const HUB: &str = "docker.io";
const HUB_NAMES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// The name under which helpers know the hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// What proves who we are.
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
    /// The program that keeps them did not give them.
    #[error("credentials: docker-credential-{helper} get: {text}")]
    Helper {
        /// Its name in the file.
        helper: String,
        /// What went wrong.
        text: String,
    },
}

/// docker's config.json, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The credentials for a repository from the first of `files` that has some, and that file. A file
/// that is not there has none, unless it is the `required` one.
///
/// # Errors
/// [`CredentialsError`].
pub(super) async fn find(
    files: &[PathBuf],
    required: bool,
    repository: &Repository,
) -> Result<Option<(Credentials, PathBuf)>, CredentialsError> {
    for path in files {
        let Some(config) = read(path, required)? else { continue };
        if let Some(found) = config.find(path, repository).await? {
            return Ok(Some((found, path.clone())));
        }
    }
    Ok(None)
}

fn read(path: &Path, required: bool) -> Result<Option<ConfigFile>, CredentialsError> {
    let failed = |source| CredentialsError::File { path: path.into(), source };
    let form = |text: &str| CredentialsError::Form { path: path.into(), text: text.into() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(form("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_MAX {
        return Err(form("larger than 1 MiB"));
    }
    let config = serde_json::from_slice(&text);
    config.map(Some).map_err(|e| form(&format!("line {}: not that JSON", e.line())))
}

impl ConfigFile {
    async fn find(
        &self,
        path: &Path,
        repository: &Repository,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let auth = best(&self.auths, repository);
        if let Some((_, helper)) = best(&self.cred_helpers, repository) {
            return ask(helper, repository).await;
        }
        if let Some(found) = auth.and_then(|(_, entry)| entry.credentials()) {
            return Ok(Some(found));
        }
        if auth.is_some_and(|(_, entry)| entry.auth.as_ref().is_some_and(|auth| !auth.is_empty())) {
            let text =
                format!("auths: the auth of {} is not base64 of NAME:PASSWORD", repository.host);
            return Err(CredentialsError::Form { path: path.into(), text });
        }
        match &self.creds_store {
            Some(helper) => ask(helper, repository).await,
            None => Ok(None),
        }
    }
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credentials::Identity(token));
        }
        if let Some(auth) = given(&self.auth) {
            let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            // docker pads what it writes.
            let password = password.trim_end_matches('\0').to_owned();
            return Some(Credentials::Basic { username: username.into(), password });
        }
        let (username, password) = (given(&self.username)?, given(&self.password)?);
        Some(Credentials::Basic { username, password })
    }
}

/// The value whose key fits the repository and has the longest path.
fn best<'a, T>(
    table: &'a BTreeMap<String, T>,
    repository: &Repository,
) -> Option<(&'a String, &'a T)> {
    let fitting = table.iter().filter_map(|entry| Some((fits(entry.0, repository)?, entry)));
    fitting.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
}

/// The length of the key's path if the key fits: a host, with a path before which the repository
/// may go on, in any of the ways in which docker and kubernetes write it (`https://HOST/v1/`, and
/// `*` for one part of the host's name).
fn fits(key: &str, repository: &Repository) -> Option<usize> {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = path.trim_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let host = if HUB_NAMES.contains(&host) { HUB } else { host };
    let (mut ours, mut theirs) = (repository.host.split('.'), host.split('.'));
    let same = loop {
        match (ours.next(), theirs.next()) {
            (None, None) => break true,
            (Some(a), Some(b)) if a == b || (b == "*" && !a.contains(':')) => {}
            (_, _) => break false,
        }
    };
    let rest = repository.name.strip_prefix(path)?;
    (same && (path.is_empty() || rest.is_empty() || rest.starts_with('/'))).then_some(path.len())
}

/// Asks the program `docker-credential-HELPER`.
async fn ask(
    helper: &str,
    repository: &Repository,
) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |text: String| CredentialsError::Helper { helper: helper.to_owned(), text };
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(failed("not the name of a helper".into()));
    }
    let server = if repository.host == HUB { HUB_SERVER } else { &repository.host };
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let answer = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(server.as_bytes()).await?;
        }
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(HELPER_MAX).read_to_end(&mut text).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, text))
    };
    let (status, text) = match timeout(HELPER_TIME, answer).await {
        Ok(answer) => answer.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("took longer than {} s", HELPER_TIME.as_secs()))),
    };
    if !status.success() {
        // The one failure that says: none. Helpers write it to standard output.
        let text = String::from_utf8_lossy(&text);
        return match text.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{status}"))),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| failed("its answer is not that JSON".into()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Basic { username: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(host: &str, name: &str) -> Repository {
        Repository { host: host.into(), name: name.into() }
    }

    fn basic(name: &str) -> Option<Credentials> {
        Some(Credentials::Basic { username: name.into(), password: "p:w".into() })
    }

    async fn found(
        json: &str,
        host: &str,
        name: &str,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, json).unwrap();
        let files = [dir.path().join("none.json"), file];
        Ok(find(&files, false, &repository(host, name)).await?.map(|(found, _)| found))
    }

    #[tokio::test]
    async fn the_longest_path_of_the_host_counts() {
        let auth = |name: &str| STANDARD.encode(format!("{name}:p:w"));
        let json = format!(
            r#"{{"auths": {{"h.io": {{"auth": "{}"}}, "h.io/a/b": {{"auth": "{}"}},
               "h.io:5000": {{"username": "port", "password": "p:w"}},
               "*.wild.io": {{"auth": "{}"}},
               "https://index.docker.io/v1/": {{"auth": "{}"}},
               "t.io": {{"identitytoken": "tok"}}, "empty.io": {{}}}}, "HttpHeaders": {{}}}}"#,
            auth("host"),
            auth("path"),
            auth("wild"),
            auth("hub"),
        );
        for (host, name, user) in [
            ("h.io", "x", Some("host")),
            ("h.io", "a/b", Some("path")),
            ("h.io", "a/b/c", Some("path")),
            ("h.io", "a/bc", Some("host")),
            ("h.io:5000", "a/b", Some("port")),
            ("x.wild.io", "a", Some("wild")),
            ("x.y.wild.io", "a", None),
            ("docker.io", "library/x", Some("hub")),
            ("other.io", "x", None),
            ("empty.io", "x", None),
            ("evil-h.io", "x", None),
        ] {
            let got = found(&json, host, name).await.unwrap();
            assert!(got == user.and_then(basic), "{host}/{name}");
        }
        let token = found(&json, "t.io", "x").await.unwrap();
        assert!(token == Some(Credentials::Identity("tok".into())));
    }

    #[tokio::test]
    async fn bad_files_are_named_without_their_secrets() {
        for (json, text) in [
            ("{\"auths\": \"secret\"}", "line 1: not that JSON, expected docker's config.json"),
            (r#"{"auths":{"h.io":{"auth":"secret"}}}"#, "the auth of h.io is not base64"),
            (r#"{"credsStore":"../../bin/secret sh"}"#, "not the name of a helper"),
            (r#"{"credHelpers":{"h.io":"no-such-helper"}}"#, "No such file"),
        ] {
            let Err(error) = found(json, "h.io", "x").await else { panic!("{json}") };
            assert!(error.to_string().contains(text), "{error}");
        }
        let missing = [PathBuf::from("/nowhere/config.json")];
        assert!(find(&missing, true, &repository("h.io", "x")).await.is_err());
        assert!(find(&missing, false, &repository("h.io", "x")).await.unwrap().is_none());
    }
}
