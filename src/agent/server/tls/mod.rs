//! TLS of a node's server: its certificate, from files or made by itself, and what is offered.
//!
//! A client's certificate is asked for and not required; that its owner has shown it is checked
//! here, whose it is and whether that counts is `auth`'s, at each request. Files are looked at with
//! each connection and read again when they have changed. Starts no task.

mod self_signed;
mod watched;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

pub(super) use self::watched::Watched;

/// Bytes of a file of certificates: more than any bundle of a cluster has.
const PEM_MAX: u64 = 1 << 20;
/// What is spoken over TLS, the better one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How a node's server speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    /// Its certificate.
    pub(crate) certificate: ServingCertificate,
    /// The oldest version that is spoken (`tlsMinVersion`).
    pub(crate) min_version: TlsVersion,
    /// The cipher suites of TLS 1.2, by their IANA names (`tlsCipherSuites`); empty: all. Those of
    /// TLS 1.3 cannot be chosen, as upstream.
    pub(crate) cipher_suites: Vec<String>,
}

/// A version of TLS. Older ones are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// 1.2
    V12,
    /// 1.3
    V13,
}

/// Where the server's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServingCertificate {
    /// From two PEM files, which may be one and the same (`tlsCertFile`, `tlsPrivateKeyFile`).
    Files {
        /// The certificate and those between it and its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made by ourselves as `kubelet.crt` and `kubelet.key` in `dir`, unless they are there.
    SelfSigned {
        /// The directory (`--cert-dir`).
        dir: PathBuf,
        /// The host's name.
        host: String,
        /// The node's addresses.
        addresses: Vec<IpAddr>,
    },
}

/// Why TLS cannot be spoken.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {why}", .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate without its key (upstream's rule: they come as a pair).
    #[error("{} is there without its key {}", .certificate.display(), .key.display())]
    NoKey {
        /// The certificate.
        certificate: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate for {host:?}")]
    Make {
        /// For whom.
        host: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// None of the cipher suites that are asked for is known.
    #[error("none of the cipher suites is supported: {0}")]
    CipherSuites(String),
    /// The options exclude each other.
    #[error("the options of TLS fit no configuration")]
    Options(#[source] rustls::Error),
}

/// Accepts TLS connections as the options say.
///
/// # Errors
/// [`TlsError`]: a certificate that cannot be had, options that nothing fits.
pub(super) fn acceptor(options: &TlsOptions, with_clients: bool) -> Result<TlsAcceptor, TlsError> {
    let (certificate, key) = match &options.certificate {
        ServingCertificate::Files { certificate, key } => (certificate.clone(), key.clone()),
        ServingCertificate::SelfSigned { dir, host, addresses } => {
            self_signed::ensure(dir, host, addresses)?
        }
    };
    let provider = Arc::new(provider(&options.cipher_suites)?);
    let certificate =
        Watched::new(vec![certificate, key], |paths| certified(&paths[0], &paths[1]))?;
    const ALL: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    let versions = match options.min_version {
        TlsVersion::V12 => ALL,
        TlsVersion::V13 => &ALL[..1],
    };
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Options)?;
    let config = if with_clients {
        config.with_client_cert_verifier(Arc::new(AnyClient(provider)))
    } else {
        config.with_no_client_auth()
    };
    let mut config = config.with_cert_resolver(Arc::new(Serving(certificate)));
    config.alpn_protocols = ALPN.map(Vec::from).into();
    // Nothing is kept of a connection that has ended: clients come rarely, and stay.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn provider(suites: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    if suites.is_empty() {
        return Ok(provider);
    }
    let wanted = |name: &str| suites.iter().any(|suite| suite == name);
    let of_12 = |suite: &rustls::SupportedCipherSuite| suite.version() == &TLS12;
    let named = |suite: &rustls::SupportedCipherSuite| suite.suite().as_str().is_some_and(wanted);
    if !provider.cipher_suites.iter().any(named) {
        return Err(TlsError::CipherSuites(suites.join(", ")));
    }
    provider.cipher_suites.retain(|suite| !of_12(suite) || named(suite));
    Ok(provider)
}

/// Reads a file of certificates or keys as a whole.
///
/// # Errors
/// That of reading; a file of more than [`PEM_MAX`] bytes.
pub(super) fn read_pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(PEM_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| TlsError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > PEM_MAX {
        let why = format!("it is larger than {PEM_MAX} bytes");
        return Err(TlsError::Unusable { path: path.into(), why });
    }
    Ok(bytes)
}

/// A certificate with its chain and the key that belongs to it.
fn certified(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let unusable = |path: &Path, why: String| TlsError::Unusable { path: path.into(), why };
    let pem = read_pem(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| unusable(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(certificate, "it holds no certificate".into()));
    }
    let pem = read_pem(key)?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| unusable(key, e.to_string()))?;
    // Whether the two belong together is checked as well.
    let both = CertifiedKey::from_der(chain, der, &ring::default_provider());
    Ok(Arc::new(both.map_err(|e| unusable(key, e.to_string()))?))
}

/// The server's certificate as it is on disk now.
struct Serving(Watched<Arc<CertifiedKey>>);

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

/// Asks for a client's certificate and takes any: one of another authority is a request without
/// credentials, which is answered, and not a connection that breaks (Go's `RequestClientCert`).
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
