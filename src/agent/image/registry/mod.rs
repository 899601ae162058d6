//! Registries, as the OCI distribution specification has them.
//!
//! Owns: the HTTP client ([`client`]: https or http, redirects; [`transport`]: tries, bounds), who
//! we are to a registry ([`auth`]; what that is made of is the room [`super::credentials`]'s), and the requests below. In: references and digests. Out:
//! bounded bytes, or a body that the store takes piece by piece. Starts no task.
//!
//! `oci-client` was looked at and not taken: it reads manifests, tokens and the text of errors
//! without a bound, and keeps `Retry-After` to itself. What is left of it is this much.
//!
//! Credentials go to the registry that they are for and to the token server that it names, over
//! https, or over plain HTTP on loopback and to hosts that the user names; a redirect to another
//! host takes none along.

mod auth;
mod client;
mod error;
mod push;
mod transport;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use self::auth::Keys;
use self::client::{Clients, Plain};
use self::transport::{Call, Payload, bare};
use super::credentials::{Keyring, NodeFiles, PullSecrets};
use super::digest::Digest;
use super::reference::{Reference, Repository};

pub(crate) use self::error::RegistryError;
pub(super) use self::error::shown;
pub(super) use self::push::Blob;
pub(super) use self::transport::Tries;

/// Largest manifest or index (the specification asks for this much).
pub(super) const MANIFEST_MAX: u64 = 4 << 20;
/// The kinds of manifest that are read.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What a user says of registries.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegistryOptions {
    /// Hosts, with or without a port, that are spoken to over plain HTTP.
    pub(crate) plain_http: Vec<String>,
    /// Certificates (PEM) that are trusted beside this host's own.
    pub(crate) ca_file: Option<PathBuf>,
    /// The one file of credentials, in place of the usual ones.
    pub(crate) auth_file: Option<PathBuf>,
    /// A node's credentials, in place of those of the user who runs this.
    pub(crate) keyring: Option<Arc<Keyring>>,
}

/// For what a registry is asked, and with which pod's secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// The repository.
    pub(super) repository: &'a Repository,
    /// The pod's own credentials.
    pub(super) secrets: Option<&'a PullSecrets>,
}

impl<'a> Ask<'a> {
    /// With the credentials of this node or user alone.
    pub(super) fn of(repository: &'a Repository) -> Self {
        Self { repository, secrets: None }
    }
}

/// What is wanted from a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    /// To read.
    Pull,
    /// To write, and to read what is there.
    Push,
}

impl Access {
    fn scope(self, repository: &Repository) -> String {
        let actions = match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        };
        format!("repository:{}:{actions}", repository.name)
    }
}

/// All registries, seen from one agent.
pub(crate) struct Registries {
    options: RegistryOptions,
    plain: Plain,
    clients: Clients,
    keyring: Arc<Keyring>,
    keys: Keys,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The rest is clients and secrets.
        f.debug_struct("Registries").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A blob on its way.
pub(super) struct Body {
    response: Response,
    /// How many of its bytes were left out, since the caller has them.
    pub(super) from: u64,
}

impl Body {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`RegistryError::Cut`].
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|e| {
            let url = bare(self.response.url());
            RegistryError::Cut { url, text: error::innermost(&e) }
        })
    }
}

impl Registries {
    /// Nobody is asked yet, and no certificate read.
    pub(crate) fn new(options: RegistryOptions) -> Self {
        let plain = Plain::new(&options.plain_http);
        let keyring = options.keyring.clone().unwrap_or_else(|| {
            let files = options.auth_file.clone().map(NodeFiles::Named);
            Arc::new(Keyring::new(files.unwrap_or_else(NodeFiles::of_user), Vec::new()))
        });
        Self { options, plain, clients: Clients::default(), keyring, keys: Keys::default() }
    }

