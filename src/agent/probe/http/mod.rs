//! A GET as upstream makes it: a connection for it alone, no proxy, no compression, any certificate,
//! HTTP/2 where a probe's server chooses it, redirects on the same host.

mod error;
mod exchange;
mod h2;
mod request;
mod url;

pub(super) use error::GetError;
pub(super) use request::Request;

use std::time::Duration;

use copepod_pod::ProbeOutcome;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::time::{Instant, timeout, timeout_at};

use self::exchange::{Answer, exchange};
use self::url::Url;
use super::{OUTPUT_MAX, Target};

/// Requests that one may become by redirects (upstream: Go's default).
const REQUESTS_MAX: usize = 10;

/// Gets the page; its status is the answer.
pub(super) async fn probe(
    action: &HTTPGetAction,
    target: Target<'_>,
    within: Duration,
) -> ProbeOutcome {
    let request = match Request::new(action, target, "probe") {
        Ok(request) => request,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let mut at = request.url.to_string();
    let deadline = Instant::now() + within;
    let gotten = timeout_at(deadline, get(request, &mut at)).await;
    let mut answer = match gotten.unwrap_or(Err(GetError::Time)) {
        Ok(answer) => answer,
        Err(error) => return ProbeOutcome::Failure(failed(&at, &error)),
    };
    let status = answer.status;
    let body = match timeout_at(deadline, answer.body(OUTPUT_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return ProbeOutcome::Broken(error.to_string()),
        Err(_) => return ProbeOutcome::Broken(GetError::BodyTime.to_string()),
    };
    match status.as_u16() {
        200..300 => ProbeOutcome::Success,
        300..400 => {
            let body = String::from_utf8_lossy(&body);
            ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        code => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// An error as Go's client shows it: with the address that was asked.
pub(super) fn failed(at: &str, error: &GetError) -> String {
    format!("Get {}: {error}", copepod_pod::go_quoted(at.as_bytes()))
}

/// Sends the request and those that it is redirected to on the same host. The answer is the last one,
/// which leads elsewhere or nowhere. `at` is what was asked last.
///
/// # Errors
/// [`GetError`].
pub(super) async fn get(mut request: Request, at: &mut String) -> Result<Answer, GetError> {
    let mut made = 0;
    loop {
        let answer = exchange(&request).await?;
        made += 1;
        let Some(location) = redirection(&answer) else { return Ok(answer) };
        let Some(to) = request.url.join(&location) else {
            return Err(GetError::Location { location });
        };
        if to.host != request.url.host {
            return Ok(answer);
        }
        if made >= REQUESTS_MAX {
            *at = location;
            return Err(GetError::Redirects);
        }
        *at = to.to_string();
        request.follow(to, &location);
    }
}

/// Where an answer leads.
fn redirection(answer: &Answer) -> Option<String> {
    let leads = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !leads.contains(&answer.status) {
        return None;
    }
    answer.location.clone().filter(|location| !location.is_empty())
}

/// How long a body that nobody wants is waited for: what a hook sends is read, so that a server is not
/// cut off, but no hook waits for it (upstream has no such bound).
const UNWANTED_TIME: Duration = Duration::from_secs(5);

/// Reads what an answer still has, for the good of its server.
pub(super) async fn discard(answer: &mut Answer) {
    // Whatever comes: the answer was its status.
    let _ = timeout(UNWANTED_TIME, answer.body(OUTPUT_MAX)).await;
}

#[cfg(test)]
mod tests;
