//! Groups whose limits are changed while somebody runs in them: what they have now, what is used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::read;
use super::{CgroupError, Cgroups, Class, Controller, LeafSpec, Level, Version};

/// A limit of memory from here on is none: version 1 shows its largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// What a pod's group has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Microseconds of cpu time in each period; `None` is no limit.
    pub(crate) cpu_quota_us: Option<u64>,
    /// The period.
    pub(crate) cpu_period_us: u64,
    /// Bytes; `None` is no limit.
    pub(crate) memory_bytes: Option<u64>,
    /// Bytes that are in use; `None` where they are not counted.
    pub(crate) memory_used: Option<u64>,
}

impl LeafSpec {
    /// Sets the limits of the group of a container that runs, of the pod `uid`.
    ///
    /// # Errors
    /// [`CgroupError`], such as for less memory than is in use.
    pub(crate) fn limit(&self, uid: &str, container_id: &str) -> Result<(), CgroupError> {
        let group = self.cgroups.name(self.class, Some(uid), Some(container_id))?;
        self.cgroups.make(&group, &self.limits, Level::Leaf)
    }
}

impl Cgroups {
    /// What a pod's group has; `None` where there is none.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(crate) fn held(&self, uid: &str, class: Class) -> Result<Option<Held>, CgroupError> {
        let group = self.name(class, Some(uid), None)?;
        if !self.per_class || !self.dirs(&group).any(|dir| dir.is_dir()) {
            return Ok(None);
        }
        let mut held = Held::default();
        if let Some(dir) = self.dir_of(Controller::Cpu, &group.path(self.driver())) {
            (held.cpu_quota_us, held.cpu_period_us) = quota(self.version, &dir)?;
        }
        if let Some(dir) = self.dir_of(Controller::Memory, &group.path(self.driver())) {
            held.memory_bytes = memory_limit(self.version, &dir)?;
            held.memory_used = memory_used(self.version, &dir)?;
        }
        Ok(Some(held))
    }

    /// Bytes in use by a container of a pod, whoever made its group; `None` where they are not
    /// counted, or there is no such group.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(crate) fn memory_used(
        &self,
        uid: &str,
        class: Class,
        container_id: &str,
    ) -> Result<Option<u64>, CgroupError> {
        let group = self.name(class, Some(uid), None)?;
        let Some(pod) = self.dir_of(Controller::Memory, &group.path(self.driver())) else {
            return Ok(None);
        };
        let failed = |source| CgroupError::Read { path: pod.clone(), source };
        let entries = match fs::read_dir(&pod) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().contains(container_id) {
                return memory_used(self.version, &entry.path());
            }
        }
        Ok(None)
    }

    /// Where a group stands in the hierarchy of a controller, if there is one and it is there.
    fn dir_of(&self, controller: Controller, group: &Path) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.iter().find(|h| h.controllers.contains(&controller))?;
        Some(hierarchy.mount.join(group)).filter(|dir| dir.is_dir())
    }
}

/// The content of a file of a group; `None` where it is not there.
fn value(dir: &Path, file: &str) -> Result<Option<String>, CgroupError> {
    let path = dir.join(file);
    match read(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CgroupError::Read { path, source }),
    }
}

fn number(dir: &Path, file: &str) -> Result<Option<u64>, CgroupError> {
    Ok(value(dir, file)?.and_then(|text| text.parse().ok()))
}

/// The quota and its period.
fn quota(version: Version, dir: &Path) -> Result<(Option<u64>, u64), CgroupError> {
    match version {
        Version::V1 => {
            let period = number(dir, "cpu.cfs_period_us")?.unwrap_or_default();
            // -1 is none.
            Ok((number(dir, "cpu.cfs_quota_us")?, period))
        }
        Version::V2 => {
            let text = value(dir, "cpu.max")?.unwrap_or_default();
            let mut words = text.split(' ').map(|word| word.parse().ok());
            Ok((words.next().flatten(), words.next().flatten().unwrap_or_default()))
        }
    }
}

fn memory_limit(version: Version, dir: &Path) -> Result<Option<u64>, CgroupError> {
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    Ok(number(dir, file)?.filter(|bytes| *bytes < NO_LIMIT))
}

fn memory_used(version: Version, dir: &Path) -> Result<Option<u64>, CgroupError> {
    number(
        dir,
        match version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        },
    )
}
