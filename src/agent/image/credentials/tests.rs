//! Which credentials are tried for an image, from where, in which order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn repository(host: &str, name: &str) -> Repository {
    Repository { host: host.into(), name: name.into() }
}

fn auth(name: &str) -> String {
    STANDARD.encode(format!("{name}:p:w"))
}

fn secret(name: &str, kind: &str, key: &str, content: &str) -> Arc<Secret> {
    let mut secret = Secret { type_: Some(kind.into()), ..Secret::default() };
    secret.metadata.namespace = Some("ns".into());
    secret.metadata.name = Some(name.into());
    secret.data = Some([(key.to_owned(), ByteString(content.into()))].into());
    Arc::new(secret)
}

fn json_secret(name: &str, content: &serde_json::Value) -> Arc<Secret> {
    let kind = "kubernetes.io/dockerconfigjson";
    secret(name, kind, ".dockerconfigjson", &content.to_string())
}

/// The names of users that are tried.
fn users(found: &[Candidate]) -> Vec<&str> {
    found
        .iter()
        .map(|candidate| match &candidate.credentials {
            Credentials::Basic { username, .. } => username.as_str(),
            Credentials::Identity(token) => token.as_str(),
        })
        .collect()
}

async fn in_file(json: &str, host: &str, name: &str) -> Result<Vec<Candidate>, CredentialsError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    fs::write(&file, json).unwrap();
    let files = NodeFiles::User(vec![dir.path().join("none.json"), file]);
    files.find(&repository(host, name)).await
}

#[tokio::test]
async fn all_that_fit_are_tried_the_longest_path_first() {
    let json = format!(
        r#"{{"auths": {{"h.io": {{"auth": "{}"}}, "h.io/a/b": {{"auth": "{}"}},
           "h.io:5000": {{"username": "port", "password": "p:w"}},
           "*.wild.io": {{"auth": "{}"}}, "x.wild.io": {{"auth": "{}"}},
           "https://index.docker.io/v1/": {{"auth": "{}"}},
           "t.io": {{"identitytoken": "tok"}}, "empty.io": {{}}}}, "HttpHeaders": {{}}}}"#,
        auth("host"),
        auth("path"),
        auth("wild"),
        auth("exact"),
        auth("hub").trim_end_matches('='),
    );
    for (host, name, expected) in [
        ("h.io", "x", &["host"][..]),
        ("h.io", "a/b", &["path", "host"]),
        ("h.io", "a/b/c", &["path", "host"]),
        ("h.io", "a/c", &["host"]),
        ("h.io:5000", "a/b", &["port"]),
        ("x.wild.io", "a", &["exact", "wild"]),
        ("x.y.wild.io", "a", &[]),
        ("docker.io", "library/x", &["hub"]),
        ("other.io", "x", &[]),
        ("empty.io", "x", &[]),
        ("evil-h.io", "x", &[]),
        ("t.io", "x", &["tok"]),
    ] {
        let found = in_file(&json, host, name).await.unwrap();
        assert_eq!(users(&found), expected, "{host}/{name}");
    }
}

