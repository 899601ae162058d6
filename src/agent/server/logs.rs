//! `/containerLogs`: which attempt's log is meant, and its lines as they come.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answer::{Answer, Refusal, text};
use super::route::{Query, Target, invalid, undecodable};
use super::{Pods, Shared};
use crate::logs::Stream;
use crate::logs::read::{LogOptions, LogReader, Reached};
use crate::worker::Snapshot;

/// Bytes given at once; a chunk that is read may add its own to it.
const GIVEN: usize = 64 << 10;

/// The parameters of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    options: LogOptions,
    follow: bool,
    previous: bool,
}

impl Wanted {
    /// Reads upstream's parameters; `now` is what `sinceSeconds` counts from.
    fn of(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let at_least = |name, least: i64| match query.number(name)? {
            Some(number) if number < least => Err(invalid()),
            Some(number) => Ok(Some(u64::try_from(number).unwrap_or_default())),
            None => Ok(None),
        };
        let since_time = query.get("sinceTime").filter(|time| !time.is_empty());
        let since_time: Option<Timestamp> =
            since_time.map(|time| time.parse().map_err(|_| undecodable())).transpose()?;
        let since = match (at_least("sinceSeconds", 1)?, since_time) {
            (Some(_), Some(_)) => return Err(invalid()),
            (None, time) => time,
            (Some(seconds), None) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                // Before the first time there is: all of it.
                now.checked_sub(SignedDuration::from_secs(seconds)).ok()
            }
        };
        let stream = match query.get("stream").unwrap_or("All") {
            "All" => None,
            "Stdout" => Some(Stream::Stdout),
            "Stderr" => Some(Stream::Stderr),
            _ => return Err(invalid()),
        };
        // Upstream's older name for it, whose `all` is none.
        let tail = match query.get("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(_) => at_least("tail", 0)?,
            None => at_least("tailLines", 0)?,
        };
        // Upstream's rule: the tail is counted before streams are told apart.
        if tail.is_some() && stream.is_some() {
            return Err(invalid());
        }
        let limit_bytes = at_least("limitBytes", 1)?;
        let timestamps = query.is_set("timestamps");
        Ok(Self {
            options: LogOptions { tail, since, timestamps, limit_bytes, stream },
            follow: query.is_set("follow"),
            previous: query.is_set("previous"),
        })
    }
}

