//! `/healthz`: the agent's checks, as upstream tells of them (apiserver's pkg/server/healthz).

use std::fmt::Write;

use hyper::{Response, StatusCode};

use super::answer::{Answer, Refusal, full, text};
use super::route::Query;

/// The checks, in upstream's order. That the agent answers at all is the first; its diagnostics
/// are written at once, so that the second is no other.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// Whether there is a check of this name.
pub(super) fn is_check(name: &str) -> bool {
    CHECKS.contains(&name)
}

/// Answers for one check, or for all but those that the query excludes. `sync_loop` is what the
/// third one comes to.
///
/// # Errors
/// 500 with upstream's text where one fails.
pub(super) fn answer(
    check: Option<&str>,
    query: &Query,
    sync_loop: Result<(), String>,
) -> Result<Response<Answer>, Refusal> {
    let failed = |text: String| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    if let Some(check) = check {
        return match sync_loop {
            Err(why) if check == "syncloop" => failed(format!("internal server error: {why}\n")),
            Ok(()) | Err(_) => Ok(text(full("ok"))),
        };
    }
    let mut lines = String::new();
    let mut good = true;
    for check in CHECKS {
        let line = match &sync_loop {
            _ if query.all("exclude").any(|name| name == check) => {
                format!("[+]{check} excluded: ok")
            }
            Err(why) if check == "syncloop" => {
                tracing::warn!(check, why, "a health check failed");
                good = false;
                format!("[-]{check} failed: reason withheld")
            }
            Ok(()) | Err(_) => format!("[+]{check} ok"),
        };
        lines += &line;
        lines.push('\n');
    }
    let mut unknown: Vec<String> =
        query.all("exclude").filter(|name| !is_check(name)).map(|n| format!("{n:?}")).collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let _ = writeln!(
            lines,
            "warn: some health checks cannot be excluded: no matches for {}",
            unknown.join(",")
        );
    }
    match (good, query.get("verbose")) {
        (false, _) => failed(format!("{lines}healthz check failed\n")),
        (true, None) => Ok(text(full("ok"))),
        (true, Some(_)) => Ok(text(full(format!("{lines}healthz check passed\n")))),
    }
}
