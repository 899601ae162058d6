//! Certificates: whom we trust, who we are.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::file::{Cluster, User};
use super::{KubeconfigError, Place, Reader};

/// What a node's user name begins with (upstream: `pkg/auth/nodeidentifier`).
const USER_PREFIX: &str = "system:node:";
/// The group of all nodes.
const GROUP: &str = "system:nodes";
/// What a field of certificates should hold.
const CERTIFICATES: &str = "PEM with a CERTIFICATE";
/// What a field of a key should hold.
const KEY: &str = "PEM with an unencrypted PRIVATE KEY";

impl Reader<'_> {
    /// The TLS side, and when the client certificate ends.
    pub(super) fn tls(
        &self,
        cluster: &Cluster,
        cluster_at: &str,
        user: &User,
        user_at: &str,
    ) -> Result<(ClientConfig, Option<Timestamp>), KubeconfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let versions = builder.with_safe_default_protocol_versions();
        let builder = versions.map_err(|e| {
            self.at("tls").wrong(&e.to_string(), "a version of TLS that this program speaks")
        })?;
        let roots = self.roots(cluster, cluster_at)?;
        let builder = match roots {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(Arc::clone(&provider)))),
        };
        match self.identity(user, user_at, &provider)? {
            Some((key, expires)) => {
                let resolver = Arc::new(SingleCertAndKey::from(key));
                Ok((builder.with_client_cert_resolver(resolver), Some(expires)))
            }
            None => Ok((builder.with_no_client_auth(), None)),
        }
    }

    /// The certificate authorities; none if the server is not verified, as the file wants it.
    fn roots(&self, cluster: &Cluster, at: &str) -> Result<Option<RootCertStore>, KubeconfigError> {
        let data = cluster.certificate_authority_data.as_deref();
        let file = cluster.certificate_authority.as_deref();
        let content = self.content(at, "certificate-authority", data, file)?;
        let is_unverified = cluster.insecure_skip_tls_verify == Some(true);
        let (place, pem) = match (content, is_unverified) {
            (Some(content), false) => content,
            (None, true) => return Ok(None),
            (Some((place, _)), true) => {
                let found = "given beside insecure-skip-tls-verify";
                return Err(place.wrong(found, "one of them"));
            }
            (None, false) => {
                let expected = "a CA (certificate-authority or certificate-authority-data)";
                return Err(self.place(at, "certificate-authority").missing(expected));
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&place, &pem)? {
            let added = roots.add(certificate);
            added.map_err(|e| place.wrong(&e.to_string(), "certificates of a CA"))?;
        }
        Ok(Some(roots))
    }

    /// Our certificate and key, once they are known to be ours and good now.
    fn identity(
        &self,
        user: &User,
        at: &str,
        provider: &CryptoProvider,
    ) -> Result<Option<(CertifiedKey, Timestamp)>, KubeconfigError> {
        let data = user.client_certificate_data.as_deref();
        let file = user.client_certificate.as_deref();
        let certificate = self.content(at, "client-certificate", data, file)?;
        let data = user.client_key_data.as_deref();
        let key = self.content(at, "client-key", data, user.client_key.as_deref())?;
        let ((place, pem), (key_place, key)) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(self.place(at, "client-key").missing("the certificate's key"));
            }
            (None, Some(_)) => {
                let place = self.place(at, "client-certificate");
                return Err(place.missing("the key's certificate"));
            }
        };
        let chain = certificates(&place, &pem)?;
        let expires = self.check(&place, &chain)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|e| key_place.wrong(&format!("no key in it ({e})"), KEY))?;
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(key) => Ok(Some((key, expires))),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(KubeconfigError::OtherKey { place: key_place })
            }
            Err(error) => Err(key_place.wrong(&error.to_string(), "a key that TLS can use")),
        }
    }

    /// Whether the first certificate is our node's and good now; gives when it ends.
    fn check(
        &self,
        place: &Place,
        chain: &[CertificateDer<'static>],
    ) -> Result<Timestamp, KubeconfigError> {
        let first = chain.first().ok_or_else(|| place.missing(CERTIFICATES))?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|e| place.wrong(&e.to_string(), CERTIFICATES))?;
        let subject = parsed.subject();
        let names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
        let is_ours = |name: &str| name.strip_prefix(USER_PREFIX) == Some(self.node);
        if !names.last().is_some_and(is_ours) || !groups.into_iter().any(|name| name == GROUP) {
            let (found, node) = (subject.to_string(), self.node.to_owned());
            return Err(KubeconfigError::OtherNode { place: place.clone(), found, node });
        }
        let (begin, end) = (&parsed.validity().not_before, &parsed.validity().not_after);
        let (begin, end) = (timestamp(begin), timestamp(end));
        let (place, now) = (place.clone(), self.now);
        if now < begin {
            Err(KubeconfigError::NotYet { place, begin, now })
        } else if now > end {
            Err(KubeconfigError::Expired { place, end, now })
        } else {
            Ok(end)
        }
    }
}

/// A moment that jiff cannot say lies so far away that its end of the scale does as well.
fn timestamp(time: &ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    let far = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(far)
}

fn certificates(
    place: &Place,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, KubeconfigError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let parsed = parsed.map_err(|e| place.wrong(&format!("not PEM ({e})"), CERTIFICATES))?;
    match parsed.is_empty() {
        true => Err(place.wrong("no certificate in it", CERTIFICATES)),
        false => Ok(parsed),
    }
}

/// `insecure-skip-tls-verify`: any certificate will do, though its owner must hold its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