#[tokio::test]
async fn bad_files_are_named_without_their_secrets() {
    for (json, text) in [
        ("{\"auths\": \"secret\"}", "line 1: not that JSON, expected docker's config.json"),
        (r#"{"auths":{"h.io":{"auth":"secret"}}}"#, "the auth of h.io is not base64"),
        (r#"{"credsStore":"../../bin/secret sh"}"#, "not the name of a helper"),
        (r#"{"credHelpers":{"h.io":"no-such-helper"}}"#, "No such file"),
    ] {
        let error = in_file(json, "h.io", "x").await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    let none = Path::new("/nowhere/config.json");
    let of = repository("h.io", "x");
    assert!(NodeFiles::Named(none.into()).find(&of).await.is_err());
    assert_eq!(NodeFiles::User(vec![none.into()]).find(&of).await.unwrap(), []);
}

#[tokio::test]
async fn the_first_file_of_a_node_that_can_be_read_counts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("bad.json"), "{").unwrap();
    fs::write(at("other.json"), format!(r#"{{"auths":{{"o.io":{{"auth":"{}"}}}}}}"#, auth("o")))
        .unwrap();
    fs::write(at(".dockercfg"), format!(r#"{{"h.io":{{"auth":"{}"}}}}"#, auth("old"))).unwrap();
    let of = repository("h.io", "x");
    let files = NodeFiles::Node(vec![at("none"), at("bad.json"), at(".dockercfg")]);
    assert_eq!(users(&files.find(&of).await.unwrap()), ["old"]);
    let files = NodeFiles::Node(vec![at("other.json"), at(".dockercfg")]);
    assert_eq!(users(&files.find(&of).await.unwrap()), [""; 0]);
    let node = NodeFiles::of_node(Path::new("/data"));
    assert_eq!(node.paths()[0], Path::new("/data/config.json"));
    assert!(node.paths().contains(&"/data/.dockercfg".into()));
}

#[tokio::test]
async fn a_pods_secrets_come_first_and_each_is_tried_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let node = json!({"auths": {"h.io": {"auth": auth("node")}, "h.io/a": {"auth": auth("one")}}});
    fs::write(&file, node.to_string()).unwrap();
    let keyring = Keyring::new(NodeFiles::Node(vec![file.clone()]), Vec::new());
    let secrets = PullSecrets::new(vec![
        json_secret("first", &json!({"auths": {"h.io": {"auth": auth("one")}}})),
        json_secret("second", &json!({"auths": {"h.io/a": {"auth": auth("two")}}})),
        secret(
            "old",
            "kubernetes.io/dockercfg",
            ".dockercfg",
            r#"{"h.io":{"username":"three","password":"p:w"}}"#,
        ),
        secret("opaque", "Opaque", ".dockerconfigjson", "{"),
        secret("wrong-key", "kubernetes.io/dockerconfigjson", ".dockercfg", "{"),
    ])
    .unwrap();
    let found = keyring.candidates(&repository("h.io", "a/b"), Some(&secrets)).await.unwrap();
    assert_eq!(users(&found.all), ["two", "one", "three", "node"]);
    assert_eq!(found.all[0].from, "secret ns/second");
    let looked = format!("the pod's imagePullSecrets or {}", file.display());
    assert_eq!(found.looked, looked);
    assert_eq!(format!("{secrets:?}"), r#"["ns/first", "ns/second", "ns/old"]"#);
    assert!(PullSecrets::new(vec![secret("opaque", "Opaque", "x", "y")]).is_none());
}

#[tokio::test]
async fn a_secret_that_is_none_is_named_without_what_it_holds() {
    let keyring = Keyring::new(NodeFiles::Node(Vec::new()), Vec::new());
    let kind = "kubernetes.io/dockerconfigjson";
    let secrets = PullSecrets::new(vec![secret("bad", kind, ".dockerconfigjson", "pass")]).unwrap();
    let error = keyring.candidates(&repository("h.io", "x"), Some(&secrets)).await.unwrap_err();
    let text = "image pull secret ns/bad: .dockerconfigjson: line 1: not that JSON";
    assert_eq!(error.to_string(), text);
}

#[test]
fn secrets_with_the_same_content_are_the_same() {
    let of = |name: &str, user: &str| {
        let content = json!({"auths": {"h.io": {"auth": auth(user)}}});
        PullSecrets::new(vec![json_secret(name, &content)]).unwrap().id().clone()
    };
    assert_eq!(of("a", "x"), of("b", "x"));
    assert_ne!(of("a", "x"), of("a", "y"));
}

/// A plugin that is this script, in a directory where it leaves its traces.
struct Scripted {
    dir: TempDir,
    plugin: Plugin,
}

impl Scripted {
    fn new(script: &str, default_cache: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("plugin");
        // Written under another name: one that is open for writing cannot be run.
        let text = format!("#!/bin/sh\ncd '{}'\necho run >>runs\n{script}\n", dir.path().display());
        fs::write(dir.path().join("new"), text).unwrap();
        fs::set_permissions(dir.path().join("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(dir.path().join("new"), &program).unwrap();
        let plugin = Plugin::new(PluginOptions {
            name: "p".into(),
            program,
            api_version: "credentialprovider.kubelet.k8s.io/v1".into(),
            match_images: vec!["*.h.io".into(), "h.io:5000/a".into()],
            default_cache,
            args: vec!["--x".into(), "a b".into()],
            env: vec![("WHO".into(), "me".into())],
        });
        Self { dir, plugin }
    }

    /// Answers with these fields beside the kind and version.
    fn answering(fields: &str, default_cache: Duration) -> Self {
        let head = r#""kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1""#;
        Self::new(&format!("cat >request; echo '{{{head},{fields}}}'"), default_cache)
    }

    async fn users(&self, host: &str, name: &str) -> Vec<String> {
        let repository = repository(host, name);
        let found = Places::new(self.plugin.provide(&repository).await).of(&repository);
        users(&found).into_iter().map(str::to_owned).collect()
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.dir.path().join("runs")).map_or(0, |runs| runs.lines().count())
    }
}

const AUTH: &str = r#""auth":{"*.h.io":{"username":"u","password":"p"}}"#;

#[tokio::test]
async fn a_plugin_is_asked_as_upstream_asks() {
    let script = r#"printf '%s|' "$@" "$WHO" >args; cat >request
        echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType":"Image","auth":{"*.h.io":{"username":"u","password":"p"}}}'"#;
    let scripted = Scripted::new(script, Duration::ZERO);
    assert_eq!(scripted.users("x.h.io", "a").await, ["u"]);
    let read = |name: &str| fs::read_to_string(scripted.dir.path().join(name)).unwrap();
    assert_eq!(read("args"), "--x|a b|me|");
    let request = r#"{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"x.h.io/a"}"#;
    assert_eq!(read("request"), format!("{request}\n"));
    assert_eq!(scripted.users("other.io", "a").await, [""; 0]);
    assert_eq!(scripted.runs(), 1, "not asked for what it does not match");
}

#[tokio::test]
async fn an_answer_is_kept_as_it_says() {
    let hour = Duration::from_secs(3600);
    for (key, cache, default, runs) in [
        ("Image", "", hour, 3),
        ("Registry", "", hour, 2),
        ("Global", "", hour, 1),
        ("Global", r#","cacheDuration":"0s""#, hour, 6),
        ("Global", "", Duration::ZERO, 6),
        ("Global", r#","cacheDuration":"5m0s""#, Duration::ZERO, 1),
        ("Global", r#","cacheDuration":"1h30m0.5s""#, Duration::ZERO, 1),
        ("Global", r#","cacheDuration":null"#, hour, 1),
    ] {
        let fields = format!(r#""cacheKeyType":"{key}"{cache},{AUTH}"#);
        let scripted = Scripted::answering(&fields, default);
        for (host, name) in [("x.h.io", "a"), ("x.h.io", "b"), ("y.h.io", "a")] {
            for _ in 0..2 {
                assert_eq!(scripted.users(host, name).await, ["u"]);
            }
        }
        assert_eq!(scripted.runs(), runs, "{key} {cache} {default:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_fails_gives_nothing() {
    for script in [
        "echo 'no luck' >&2; exit 3",
        "echo nonsense",
        "exit 0",
        r#"echo '{"kind":"Other","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image"}'"#,
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","cacheKeyType":"Image"}'"#,
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Other"}'"#,
        "head -c 1100000 /dev/zero | tr '\\0' ' '; echo '{}'",
    ] {
        let scripted = Scripted::new(script, Duration::from_secs(9));
        assert_eq!(scripted.users("x.h.io", "a").await, [""; 0], "{script}");
        scripted.users("x.h.io", "a").await;
        assert_eq!(scripted.runs(), 2, "asked again: {script}");
    }
    let null = Scripted::answering(r#""cacheKeyType":"Image","auth":null"#, Duration::ZERO);
    assert_eq!(null.users("h.io:5000", "a/b").await, [""; 0]);
}
