//! Client certificates: whose they are, if an authority of ours has signed them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use x509_parser::oid_registry::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::tls::{TlsError, Watched, read_pem};
use super::User;

/// Upstream's name of a certificate among what is known of a user (`user.CredentialIDKey`).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Upstream's attribute of a subject that is the user's uid (apiserver's `asn1util.X509UID`).
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// The authorities whose client certificates are taken; read again when their file changes.
pub(super) struct ClientCa(Watched<Arc<dyn ClientCertVerifier>>);

impl ClientCa {
    /// Reads the authorities from a PEM file.
    ///
    /// # Errors
    /// A file that cannot be read or has no authority in it.
    pub(super) fn read(path: PathBuf) -> Result<Self, TlsError> {
        Ok(Self(Watched::new(vec![path], |paths| authorities(&paths[0]))?))
    }

    /// Who has shown these certificates, the own one first: common name and organizations of its
    /// subject. `None`: nobody has shown any, or its subject has no common name.
    ///
    /// # Errors
    /// Why they are not taken.
    pub(super) fn user(
        &self,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Option<User>, String> {
        let Some((own, others)) = certificates.split_first() else { return Ok(None) };
        let authorities = self.0.get();
        let verified = authorities.verify_client_cert(own, others, UnixTime::now());
        verified.map_err(|e| e.to_string())?;
        user(own)
    }
}

fn authorities(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |why: String| TlsError::Unusable { path: path.into(), why };
    let pem = read_pem(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| unusable(e.to_string()))?;
        roots.add(certificate).map_err(|e| unusable(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|e| unusable(e.to_string()))
}

/// Whose certificate it is (upstream's `CommonNameUserConversion`).
fn user(certificate: &CertificateDer<'_>) -> Result<Option<User>, String> {
    let (_, read) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
    let texts = |of: &Oid<'_>| {
        let attributes = read.subject().iter_by_oid(of);
        let texts = attributes.map(|a| a.as_str().map(String::from).map_err(|e| e.to_string()));
        texts.collect::<Result<Vec<String>, String>>()
    };
    let names = texts(&x509_parser::oid_registry::OID_X509_COMMON_NAME)?;
    let Some(name) = names.last().filter(|name| !name.is_empty()).cloned() else {
        return Ok(None);
    };
    let uid = match texts(&UID)?.as_slice() {
        [] => String::new(),
        [uid] if uid.is_empty() => return Err("UID cannot be an empty string".into()),
        [uid] => uid.clone(),
        several => return Err(format!("expected 1 UID, but found multiple: {several:?}")),
    };
    let mut id = String::from("X509SHA256=");
    for byte in Sha256::digest(certificate) {
        let _ = write!(id, "{byte:02x}");
    }
    let groups = texts(&x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME)?;
    Ok(Some(User { name, uid, groups, extra: BTreeMap::from([(CREDENTIAL_ID.into(), vec![id])]) }))
}
