//! What is cleaned away: sandboxes that were replaced, and whatever is of pods that nobody knows.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::Cri;
use super::client::CriError;

/// The grace of a container of which nobody knows any more (upstream's orphans get their pod's, at
/// least two seconds).
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// How long a pod's containers are waited for of which it is not known yet what they are: only of what
/// is known the logs go, and what runs has its grace.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

impl Cri {
    /// The pods of which the runtime has anything.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        let table = self.0.table.lock();
        let of_containers = table.containers.values().map(|one| &one.pod_uid);
        of_containers.chain(table.sandboxes.values().map(|one| &one.pod_uid)).cloned().collect()
    }

    /// Removes sandboxes that were replaced and hold nothing any more (upstream:
    /// `evictSandboxes`: all but the newest).
    ///
    /// # Errors
    /// [`CriError`]; the next call goes on with what is left.
    pub(crate) async fn collect(&self) -> Result<(), CriError> {
        for id in self.replaced() {
            self.0.stop_sandbox(&id).await?;
            self.0.remove_sandbox(&id).await?;
        }
        Ok(())
    }

    fn replaced(&self) -> Vec<String> {
        let table = self.0.table.lock();
        let is_replaced = |(id, one): &(&String, &super::table::Sandbox)| {
            let newest = table.newest_sandbox(&one.pod_uid).map(|(id, _)| id);
            let is_empty = !table.containers.values().any(|inside| inside.sandbox == **id);
            !one.ready && newest != Some(*id) && is_empty
        };
        table.sandboxes.iter().filter(is_replaced).map(|(id, _)| id.clone()).collect()
    }

    /// Ends and removes all that the runtime has of a pod.
    ///
    /// # Errors
    /// As [`Cri::collect`].
    pub(crate) async fn remove_pod(&self, pod_uid: &str) -> Result<(), CriError> {
        let _ = timeout(KNOWN_WITHIN, self.looked(pod_uid)).await;
        let containers: Vec<(String, bool)> = {
            let table = self.0.table.lock();
            let of_pod = table.containers.iter().filter(|(_, one)| one.pod_uid == pod_uid);
            of_pod.map(|(id, one)| (id.clone(), one.is_running())).collect()
        };
        for (id, running) in containers {
            if running {
                self.0.stop(&id, ORPHAN_GRACE).await?;
            }
            self.0.remove(&id).await?;
        }
        self.remove_sandboxes(pod_uid).await
    }
}
