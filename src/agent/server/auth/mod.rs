//! Who asks a node's server, and whether that is allowed.
//!
//! Upstream's order (kubelet's pkg/kubelet/server/auth.go and apiserver's authenticators): a client
//! certificate, then a bearer token by TokenReview, then the anonymous user where that is switched
//! on; then one SubjectAccessReview for each sub-resource of the path until one allows it. What the
//! API server decided is kept for a while, so that it may be away; an allowance that is past its
//! time is never used.
//!
//! Starts no task. In: a request's head and its connection's certificates. Out: the user, or the
//! refusal that is the answer.

mod access;
mod cache;
#[cfg(test)]
mod tests;
mod x509;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use self::cache::Cache;
use self::x509::ClientCa;
use super::answer::Refusal;
use super::tls::TlsError;
use crate::telemetry::chain;

/// Longest a request waits for one review, its turn among [`REVIEWS`] with it: upstream's five
/// tries take about four seconds.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Reviews of one kind at a time. Those of tokens, which any stranger can cause, never stand
/// before those of access.
const REVIEWS: usize = 16;
/// Decisions of one kind that are kept: more callers than any node has, and 1 MiB at the most.
const DECISIONS: usize = 4096;
/// How long a token that the API server could not make sense of is refused without asking again:
/// it may be one that the API server only learns of now.
const UNKNOWN_TOKEN_TTL: Duration = Duration::from_secs(10);
/// Bytes of a token that is reviewed; those of service accounts have about 1 KiB.
const TOKEN_MAX: usize = 16 << 10;

/// The group of all who are known (upstream's `user.AllAuthenticated`).
const AUTHENTICATED: &str = "system:authenticated";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    /// The name.
    pub(crate) name: String,
    /// The uid; may be empty.
    pub(crate) uid: String,
    /// The groups.
    pub(crate) groups: Vec<String>,
    /// What else is known of the user.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// What is to be done with a sub-resource of this node, core API version v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Access<'a> {
    /// `get`, `create`, `update`, `patch` or `delete`; empty for any other method.
    pub(crate) verb: &'a str,
    /// The sub-resource of `nodes`: `proxy`, `pods`, …
    pub(crate) subresource: &'a str,
    /// The node's name.
    pub(crate) node: &'a str,
}

/// What a TokenReview says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenReviewed {
    /// Whose token it is.
    Of(User),
    /// Nobody's; why, where the API server says it.
    Refused(String),
}

/// Why there is no review.
#[derive(Debug, Error)]
pub(crate) enum ReviewError {
    /// The API server cannot be asked, or answers with an error.
    #[error("cannot have the API server review it")]
    Ask(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says what it cannot mean.
    #[error("the API server's review makes no sense: {0}")]
    Nonsense(String),
    /// It did not answer in time.
    #[error("no review within {} s", .0.as_secs())]
    Late(Duration),
}

/// Has the API server review tokens and access. No time limit and no cache of its own is needed:
/// both stand in [`Auth`].
pub(crate) trait Reviewer: Send + Sync + 'static {
    /// Whose a bearer token is (TokenReview).
    ///
    /// # Errors
    /// [`ReviewError`] where that stays open.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewed, ReviewError>>;

    /// Whether the user may do that (SubjectAccessReview).
    ///
    /// # Errors
    /// [`ReviewError`] where that stays open.
    fn access<'a>(
        &'a self,
        user: &'a User,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<bool, ReviewError>>;
}

/// How callers are made known (KubeletConfiguration's `authentication`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthenticationOptions {
    /// Whether who gives no credentials is `system:anonymous` (`anonymous.enabled`).
    pub(crate) anonymous: bool,
    /// How long a review of a bearer token holds (`webhook.cacheTTL`); `None`: tokens are not
    /// looked at (`webhook.enabled` is false).
    pub(crate) token_ttl: Option<Duration>,
    /// Whose client certificates are taken (`x509.clientCAFile`); `None`: nobody's.
    pub(crate) client_ca_file: Option<std::path::PathBuf>,
}

