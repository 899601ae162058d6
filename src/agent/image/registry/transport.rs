//! One request and its answer: tries, refusals, bounded bodies.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::client::hint;
use super::error::innermost;
use super::{Registries, RegistryError, shown};

/// How often one request is tried: an overloaded registry is left to the pod's own back-off then.
const TRIES_MAX: u32 = 5;
/// The first wait between two tries; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait that a registry can ask for here (`Retry-After`); a longer one is an error.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Largest text of an error that is read.
const ERROR_MAX: u64 = 16 << 10;

/// A request that can be sent again.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Payload,
}

/// The body of a request.
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    /// A file of this many bytes.
    File(PathBuf, u64),
}

impl Registries {
    /// Sends a request until it is answered; a registry that is overloaded or breaks the connection
    /// is asked again, as often and as soon as it may be. The answer may still be a refusal.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without an answer, [`RegistryError::File`].
    pub(super) async fn exchange(&self, request: &Call) -> Result<Answer, RegistryError> {
        let client = self.client(&request.url).await?;
        let mut tries = Tries::default();
        loop {
            let sent = self.once(client, request).await?;
            let wait = match &sent {
                Ok(response) if passes(response.status()) => {
                    tries.next(retry_after(response.headers()))
                }
                // Nobody is there, or not who should be: a second look would find the same.
                Err(error) if error.is_connect() || error.is_redirect() => None,
                Err(_) => tries.next(None),
                Ok(_) => None,
            };
            match (wait, sent) {
                (Some(wait), _) => tokio::time::sleep(wait).await,
                (None, Ok(response)) => return Ok(Answer { response, tries: tries.made() }),
                (None, Err(error)) => {
                    return Err(RegistryError::Unreachable {
                        url: bare(&request.url),
                        text: innermost(&error),
                        hint: hint(&error),
                    });
                }
            }
        }
    }

    async fn once(
        &self,
        client: &Client,
        request: &Call,
    ) -> Result<Result<Response, reqwest::Error>, RegistryError> {
        let mut builder = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        builder = match &request.body {
            Payload::Empty => builder,
            Payload::Bytes(bytes) => builder.body(bytes.clone()),
            Payload::File(path, bytes) => {
                let file = tokio::fs::File::open(path).await;
                let file =
                    file.map_err(|source| RegistryError::File { path: path.clone(), source })?;
                builder.header(CONTENT_LENGTH, *bytes).body(file)
            }
        };
        Ok(builder.send().await)
    }

    /// The error that a refusal is. `advice` is what to look at if it wants other credentials.
    pub(super) async fn refusal(&self, answer: Answer, advice: String) -> RegistryError {
        let Answer { response, tries } = answer;
        let (url, status) = (bare(response.url()), response.status());
        let asked = retry_after(response.headers()).filter(|asked| *asked > WAIT_MAX);
        let text = self.words(response).await;
        let line = match tries {
            1 => status.to_string(),
            tries => format!("{status} ({tries} tries)"),
        };
        match (status, asked) {
            (_, Some(asked)) => {
                RegistryError::Later { url, status: line, seconds: asked.as_secs(), text }
            }
            (StatusCode::UNAUTHORIZED, None) => RegistryError::Unauthorized { url, text, advice },
            (StatusCode::FORBIDDEN, None) => RegistryError::Denied { url, text },
            (StatusCode::NOT_FOUND, None) => RegistryError::NotFound { url, text },
            (_, None) => RegistryError::Status { url, status: line, text },
        }
    }

    /// A refusal's own words: the errors of the specification, a token server's, or the text.
    pub(super) async fn words(&self, response: Response) -> String {
        #[derive(Deserialize)]
        struct Refusal {
            #[serde(default)]
            errors: Vec<Problem>,
            details: Option<String>,
            error_description: Option<String>,
        }
        #[derive(Deserialize)]
        struct Problem {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let html = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("text/html")));
        let body = start(response, ERROR_MAX).await;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { errors, .. }) if !errors.is_empty() => {
                let each =
                    errors.iter().map(|problem| format!("{}: {}", problem.code, problem.message));
                shown(&each.collect::<Vec<_>>().join("; "))
            }
            Ok(refusal) => {
                shown(&refusal.details.or(refusal.error_description).unwrap_or_default())
            }
            Err(_) if html => String::new(),
            Err(_) => shown(&String::from_utf8_lossy(&body)),
        }
    }

    /// A body of at most `max` bytes.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`], [`RegistryError::Cut`].
    pub(super) async fn body(
        &self,
        mut response: Response,
        max: u64,
    ) -> Result<Bytes, RegistryError> {
        let url = bare(response.url());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > max => {
                    return Err(RegistryError::TooLarge { url, max });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body.into()),
                Err(error) => return Err(RegistryError::Cut { url, text: innermost(&error) }),
            }
        }
    }
}

/// The first `max` bytes of a body, or what came of them.
async fn start(mut response: Response, max: u64) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() as u64 >= max {
            break;
        }
    }
    body
}

/// What a request came to.
pub(super) struct Answer {
    pub(super) response: Response,
    tries: u32,
}

/// The tries of one thing, and the waits between them.
#[derive(Debug, Default)]
pub(in crate::image) struct Tries(u32);

impl Tries {
    /// Counts a try that failed; gives how long to wait for the next one, if there is to be one.
    /// `asked` is what the other side wants.
    pub(in crate::image) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.0 += 1;
        let own = FIRST_WAIT * 2_u32.pow(self.0 - 1);
        let wait = asked.unwrap_or(own).max(own);
        (self.0 < TRIES_MAX && wait <= WAIT_MAX).then_some(wait)
    }

    fn made(&self) -> u32 {
        self.0.max(1)
    }
}

/// Whether a refusal may pass by itself.
fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After`: seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    // One that is over asks for nothing.
    Duration::try_from(date.duration_since(Timestamp::now())).ok()
}

/// An address without its query, which may hold a signature.
pub(super) fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_double_their_wait_and_end() {
        let mut tries = Tries::default();
        let waits: Vec<_> =
            std::iter::from_fn(|| tries.next(None)).map(|w| w.as_millis()).collect();
        assert_eq!((waits, tries.made()), (vec![250, 500, 1000, 2000], TRIES_MAX));
        let seconds = Duration::from_secs;
        assert_eq!(Tries::default().next(Some(seconds(9))), Some(seconds(9)));
        assert_eq!(Tries::default().next(Some(seconds(0))), Some(FIRST_WAIT));
        assert_eq!(Tries::default().next(Some(seconds(61))), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, reqwest::header::HeaderValue::from_static(text));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert!(after("Thu, 01 Jan 2099 00:00:00 GMT").unwrap() > WAIT_MAX);
    }
}
