//! The pods that the API has for this node: one list, then a watch that goes on from there.
//!
//! kube's watcher finds a silent watch after its whole length only, and relists from memory that
//! we do not want to hold: pods are passed on as they come and kept by who works with them.

mod lines;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::client::Body;
use kube::core::WatchEvent;
use kube::{Client, ResourceExt};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::lines::{Lines, LinesError};
use super::client::{Backoff, random, retry_after, told};

/// Changes that wait for who works with them. A relist is one, however long; past this the watch
/// stands still, which the server bears for a while.
const QUEUE: usize = 64;
/// Failed watches in a row after which the pods are listed again: it may be our place in time that
/// the server does not like.
const WATCHES_MAX: u32 = 4;

/// What happened to the pods of this node.
#[derive(Clone, Debug)]
pub(crate) enum PodChange {
    /// All pods that there are: what is not among them is gone. The first one says that the API
    /// was heard at all; more follow whenever changes may have been missed.
    Synced {
        /// Those that can be read.
        pods: Vec<Arc<Pod>>,
        /// The uids of the others: they are there, and stay as they were.
        unread: BTreeSet<String>,
    },
    /// This pod is there, as it is now.
    Set(Arc<Pod>),
    /// This pod is not there any more.
    Gone {
        /// Whose end it was: a namesake may come.
        uid: String,
        /// How it was at last.
        pod: Arc<Pod>,
    },
}

/// The times of the watch. A test shortens them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// First wait after a failure.
    pub(crate) first: Duration,
    /// Longest wait: with the time to connect it is below the 15 s in which we are to be back.
    pub(crate) max: Duration,
    /// Longest silence of a watch: the server sends a bookmark each minute.
    pub(crate) silence: Duration,
    /// Shortest watch, whole seconds; each is up to twice as long (client-go's `minWatchTimeout`).
    pub(crate) watch: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(7),
            silence: Duration::from_secs(130),
            watch: Duration::from_secs(300),
        }
    }
}