    /// The digest that a reference has just now; `None` if the registry does not say.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(super) async fn digest(
        &self,
        of: &Reference,
        secrets: Option<&PullSecrets>,
    ) -> Result<Option<Digest>, RegistryError> {
        let ask = Ask { repository: &of.repository, secrets };
        let mut request = self.manifest_request(Method::HEAD, ask.repository, &at(of)).await?;
        let response = self.send(ask, Access::Pull, &mut request).await?;
        Ok(header_digest(&response))
    }

    /// A manifest or an index, its bytes and their digest, by a tag or a digest.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Digest`] for other bytes than the digest's.
    pub(super) async fn manifest(
        &self,
        ask: Ask<'_>,
        tag_or_digest: &str,
    ) -> Result<(Bytes, Digest), RegistryError> {
        let mut request = self.manifest_request(Method::GET, ask.repository, tag_or_digest).await?;
        let url = bare(&request.url);
        let mut tries = Tries::default();
        let (bytes, said) = loop {
            let response = self.send(ask, Access::Pull, &mut request).await?;
            let said = header_digest(&response);
            match (self.body(response, MANIFEST_MAX).await, tries.next(None)) {
                (Ok(bytes), _) => break (bytes, said),
                (Err(RegistryError::Cut { .. }), Some(wait)) => tokio::time::sleep(wait).await,
                (Err(error), _) => return Err(error),
            }
        };
        let got = Digest::of(&bytes);
        match Digest::parse(tag_or_digest).or(said) {
            Some(expected) if expected != got => Err(RegistryError::Digest { url, expected, got }),
            Some(_) | None => Ok((bytes, got)),
        }
    }

    /// The blob of this digest, its first `from` bytes left out if the registry can do that. The
    /// caller checks the bytes, and their number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(super) async fn blob(
        &self,
        ask: Ask<'_>,
        digest: &Digest,
        from: u64,
    ) -> Result<Body, RegistryError> {
        let url = self.at(ask.repository, &format!("blobs/{digest}")).await?;
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(
                RANGE,
                HeaderValue::try_from(format!("bytes={from}-")).map_err(|_| odd(&url))?,
            );
        }
        let mut request = Call { method: Method::GET, url, headers, body: Payload::Empty };
        let response = self.send(ask, Access::Pull, &mut request).await?;
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let start = format!("bytes {from}-");
                if !range.is_some_and(|range| range.starts_with(&start)) {
                    return Err(odd(response.url()));
                }
                from
            }
            _ => 0,
        };
        Ok(Body { response, from })
    }

    async fn manifest_request(
        &self,
        method: Method,
        repository: &Repository,
        tag_or_digest: &str,
    ) -> Result<Call, RegistryError> {
        let url = self.at(repository, &format!("manifests/{tag_or_digest}")).await?;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]);
        Ok(Call { method, url, headers, body: Payload::Empty })
    }

    /// The address of something in a repository.
    async fn at(&self, repository: &Repository, what: &str) -> Result<Url, RegistryError> {
        let base = self.base(&repository.host).await?;
        base.join(&format!("{}/{what}", repository.name)).map_err(|_| odd(&base))
    }

    /// Sends a request to a registry, with what it wants to know of us, until it is answered with
    /// success.
    ///
    /// # Errors
    /// Its refusal.
    async fn send(
        &self,
        ask: Ask<'_>,
        access: Access,
        request: &mut Call,
    ) -> Result<Response, RegistryError> {
        // An upload may go on at another host, which is none of whom we have credentials for.
        let home = self.base(&ask.repository.host).await?.origin() == request.url.origin();
        let known = if home { self.keys.known(ask, access) } else { None };
        let advice = match known {
            Some((key, advice)) => {
                request.headers.insert(AUTHORIZATION, key);
                advice
            }
            None => String::new(),
        };
        let answer = self.exchange(request).await?;
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer.response);
        }
        let here = answer.response.url().origin() == request.url.origin();
        if !(home && here && status == StatusCode::UNAUTHORIZED) {
            return Err(self.refusal(answer, advice).await);
        }
        self.authorized(ask, access, request, answer).await
    }
}

/// What a reference is asked for by.
pub(super) fn at(reference: &Reference) -> String {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    }
}

fn header_digest(response: &Response) -> Option<Digest> {
    Digest::parse(response.headers().get("docker-content-digest")?.to_str().ok()?)
}

fn odd(url: &Url) -> RegistryError {
    RegistryError::Answer { url: bare(url), text: "an answer that no registry gives".into() }
}
