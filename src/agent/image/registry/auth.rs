//! What a registry asks of who calls it (`WWW-Authenticate`), and the tokens that answer it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::transport::{Answer, Call, Payload, bare};
use super::{Access, Ask, Registries, RegistryError, shown};
use crate::image::credentials::{Candidate, Credentials};
use crate::image::digest::Digest;
use crate::image::reference::Repository;

/// Largest answer of a token server.
const TOKEN_MAX: u64 = 64 << 10;
/// How long a token holds whose server does not say (the specification's default).
const TOKEN_SECONDS: u64 = 60;
/// A token is not used in its last seconds: a request takes a while.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// Longest that a token is kept, whatever its server says.
const TOKEN_SECONDS_MAX: u64 = 3600;
/// How long a name and password are sent without being asked for again.
const BASIC_TIME: Duration = Duration::from_secs(3600);
/// Who asks, for token servers that want to know.
const CLIENT: &str = "copepod";

/// Whose key it is to what: a repository, an access, a pod's secrets. What one pod's secrets opened
/// is no other pod's.
type Lock = (Repository, Access, Option<Digest>);

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of the server `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// A token server's answer.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What is sent as `Authorization`.
#[derive(Clone)]
struct Key {
    header: HeaderValue,
    until: Instant,
    /// What to look at if it is refused.
    advice: String,
}

/// What credentials make of a challenge.
enum Made {
    /// This answers it.
    Key(Key),
    /// The token server refused them.
    Refused(RegistryError),
    /// They are no answer to such a challenge.
    NoUse,
}

/// The answers to challenges, as long as they hold.
#[derive(Default)]
pub(super) struct Keys(Mutex<HashMap<Lock, Key>>);

impl Keys {
    /// What to send to this repository, if it is known, and what to look at if that is refused.
    pub(super) fn known(&self, ask: Ask<'_>, access: Access) -> Option<(HeaderValue, String)> {
        let mut keys = self.lock();
        let now = Instant::now();
        keys.retain(|_, key| key.until > now);
        keys.get(&lock(ask, access)).map(|key| (key.header.clone(), key.advice.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lock, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(ask: Ask<'_>, access: Access) -> Lock {
    (ask.repository.clone(), access, ask.secrets.map(|secrets| secrets.id().clone()))
}

impl Registries {
    /// Sends a request again that was refused for want of credentials (`refused`), with each
    /// candidate and then without any, until it is answered with success; what was right is kept.
    ///
    /// # Errors
    /// The refusal of the first candidate; of who has none without one.
    pub(super) async fn authorized(
        &self,
        ask: Ask<'_>,
        access: Access,
        request: &mut Call,
        refused: Answer,
    ) -> Result<Response, RegistryError> {
        let url = refused.response.url().clone();
        let host = &ask.repository.host;
        let candidates = self.keyring.candidates(ask.repository, ask.secrets).await?;
        let none = format!("no credentials for {host} in {}", candidates.looked);
        let Some(challenge) = challenge(refused.response.headers()) else {
            return Err(self.refusal(refused, none).await);
        };
        let mut first = None;
        let mut left = candidates.all.len();
        for candidate in candidates.all.iter().map(Some).chain([None]) {
            left = left.saturating_sub(1);
            let advice = match candidate {
                Some(candidate) => {
                    format!("check the credentials for {host} in {}", candidate.from)
                }
                None => none.clone(),
            };
            let made = self.key(&challenge, &url, (ask.repository, access), candidate, &advice);
            let key = match made.await? {
                Made::Key(key) => key,
                Made::Refused(error) => {
                    first.get_or_insert(error);
                    continue;
                }
                Made::NoUse => continue,
            };
            request.headers.insert(AUTHORIZATION, key.header.clone());
            let answer = self.exchange(request).await?;
            let status = answer.response.status();
            // Who may not see it is told by some that it is not there.
            let hidden = status == StatusCode::NOT_FOUND && access == Access::Pull && left > 0;
            let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !denied && !hidden {
                self.keys.lock().insert(lock(ask, access), key);
                return match status.is_success() {
                    true => Ok(answer.response),
                    false => Err(self.refusal(answer, advice).await),
                };
            }
            let error = self.refusal(answer, advice).await;
            first.get_or_insert(error);
        }
        match first {
            Some(error) => Err(error),
            None => Err(self.refusal(refused, none).await),
        }
    }

    /// What answers a challenge with these credentials, or without any.
    async fn key(
        &self,
        challenge: &Challenge,
        url: &Url,
        (repository, access): (&Repository, Access),
        candidate: Option<&Candidate>,
        advice: &str,
    ) -> Result<Made, RegistryError> {
        let credentials = candidate.map(|candidate| &candidate.credentials);
        let (text, holds) = match (challenge, credentials) {
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let realm = self.realm(url, realm)?;
                let scope = scope.clone().unwrap_or_else(|| access.scope(repository));
                let request = token_request(realm, service.as_deref(), &scope, credentials);
                let answer = self.exchange(&request).await?;
                let status = answer.response.status();
                if !status.is_success() {
                    let error = self.refusal(answer, advice.to_owned()).await;
                    // Others than refusals of these credentials are the server's own trouble.
                    return match status {
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                            Ok(Made::Refused(error))
                        }
                        _ => Err(error),
                    };
                }
                token(self.body(answer.response, TOKEN_MAX).await?, &request.url)?
            }
            (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                (basic(username, password), BASIC_TIME)
            }
            (Challenge::Basic, Some(Credentials::Identity(_)) | None) => return Ok(Made::NoUse),
        };
        let mut header = HeaderValue::try_from(text).map_err(|_| RegistryError::Answer {
            url: bare(url),
            text: "credentials that no header can hold".into(),
        })?;
        header.set_sensitive(true);
        let until = Instant::now() + holds;
        Ok(Made::Key(Key { header, until, advice: advice.to_owned() }))
    }

    /// The token server's address; refused where credentials would be readable on their way.
    fn realm(&self, asked: &Url, realm: &str) -> Result<Url, RegistryError> {
        let wrong = |text: String| RegistryError::Answer { url: bare(asked), text };
        let url = Url::parse(realm)
            .map_err(|_| wrong(format!("its token server {:?} is no address", shown(realm))))?;
        let plain = url.scheme() == "http" && self.plain.allows(&url);
        if url.scheme() == "https" || plain {
            return Ok(url);
        }
        Err(wrong(format!(
            "its token server {:?} is not https: expected that, a loopback host, or --plain-http {}",
            shown(realm),
            url.host_str().unwrap_or("HOST"),
        )))
    }
}

fn basic(username: &str, password: &str) -> String {
    use base64::Engine;
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {both}")
}

/// Anonymous without credentials; with a name and password by GET, with an identity token by the
/// POST of OAuth 2.
fn token_request(
    mut realm: Url,
    service: Option<&str>,
    scope: &str,
    found: Option<&Credentials>,
) -> Call {
    let service = service.into_iter().map(|service| ("service", service));
    let fields = service.chain([("scope", scope), ("client_id", CLIENT)]);
    let mut headers = HeaderMap::new();
    match found {
        Some(Credentials::Identity(token)) => {
            let grant = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
            let mut form = Url::parse("form:").unwrap_or_else(|_| realm.clone());
            form.query_pairs_mut().clear().extend_pairs(fields.chain(grant));
            let body = form.query().unwrap_or_default().to_owned();
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(reqwest::header::CONTENT_TYPE, kind);
            Call { method: Method::POST, url: realm, headers, body: Payload::Bytes(body.into()) }
        }
        basic_or_none => {
            realm.query_pairs_mut().extend_pairs(fields);
            if let Some(Credentials::Basic { username, password }) = basic_or_none
                && let Ok(mut key) = HeaderValue::try_from(basic(username, password))
            {
                key.set_sensitive(true);
                headers.insert(AUTHORIZATION, key);
            }
            Call { method: Method::GET, url: realm, headers, body: Payload::Empty }
        }
    }
}

fn token(body: impl AsRef<[u8]>, url: &Url) -> Result<(String, Duration), RegistryError> {
    let wrong =
        || RegistryError::Answer { url: bare(url), text: "its answer holds no token".into() };
    let answer: Token = serde_json::from_slice(body.as_ref()).map_err(|_| wrong())?;
    let token = answer.token.or(answer.access_token).ok_or_else(wrong)?;
    let seconds =
        answer.expires_in.unwrap_or(TOKEN_SECONDS).clamp(TOKEN_SECONDS, TOKEN_SECONDS_MAX);
    Ok((format!("Bearer {token}"), Duration::from_secs(seconds) - TOKEN_MARGIN))
}

/// The challenge to answer: a token before a name and password, if both would do.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found: Vec<Challenge> = all.flat_map(challenges).collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found.into_iter().next()
}

/// The challenges in one header's value (RFC 9110, 11.6.1): schemes, each with its parameters, all
/// separated by commas.
fn challenges(value: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = match after.strip_prefix('=') {
            Some(after) => {
                let (text, after) = parameter(after);
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.insert(word.to_ascii_lowercase(), text);
                }
                after
            }
            None => {
                found.push((word.to_ascii_lowercase(), HashMap::new()));
                after
            }
        }
        .trim_start_matches([' ', ',']);
    }
    let known = found.into_iter().filter_map(|(scheme, mut parameters)| match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
            scope: parameters.remove("scope").filter(|scope| !scope.is_empty()),
        }),
        _ => None,
    });
    known.collect()
}

/// A parameter's value, quoted or not, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([' ', ',']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        let hub = r#"Bearer realm="https://a/t",service="r",scope="repository:x:pull,push""#;
        for (text, expected) in [
            ("Basic realm=\"x, y\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (hub, vec![bearer("https://a/t", Some("r"), Some("repository:x:pull,push"))]),
            (
                r#"Bearer realm=t , Basic realm="\"q\"""#,
                vec![bearer("t", None, None), Challenge::Basic],
            ),
            ("Negotiate, Bearer service=x", vec![]),
            ("Bearer realm=\"unended", vec![bearer("unended", None, None)]),
            (",,, =x \"", vec![]),
        ] {
            assert_eq!(challenges(text), expected, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=x"));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=y"));
        assert_eq!(challenge(&headers), Some(bearer("y", None, None)));
    }

    #[test]
    fn an_identity_token_is_never_in_an_address() {
        let found = Credentials::Identity("sec ret".into());
        let realm = || Url::parse("https://a/t?x=1").unwrap();
        let request = token_request(realm(), Some("r"), "s", Some(&found));
        assert_eq!(request.url, realm());
        let Payload::Bytes(body) = request.body else { panic!("a form") };
        let form =
            "service=r&scope=s&client_id=copepod&grant_type=refresh_token&refresh_token=sec+ret";
        assert_eq!(body, form);
        let found = Credentials::Basic { username: "u".into(), password: "p".into() };
        let request = token_request(realm(), None, "s", Some(&found));
        assert_eq!(request.url.as_str(), "https://a/t?x=1&scope=s&client_id=copepod");
        assert_eq!(request.headers["authorization"], "Basic dTpw");
    }

    #[test]
    fn tokens_have_a_name_of_two() {
        let url = Url::parse("https://a/t?secret").unwrap();
        let got = |text: &str| token(text, &url).map_err(|e| e.to_string());
        assert_eq!(got(r#"{"token":"x"}"#).unwrap(), ("Bearer x".into(), Duration::from_secs(55)));
        let long = got(r#"{"access_token":"y","expires_in":99999999}"#).unwrap();
        assert_eq!(long, ("Bearer y".into(), Duration::from_secs(3595)));
        assert_eq!(got("{}").unwrap_err(), "https://a/t: its answer holds no token");
    }
}