/// Why there is no list or no more of a watch.
#[derive(Debug, Error)]
enum PodsError {
    #[error("cannot list pods")]
    List(#[source] kube::Error),
    #[error("cannot read the list of pods")]
    ListText(#[source] serde_json::Error),
    #[error("the list of pods has no version")]
    NoVersion,
    #[error("cannot watch pods")]
    Start(#[source] kube::Error),
    #[error("the watch of pods broke")]
    Broken(#[source] LinesError),
    #[error("the watch of pods was ended by the server: {code} {text}")]
    Ended { code: u16, text: String },
}

impl PodsError {
    /// Whether what we know is too old, or from another life of the server: nothing can follow it.
    fn is_out_of_time(&self) -> bool {
        match self {
            PodsError::List(kube::Error::Api(status))
            | PodsError::Start(kube::Error::Api(status)) => {
                !matches!(status.code, 401 | 403 | 429 | 500 | 502 | 503)
            }
            PodsError::Ended { code, .. } => *code == 410,
            PodsError::List(_)
            | PodsError::Start(_)
            | PodsError::ListText(_)
            | PodsError::NoVersion
            | PodsError::Broken(_) => false,
        }
    }

    fn asked(&self) -> Option<Duration> {
        match self {
            PodsError::List(error) | PodsError::Start(error) => retry_after(error),
            PodsError::ListText(_)
            | PodsError::NoVersion
            | PodsError::Broken(_)
            | PodsError::Ended { .. } => None,
        }
    }
}

/// Follows the pods of `node`, until the receiver is dropped. Starts one task.
pub(crate) fn watch(client: Client, node: &str, times: Times) -> mpsc::Receiver<PodChange> {
    let (changes, receiver) = mpsc::channel(QUEUE);
    let backoff = Backoff::new(times.first, times.max);
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
    let mut source = Source {
        client,
        path,
        times,
        backoff,
        changes: changes.clone(),
        since: Since::Cached,
        is_out: false,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = changes.closed() => {}
            _ = source.run() => {}
        }
    });
    receiver
}

/// How new a list has to be.
enum Since {
    /// What the server has at hand: the first list.
    Cached,
    /// Not older than what we have seen already.
    Seen(String),
    /// The newest: the server does not know what we have seen.
    Newest,
}

struct Source {
    client: Client,
    /// Of all requests, with the selector.
    path: String,
    times: Times,
    backoff: Backoff,
    changes: mpsc::Sender<PodChange>,
    since: Since,
    /// The last request failed.
    is_out: bool,
}

/// Nobody wants to know more.
struct Unwanted;

impl Source {
    async fn run(&mut self) -> Result<(), Unwanted> {
        loop {
            let (all, mut version) = match self.list().await {
                Ok(listed) => listed,
                Err(error) => {
                    if error.is_out_of_time() {
                        self.since = Since::Newest;
                    }
                    self.pause(&error).await;
                    continue;
                }
            };
            self.send(all).await?;
            let mut failures = 0;
            while failures < WATCHES_MAX {
                let begun = Instant::now();
                let mut heard = false;
                let ended = self.follow(&mut version, &mut heard).await?;
                if heard {
                    failures = 0;
                    self.is_out = false;
                    self.backoff.reset();
                }
                match ended {
                    Ok(()) if heard || begun.elapsed() > self.times.max => {}
                    // A server that ends each watch at once is not asked in circles.
                    Ok(()) => sleep(self.backoff.wait(None)).await,
                    Err(error) => {
                        failures += 1;
                        self.pause(&error).await;
                        if error.is_out_of_time() {
                            break;
                        }
                    }
                }
            }
            self.since = Since::Seen(version);
        }
    }

    async fn send(&self, change: PodChange) -> Result<(), Unwanted> {
        self.changes.send(change).await.map_err(|_| Unwanted)
    }

    async fn pause(&mut self, error: &PodsError) {
        let wait = self.backoff.wait(error.asked());
        // Once for an outage: what follows says the same.
        match std::mem::replace(&mut self.is_out, true) {
            false => tracing::warn!(?wait, "{}", told(error)),
            true => tracing::debug!(?wait, "{}", told(error)),
        }
        sleep(wait).await;
    }

    /// All pods, and the version from which on to watch.
    async fn list(&mut self) -> Result<(PodChange, String), PodsError> {
        let version = match &self.since {
            Since::Cached => "&resourceVersion=0".to_owned(),
            Since::Seen(version) => {
                format!("&resourceVersion={version}&resourceVersionMatch=NotOlderThan")
            }
            Since::Newest => String::new(),
        };
        let request = Request::get(format!("{}{version}", self.path)).body(Vec::new());
        let request = request.map_err(|e| PodsError::List(kube::Error::HttpError(e)))?;
        let text = self.client.request_text(request).await.map_err(PodsError::List)?;
        let (list, unread) = parse_list(&text).map_err(PodsError::ListText)?;
        let version = list.metadata.resource_version.filter(|version| !version.is_empty());
        let version = version.ok_or(PodsError::NoVersion)?;
        let pods = list.items.into_iter().map(slim).collect();
        Ok((PodChange::Synced { pods, unread }, version))
    }

    /// One watch from `version` on, which it moves, until it ends.
    async fn follow(
        &mut self,
        version: &mut String,
        heard: &mut bool,
    ) -> Result<Result<(), PodsError>, Unwanted> {
        let mut lines = match self.start(version).await {
            Ok(lines) => lines,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(PodsError::Broken(error))),
            };
            let event = match serde_json::from_slice::<WatchEvent<Pod>>(&line) {
                Ok(event) => event,
                Err(error) => {
                    // The others are not to suffer for it, and asking again would not help.
                    tracing::error!("cannot read a pod of the watch: {}", told(&error));
                    if let Some(gone) = unread_end(&line) {
                        self.send(gone).await?;
                    }
                    continue;
                }
            };
            let change = match event {
                WatchEvent::Bookmark(bookmark) => {
                    *heard = true;
                    *version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) => {
                    let text = status.message;
                    return Ok(Err(PodsError::Ended { code: status.code, text }));
                }
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => PodChange::Set(slim(pod)),
                WatchEvent::Deleted(pod) => {
                    PodChange::Gone { uid: pod.uid().unwrap_or_default(), pod: slim(pod) }
                }
            };
            *heard = true;
            if let PodChange::Set(pod) | PodChange::Gone { pod, .. } = &change
                && let Some(at) = &pod.metadata.resource_version
            {
                version.clone_from(at);
            }
            self.send(change).await?;
        }
    }

