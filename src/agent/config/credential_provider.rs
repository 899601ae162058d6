//! `CredentialProviderConfig` of `kubelet.config.k8s.io`: programs that know the credentials of
//! images. Texts of refusals are upstream's (`pkg/credentialprovider/plugin/config.go`).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::MAX_FILE_BYTES;
use super::duration::GoDuration;
use super::findings::{Findings, absolute};
use crate::sources::single;
use crate::telemetry::chain;

/// The flags that this is about.
const CONFIG: &str = "--image-credential-provider-config";
const PROGRAMS: &str = "--image-credential-provider-bin-dir";
/// The kind of the file, and its versions, all alike; one is the beginning of the others.
const KIND: &str = "CredentialProviderConfig";
const VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1", "kubelet.config.k8s.io/v1"];
/// What a program may speak.
const SPOKEN: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
/// Most files of a directory: each has one provider as a rule.
const MAX_FILES: usize = 1000;

/// A program that knows the credentials of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CredentialProvider {
    /// Its name, the program's own.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// What it speaks.
    pub(crate) api_version: String,
    /// The images that it is asked for.
    pub(crate) match_images: Vec<String>,
    /// How long its answers hold that do not say.
    pub(crate) default_cache: Duration,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Variables beside the agent's own.
    pub(crate) env: Vec<(String, String)>,
}

/// The file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
struct ProviderFile {
    api_version: Option<String>,
    kind: Option<String>,
    providers: Option<Vec<Provider>>,
}

/// One of `providers`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
struct Provider {
    name: Option<String>,
    match_images: Option<Vec<String>>,
    default_cache_duration: Option<GoDuration>,
    api_version: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<TokenAttributes>,
}

/// One of `env`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, expecting = "an object")]
struct Variable {
    name: Option<String>,
    value: Option<String>,
}

/// `tokenAttributes`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
struct TokenAttributes {
    service_account_token_audience: Option<String>,
    cache_type: Option<String>,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Option<Vec<String>>,
    optional_service_account_annotation_keys: Option<Vec<String>>,
}

/// Reads the file or the directory of files, and looks for the programs; what is wrong is found and
/// left out.
pub(super) fn providers(
    config: Option<PathBuf>,
    programs: Option<PathBuf>,
    findings: &mut Findings,
) -> Vec<CredentialProvider> {
    let (config, programs) = match (config, programs) {
        (None, None) => return Vec::new(),
        (Some(config), Some(programs)) => (absolute(&config), absolute(&programs)),
        (Some(_), None) => {
            findings.flag(PROGRAMS, format!("missing: expected it beside {CONFIG}"));
            return Vec::new();
        }
        (None, Some(_)) => {
            findings.flag(CONFIG, format!("missing: expected it beside {PROGRAMS}"));
            return Vec::new();
        }
    };
    if !programs.is_dir() {
        let text = format!("plugin binary directory {} did not exist", programs.display());
        findings.flag(PROGRAMS, text);
    }
    let read = match files(&config).and_then(|files| files.iter().map(|file| read(file)).collect())
    {
        Ok::<Vec<_>, _>(read) => read.concat(),
        Err(text) => {
            findings.flag(CONFIG, text);
            return Vec::new();
        }
    };
    if read.is_empty() {
        findings.flag(CONFIG, "providers: at least 1 item in plugins is required");
    }
    let mut found: Vec<CredentialProvider> = Vec::new();
    for (i, provider) in read.iter().enumerate() {
        let mut wrong = |field: &str, text: String| {
            findings.flag(CONFIG, format!("providers[{i}].{field}: {text}"));
        };
        let Some(one) = one(provider, &programs, &mut wrong) else { continue };
        if found.iter().any(|other| other.name == one.name) {
            let name = &one.name;
            wrong(
                "name",
                format!("duplicate provider name {name:?} found in configuration file(s)"),
            );
        }
        found.push(one);
    }
    found
}

/// The files of the configuration: it itself, or those of a directory in their order.
fn files(config: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("unable to access path {:?}: {e}", config.display());
    if !fs::metadata(config).map_err(failed)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(config).map_err(failed)?.take(MAX_FILES) {
        let path = entry.map_err(failed)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("json" | "yaml" | "yml")) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(format!("no configuration files found in directory {:?}", config.display())),
        false => Ok(files),
    }
}

fn read(path: &Path) -> Result<Vec<Provider>, String> {
    let failed = |e: std::io::Error| format!("unable to read file {:?}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{} is longer than 1 MiB", path.display()));
    }
    let version =
        VERSIONS.into_iter().find(|version| text.contains(version)).unwrap_or(VERSIONS[2]);
    let name = path.display().to_string();
    let file: ProviderFile = single(&name, &text, (version, KIND)).map_err(|e| chain(&e))?;
    Ok(file.providers.unwrap_or_default())
}

