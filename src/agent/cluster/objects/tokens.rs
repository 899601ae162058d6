//! Tokens of pods' service accounts, asked for and kept fresh (upstream `pkg/kubelet/token`).
//!
//! One task and one timer for all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use copepod_pod::{Token, TokenKey};
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::changes::{Changes, lock};
use super::request::{ReadError, Server};
use super::retry::{Backoff, random_below};

/// A token older than this is renewed, however long it may live (upstream `maxTTL`).
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens are renewed up to this much earlier, by chance (upstream `maxJitter`).
const JITTER: Duration = Duration::from_secs(10);
/// When a renewal that failed is tried again, at the earliest; the shortest lives leave two minutes.
const AGAIN: Duration = Duration::from_secs(30);
/// Tokens that are renewed at a time.
const RENEWALS_MAX: usize = 8;

/// Why there is no token.
#[derive(Clone, Debug, Error)]
pub(crate) enum TokenError {
    /// There was none before; upstream's words.
    #[error("failed to fetch token")]
    Fetch(#[source] Arc<ReadError>),
    /// The one before is no longer good.
    #[error("token for audience {audience:?} expired and refresh failed")]
    Expired {
        /// Who it is for.
        audience: String,
        /// Why there is no new one.
        #[source]
        source: Arc<ReadError>,
    },
    /// The pod ended meanwhile.
    #[error("pod is gone")]
    NoPod,
}

/// Whose tokens these are.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) account: String,
}

/// A token that we have.
struct Held {
    token: Token,
    /// By the wall clock, as the server says.
    expires: Timestamp,
    /// When a new one is asked for.
    due: Instant,
    /// That it could not be renewed was said.
    is_warned: bool,
}

impl Held {
    fn is_good(&self) -> bool {
        Timestamp::now() < self.expires
    }
}

/// A pod's tokens, and whose they are.
type OfPod = (Owner, BTreeMap<TokenKey, Held>);

/// All tokens.
pub(super) struct Tokens {
    server: Server,
    changes: Arc<Changes>,
    /// By the pod's uid.
    pods: Mutex<HashMap<String, OfPod>>,
    /// There is a new token to keep fresh.
    added: Notify,
}

impl Tokens {
    pub(super) fn new(server: Server, changes: Arc<Changes>) -> Arc<Self> {
        Arc::new(Self { server, changes, pods: Mutex::default(), added: Notify::new() })
    }

    /// A pod may have tokens from now on.
    pub(super) fn register(&self, owner: Owner) {
        lock(&self.pods).entry(owner.uid.clone()).or_insert_with(|| (owner, BTreeMap::new()));
    }