    async fn start(&self, version: &str) -> Result<Lines<Body>, PodsError> {
        let seconds = self.times.watch.mul_f64(1.0 + random()).as_secs().max(1);
        let path = &self.path;
        let path = format!(
            "{path}&watch=true&allowWatchBookmarks=true&resourceVersion={version}\
             &timeoutSeconds={seconds}"
        );
        let request = Request::get(path).body(Body::empty());
        let request = request.map_err(|e| PodsError::Start(kube::Error::HttpError(e)))?;
        let answer = self.client.send(request).await.map_err(PodsError::Start)?;
        let refusal = answer.status();
        if refusal.is_success() {
            return Ok(Lines::new(answer.into_body(), self.times.silence));
        }
        let text = answer.into_body().collect_bytes().await.map_err(PodsError::Start)?;
        let status = serde_json::from_slice(&text).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&text);
            kube::core::Status::failure(text.trim(), refusal.as_str()).with_code(refusal.as_u16())
        });
        Err(PodsError::Start(kube::Error::Api(status.boxed())))
    }
}

/// A list. One pod that cannot be read is left out, so that the others are still there; of such the
/// uids are given.
fn parse_list(text: &str) -> Result<(List<Pod>, BTreeSet<String>), serde_json::Error> {
    #[derive(Deserialize)]
    struct Loose {
        metadata: ListMeta,
        #[serde(default)]
        items: Vec<serde_json::Value>,
    }
    if let Ok(list) = serde_json::from_str(text) {
        return Ok((list, BTreeSet::new()));
    }
    let loose: Loose = serde_json::from_str(text)?;
    let (mut items, mut unread) = (Vec::new(), BTreeSet::new());
    for item in loose.items {
        let of = |field: &str| {
            item.pointer(field).and_then(serde_json::Value::as_str).map(str::to_owned)
        };
        let (name, uid) = (of("/metadata/name").unwrap_or_default(), of("/metadata/uid"));
        match serde_json::from_value(item) {
            Ok(pod) => items.push(pod),
            Err(error) => {
                tracing::error!("cannot read pod {name:?}: {}", told(&error));
                unread.extend(uid);
            }
        }
    }
    Ok((List { items, metadata: loose.metadata }, unread))
}

/// The end of a pod, if this line of a watch that cannot be read tells of one: of a pod that is over
/// its metadata say enough.
fn unread_end(line: &[u8]) -> Option<PodChange> {
    #[derive(Deserialize)]
    struct Loose {
        r#type: String,
        object: Object,
    }
    #[derive(Deserialize)]
    struct Object {
        metadata: ObjectMeta,
    }
    let Loose { r#type, object: Object { metadata } } = serde_json::from_slice(line).ok()?;
    let uid = metadata.uid.clone().filter(|_| r#type == "DELETED")?;
    Some(PodChange::Gone { uid, pod: slim(Pod { metadata, ..Pod::default() }) })
}

/// Without what only the API server reads, which is often half of a pod.
fn slim(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}

#[cfg(test)]
#[path = "pods_test.rs"]
mod tests;
