//! Events, which people read with `kubectl describe`.
//!
//! Owns: their correlation ([`correlate`]), their way to the API server. In: [`Recorder::record`],
//! which never waits. Out: events in the namespace of what they are about.
//! Starts one task ([`Recorder::start`]), which ends once the last recorder is dropped and all is
//! written.

mod correlate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::select;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tracing::{debug, warn};

use self::correlate::{Bucket, Correlated, Correlator, event_name};
use super::call::{CallError, call, whole_seconds};
use super::spread;
use crate::telemetry::chain;

/// Events that wait to be written (upstream's `maxQueuedEvents`); more are dropped.
const QUEUE: usize = 1000;
/// Bytes of a message: the text of a compile error has no end of its own. A reader of events sees
/// the beginning.
const MESSAGE_MAX: usize = 16 << 10;
/// How often an event is tried (upstream's `maxTriesPerEvent`), while the others wait.
const TRIES: u32 = 12;
/// Time between two tries (upstream's `defaultSleepDuration`), unless the API server is seen to
/// answer before.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Who all events are from, in the words that tools match on.
const COMPONENT: &str = "kubelet";
/// The namespace of events about what has none.
const DEFAULT_NAMESPACE: &str = "default";

/// Where events are said. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Event>,
    host: Arc<str>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// The API server has answered somebody.
    answers: Notify,
}

impl Recorder {
    /// Starts to write events of the node `node`: `qps` a second, `burst` at once (upstream's
    /// `eventRecordQPS` and `eventBurst`, 50 and 100); no limit if `qps` is 0.
    pub(crate) fn start(client: kube::Client, node: &str, qps: u32, burst: u32) -> Self {
        let (recorder, inbox) = Self::new(node);
        let limit = (qps > 0).then(|| Bucket::new(burst.max(1).into(), qps.into(), Instant::now()));
        let shared = Arc::clone(&recorder.shared);
        let writer = Writer { client, correlator: Correlator::new(), limit, shared };
        tokio::spawn(writer.run(inbox));
        recorder
    }

    fn new(node: &str) -> (Self, mpsc::Receiver<Event>) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        (Self { queue, host: node.into(), shared: Arc::default() }, inbox)
    }

    /// A recorder whose events are read by a test.
    #[cfg(test)]
    pub(crate) fn for_test() -> (Self, mpsc::Receiver<Event>) {
        Self::new("node")
    }

    /// Says that something has happened to `about`; a warning, or normal. Never waits: an event too
    /// many is dropped and counted.
    pub(crate) fn record(
        &self,
        about: ObjectReference,
        warning: bool,
        reason: &str,
        mut message: String,
    ) {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        let wall = Timestamp::now();
        let time = whole_seconds(wall);
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(event_name(about.name.as_deref().unwrap_or_default(), wall)),
                namespace: Some(namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into())),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.into()),
            message: Some(message),
            type_: Some(if warning { "Warning" } else { "Normal" }.into()),
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            source: Some(EventSource {
                component: Some(COMPONENT.into()),
                host: Some(self.host.to_string()),
            }),
            reporting_component: Some(COMPONENT.into()),
            reporting_instance: Some(self.host.to_string()),
            ..Event::default()
        };
        if self.queue.try_send(event).is_err() {
            let dropped = self.shared.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            // The first, and then ever fewer: who floods events would flood the log, too.
            if dropped.is_power_of_two() {
                warn!(reason, dropped, "too many events wait to be written");
            }
        }
    }

    /// Says that the API server has just answered: what waits for that is tried again.
    pub(crate) fn api_answers(&self) {
        self.shared.answers.notify_waiters();
    }
}

/// A pod as what an event is about; `field_path` is the part of it (`spec.containers{NAME}`).
pub(crate) fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// A node as what an event is about. Its uid is its name, by which `kubectl describe node` finds
/// what a kubelet said before it knew more.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..ObjectReference::default()
    }
}

/// The task.
struct Writer {
    client: kube::Client,
    correlator: Correlator,
    limit: Option<Bucket>,
    shared: Arc<Shared>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        while let Some(event) = inbox.recv().await {
            let correlated = self.correlator.correlate(event, Timestamp::now(), Instant::now());
            if let Some(correlated) = correlated {
                self.write(correlated).await;
            }
        }
    }

    /// Writes one event, as often as it takes; all others wait meanwhile, as upstream has it: they
    /// would not fare better.
    async fn write(&mut self, mut correlated: Correlated) {
        for tried in 1..=TRIES {
            self.wait_for_limit().await;
            let error = match self.try_once(&mut correlated).await {
                Ok(written) => return self.correlator.written(&written),
                Err(error) => error,
            };
            let reason = correlated.event.reason.as_deref().unwrap_or_default();
            if !error.is_passing() {
                // A namespace that ends takes no more of them.
                debug!(reason, error = chain(&error), "an event was refused");
                return;
            }
            debug!(reason, tried, error = chain(&error), "an event was not written");
            if tried < TRIES {
                // The first one at a time of its own, since all nodes lost the same API server.
                let pause = if tried == 1 { TRY_AGAIN.mul_f64(spread()) } else { TRY_AGAIN };
                self.pause(error.retry_after().map_or(pause, |asked| asked.min(TRY_AGAIN))).await;
            } else {
                warn!(reason, error = chain(&error), "an event was given up");
            }
        }
    }

    async fn try_once(&self, correlated: &mut Correlated) -> Result<Event, CallError> {
        let event = &mut correlated.event;
        let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        if let Some(patch) = &correlated.patch {
            let params = PatchParams::default();
            let patched = call(LIMIT, api.patch(&name, &params, &Patch::Strategic(patch))).await;
            // It was removed: events live for an hour.
            match patched {
                Err(error) if error.is_not_found() => {}
                done => return done,
            }
        }
        event.metadata.resource_version = None;
        call(LIMIT, api.create(&PostParams::default(), event)).await
    }

    async fn wait_for_limit(&mut self) {
        let Some(bucket) = &mut self.limit else { return };
        while !bucket.take(Instant::now()) {
            sleep(bucket.wait(Instant::now()) + Duration::from_millis(1)).await;
        }
    }

    async fn pause(&self, pause: Duration) {
        select! {
            () = sleep(pause) => {}
            () = self.shared.answers.notified() => {}
        }
    }
}

#[cfg(test)]
#[path = "events/events_test.rs"]
mod tests;
