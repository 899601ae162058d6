//! The links to containers' logs where log shippers look for them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Ledger, LedgerError, entries};

impl Ledger {
    /// The link to a container's log, where log shippers look for links; the container id is put
    /// before its suffix.
    pub(crate) fn log_link(&self, namespace: &str, pod: &str, container: &str) -> Option<PathBuf> {
        Some(self.links.as_ref()?.join(format!("{pod}_{namespace}_{container}")))
    }

    /// Removes the links to what lies below the directory of a pod's logs, whoever's containers they
    /// were: a runtime may have removed one that the agent never heard of.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the links cannot be listed.
    pub(super) fn remove_links_into(&self, logs: &Path) -> Result<(), LedgerError> {
        let Some(links) = &self.links else { return Ok(()) };
        for link in entries(links)? {
            if fs::read_link(&link).is_ok_and(|log| log.starts_with(logs)) {
                // It was removed meanwhile.
                let _ = fs::remove_file(link);
            }
        }
        Ok(())
    }
}