/// What callers may do (KubeletConfiguration's `authorization`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizationMode {
    /// Everything.
    AlwaysAllow,
    /// What the API server allows.
    Webhook {
        /// How long an allowance holds (`cacheAuthorizedTTL`).
        allowed_ttl: Duration,
        /// How long a denial holds (`cacheUnauthorizedTTL`).
        denied_ttl: Duration,
    },
}

/// Makes callers known and asks what they may do.
pub(super) struct Auth {
    node: String,
    authentication: AuthenticationOptions,
    authorization: AuthorizationMode,
    clients: Option<ClientCa>,
    reviewer: Arc<dyn Reviewer>,
    /// What is known of tokens. The refused stand apart, so that guesses displace no true one.
    users: Mutex<Cache<User>>,
    refused: Mutex<Cache<()>>,
    allowed: Mutex<Cache<()>>,
    denied: Mutex<Cache<()>>,
    token_turns: Semaphore,
    access_turns: Semaphore,
    /// The steady clock, and how long one review may take.
    now: fn() -> Instant,
    review_timeout: Duration,
}

/// Why a caller is not known.
#[derive(Debug, Error)]
enum Unknown {
    #[error("no credentials")]
    NoCredentials,
    #[error("the client certificate is not valid here: {0}")]
    Certificate(String),
    #[error("invalid bearer token")]
    Token,
    #[error("the bearer token could not be reviewed")]
    Review(#[source] ReviewError),
}

impl Auth {
    /// The gate of the node of this name.
    ///
    /// # Errors
    /// That of the file of client certificates' authorities.
    pub(super) fn new(
        node: String,
        authentication: AuthenticationOptions,
        authorization: AuthorizationMode,
        reviewer: Arc<dyn Reviewer>,
    ) -> Result<Self, TlsError> {
        let clients = authentication.client_ca_file.clone().map(ClientCa::read).transpose()?;
        Ok(Self {
            node,
            authentication,
            authorization,
            clients,
            reviewer,
            users: Mutex::new(Cache::new(DECISIONS)),
            refused: Mutex::new(Cache::new(DECISIONS)),
            allowed: Mutex::new(Cache::new(DECISIONS)),
            denied: Mutex::new(Cache::new(DECISIONS)),
            token_turns: Semaphore::new(REVIEWS),
            access_turns: Semaphore::new(REVIEWS),
            now: Instant::now,
            review_timeout: REVIEW_TIMEOUT,
        })
    }

