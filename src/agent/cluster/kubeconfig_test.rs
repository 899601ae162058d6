use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::cluster::test_server::{Authority, NODE, Pair, kubeconfig};
use crate::telemetry::chain;

const ADDRESS: &str = "10.0.0.1:6443";

struct Case {
    dir: tempfile::TempDir,
    authority: Authority,
    node: Pair,
    config: Value,
}

impl Case {
    fn new() -> Self {
        let authority = Authority::new();
        let node = authority.node();
        let config = kubeconfig(ADDRESS, &authority.pem(), &node);
        Self { dir: tempfile::tempdir().unwrap(), authority, node, config }
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn cluster(&mut self) -> &mut Value {
        &mut self.config["clusters"][0]["cluster"]
    }

    fn user(&mut self) -> &mut Value {
        &mut self.config["users"][0]["user"]
    }

    fn read(&self) -> Result<Kubeconfig, KubeconfigError> {
        self.file("kubeconfig", &self.config.to_string());
        let path = self.dir.path().join("kubeconfig");
        Kubeconfig::read(&path, NODE, "2026-11-25T12:00:00Z".parse().unwrap())
    }

    /// The error, without the directory.
    fn error(&self) -> String {
        let error = chain(&self.read().expect_err("a bad kubeconfig"));
        error.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn a_good_one_gives_address_and_identity() {
    let mut case = Case::new();
    let read = case.read().unwrap();
    assert_eq!((read.host.as_str(), read.port, read.prefix.as_str()), ("10.0.0.1", 6443, ""));
    assert_eq!(read.expires, Some("2099-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(read.tls.alpn_protocols, [b"h2"]);
    assert!(read.tls.client_auth_cert_resolver.has_certs());
    case.cluster()["server"] = json!("https://[fd00::1]/k8s/");
    case.cluster()["tls-server-name"] = json!("kubernetes");
    let read = case.read().unwrap();
    assert_eq!((read.host.as_str(), read.port, read.prefix.as_str()), ("fd00::1", 443, "/k8s"));
    assert_eq!(read.server_name, ServerName::try_from("kubernetes").unwrap());
}

#[test]
fn files_lie_beside_the_kubeconfig() {
    let mut case = Case::new();
    case.file("ca.crt", &case.authority.pem());
    // As the kubelet's own rotation writes it: both in one.
    case.file("node.pem", &format!("{}{}", case.node.certificate, case.node.key));
    *case.cluster() = json!({"server": "https://10.0.0.1:6443", "certificate-authority": "ca.crt"});
    *case.user() = json!({"client-certificate": "node.pem", "client-key": "./node.pem"});
    case.read().unwrap();
    *case.user() = json!({"client-certificate": "none.pem", "client-key": "node.pem"});
    assert_eq!(
        case.error(),
        "kubeconfig kubeconfig: users[u].user.client-certificate: cannot read none.pem: \
         No such file or directory (os error 2)"
    );
    case.file("none.pem", &"x".repeat(2 << 20));
    assert_eq!(case.error(), "none.pem is larger than 1048576 bytes");
}

#[test]
fn the_certificate_must_be_this_nodes_and_good_now() {
    let mut case = Case::new();
    let at = "kubeconfig kubeconfig: users[u].user.client-certificate-data";
    let clock = "and this host's clock says 2026-11-25T12:00:00Z";
    let ours = "expected \"CN=system:node:edge-1, O=system:nodes\"";
    let (name, nodes) = ("system:node:edge-1", "system:nodes");
    for (name, group, years, text) in [
        (
            "system:node:edge-2",
            nodes,
            [2020, 2099],
            format!("the certificate is of \"O=system:nodes, CN=system:node:edge-2\", {ours}"),
        ),
        (
            name,
            "system:masters",
            [2020, 2099],
            format!("the certificate is of \"O=system:masters, CN=system:node:edge-1\", {ours}"),
        ),
        (
            name,
            nodes,
            [2020, 2025],
            format!("the certificate ended at 2025-01-01T00:00:00Z, {clock}"),
        ),
        (
            name,
            nodes,
            [2030, 2035],
            format!("the certificate begins at 2030-01-01T00:00:00Z, {clock}"),
        ),
    ] {
        let pair = case.authority.client(name, group, years);
        case.config = kubeconfig(ADDRESS, &case.authority.pem(), &pair);
        assert_eq!(case.error(), format!("{at}: {text}"));
    }
}

#[test]
fn a_key_must_be_the_certificates() {
    let mut case = Case::new();
    let other = case.authority.node();
    case.node.key = other.key;
    case.config = kubeconfig(ADDRESS, &case.authority.pem(), &case.node);
    let at = "kubeconfig kubeconfig: users[u].user.client-key-data";
    assert_eq!(case.error(), format!("{at}: the key is not that of the client certificate"));
    case.node.key = "no key".into();
    case.config = kubeconfig(ADDRESS, &case.authority.pem(), &case.node);
    let error = case.error();
    assert!(error.starts_with(&format!("{at}: no key in it (")), "{error}");
    case.user().as_object_mut().unwrap().remove("client-key-data");
    let at = "kubeconfig kubeconfig: users[u].user.client-key";
    assert_eq!(case.error(), format!("{at}: missing, expected the certificate's key"));
}

#[test]
fn a_certificate_authority_must_be_one() {
    let mut case = Case::new();
    let at = "kubeconfig kubeconfig: clusters[c].cluster.certificate-authority";
    case.cluster()["certificate-authority-data"] = json!("bm8gY2VydGlmaWNhdGU=");
    assert_eq!(
        case.error(),
        format!("{at}-data: no certificate in it, expected PEM with a CERTIFICATE")
    );
    case.cluster()["certificate-authority-data"] = json!("%");
    let error = case.error();
    assert!(error.starts_with(&format!("{at}-data: Invalid symbol")), "{error}");
    case.file("ca.crt", "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n");
    *case.cluster() = json!({"server": "https://h", "certificate-authority": "ca.crt"});
    let error = case.error();
    assert!(error.starts_with(&format!("{at} (ca.crt): ")), "{error}");
    assert!(error.ends_with(", expected certificates of a CA"), "{error}");
    *case.cluster() = json!({"server": "https://h"});
    let error = case.error();
    assert!(error.starts_with(&format!("{at}: missing, expected a CA")), "{error}");
    case.cluster()["insecure-skip-tls-verify"] = json!(true);
    case.read().unwrap();
}

#[test]
fn what_needs_another_program_or_makes_us_another_user_is_refused_by_name() {
    for (field, value) in [
        ("exec", json!({"command": "aws", "apiVersion": "client.authentication.k8s.io/v1"})),
        ("auth-provider", json!({"name": "oidc"})),
        ("username", json!("admin")),
        ("as", json!("system:admin")),
    ] {
        let mut case = Case::new();
        case.user()[field] = value;
        let error = case.error();
        let start = format!("kubeconfig kubeconfig: users[u].user.{field}: not supported");
        assert!(error.starts_with(&start), "{error}");
    }
    let mut case = Case::new();
    case.cluster()["proxy-url"] = json!("http://proxy");
    assert!(case.error().contains("clusters[c].cluster.proxy-url: not supported"));
}

#[test]
fn an_address_is_https_with_a_host() {
    for server in ["http://10.0.0.1", "10.0.0.1:6443", "https://", "https://u@h", "https://h?q=1"] {
        let mut case = Case::new();
        case.cluster()["server"] = json!(server);
        let at = "kubeconfig kubeconfig: clusters[c].cluster.server";
        let expected = "expected an address like https://10.0.0.1:6443";
        assert_eq!(case.error(), format!("{at}: {server:?}, {expected}"));
    }
}

#[test]
fn names_must_lead_somewhere() {
    let mut case = Case::new();
    case.config["current-context"] = json!("y");
    let expected = "kubeconfig kubeconfig: current-context: \"y\", \
                    expected a context that `contexts` has by that name";
    assert_eq!(case.error(), expected);
    let mut case = Case::new();
    case.config["contexts"][0]["context"]["user"] = json!("v");
    let at = "kubeconfig kubeconfig: contexts[x].context.user";
    assert_eq!(case.error(), format!("{at}: \"v\", expected a user that `users` has"));
    let mut case = Case::new();
    *case.user() = json!({});
    assert!(case.error().starts_with("kubeconfig kubeconfig: users[u].user: missing, expected"));
}

#[test]
fn what_is_no_kubeconfig_is_told_in_one_line_without_its_text() {
    let case = Case::new();
    let path = case.dir.path().join("kubeconfig");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        chain(&Kubeconfig::read(&path, NODE, Timestamp::now()).unwrap_err())
    };
    let error = read("users: [{name: u, user: {client-key-data: [secret]}}]\n");
    assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
    let error = read(&" ".repeat(2 << 20));
    assert!(error.ends_with("is larger than 1048576 bytes"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = chain(&Kubeconfig::read(&path, NODE, Timestamp::now()).unwrap_err());
    assert!(error.starts_with("cannot read kubeconfig /"), "{error}");
}

#[tokio::test]
async fn a_token_goes_along_and_its_file_is_read_again_after_a_minute() {
    let mut case = Case::new();
    case.file("token", "one\n");
    *case.user() = json!({"tokenFile": "token"});
    let bearer = case.read().unwrap().bearer;
    let a_minute_later = || {
        let Bearer::File { last, .. } = &*bearer else { panic!("no file") };
        let mut last = last.lock().unwrap();
        last.1 = last.1.checked_sub(std::time::Duration::from_secs(61)).unwrap();
    };
    let header = async || bearer.header().await.unwrap().to_str().unwrap().to_owned();
    assert_eq!(header().await, "Bearer one");
    case.file("token", "two\n");
    assert_eq!(header().await, "Bearer one");
    a_minute_later();
    assert_eq!(header().await, "Bearer two");
    case.file("token", "");
    a_minute_later();
    assert_eq!(header().await, "Bearer two");
    *case.user() = json!({"token": "fixed", "tokenFile": "token"});
    let bearer = case.read().unwrap().bearer;
    assert_eq!(bearer.header().await.unwrap(), "Bearer fixed");
    *case.user() = json!({"tokenFile": "token"});
    let at = "kubeconfig kubeconfig: users[u].user.tokenFile (token)";
    assert_eq!(case.error(), format!("{at}: no token, expected a token in one line"));
}
