//! What the API server told of pods and of the events about them, as it came.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use copepod_tests::cluster::Api;
use serde_json::{Value, json};

/// Longer than any run: a watch ends with its recorder.
const LONGEST: Duration = Duration::from_secs(3600);

/// All that was told of one pod; times are milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Each object of it, in order.
    pub(crate) changes: Vec<(u64, Value)>,
    /// When it was gone.
    pub(crate) gone: Option<u64>,
    /// The events about it, as often as they were told.
    pub(crate) events: Vec<(u64, Value)>,
}

/// By namespace and name.
type Records = HashMap<(String, String), Record>;

/// Two threads that read two watches, ended with this value.
pub(crate) struct Recorder {
    records: Arc<Mutex<Records>>,
    start: Instant,
    connections: Vec<TcpStream>,
}

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
        let start = Instant::now();
        let mut connections = Vec::new();
        for kind in ["pods", "events"] {
            let records = Arc::clone(&records);
            let mut watch = api.watch(kind, "");
            connections.push(watch.connection());
            std::thread::spawn(move || {
                while let Some((change, object, at)) = watch.next(LONGEST) {
                    let at = (at - start).as_millis() as u64;
                    keep(&mut lock(&records), kind, &change, object, at);
                }
            });
        }
        Self { records, start, connections }
    }

    /// Milliseconds since it began.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// What is known of a pod by now, if anything is.
    pub(crate) fn of<T>(
        &self,
        namespace: &str,
        name: &str,
        look: impl FnOnce(&Record) -> T,
    ) -> Option<T> {
        lock(&self.records).get(&(namespace.to_owned(), name.to_owned())).map(look)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for connection in &self.connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn keep(records: &mut Records, kind: &str, change: &str, mut object: Value, at: u64) {
    if let Some(meta) = object["metadata"].as_object_mut() {
        // Half of an object, and nothing that is compared.
        meta.remove("managedFields");
    }
    if kind == "pods" {
        let record = records.entry(key(&object["metadata"])).or_default();
        record.gone = (change == "DELETED").then_some(at);
        record.changes.push((at, object));
    } else if change != "DELETED" {
        let record = records.entry(key(&object["involvedObject"])).or_default();
        record.events.push((at, object));
    }
}

impl Record {
    /// As it is kept.
    pub(crate) fn to_value(&self) -> Value {
        json!({"changes": self.changes, "gone": self.gone, "events": self.events})
    }

    /// As it was kept.
    pub(crate) fn from_value(value: &Value) -> Self {
        let list = |name: &str| -> Vec<(u64, Value)> {
            let all = value[name].as_array().into_iter().flatten();
            all.map(|one| (one[0].as_u64().unwrap_or_default(), one[1].clone())).collect()
        };
        Self { changes: list("changes"), gone: value["gone"].as_u64(), events: list("events") }
    }
}
