//! Which pods have something new to read.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Pods, each once however much changed for it: no more than there are pods.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pods: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl Changes {
    /// Something changed for these pods, by uid.
    pub(super) fn mark<'a>(&self, uids: impl IntoIterator<Item = &'a String>) {
        let mut pods = lock(&self.pods);
        pods.extend(uids.into_iter().cloned());
        if !pods.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Nothing of this pod matters any more.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.pods).remove(uid);
    }

    /// Waits until there are such pods and takes them. May be cancelled at any time.
    pub(super) async fn taken(&self) -> BTreeSet<String> {
        loop {
            let pods = std::mem::take(&mut *lock(&self.pods));
            if !pods.is_empty() {
                return pods;
            }
            self.wake.notified().await;
        }
    }
}

/// A lock of plain values, which hold whatever panicked meanwhile.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