impl<P: Pods> Shared<P> {
    /// Answers with lines of a container's log.
    pub(super) fn logs(&self, target: &Target, query: &Query) -> Result<Response<Answer>, Refusal> {
        let wanted = Wanted::of(query, Timestamp::now())?;
        let Some(served) = self.find(target) else { return Err(target.unknown()) };
        let Target { pod, container, .. } = target;
        if !served.has_container(container) {
            let text = format!("container {container:?} not found in pod {pod:?}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
        let attempt = attempt(&served.snapshot.borrow().status, target, wanted.previous)?;
        // Upstream's code for whatever goes wrong from here on.
        let failed = |e: io::Error| Refusal::new(StatusCode::BAD_REQUEST, e.to_string());
        let dir = self.pods.log_dir(&served.pod, container);
        let permit = self.stream_permit()?;
        let lines = Lines {
            // Watched before it is read, so that no line falls between the two.
            written: self.log_watch.follow(&dir).map_err(failed)?,
            reader: LogReader::open(dir.join(format!("{attempt}.log")), wanted.options)
                .map_err(failed)?,
            snapshot: served.snapshot,
            container: container.clone(),
            attempt,
            follow: wanted.follow,
            _permit: permit,
        };
        let lines = stream::try_unfold(lines, |mut lines| async {
            let chunk = lines.next().await?;
            Ok(chunk.map(|chunk| (Frame::data(chunk), lines)))
        });
        Ok(text(StreamBody::new(lines).boxed_unsync()))
    }
}

/// The lines of one attempt on their way to a client, who asks for the next ones when it has taken
/// the last: a slow one holds up nothing but its own.
struct Lines {
    written: watch::Receiver<()>,
    reader: LogReader,
    snapshot: watch::Receiver<Snapshot>,
    container: String,
    attempt: u32,
    follow: bool,
    _permit: OwnedSemaphorePermit,
}

impl Lines {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut lines = Vec::new();
        loop {
            // In this order: what is written after the look at the container's state is no line
            // of an attempt that had ended by then.
            self.written.mark_unchanged();
            let runs = self.follow && self.runs();
            let reached = self.read(&mut lines).await?;
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
            match reached {
                Reached::More => {}
                Reached::Limit => return Ok(None),
                Reached::End if !runs => return Ok(None),
                Reached::End => tokio::select! {
                    Ok(()) = self.written.changed() => {}
                    Ok(()) = self.snapshot.changed() => {}
                    else => return Ok(None),
                },
            }
        }
    }

    async fn read(&mut self, lines: &mut Vec<u8>) -> io::Result<Reached> {
        loop {
            let reached = self.reader.read(lines)?;
            if reached != Reached::More || lines.len() >= GIVEN {
                return Ok(reached);
            }
            // A long log is read by turns with everything else.
            tokio::task::yield_now().await;
        }
    }

    /// Whether the attempt may still write.
    fn runs(&mut self) -> bool {
        let snapshot = self.snapshot.borrow_and_update();
        let status = container_status(&snapshot.status, &self.container);
        let current = status.is_some_and(|status| {
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            running && newest(status) == self.attempt
        });
        current && !snapshot.terminated
    }
}

fn container_status<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten()).chain(ephemeral);
    all.find(|status| status.name == container)
}

/// The newest attempt that ran.
fn newest(status: &ContainerStatus) -> u32 {
    u32::try_from(status.restart_count).unwrap_or_default()
}

