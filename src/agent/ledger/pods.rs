//! What is kept of each pod, in its directory.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Ledger, LedgerError, entries, write_synced, write_whole};
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

    /// Keeps the ids of the pod's user namespace, on the disk before they have their name.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub(crate) fn keep_user_namespace(
        &self,
        uid: &str,
        ids: &impl Serialize,
    ) -> Result<(), LedgerError> {
        let dir = self.pod_dir(uid);
        let failed =
            |source| LedgerError::Io { verb: "write", path: dir.join(USER_NAMESPACE), source };
        fs::create_dir_all(&dir).map_err(failed)?;
        let json = serde_json::to_vec(ids).map_err(|e| failed(e.into()))?;
        write_synced(&dir.join(USER_NAMESPACE), &json).map_err(failed)
    }

    /// The ids of the pod's user namespace, if it was given any. A file that is not whole is none: it
    /// appears whole, so the machine lost its power since, and nothing of the pod runs (upstream takes
    /// an empty one for none).
    ///
    /// # Errors
    /// [`LedgerError::Io`], also when the file is whole and is not what was kept.
    pub(crate) fn user_namespace<T: DeserializeOwned>(
        &self,
        uid: &str,
    ) -> Result<Option<T>, LedgerError> {
        let path = self.pod_dir(uid).join(USER_NAMESPACE);
        let failed = |source| LedgerError::Io { verb: "read", path: path.clone(), source };
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let Ok(whole) = serde_json::from_slice::<Value>(&json) else {
            tracing::warn!(path = %path.display(), "a pod's user ids were lost with the power");
            return Ok(None);
        };
        serde_json::from_value(whole).map(Some).map_err(|e| failed(e.into()))
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

    /// The pod's object, if it is kept and whole.
    pub(crate) fn kept_pod(&self, uid: &str) -> Option<Pod> {
        serde_json::from_slice(&fs::read(self.pod_dir(uid).join(POD)).ok()?).ok()
    }

    /// The namespace and name of a pod whose logs are there, by the name of their directory.
    pub(crate) fn named_by_logs(&self, uid: &str) -> Option<(String, String)> {
        if uid.is_empty() {
            return None;
        }
        let dirs = entries(&self.logs).ok()?;
        let mut names = dirs.iter().filter_map(|dir| dir.file_name()?.to_str());
        // Neither a namespace nor a name has an underscore.
        names.find_map(|name| {
            let (namespace, name) = name.strip_suffix(uid)?.strip_suffix('_')?.split_once('_')?;
            Some((namespace.to_owned(), name.to_owned()))
        })
    }

    /// The pods that have anything below the root directory; of one whose object cannot be read,
    /// only the uid is known, and the name if it has logs.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the directory cannot be listed.
    pub(crate) fn kept_pods(&self) -> Result<Vec<Pod>, LedgerError> {
        let read = |dir: PathBuf| {
            let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut pod = self.kept_pod(&uid).unwrap_or_default();
            if pod.metadata.name.is_none() {
                (pod.metadata.namespace, pod.metadata.name) = self.named_by_logs(&uid).unzip();
            }
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
