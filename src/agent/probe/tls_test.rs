use std::sync::Arc;

use copepod_pod::ProbeOutcome;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::ring, version};
use serde_json::json;

use super::go_alert;
use crate::probe::test_server::{Server, answer, probe};

/// A certificate of version 1, which no library makes any more:
/// `openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out key`,
/// `openssl req -new -key key -subj /CN=old | openssl x509 -req -signkey key -days 36500`.
const OLD: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgT8wfYTpYHlEJJuk9
c0PokbVhsp5v3jl+BA9KF4k09UChRANCAAQgMucS7owAsF28/vb7kMwktc520uVR
3GAs4SSwE5LNtPlEHIIi4DXlDJMTpylM6lkC4ZZHG9/NyHdoryKZWDXX
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBGTCBvwIURmEBKdTblCk5/5rw1QrRmyNUxaYwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyNjA1NTkxNVoYDzIxMjYxMTAyMDU1OTE1WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQgMucS7owAsF28
/vb7kMwktc520uVR3GAs4SSwE5LNtPlEHIIi4DXlDJMTpylM6lkC4ZZHG9/NyHdo
ryKZWDXXMAoGCCqGSM49BAMCA0kAMEYCIQDj2HkwbmMeRA4QO1hYB12UFQqpBxpK
qUL38tJhmJo/mQIhAIWiWxaSYMo+HFE+z2uksUBmQc1a/5UYIReTL8l1T/P8
-----END CERTIFICATE-----
";

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

async fn get(server: &Server) -> ProbeOutcome {
    let action = json!({"port": server.address.port(), "scheme": "HTTPS"});
    probe(json!({"httpGet": action, "timeoutSeconds": 60})).await
}

/// A server's own, which needs no other's eyes.
fn old() -> Arc<SingleCertAndKey> {
    let key = PrivateKeyDer::from_pem_slice(OLD.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(OLD.as_bytes()).unwrap()];
    let key = ring::sign::any_supported_type(&key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

fn of(
    version: &'static SupportedProtocolVersion,
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    builder.with_protocol_versions(&[version]).unwrap()
}

#[tokio::test]
async fn any_certificate_will_do() {
    for version in VERSIONS {
        let config = of(version).with_no_client_auth().with_cert_resolver(old());
        let server = Server::tls_as(vec![answer("200 OK", &[], "")], config).await;
        assert_eq!(get(&server).await, ProbeOutcome::Success, "{version:?}");
    }
}

#[tokio::test]
async fn what_a_server_says_against_tls_is_told_in_gos_words() {
    for version in VERSIONS {
        let made = rcgen::generate_simple_self_signed(vec!["nobody".into()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let clients = clients.build().unwrap();
        let config = of(version).with_client_cert_verifier(clients).with_cert_resolver(old());
        let server = Server::tls_as(vec![answer("200 OK", &[], "")], config).await;
        let text =
            format!("Get \"https://{}\": remote error: tls: certificate required", server.address);
        assert_eq!(get(&server).await, ProbeOutcome::Failure(text), "{version:?}");
    }
    for (number, text) in [
        (40, "handshake failure"),
        (42, "bad certificate"),
        (70, "protocol version not supported"),
        (120, "no application protocol"),
        (99, "alert(99)"),
    ] {
        assert_eq!(go_alert(number), text);
    }
}
