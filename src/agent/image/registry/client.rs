//! The HTTP client: TLS, plain HTTP where that may be, redirects.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::error::innermost;
use super::{Registries, RegistryError};

/// Redirects of one request: a registry gives one to where it stores blobs.
const REDIRECTS_MAX: usize = 5;
/// Time for a connection, its TLS with it.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// Longest silence within an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Where plain HTTP is spoken: on loopback, and with those who are named.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain(Arc<[String]>);

impl Plain {
    pub(super) fn new(named: &[String]) -> Self {
        Self(named.into())
    }

    /// Whether plain HTTP may be spoken with the host of this address.
    pub(super) fn allows(&self, url: &Url) -> bool {
        is_loopback(url) || self.names(url)
    }

    /// Whether the host of this address, with or without its port, is named.
    pub(super) fn names(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let port = url.port_or_known_default().unwrap_or_default();
        let full = format!("{host}:{port}");
        self.0
            .iter()
            .any(|named| named.eq_ignore_ascii_case(host) || named.eq_ignore_ascii_case(&full))
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The two clients: both refuse to be led to plain HTTP.
#[derive(Default)]
pub(super) struct Clients {
    /// Made when first used: reading this host's certificates takes milliseconds.
    proxied: tokio::sync::OnceCell<Client>,
    /// For loopback, where no proxy is.
    direct: tokio::sync::OnceCell<Client>,
    /// The address of each registry that was asked, scheme and all.
    bases: Mutex<HashMap<String, Url>>,
}

impl Registries {
    /// The address below which a registry's interface lies: `https://HOST/v2/`, or `http` where
    /// that is allowed. On loopback TLS is tried first, once.
    pub(super) async fn base(&self, host: &str) -> Result<Url, RegistryError> {
        let bases = || self.clients.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = bases().get(host) {
            return Ok(base.clone());
        }
        let name = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let at = |scheme: &str| {
            Url::parse(&format!("{scheme}://{name}/v2/")).map_err(|e| RegistryError::Unreachable {
                url: name.to_owned(),
                text: e.to_string(),
                hint: "",
            })
        };
        let (https, http) = (at("https")?, at("http")?);
        let base = if self.plain.names(&http) {
            http
        } else if is_loopback(&http) {
            match self.client(&https).await?.get(https.clone()).send().await {
                Err(error) if speaks_no_tls(&error) => http,
                Ok(_) | Err(_) => https,
            }
        } else {
            https
        };
        bases().insert(host.to_owned(), base.clone());
        Ok(base)
    }

    /// The client for an address.
    pub(super) async fn client(&self, url: &Url) -> Result<&Client, RegistryError> {
        let direct = is_loopback(url);
        let cell = if direct { &self.clients.direct } else { &self.clients.proxied };
        cell.get_or_try_init(|| async { self.build(direct) }).await
    }

    fn build(&self, direct: bool) -> Result<Client, RegistryError> {
        // The one provider of TLS in this program; a second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain = self.plain.clone();
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS_MAX {
                return attempt.error(format!("more than {REDIRECTS_MAX} redirects"));
            }
            match attempt.url().scheme() {
                "https" => attempt.follow(),
                "http" if plain.allows(attempt.url()) => attempt.follow(),
                _ => attempt.error("redirected to plain HTTP"),
            }
        });
        let failed = |text: String| RegistryError::Tls { file: self.options.ca_file.clone(), text };
        let mut builder = Client::builder()
            .user_agent(concat!("copepod/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .referer(false)
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE_MAX);
        if direct {
            builder = builder.no_proxy();
        }
        if let Some(file) = &self.options.ca_file {
            let pem = std::fs::read(file).map_err(|e| failed(e.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(innermost(&e)))?;
            if certificates.is_empty() {
                return Err(failed("it holds none, expected PEM".into()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|e| failed(innermost(&e)))
    }
}

/// What may help against an error.
pub(super) fn hint(error: &reqwest::Error) -> &'static str {
    if speaks_no_tls(error) {
        " (it speaks plain HTTP? then name it by --plain-http HOST[:PORT])"
    } else if matches!(tls(error), Some(rustls::Error::InvalidCertificate(_))) {
        " (a certificate authority of your own? then name its file by --ca-file)"
    } else {
        ""
    }
}

/// Whether who answered spoke no TLS: it said something else, or hung up on the first words of it.
fn speaks_no_tls(error: &reqwest::Error) -> bool {
    let hung_up = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset));
    error.is_connect() && (matches!(tls(error), Some(rustls::Error::InvalidMessage(_))) || hung_up)
}

/// What TLS found wrong.
fn tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error and what lies below it.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // What it holds is not its source, but stands in its place.
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_who_is_named() {
        let plain = Plain::new(&["plain.io".into(), "ported.io:5000".into()]);
        for allowed in
            ["localhost:1", "127.9.9.9", "[::1]:5000", "plain.io", "PLAIN.io:1", "ported.io:5000"]
        {
            assert!(plain.allows(&url(&format!("http://{allowed}/v2/"))), "{allowed}");
        }
        for refused in
            ["h.io", "127.0.0.1.h.io", "localhost.h.io", "ported.io", "x.plain.io", "128.0.0.1"]
        {
            assert!(!plain.allows(&url(&format!("http://{refused}/v2/"))), "{refused}");
        }
    }
}
