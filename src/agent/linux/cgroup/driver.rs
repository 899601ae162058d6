//! Who makes groups: we in the file system, or systemd on our behalf.

use thiserror::Error;

/// Who makes groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// We, in the file system.
    Cgroupfs,
    /// systemd: as slices and scopes.
    Systemd,
}

/// The runtime has a driver that nobody knows.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("runtime returned an unknown cgroup driver {0}")]
pub(crate) struct UnknownDriver(i32);

impl Driver {
    /// The driver that node and runtime have in common: the runtime's where it says so (CRI's
    /// `RuntimeConfigResponse.linux.cgroup_driver`; `None`: no runtime, one without that call, or
    /// one that leaves `linux` out), else the configured one (upstream `getCgroupDriverFromCRI`).
    ///
    /// # Errors
    /// [`UnknownDriver`]; upstream does not start then.
    pub(crate) fn choose(configured: Self, runtime: Option<i32>) -> Result<Self, UnknownDriver> {
        match runtime {
            None => Ok(configured),
            // The numbers of CRI's `CgroupDriver`.
            Some(0) => Ok(Self::Systemd),
            Some(1) => Ok(Self::Cgroupfs),
            Some(other) => Err(UnknownDriver(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_driver_wins() {
        let configured = Driver::Cgroupfs;
        assert_eq!(Driver::choose(configured, None), Ok(configured));
        assert_eq!(Driver::choose(configured, Some(0)), Ok(Driver::Systemd));
        assert_eq!(Driver::choose(Driver::Systemd, Some(1)), Ok(Driver::Cgroupfs));
        let unknown = Driver::choose(configured, Some(7)).expect_err("none");
        assert_eq!(unknown.to_string(), "runtime returned an unknown cgroup driver 7");
    }
}
