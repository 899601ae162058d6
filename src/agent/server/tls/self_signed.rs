//! The certificate that a node makes for itself where it is given none: `kubelet.crt` and
//! `kubelet.key`, as upstream has them.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::NamedTempFile;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, certified, read_pem};

/// How long it holds (upstream's year).
const VALID_DAYS: i64 = 365;
/// One that ends sooner is made anew at a start: an agent runs for weeks.
const LEFT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The two files, made where they are not there or no longer fit. One that somebody else has signed
/// is left, whatever it says, as upstream does.
///
/// # Errors
/// [`TlsError`]: a directory or file that cannot be read or written.
pub(super) fn ensure(
    dir: &Path,
    host: &str,
    addresses: &[IpAddr],
) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    match (certificate.exists(), key.exists()) {
        (true, true) if is_good(&certificate, &key, host, addresses)? => {}
        (true, false) => return Err(TlsError::NoKey { certificate, key }),
        // A key alone is what a start that was cut short leaves.
        (true | false, true) | (false, false) => make(&certificate, &key, host, addresses)?,
    }
    Ok((certificate, key))
}

fn is_good(
    certificate: &Path,
    key: &Path,
    host: &str,
    addresses: &[IpAddr],
) -> Result<bool, TlsError> {
    let pem = read_pem(certificate)?;
    let unusable = |why: String| TlsError::Unusable { path: certificate.into(), why };
    let der = CertificateDer::from_pem_slice(&pem).map_err(|e| unusable(e.to_string()))?;
    let (_, read) = X509Certificate::from_der(&der).map_err(|e| unusable(e.to_string()))?;
    if read.issuer() != read.subject() {
        // Not ours. Whether it is any good is seen when it is used.
        return Ok(true);
    }
    let until = read.validity().not_after.timestamp();
    let now = Timestamp::now().as_second();
    let fits = names(&read, host, addresses);
    // A key of another certificate: the write of one of the two was lost.
    Ok(now.saturating_add(LEFT.as_secs()) < until && fits && certified(certificate, key).is_ok())
}

/// Whether the certificate is for this host and all of these addresses.
fn names(read: &X509Certificate<'_>, host: &str, addresses: &[IpAddr]) -> bool {
    let Ok(Some(names)) = read.subject_alternative_name() else { return false };
    let names = &names.value.general_names;
    let has_address = |address: &IpAddr| {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        names.iter().any(|name| matches!(name, GeneralName::IPAddress(ip) if *ip == octets))
    };
    let has_host = match host.parse() {
        Ok(address) => has_address(&address),
        Err(_) => names.iter().any(|name| matches!(name, GeneralName::DNSName(n) if *n == host)),
    };
    has_host && addresses.iter().all(has_address)
}

fn make(certificate: &Path, key: &Path, host: &str, addresses: &[IpAddr]) -> Result<(), TlsError> {
    let (cert_pem, key_pem) =
        generate(host, addresses).map_err(|source| TlsError::Make { host: host.into(), source })?;
    if let Some(dir) = certificate.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(|source| TlsError::Write { path: dir.into(), source })?;
    }
    // The key first: a certificate is never there without its own.
    for (path, pem, mode) in [(key, key_pem, 0o600), (certificate, cert_pem, 0o644)] {
        put(path, pem.as_bytes(), mode)
            .map_err(|source| TlsError::Write { path: path.into(), source })?;
    }
    Ok(())
}

fn generate(host: &str, addresses: &[IpAddr]) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let now = Timestamp::now();
    // A host that is an address becomes one among the names.
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    for address in addresses {
        let name = SanType::IpAddress(*address);
        if !params.subject_alt_names.contains(&name) {
            params.subject_alt_names.push(name);
        }
    }
    params.distinguished_name.push(DnType::CommonName, format!("{host}@{}", now.as_second()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // From yesterday on, for clients whose clock is behind.
    let day = |days: i64| {
        let at = now.checked_add(SignedDuration::from_hours(days * 24)).unwrap_or(now);
        let date = Zoned::new(at, TimeZone::UTC).date();
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = day(-1);
    params.not_after = day(VALID_DAYS);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file whole or not at all; it is never readable by more than `mode` says.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_made_once_and_again_where_it_no_longer_fits() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = dir.path().join("lib/pki");
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let one = addresses(&["10.0.0.1"]);
        let (certificate, key) = ensure(&pki, "node-1", &one).expect("is made");
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o600));
        certified(&certificate, &key).expect("a pair");
        let bytes = || fs::read(&certificate).expect("reads");
        let first = bytes();
        ensure(&pki, "node-1", &one).expect("is there");
        assert_eq!(bytes(), first);

        let two = addresses(&["10.0.0.1", "fd00::1"]);
        ensure(&pki, "node-1", &two).expect("is made");
        let second = bytes();
        assert_ne!(second, first, "an address more");
        ensure(&pki, "node-1", &one).expect("is there");
        assert_eq!(bytes(), second, "an address less is no matter");
        ensure(&pki, "node-2", &one).expect("is made");
        assert_ne!(bytes(), second, "another host");

        let third = bytes();
        let other = KeyPair::generate().expect("a key");
        fs::write(&key, other.serialize_pem()).expect("writes");
        ensure(&pki, "node-2", &one).expect("is made");
        assert_ne!(bytes(), third, "another's key");

        fs::remove_file(&certificate).expect("removes");
        ensure(&pki, "node-2", &one).expect("is made");
        fs::remove_file(&key).expect("removes");
        let error = ensure(&pki, "node-2", &one).expect_err("no key").to_string();
        assert!(error.contains("is there without its key"), "{error}");
    }

    #[test]
    fn one_that_somebody_else_signed_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.distinguished_name.push(DnType::CommonName, "ca");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["other".to_owned()]).expect("parameters");
        let pem = params.signed_by(&key, &issuer).expect("signs").pem();
        fs::write(dir.path().join("kubelet.crt"), &pem).expect("writes");
        fs::write(dir.path().join("kubelet.key"), key.serialize_pem()).expect("writes");
        ensure(dir.path(), "node-1", &[]).expect("is there");
        assert_eq!(fs::read_to_string(dir.path().join("kubelet.crt")).expect("reads"), pem);
    }

    #[test]
    fn a_host_may_be_an_address() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = "10.0.0.9";
        let (certificate, key) = ensure(dir.path(), host, &[]).expect("is made");
        assert!(is_good(&certificate, &key, host, &[]).expect("is read"));
        assert!(!is_good(&certificate, &key, "10.0.0.8", &[]).expect("is read"));
    }
}
