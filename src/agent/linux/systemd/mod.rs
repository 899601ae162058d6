//! What is asked of the host's systemd: transient slices and scopes, their limits, their end.
//!
//! Owns nothing: each verb has a connection of its own to systemd's private socket, which only root
//! may use and which stands with or without a message bus. So a restart of systemd breaks no more
//! than what is under way, and no verb waits for another's. In: names of units and their
//! properties. Every verb blocks until systemd's job is done, [`TIMEOUT`] at most; starts no task.

mod bus;
mod error;
mod message;
mod wire;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::Bus;
pub(crate) use error::SystemdError;
pub(crate) use wire::Value;

/// The socket of systemd itself.
const SOCKET: &str = "/run/systemd/private";
/// How long one verb may take in all (upstream's wait in `opencontainers/cgroups/systemd`).
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// A job takes the place of one that is queued for the same unit.
const REPLACE: &str = "replace";
/// What does not limit (`USEC_INFINITY`, `CGROUP_LIMIT_MAX`).
pub(crate) const INFINITY: u64 = u64::MAX;

/// A unit's property and its value.
pub(crate) type Property = (&'static str, Value);

/// The host's systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Systemd {
    socket: PathBuf,
}

impl Systemd {
    /// The one that runs this host, as it is the first process.
    ///
    /// # Errors
    /// [`SystemdError`]: there is none, or we are not root.
    pub(crate) fn open() -> Result<Self, SystemdError> {
        Self::at(Path::new(SOCKET))
    }

    /// The one behind this socket.
    fn at(socket: &Path) -> Result<Self, SystemdError> {
        let systemd = Self { socket: socket.into() };
        systemd.bus()?;
        Ok(systemd)
    }

    fn bus(&self) -> Result<Bus, SystemdError> {
        Bus::open(&self.socket, TIMEOUT)
    }

    /// Starts a slice with these properties, or gives them to the one that is there; whether it is
    /// new. A new one has the `first` properties besides, where no other overrides them.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(crate) fn ensure_slice(
        &self,
        unit: &str,
        description: &str,
        first: Vec<Property>,
        properties: Vec<Property>,
    ) -> Result<bool, SystemdError> {
        let mut bus = self.bus()?;
        let mut all = vec![
            ("Description", Value::from(description.to_owned())),
            // Nothing orders it after or before others (upstream).
            ("DefaultDependencies", false.into()),
        ];
        all.extend(first);
        let changeable = all.len();
        all.extend(properties);
        match bus.start(unit, &all) {
            Err(error) if error.is_there() => {
                bus.set(unit, &all[changeable..])?;
                Ok(false)
            }
            started => started.map(|()| true),
        }
    }

    /// Starts a scope in a slice with the process `pid` in it. It ends by itself with the last
    /// process. What its processes may have and use is told of the slice: the scope has no
    /// controllers of its own.
    ///
    /// # Errors
    /// [`SystemdError`], also for a process that is gone.
    pub(crate) fn start_scope(
        &self,
        unit: &str,
        slice: &str,
        description: &str,
        pid: u32,
    ) -> Result<(), SystemdError> {
        let none: Vec<String> = Vec::new();
        let properties = [
            ("Description", Value::from(description.to_owned())),
            ("DefaultDependencies", false.into()),
            ("Slice", slice.to_owned().into()),
            // Others are put into it later; no controllers.
            ("DelegateControllers", none.into()),
            ("CPUAccounting", false.into()),
            ("MemoryAccounting", false.into()),
            ("TasksAccounting", false.into()),
            ("TasksMax", INFINITY.into()),
            // One that failed (by an OOM kill) is forgotten as well.
            ("CollectMode", "inactive-or-failed".into()),
            ("PIDs", vec![pid].into()),
        ];
        let mut bus = self.bus()?;
        bus.start(unit, &properties)
    }

    /// Gives a unit new properties, until the next boot.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(crate) fn set(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        self.bus()?.set(unit, properties)
    }

    /// Stops a unit, and with a slice all that stands in it; one that is not there is no error.
    /// systemd has patience with processes that do not end: kill them before.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(crate) fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        match self.bus()?.stop(unit) {
            Err(error) if error.is_gone() => Ok(()),
            stopped => stopped,
        }
    }
}
