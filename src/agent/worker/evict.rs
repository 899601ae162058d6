//! The limits of emptyDirs: who holds more than it may is evicted.
//!
//! One task for all pods of the agent, which runs only while any of them has a limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copepod_pod::admission::is_critical;
use copepod_pod::{Event, Failure};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::volume::{self, Files};

/// Time between two measurements (upstream's `monitoringInterval` of the eviction manager).
const EVERY: Duration = Duration::from_secs(10);

/// The pods that are measured.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    every: Duration,
    all: Arc<Mutex<Vec<Measured>>>,
}

/// A pod with a limit, until its worker has ended.
#[derive(Clone, Debug)]
struct Measured {
    pod: Arc<Pod>,
    files: Arc<Files>,
    events: mpsc::Sender<Event>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { every: EVERY, all: Arc::default() }
    }
}

impl Limits {
    /// Measures the volumes of a pod that have a limit from now on, until nobody takes `events`. A
    /// critical pod is never evicted (upstream `evictPod`), so that its limit is no limit. Of a pod that is
    /// set up again what it was set up with last is measured.
    pub(super) fn watch(&self, pod: &Arc<Pod>, files: &Arc<Files>, events: mpsc::Sender<Event>) {
        if is_critical(pod) || !volume::usage::is_limited(pod) {
            return;
        }
        let mut all = self.lock();
        if all.is_empty() {
            tokio::spawn(self.clone().measure());
        }
        let uid = &pod.metadata.uid;
        all.retain(|one| one.pod.metadata.uid != *uid);
        all.push(Measured { pod: Arc::clone(pod), files: Arc::clone(files), events });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Measured>> {
        // A panic elsewhere leaves the list whole: each change is one call.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those whose workers live. Once there is none, the next that comes starts a task anew.
    fn living(&self) -> Vec<Measured> {
        let mut all = self.lock();
        all.retain(|one| !one.events.is_closed());
        all.clone()
    }

    async fn measure(self) {
        loop {
            sleep(self.every).await;
            let all = self.living();
            if all.is_empty() {
                return;
            }
            for Measured { pod, files, events } in all {
                let over = spawn_blocking(move || volume::usage::over(&pod, &files.volumes));
                // An error is the agent's end.
                let Ok(Some(over)) = over.await else { continue };
                // Full: it is found again. Closed: that pod has ended.
                let _ = events.try_send(Event::Evict(evicted(&over)));
            }
        }
    }
}

/// Upstream's words (`emptyDirMessageFmt`).
fn evicted(over: &volume::usage::Over) -> Failure {
    let volume::usage::Over { volume, limit } = over;
    Failure {
        reason: "Evicted".into(),
        message: format!("Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. "),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::volume::{Kind, Volume};

    #[tokio::test]
    async fn a_pod_over_its_limit_is_told_and_the_task_ends_with_the_last_pod() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_path_buf();
        let volume = |limit| json!([{"name": "v", "emptyDir": {"sizeLimit": limit}}]);
        let pod = |limit| {
            let spec = json!({"containers": [], "volumes": volume(limit)});
            let pod = json!({"metadata": {"uid": "u-1"}, "spec": spec});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let mut files = Files::default();
        files.volumes.insert("v".into(), Volume { path: path.clone(), kind: Kind::EmptyDir });
        let files = Arc::new(files);
        let every = Duration::from_millis(5);
        let limits = Limits { every, all: Arc::default() };
        let (events, mut inbox) = mpsc::channel(1);
        limits.watch(&pod("0"), &files, events.clone());
        let mut critical = pod("1Mi");
        let spec = Arc::make_mut(&mut critical).spec.as_mut().expect("a spec");
        spec.priority = Some(2_000_000_000);
        limits.watch(&critical, &files, events.clone());
        assert!(limits.lock().is_empty(), "no limit, nothing to measure; a critical pod stays");
        limits.watch(&pod("2Mi"), &files, events.clone());
        limits.watch(&pod("1Mi"), &files, events);
        assert_eq!(limits.lock().len(), 1, "it was set up again");
        fs::write(path.join("f"), vec![1; 1 << 19]).expect("writes");
        assert_eq!(volume::usage::over(&pod("1Mi"), &files.volumes), None, "half of it is within");
        fs::write(path.join("g"), vec![1; 1 << 20]).expect("writes");
        let Some(Event::Evict(failure)) = inbox.recv().await else { panic!("evicted") };
        assert_eq!(
            (failure.reason.as_str(), failure.message.as_str()),
            ("Evicted", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ")
        );
        drop(inbox);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !limits.lock().is_empty() && Instant::now() < deadline {
            sleep(every).await;
        }
        assert!(limits.lock().is_empty());
    }
}
