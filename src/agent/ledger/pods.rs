//! What is kept of each pod, in its directory.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ledger, LedgerError, entries, write_whole};
use crate::linux;

/// The name of a pod's object in its directory.
pub(super) const POD: &str = "pod.json";
/// The name of what is kept of its containers' kinds.
const KINDS: &str = "kinds.json";
/// The name of what is kept of its user namespace (upstream `mappingsFile`).
const USER_NAMESPACE: &str = "userns";

impl Ledger {
    /// Keeps the pod's object, so that whatever it has on this machine can be undone by an agent
    /// that hears of it from nobody else.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_pod(&self, pod: &Pod) -> Result<(), LedgerError> {
        let kept = Pod { status: None, ..pod.clone() };
        self.keep(pod.metadata.uid.as_deref().unwrap_or_default(), POD, &kept)
    }

    /// Keeps which of the pod's containers are Wasm.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_kinds(&self, uid: &str, kinds: &impl Serialize) -> Result<(), LedgerError> {
        self.keep(uid, KINDS, kinds)
    }

    /// Which of the pod's containers are Wasm, if that was decided.
    pub(crate) fn kinds<T: DeserializeOwned>(&self, uid: &str) -> Option<T> {
        let json = fs::read(self.pod_dir(uid).join(KINDS)).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Keeps the ids of the pod's user namespace.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_user_namespace(
        &self,
        uid: &str,
        ids: &impl Serialize,
    ) -> Result<(), LedgerError> {
        self.keep(uid, USER_NAMESPACE, ids)
    }

    /// The ids of the pod's user namespace, if it was given any.
    ///
    /// # Errors
    /// [`LedgerError::Io`], also when the file is there and is not what was kept.
    pub(crate) fn user_namespace<T: DeserializeOwned>(
        &self,
        uid: &str,
    ) -> Result<Option<T>, LedgerError> {
        let path = self.pod_dir(uid).join(USER_NAMESPACE);
        let failed = |source| LedgerError::Io { verb: "read", path: path.clone(), source };
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| failed(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Forgets the ids of the pod's user namespace.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn forget_user_namespace(&self, uid: &str) -> Result<(), LedgerError> {
        let path = self.pod_dir(uid).join(USER_NAMESPACE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LedgerError::Io { verb: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn keep(&self, uid: &str, name: &str, what: &impl Serialize) -> Result<(), LedgerError> {
        let dir = self.pod_dir(uid);
        let failed = |source| LedgerError::Io { verb: "write", path: dir.join(name), source };
        fs::create_dir_all(&dir).map_err(failed)?;
        let json = serde_json::to_vec(what).map_err(|e| failed(e.into()))?;
        write_whole(&dir.join(name), &json).map_err(failed)
    }

    /// The pods that have anything below the root directory; of one whose object cannot be read,
    /// only the uid is known.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the directory cannot be listed.
    pub(crate) fn kept_pods(&self) -> Result<Vec<Pod>, LedgerError> {
        let read = |dir: PathBuf| {
            let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut pod = fs::read(dir.join(POD))
                .ok()
                .and_then(|json| serde_json::from_slice::<Pod>(&json).ok())
                .unwrap_or_default();
            pod.metadata.uid = Some(uid);
            pod
        };
        Ok(entries(&self.root.join("pods"))?.into_iter().map(read).collect())
    }

    /// Whether the pod's object is kept.
    pub(crate) fn has_pod(&self, pod_uid: &str) -> bool {
        self.pod_dir(pod_uid).join(POD).is_file()
    }

    /// Removes all that is left of a pod that is over: its files, its logs and the links to them. The
    /// pod's attempts were removed before, as far as anybody knew of them.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn forget_pod(&self, pod: &Pod) -> Result<(), LedgerError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let logs = self.log_dir_of(pod, "");
        self.remove_links_into(&logs)?;
        for path in [self.pod_memory_dir(uid), logs, self.pod_dir(uid)] {
            linux::remove_tree(&path).map_err(|source| LedgerError::Io {
                verb: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }
}