/// The attempt whose log is shown: the one before for `previous`, else the one that runs or ended
/// last (upstream's pkg/kubelet, `validateContainerLogStatus`). An end without a container's id is
/// one of which nobody saw the container.
fn attempt(status: &PodStatus, target: &Target, previous: bool) -> Result<u32, Refusal> {
    let named = format!("container {:?} in pod {:?}", target.container, target.pod);
    let bad = |text: String| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    let Some(status) = container_status(status, &target.container) else {
        return bad(format!("{named} is not available"));
    };
    let state = status.state.clone().unwrap_or_default();
    // Whether it has ended, and whether its container is known.
    let ended = |state: Option<&ContainerState>| {
        let end = state?.terminated.as_ref()?;
        Some(end.container_id.as_ref().is_some_and(|id| !id.is_empty()))
    };
    let newest = newest(status);
    let last = ended(status.last_state.as_ref());
    // In a back-off the attempt that ended last is the last state already.
    let last_attempt = if state.waiting.is_some() { newest } else { newest.saturating_sub(1) };
    if previous {
        return match last {
            Some(true) => Ok(last_attempt),
            Some(false) | None => bad(format!("previous terminated {named} not found")),
        };
    }
    if state.running.is_some() {
        return Ok(newest);
    }
    match (ended(Some(&state)), last, state.waiting) {
        (Some(true), _, _) => Ok(newest),
        (Some(false) | None, Some(true), _) => Ok(last_attempt),
        (Some(false), Some(false) | None, _) | (None, Some(false), _) => {
            bad(format!("{named} is terminated"))
        }
        (None, None, Some(waiting)) => {
            let why = match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                reason => reason,
            };
            bad(format!("{named} is waiting to start: {why}"))
        }
        (None, None, None) => bad(format!("{named} is waiting to start - no logs yet")),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use k8s_openapi::api::core::v1::{
        ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    };

    use super::super::route::Route;
    use super::*;

    fn wanted(query: &str) -> Result<Wanted, u16> {
        let uri = format!("/containerLogs/ns/p/c?{query}").parse().expect("an address");
        let Ok(Route::Logs { query, .. }) = Route::of(&Method::GET, &uri) else {
            panic!("a path of logs")
        };
        Wanted::of(&query, Timestamp::UNIX_EPOCH).map_err(|refusal| refusal.code.as_u16())
    }

    #[test]
    fn parameters_are_upstreams() {
        assert_eq!(wanted("tail=3&tailLines=5").expect("ok").options.tail, Some(3));
        assert_eq!(wanted("tail=all&tailLines=5").expect("ok").options.tail, None);
        let all = wanted("follow=true&previous=1&timestamps&tailLines=0&limitBytes=5").expect("ok");
        assert!(all.follow && all.previous && all.options.timestamps);
        assert_eq!((all.options.tail, all.options.limit_bytes), (Some(0), Some(5)));
        let since = |query: &str| wanted(query).expect("ok").options.since.map(|t| t.to_string());
        assert_eq!(since("sinceSeconds=60").as_deref(), Some("1969-12-31T23:59:00Z"));
        let time = "sinceTime=2026-11-22T03:00:00%2B01:00";
        assert_eq!(since(time).as_deref(), Some("2026-11-22T02:00:00Z"));
        assert_eq!(since(&format!("sinceSeconds={}", i64::MAX)), None);
        assert_eq!(wanted("stream=Stderr").expect("ok").options.stream, Some(Stream::Stderr));
        for (query, code) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            (&format!("sinceSeconds=1&{time}"), 422),
            ("stream=stdin", 422),
            ("stream=Stdout&tailLines=1", 422),
        ] {
            assert_eq!(wanted(query), Err(code), "{query}");
        }
    }

    fn chosen(
        restarts: i32,
        state: ContainerState,
        last: bool,
        previous: bool,
    ) -> Result<u32, String> {
        let end = ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some("wasm://0".into()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        };
        let status = ContainerStatus {
            name: "c".into(),
            restart_count: restarts,
            state: Some(state),
            last_state: last.then_some(end),
            ..ContainerStatus::default()
        };
        let status = PodStatus { container_statuses: Some(vec![status]), ..PodStatus::default() };
        let [namespace, pod, container] = ["ns", "p", "c"].map(String::from);
        let target = Target { namespace, pod, container, uid: None };
        attempt(&status, &target, previous).map_err(|refusal| refusal.text)
    }

    #[test]
    fn the_attempt_shown_is_upstreams() {
        let running = || ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..ContainerState::default()
        };
        let waiting = |reason: &str| ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.into()),
                ..ContainerStateWaiting::default()
            }),
            ..ContainerState::default()
        };
        let ended = |id: Option<&str>| ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: id.map(String::from),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        };
        assert_eq!(chosen(2, ended(Some("wasm://2")), true, false), Ok(2));
        assert_eq!(chosen(2, ended(None), true, false), Ok(1));
        assert_eq!(chosen(2, running(), true, false), Ok(2));
        assert_eq!(chosen(2, running(), true, true), Ok(1));
        assert_eq!(chosen(2, waiting("CrashLoopBackOff"), true, false), Ok(2));
        assert_eq!(chosen(2, waiting("CrashLoopBackOff"), true, true), Ok(2));
        for (state, previous, text) in [
            (running(), true, r#"previous terminated container "c" in pod "p" not found"#),
            (
                waiting("ContainerCreating"),
                false,
                r#"container "c" in pod "p" is waiting to start: ContainerCreating"#,
            ),
            (
                waiting("ErrImagePull"),
                false,
                r#"container "c" in pod "p" is waiting to start: image can't be pulled"#,
            ),
            (
                waiting("ImagePullBackOff"),
                false,
                r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#,
            ),
            (ended(None), false, r#"container "c" in pod "p" is terminated"#),
            (
                ContainerState::default(),
                false,
                r#"container "c" in pod "p" is waiting to start - no logs yet"#,
            ),
        ] {
            assert_eq!(chosen(0, state, false, previous), Err(text.into()));
        }
    }
}