    /// Who asks, if that is known and may do it.
    ///
    /// # Errors
    /// Upstream's answers: 401 to the unknown, 403 to who may not, 500 where that stays open.
    pub(super) async fn admit(
        &self,
        certificates: &[CertificateDer<'static>],
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<User, Refusal> {
        let user = self.authenticate(certificates, headers).await.map_err(|unknown| {
            tracing::debug!(why = chain(&unknown), "unable to authenticate a request");
            Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized")
        })?;
        self.authorize(&user, method, path).await?;
        Ok(user)
    }

    /// A credential that is no good does not hide a good one of another kind, but it makes nobody
    /// anonymous (upstream's union of authenticators, and its `NewFailOnError`).
    async fn authenticate(
        &self,
        certificates: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<User, Unknown> {
        let mut why = None;
        match self.clients.as_ref().map(|clients| clients.user(certificates)).transpose() {
            Ok(Some(Some(user))) => return Ok(authenticated(user)),
            Ok(Some(None) | None) => {}
            Err(error) => why = Some(Unknown::Certificate(error)),
        }
        if let Some(ttl) = self.authentication.token_ttl
            && let Some(token) = bearer(headers)
        {
            match self.user_of(token, ttl).await {
                Ok(user) => return Ok(authenticated(user)),
                Err(unknown) => why = Some(unknown),
            }
        }
        match why {
            Some(why) => Err(why),
            None if self.authentication.anonymous => Ok(User {
                name: "system:anonymous".into(),
                groups: vec!["system:unauthenticated".into()],
                ..User::default()
            }),
            None => Err(Unknown::NoCredentials),
        }
    }

    async fn user_of(&self, token: &str, ttl: Duration) -> Result<User, Unknown> {
        if token.len() > TOKEN_MAX {
            return Err(Unknown::Token);
        }
        // The token itself is not kept.
        let key = Sha256::digest(token.as_bytes()).into();
        let known = || {
            let user = lock(&self.users).get(&key, (self.now)()).cloned();
            let refused =
                || lock(&self.refused).get(&key, (self.now)()).map(|()| Err(Unknown::Token));
            user.map(Ok).or_else(refused)
        };
        if let Some(known) = known() {
            return known;
        }
        let ask = async {
            Ok(match self.reviewer.token(token).await? {
                TokenReviewed::Of(user) => {
                    lock(&self.users).insert(key, user.clone(), ttl, (self.now)());
                    Ok(user)
                }
                TokenReviewed::Refused(why) => {
                    let ttl = if why.is_empty() { ttl } else { ttl.min(UNKNOWN_TOKEN_TTL) };
                    lock(&self.refused).insert(key, (), ttl, (self.now)());
                    Err(Unknown::Token)
                }
            })
        };
        self.review(&self.token_turns, known, ask).await.map_err(Unknown::Review)?
    }

    async fn authorize(&self, user: &User, method: &Method, path: &str) -> Result<(), Refusal> {
        let AuthorizationMode::Webhook { allowed_ttl, denied_ttl } = self.authorization else {
            return Ok(());
        };
        let verb = access::verb(method);
        let subresources = access::subresources(path);
        for subresource in subresources {
            let access = Access { verb, subresource, node: &self.node };
            match self.may(user, access, allowed_ttl, denied_ttl).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        user = user.name,
                        verb,
                        subresource,
                        error = chain(&error),
                        "authorization error"
                    );
                    let text = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, \
                         subresource={subresource})",
                        user.name,
                    );
                    return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
                }
            }
        }
        let text = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" "),
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, text))
    }

    /// Waits for one of the turns and asks, all within the time of a review.
    async fn review<T>(
        &self,
        turns: &Semaphore,
        known: impl Fn() -> Option<T>,
        ask: impl Future<Output = Result<T, ReviewError>>,
    ) -> Result<T, ReviewError> {
        let limit = self.review_timeout;
        let end = tokio::time::Instant::now() + limit;
        let asked = async {
            let _turn = turns.acquire().await;
            // Another request may have asked meanwhile.
            if let Some(known) = known() {
                return Ok(known);
            }
            // When those before give up, their turns come to others who are late as well.
            if tokio::time::Instant::now() >= end {
                return Err(ReviewError::Late(limit));
            }
            ask.await
        };
        timeout_at(end, asked).await.unwrap_or(Err(ReviewError::Late(limit)))
    }

    async fn may(
        &self,
        user: &User,
        access: Access<'_>,
        allowed_ttl: Duration,
        denied_ttl: Duration,
    ) -> Result<bool, ReviewError> {
        let key = serde_json::to_vec(&(user, access));
        let key = Sha256::digest(key.map_err(|e| ReviewError::Ask(e.into()))?).into();
        let known = || {
            let allowed = lock(&self.allowed).get(&key, (self.now)()).map(|()| true);
            allowed.or_else(|| lock(&self.denied).get(&key, (self.now)()).map(|()| false))
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let ask = async {
            let may = self.reviewer.access(user, access).await?;
            let (cache, ttl) =
                if may { (&self.allowed, allowed_ttl) } else { (&self.denied, denied_ttl) };
            lock(cache).insert(key, (), ttl, (self.now)());
            Ok(may)
        };
        self.review(&self.access_turns, known, ask).await
    }
}

fn lock<T>(cache: &Mutex<Cache<T>>) -> MutexGuard<'_, Cache<T>> {
    // A panic elsewhere leaves the cache whole: each change is one call.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With the group of all who are known.
fn authenticated(mut user: User) -> User {
    if user.name != "system:anonymous" && !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// The token of an `Authorization: Bearer TOKEN`, as upstream's `bearertoken` reads it.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let mut words = value.splitn(3, ' ');
    let scheme = words.next()?;
    let token = words.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