    /// Forgets a pod's tokens.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.pods).remove(uid);
    }

    /// A good token. What may pass (an API server that is away, or that does not know of the pod
    /// yet) is waited for until `deadline`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) async fn get(
        &self,
        uid: &str,
        key: &TokenKey,
        deadline: Instant,
    ) -> Result<Token, TokenError> {
        let owner = {
            let pods = lock(&self.pods);
            let (owner, held) = pods.get(uid).ok_or(TokenError::NoPod)?;
            match held.get(key) {
                // One that is due is the renewing task's.
                Some(held) if held.is_good() => return Ok(held.token.clone()),
                Some(_) | None => owner.clone(),
            }
        };
        let mut backoff = Backoff::default();
        let error = loop {
            let error = match self.fetch(&owner, key).await {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            let wait = backoff.next(&error);
            if !error.is_passing() || Instant::now() + wait >= deadline {
                break Arc::new(error);
            }
            sleep(wait).await;
        };
        if lock(&self.pods).get(uid).is_some_and(|(_, held)| held.contains_key(key)) {
            return Err(TokenError::Expired { audience: key.audience.clone(), source: error });
        }
        Err(TokenError::Fetch(error))
    }

    /// Asks for a token and keeps it.
    async fn fetch(&self, owner: &Owner, key: &TokenKey) -> Result<Token, ReadError> {
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{}/token",
            owner.namespace, owner.account
        );
        let answer: TokenRequest = self.server.post(&path, &request(owner, key)).await?;
        let status = answer.status.and_then(|status| {
            let TokenRequestStatus { token, expiration_timestamp } = status;
            token.zip(expiration_timestamp)
        });
        // No token, no time: as little understood as a wrong text.
        let (token, Time(expires)) = status.ok_or(ReadError::Parse { line: 0, column: 0 })?;
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds);
        let seconds = seconds.unwrap_or(key.expiration_seconds);
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let token = Token::new(&token);
        let held = Held {
            token: token.clone(),
            expires,
            due: Instant::now() + renewed_after(life),
            is_warned: false,
        };
        if let Some((_, tokens)) = lock(&self.pods).get_mut(&owner.uid) {
            tokens.insert(key.clone(), held);
            self.added.notify_one();
        }
        Ok(token)
    }

    /// Renews tokens when they are due, for ever.
    pub(super) async fn renew(self: Arc<Self>) {
        loop {
            let next = {
                let pods = lock(&self.pods);
                let held = pods.values().flat_map(|(_, held)| held.values());
                held.map(|held| held.due).min()
            };
            let Some(next) = next else {
                self.added.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.added.notified() => continue,
            }
            let renewals = self.due().into_iter().map(|(owner, key)| self.renew_one(owner, key));
            futures_util::stream::iter(renewals)
                .buffer_unordered(RENEWALS_MAX)
                .collect::<()>()
                .await;
        }
    }

    /// Those that are due now.
    fn due(&self) -> Vec<(Owner, TokenKey)> {
        let now = Instant::now();
        let pods = lock(&self.pods);
        let all = pods.values().flat_map(|(owner, held)| held.iter().map(move |one| (owner, one)));
        let due = all.filter(|(_, (_, held))| held.due <= now);
        due.map(|(owner, (key, _))| (owner.clone(), key.clone())).collect()
    }

    /// Keeps the old one if there is no new one yet.
    async fn renew_one(&self, owner: Owner, key: TokenKey) {
        match self.fetch(&owner, &key).await {
            Ok(_) => self.changes.mark([&owner.uid]),
            Err(error) => {
                if let Some((_, tokens)) = lock(&self.pods).get_mut(&owner.uid)
                    && let Some(held) = tokens.get_mut(&key)
                {
                    held.due = Instant::now() + AGAIN + random_below(JITTER);
                    if !std::mem::replace(&mut held.is_warned, true) {
                        let Owner { namespace, pod, .. } = &owner;
                        let text = crate::telemetry::chain(&error);
                        tracing::warn!("couldn't update token of pod {namespace}/{pod}: {text}");
                    }
                }
            }
        }
    }
}

/// What is sent: a token that is good as long as the pod is there.
fn request(owner: &Owner, key: &TokenKey) -> TokenRequest {
    let audience = Some(key.audience.clone()).filter(|audience| !audience.is_empty());
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            expiration_seconds: Some(key.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(owner.pod.clone()),
                uid: Some(owner.uid.clone()),
            }),
        }),
        ..TokenRequest::default()
    }
}

/// When a token that lives so long is renewed: after four fifths of its life or after a day, a
/// little earlier by chance.
fn renewed_after(life: Duration) -> Duration {
    let latest = (life * 4 / 5).min(AGE_MAX);
    latest - random_below(JITTER.min(life / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life_or_a_day() {
        let seconds = Duration::from_secs;
        for (life, latest) in
            [(0, 0), (600, 480), (3607, 2885), (24 * 3600, 69120), (365 * 24 * 3600, 24 * 3600)]
        {
            for _ in 0..100 {
                let found = renewed_after(seconds(life));
                assert!(found <= seconds(latest + 1), "{life}: {found:?}");
                assert!(found + JITTER >= seconds(latest), "{life}: {found:?}");
            }
        }
    }

    #[test]
    fn a_request_is_bound_to_the_pod() {
        let owner = Owner {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: "u".into(),
            account: "default".into(),
        };
        let shown = |audience: &str| {
            let key = TokenKey { audience: audience.into(), expiration_seconds: 3607 };
            serde_json::to_value(request(&owner, &key)).unwrap()["spec"].to_string()
        };
        let bound = r#""boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}"#;
        assert_eq!(
            [shown(""), shown("vault")],
            [
                format!(r#"{{{bound},"expirationSeconds":3607}}"#),
                format!(r#"{{"audiences":["vault"],{bound},"expirationSeconds":3607}}"#),
            ]
        );
    }
}
