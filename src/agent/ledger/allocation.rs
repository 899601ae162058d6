//! What is kept of resizes: the allocation of a pod that differs from its first one, and what each
//! container was made or last resized with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use copepod_pod::{Actuated, Allocation};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::pods::POD;
use super::{Ledger, LedgerError, write_synced, write_whole};

/// The name of the allocation in its pod's directory.
const ALLOCATION: &str = "allocation.json";
/// The name of the directory with a file for each container.
const ACTUATED: &str = "actuated";
/// The field of such a file that says which attempt it is about.
const ATTEMPT: &str = "attempt";

impl Ledger {
    /// Keeps what is allocated to the pod from now on, on the disk before it has its name.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_allocation(
        &self,
        uid: &str,
        allocation: &Allocation,
    ) -> Result<(), LedgerError> {
        self.keep_json(self.pod_dir(uid).join(ALLOCATION), &allocation.to_json(), write_synced)
    }

    /// What is allocated to a pod that was taken: as it was kept last, else what it asked for when it
    /// was taken.
    pub(crate) fn allocation(&self, uid: &str) -> Option<Allocation> {
        let dir = self.pod_dir(uid);
        let kept = read(dir.join(ALLOCATION)).and_then(Allocation::from_json);
        kept.or_else(|| {
            let pod: Pod = serde_json::from_value(read(dir.join(POD))?).ok()?;
            Some(Allocation::of(&pod))
        })
    }

    /// Keeps what an attempt of a container of the pod has; of older ones nothing is kept. What was
    /// kept of the same attempt stays if `first`: its start may be tried twice, and the runtime may
    /// have made it the first time.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_actuated(
        &self,
        (uid, container, attempt): (&str, &str, u32),
        actuated: Actuated,
        first: bool,
    ) -> Result<(), LedgerError> {
        if first && self.actuated(uid, container).is_some_and(|(kept, _)| kept == attempt) {
            return Ok(());
        }
        let mut kept = actuated.to_json();
        kept[ATTEMPT] = json!(attempt);
        // A start waits for no disk: of one that was lost with the power nothing runs.
        let write = if first { write_whole } else { write_synced };
        self.keep_json(self.actuated_file(uid, container), &kept, write)
    }

    /// What the newest attempt of a container of the pod has, and which one that is.
    pub(crate) fn actuated(&self, uid: &str, container: &str) -> Option<(u32, Actuated)> {
        let kept = read(self.actuated_file(uid, container))?;
        let attempt = u32::try_from(kept.get(ATTEMPT)?.as_u64()?).ok()?;
        Some((attempt, Actuated::from_json(&kept)?))
    }

    fn actuated_file(&self, uid: &str, container: &str) -> PathBuf {
        self.pod_dir(uid).join(ACTUATED).join(format!("{container}.json"))
    }

    fn keep_json(
        &self,
        path: PathBuf,
        value: &Value,
        write: fn(&Path, &[u8]) -> io::Result<()>,
    ) -> Result<(), LedgerError> {
        let written = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            write(&path, value.to_string().as_bytes())
        };
        let written = written();
        written.map_err(|source| LedgerError::Io { verb: "write", path, source })
    }
}

fn read(path: PathBuf) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_allocation_is_kept_and_before_it_that_of_the_pods_object() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&dir.path().join("root"), &dir.path().join("run"));
        let ledger = ledger.expect("opens");
        assert_eq!(ledger.allocation("u"), None);
        let pod = |cpu: &str| -> Pod {
            let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
            serde_json::from_value(pod).expect("a pod")
        };
        ledger.keep_pod(&pod("1")).expect("writes");
        assert_eq!(ledger.allocation("u"), Some(Allocation::of(&pod("1"))));
        ledger.keep_allocation("u", &Allocation::of(&pod("2"))).expect("writes");
        assert_eq!(ledger.allocation("u"), Some(Allocation::of(&pod("2"))));

        let has = |cpu_limit| Actuated { cpu_limit, ..Actuated::default() };
        let keep = |attempt, has, first| ledger.keep_actuated(("u", "c", attempt), has, first);
        assert_eq!(ledger.actuated("u", "c"), None);
        keep(0, has(1), true).expect("writes");
        keep(0, has(2), true).expect("leaves it");
        assert_eq!(ledger.actuated("u", "c"), Some((0, has(1))));
        keep(0, has(3), false).expect("writes");
        assert_eq!(ledger.actuated("u", "c"), Some((0, has(3))));
        keep(1, has(4), true).expect("writes");
        assert_eq!(ledger.actuated("u", "c"), Some((1, has(4))));
    }
}
