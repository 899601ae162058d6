//! What the API server told of pods and of the events about them, as it came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_tests::cluster::Api;
use serde_json::Value;

/// Longer than any run: a watch ends with its API server.
const LONGEST: Duration = Duration::from_secs(3600);

/// A pod's object at one time.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) pod: Value,
}

/// All that was told of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Each change of it, in order.
    pub(crate) changes: Vec<Change>,
    /// When it was gone.
    pub(crate) gone: Option<Instant>,
    /// The events about it, as often as they were told.
    pub(crate) events: Vec<(Instant, Value)>,
}

/// By namespace and name.
type Records = HashMap<(String, String), Record>;

/// Two threads that read two watches, until the API server ends.
pub(crate) struct Recorder(Arc<Mutex<Records>>);

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    // A panic elsewhere leaves it whole: each change is one call.
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(meta: &Value) -> (String, String) {
    let field = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}

impl Recorder {
    /// Records from now on.
    pub(crate) fn start(api: &Api) -> Self {
        let records: Arc<Mutex<Records>> = Arc::default();
        for kind in ["pods", "events"] {
            let records = Arc::clone(&records);
            let mut watch = api.watch(kind, "");
            std::thread::spawn(move || {
                while let Some((change, object, at)) = watch.next(LONGEST) {
                    let mut records = lock(&records);
                    if kind == "pods" {
                        let record = records.entry(key(&object["metadata"])).or_default();
                        if change == "DELETED" {
                            record.gone = Some(at);
                        } else {
                            record.gone = None;
                        }
                        record.changes.push(Change { at, pod: object });
                    } else if change != "DELETED" {
                        let record = records.entry(key(&object["involvedObject"])).or_default();
                        record.events.push((at, object));
                    }
                }
            });
        }
        Self(records)
    }

    /// What is known of a pod by now, if anything is.
    pub(crate) fn of<T>(
        &self,
        namespace: &str,
        name: &str,
        look: impl FnOnce(&Record) -> T,
    ) -> Option<T> {
        lock(&self.0).get(&(namespace.to_owned(), name.to_owned())).map(look)
    }
}
