//! The links to containers' logs where log shippers look for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Ledger, LedgerError, entries};

/// So old is a link before it may be one to nothing: a runtime makes a log a moment after its
/// container, and the link with that.
const YOUNG: Duration = Duration::from_secs(60);

impl Ledger {
    /// The link to a container's log, where log shippers look for links; the container id is put
    /// before its suffix.
    pub(crate) fn log_link(&self, namespace: &str, pod: &str, container: &str) -> Option<PathBuf> {
        Some(self.links.as_ref()?.join(format!("{pod}_{namespace}_{container}")))
    }

    /// Removes the links to what lies below the directory of a pod's logs.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the links cannot be listed.
    pub(super) fn remove_links_into(&self, logs: &Path) -> Result<(), LedgerError> {
        self.remove_links(|link| fs::read_link(link).is_ok_and(|log| log.starts_with(logs)))
    }

    /// Removes the links to logs of this node's that are gone: of containers that somebody else
    /// removed (upstream: `evictPodLogsDirectories`). Others' links stay.
    ///
    /// # Errors
    /// [`LedgerError::Io`] when the links cannot be listed.
    pub(crate) fn remove_dead_links(&self, now: SystemTime) -> Result<(), LedgerError> {
        self.remove_links(|link| self.is_dead(link, now))
    }

    fn remove_links(&self, is_meant: impl Fn(&Path) -> bool) -> Result<(), LedgerError> {
        let Some(links) = &self.links else { return Ok(()) };
        for link in entries(links)?.iter().filter(|link| is_meant(link)) {
            // It was removed meanwhile.
            let _ = fs::remove_file(link);
        }
        Ok(())
    }

    fn is_dead(&self, link: &Path, now: SystemTime) -> bool {
        let is_ours = fs::read_link(link).is_ok_and(|log| log.starts_with(&self.logs));
        let made = link.symlink_metadata().and_then(|link| link.modified());
        let age = made.ok().and_then(|made| now.duration_since(made).ok());
        // What cannot be looked at is not gone.
        let is_gone = || matches!(link.try_exists(), Ok(false));
        is_ours && age.is_some_and(|age| age >= YOUNG) && is_gone()
    }
}