/// One provider; `None` if it has no name to look for.
fn one(
    provider: &Provider,
    programs: &Path,
    wrong: &mut impl FnMut(&str, String),
) -> Option<CredentialProvider> {
    if provider.token_attributes.is_some() {
        let text = "service account tokens for credential providers are a later step: expected a \
                    provider without tokenAttributes";
        wrong("tokenAttributes", text.into());
    }
    let name = provider.name.clone().unwrap_or_default();
    for (bad, what) in [
        (name.contains('/'), "provider name cannot contain '/'"),
        (name.contains(' '), "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
        (name.is_empty(), "a name is required"),
    ] {
        if bad {
            wrong("name", format!("{name:?}: {what}"));
            return None;
        }
    }
    let program = programs.join(&name);
    if !is_program(&program) {
        let text = format!("plugin binary executable {} did not exist", program.display());
        wrong("name", text);
    }
    let api_version = provider.api_version.clone().unwrap_or_default();
    if !SPOKEN.contains(&api_version.as_str()) {
        let text = format!("{api_version:?}: expected one of {}", SPOKEN.join(", "));
        wrong("apiVersion", text);
    }
    let match_images = provider.match_images.clone().unwrap_or_default();
    if match_images.is_empty() {
        wrong("matchImages", "at least 1 item in matchImages is required".into());
    }
    let default_cache = match provider.default_cache_duration.map(GoDuration::to_std) {
        None => {
            wrong("defaultCacheDuration", "missing: expected a duration, such as 10m".into());
            Duration::ZERO
        }
        Some(None) => {
            wrong("defaultCacheDuration", "must be greater than or equal to 0".into());
            Duration::ZERO
        }
        Some(Some(duration)) => duration,
    };
    let variable = |one: &Variable| {
        (one.name.clone().unwrap_or_default(), one.value.clone().unwrap_or_default())
    };
    let env: Vec<_> = provider.env.iter().flatten().map(variable).collect();
    for (name, _) in env.iter().filter(|(name, _)| name.is_empty() || name.contains(['=', '\0'])) {
        wrong("env", format!("{name:?} is no name of a variable"));
    }
    Some(CredentialProvider {
        name,
        program,
        api_version,
        match_images,
        default_cache,
        args: provider.args.clone().unwrap_or_default(),
        env,
    })
}

fn is_program(path: &Path) -> bool {
    let executable = |meta: &fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o111 != 0;
    fs::metadata(path).is_ok_and(|meta| executable(&meta))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n\
        providers:\n- name: ecr\n  matchImages: ['*.h.io']\n  defaultCacheDuration: 10m\n  \
        apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [get, --v]\n  env: [{name: A, \
        value: b}]\n";

    /// A directory with a program and this as its one file.
    fn read(text: &str) -> (Vec<CredentialProvider>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ecr"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.path().join("ecr"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("config.yaml"), text).unwrap();
        all(Some(dir.path().join("config.yaml")), Some(dir.path().to_owned()))
    }

    fn all(
        config: Option<PathBuf>,
        programs: Option<PathBuf>,
    ) -> (Vec<CredentialProvider>, Vec<String>) {
        let mut findings = Findings::new(None);
        let found = providers(config, programs, &mut findings);
        let errors = findings.into_result(()).err().map_or(String::new(), |e| e.to_string());
        (found, errors.lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_provider_is_read() {
        let (found, errors) = read(GOOD);
        assert_eq!(errors, [""; 0]);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert!(one.program.ends_with("ecr"));
        assert_eq!(one.match_images, ["*.h.io"]);
        assert_eq!(one.default_cache, Duration::from_secs(600));
        assert_eq!(one.args, ["get", "--v"]);
        assert_eq!(one.env, [("A".to_owned(), "b".to_owned())]);
        let older = GOOD.replace("config.k8s.io/v1\n", "config.k8s.io/v1beta1\n");
        assert_eq!(read(&older).1, [""; 0]);
        assert_eq!(all(None, None), (vec![], vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, text) in [
            ("name: ecr", "name: a/b", "provider name cannot contain '/'"),
            ("name: ecr", "name: none", "plugin binary executable"),
            ("['*.h.io']", "[]", "at least 1 item in matchImages is required"),
            ("10m", "-1s", "defaultCacheDuration: must be greater than or equal to 0"),
            ("  defaultCacheDuration: 10m\n", "", "defaultCacheDuration: missing"),
            ("provider.kubelet.k8s.io/v1\n", "provider.kubelet.k8s.io/v2\n", "apiVersion"),
            ("matchImages", "matchImage", "unknown field"),
            (
                "args:",
                "tokenAttributes: {serviceAccountTokenAudience: x, cacheType: Token, \
                 requireServiceAccount: true}\n  args:",
                "providers[0].tokenAttributes: service account tokens for credential providers are a \
                 later step",
            ),
            (
                "- name: ecr",
                "- name: ecr\n  matchImages: [b.io]\n  defaultCacheDuration: 0s\n  \
                 apiVersion: credentialprovider.kubelet.k8s.io/v1\n- name: ecr",
                "duplicate provider name",
            ),
        ] {
            let (_, errors) = read(&GOOD.replacen(from, to, 1));
            assert!(errors.iter().any(|error| error.contains(text)), "{to}: {errors:?}");
            assert!(errors.iter().all(|error| error.starts_with(CONFIG)), "{errors:?}");
        }
        let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";
        assert!(read(head).1[0].contains("at least 1 item in plugins is required"));
        let nowhere = || Some(PathBuf::from("/nowhere"));
        assert!(all(nowhere(), None).1[0].starts_with(PROGRAMS));
        assert!(all(None, nowhere()).1[0].starts_with(CONFIG));
        assert_eq!(all(nowhere(), nowhere()).1.len(), 2);
        let empty = tempfile::tempdir().unwrap();
        let dir = || Some(empty.path().to_owned());
        assert!(all(dir(), dir()).1[0].contains("no configuration files found in directory"));
    }
}
