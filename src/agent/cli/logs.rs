//! `copepod logs`: what containers of running pods have written.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};

use super::api::{self, Found, address};
use super::{find, note, print};

/// Longest line that is put together before its container's name; a longer one goes on as it comes.
const LINE_MAX: usize = 1 << 20;

/// Print the logs of a container of a running pod.
///
/// Its standard output and standard error alike, as kubectl logs does.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    namespace: find::Namespace,
    /// The pod: POD, NAMESPACE/POD or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The container; the only one if not given
    #[arg(value_name = "CONTAINER", conflicts_with = "all_containers")]
    container: Option<String>,
    /// The container
    #[arg(
        long = "container",
        short = 'c',
        value_name = "CONTAINER",
        conflicts_with_all = ["container", "all_containers"]
    )]
    named: Option<String>,
    /// All containers of the pod, each line with its container's name before it
    #[arg(long)]
    all_containers: bool,
    /// Go on until the container ends
    #[arg(long, short)]
    follow: bool,
    /// The last lines alone
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// What was written within a time from now: 5s, 2m, 3h
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "since_time")]
    since: Option<SignedDuration>,
    /// What was written since a time: 2026-11-22T03:00:00Z
    #[arg(long, value_name = "TIME")]
    since_time: Option<Timestamp>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    /// The attempt before the last restart
    #[arg(long, short)]
    previous: bool,
    /// No more bytes than this
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    limit_bytes: Option<u64>,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let duration: SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 5s, 2m or 3h".to_owned())?;
    if duration.as_secs() > 0 { Ok(duration) } else { Err("expected at least 1s".into()) }
}

/// Runs the command.
///
/// # Errors
/// A pod or container that is not there, or has no logs; an output that cannot be written.
pub(super) async fn run(args: Args) -> Result<u8> {
    let runs = api::runs().await?;
    let found = find::one(&runs, &args.pod, args.namespace.namespace.as_deref())?;
    if args.all_containers {
        return all(&args, &found).await;
    }
    let named = args.container.as_deref().or(args.named.as_deref());
    let mut body = ask(&args, &found, found.container(named)?).await?;
    while let Some(bytes) = next(&mut body).await? {
        if !print(&bytes)? {
            break;
        }
    }
    Ok(0)
}

async fn ask(args: &Args, found: &Found<'_>, container: &str) -> Result<Incoming> {
    let mut url = address(&["containerLogs", found.namespace(), found.name(), container])?;
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, &value);
        }
    };
    let flag = |set: bool| set.then(|| "true".to_owned());
    add("follow", flag(args.follow));
    add("previous", flag(args.previous));
    add("timestamps", flag(args.timestamps));
    add("tailLines", args.tail.map(|lines| lines.to_string()));
    add("limitBytes", args.limit_bytes.map(|bytes| bytes.to_string()));
    add("sinceSeconds", args.since.map(|since| since.as_secs().to_string()));
    add("sinceTime", args.since_time.map(|time| time.to_string()));
    Ok(found.run.ask(Method::GET, &url).await?.into_body())
}

/// The next bytes of a log; `None` at its end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        // Trailers are no part of a log.
        if let Ok(bytes) = frame.context("the run ended before its log did")?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// All containers: one after the other, or beside each other where they are followed.
async fn all(args: &Args, found: &Found<'_>) -> Result<u8> {
    let show = async |container: &str| {
        let mut body = ask(args, found, container).await?;
        let mut lines = Lines::new(format!("[pod/{}/{container}] ", found.name()));
        while let Some(bytes) = next(&mut body).await? {
            if !print(&lines.take(&bytes))? {
                return Ok(());
            }
        }
        print(&lines.end())?;
        Ok::<_, anyhow::Error>(())
    };
    let mut containers: VecDeque<&str> = found.containers().into();
    if containers.is_empty() {
        bail!("pod {:?} has no containers", found.name());
    }
    let mut code = 0;
    // Followed: all at once, and each until it ends; else one at a time.
    while !containers.is_empty() {
        let count = if args.follow { containers.len() } else { 1 };
        let now: Vec<&str> = containers.drain(..count).collect();
        for result in join_all(now.into_iter().map(&show)).await {
            if let Err(error) = result {
                note(&format!("{error:#}"));
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Puts a prefix before each line.
struct Lines {
    prefix: String,
    rest: Vec<u8>,
}

impl Lines {
    fn new(prefix: String) -> Self {
        Self { prefix, rest: Vec::new() }
    }

    /// The whole lines of what came so far, so that those of two containers do not mix.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(len) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(&self.rest[from..=from + len]);
            from += len + 1;
        }
        self.rest.drain(..from);
        if self.rest.len() > LINE_MAX {
            out.extend(self.end());
        }
        out
    }

    /// What is left, as a line.
    fn end(&mut self) -> Vec<u8> {
        if self.rest.is_empty() {
            return Vec::new();
        }
        let rest = std::mem::take(&mut self.rest);
        [self.prefix.as_bytes(), &rest, b"\n"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_prefix() {
        let mut lines = Lines::new("> ".into());
        assert_eq!(lines.take(b"a\nb"), b"> a\n");
        assert_eq!(lines.take(b"c\n\nd"), b"> bc\n> \n");
        assert_eq!(lines.end(), b"> d\n");
        assert_eq!(lines.end(), b"");
        let long = lines.take(&vec![b'x'; LINE_MAX + 1]);
        assert_eq!(long.len(), LINE_MAX + 4);
    }

    #[test]
    fn durations_are_kubectls() {
        for (text, seconds) in [("5s", 5), ("2m", 120), ("1h30m", 5400), ("1.5h", 5400)] {
            assert_eq!(duration(text).expect("one").as_secs(), seconds, "{text}");
        }
        for text in ["", "0s", "-5s", "5", "yesterday", "500ms"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
