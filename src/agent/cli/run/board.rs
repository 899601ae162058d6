//! The pods of a run as its server shows them: what [`Session`](super::session::Session) puts up,
//! `copepod ps` and the like read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copepod_pod::{Event, Failure};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc::error::TrySendError;

use crate::ledger::Ledger;
use crate::server::{Pods, Served};
use crate::worker::Handle;

/// The pods of a run, in the order of its files.
#[derive(Clone)]
pub(super) struct Board {
    ledger: Arc<Ledger>,
    pods: Arc<Mutex<Vec<Shown>>>,
}

struct Shown {
    pod: Arc<Pod>,
    handle: Handle,
}

impl Board {
    /// A board without pods, whose logs lie where `ledger` says.
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, pods: Arc::default() }
    }

    /// Shows one more pod.
    pub(super) fn add(&self, pod: Arc<Pod>, handle: Handle) {
        self.lock().push(Shown { pod, handle });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Shown>> {
        // A panic elsewhere leaves the list whole: each change is one call.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pods for Board {
    fn list(&self) -> Vec<Served> {
        let served = |shown: &Shown| Served {
            pod: Arc::clone(&shown.pod),
            snapshot: shown.handle.snapshot.clone(),
        };
        self.lock().iter().map(served).collect()
    }

    fn log_dir(&self, pod: &Pod, container: &str) -> PathBuf {
        self.ledger.log_dir_of(pod, container)
    }

    fn stop(&self, uid: &str, grace: Option<Duration>) -> Result<(), Failure> {
        let pods = self.lock();
        let Some(shown) = pods.iter().find(|shown| shown.pod.metadata.uid.as_deref() == Some(uid))
        else {
            return Ok(());
        };
        let grace = grace.unwrap_or_else(|| grace_of(&shown.pod));
        match shown.handle.events.try_send(Event::Kill { grace }) {
            // Closed: it has ended.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Failure {
                reason: "Busy".into(),
                message: "the pod has too much to do to be stopped now: try again".into(),
            }),
        }
    }
}

/// The pod's `terminationGracePeriodSeconds`.
pub(super) fn grace_of(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30))
}
