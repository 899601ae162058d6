//! Where a group stands: its levels from the top down, and what each driver makes of them (upstream
//! `CgroupName`).

use std::path::PathBuf;

use super::files::checked;
use super::{CgroupError, Driver};

/// What ends the name of a slice.
const SLICE: &str = ".slice";
/// Longest name of a unit (systemd's `UNIT_NAME_MAX` with its end).
const UNIT_MAX: usize = 255;

/// A group by its levels below the top, which is without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group(Vec<String>);

impl Group {
    /// The group of a path as `cgroupRoot` has it, whatever the driver (upstream
    /// `ParseCgroupfsToCgroupName`).
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(super) fn of_path(path: &str) -> Result<Self, CgroupError> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts = parts.map(|part| checked(part).map(str::to_owned));
        let parts = parts.collect::<Result<_, _>>();
        Ok(Self(parts.map_err(|_| CgroupError::Name(path.into()))?))
    }

    /// The group of a name as `systemReservedCgroup` has it: a path, and with systemd the last
    /// slice of one (upstream `CgroupManager.CgroupName`).
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(super) fn of_host(name: &str, driver: Driver) -> Result<Self, CgroupError> {
        match driver {
            Driver::Cgroupfs => Self::of_path(name),
            Driver::Systemd => {
                let unit = name.rsplit('/').next().unwrap_or_default();
                let unit = unit.strip_suffix(SLICE).unwrap_or(unit);
                let parts = unit.split('-').map(|part| part.replace('_', "-"));
                let group = Self(parts.collect());
                group.check(driver).map_err(|_| CgroupError::Name(name.into()))?;
                Ok(group)
            }
        }
    }

    /// The group `part` in this one.
    ///
    /// # Errors
    /// [`CgroupError::Name`] for what is no single level, or no name for systemd.
    pub(super) fn join(&self, part: &str, driver: Driver) -> Result<Self, CgroupError> {
        let mut parts = self.0.clone();
        parts.push(checked(part)?.to_owned());
        let group = Self(parts);
        group.check(driver).map_err(|_| CgroupError::Name(part.into()))?;
        Ok(group)
    }

    /// Whether the driver can have it.
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(super) fn check(&self, driver: Driver) -> Result<(), CgroupError> {
        let plain = |part: &String| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_'))
        };
        let fits = match driver {
            Driver::Cgroupfs => true,
            Driver::Systemd => self.0.iter().all(plain) && self.slice().len() <= UNIT_MAX,
        };
        if fits { Ok(()) } else { Err(CgroupError::Name(self.0.join("/"))) }
    }

    /// The group in which this one stands; `None` for the top.
    #[cfg(test)]
    pub(super) fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, above)| Self(above.to_vec()))
    }

    /// Its place below each hierarchy's mount.
    pub(super) fn path(&self, driver: Driver) -> PathBuf {
        match driver {
            Driver::Cgroupfs => self.0.iter().collect(),
            // Each slice's name has those of all above it.
            Driver::Systemd => (1..=self.0.len()).map(|depth| slice(&self.0[..depth])).collect(),
        }
    }

    /// Its unit.
    pub(super) fn slice(&self) -> String {
        slice(&self.0)
    }
}

/// The unit of these levels: a dash leads from one to the next, so that those within are written
/// otherwise.
fn slice(parts: &[String]) -> String {
    if parts.is_empty() {
        return format!("-{SLICE}");
    }
    let escaped: Vec<String> = parts.iter().map(|part| part.replace('-', "_")).collect();
    escaped.join("-") + SLICE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_names_all_levels_in_one() {
        let root = Group::of_path("/").expect("the top");
        assert_eq!((root.slice(), root.path(Driver::Systemd)), ("-.slice".into(), PathBuf::new()));
        let driver = Driver::Systemd;
        let mut group = root;
        for part in ["kubepods", "burstable", "pod1234-abcd"] {
            group = group.join(part, driver).expect("is one");
        }
        assert_eq!(group.slice(), "kubepods-burstable-pod1234_abcd.slice");
        assert_eq!(
            group.path(driver).to_str(),
            Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd.slice")
        );
        assert_eq!(group.path(Driver::Cgroupfs).to_str(), Some("kubepods/burstable/pod1234-abcd"));
        let read = Group::of_host("/kubepods.slice/kubepods-burstable-pod1234_abcd.slice", driver);
        assert_eq!(read.expect("reads"), group);
        assert_eq!(Group::of_host("system.slice", driver).expect("reads").slice(), "system.slice");
        let plain = Group::of_host("/a/b-c", Driver::Cgroupfs).expect("reads");
        assert_eq!(plain.path(Driver::Cgroupfs).to_str(), Some("a/b-c"));
        for name in ["", "/", "a--b.slice", "a b.slice"] {
            assert!(Group::of_host(name, driver).is_err(), "{name:?}");
        }
        for part in ["", ".", "..", "a/b", "a b", "a@b", &"x".repeat(240)] {
            assert!(group.join(part, driver).is_err(), "{part:?}");
        }
        assert!(Group::of_path("/a/../b").is_err());
        assert!(Group::of_path("a b").expect("a path").check(driver).is_err());
    }
}
