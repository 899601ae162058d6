//! Control groups of pods and containers, version 1 or 2, through their file systems or through
//! systemd (the kubelet's two drivers).
//!
//! Owns: the tree below `kubepods`, which is `[burstable/|besteffort/]podUID/CONTAINER-ID` (upstream
//! `pkg/kubelet/cm`) or the same as slices, the limits in it, what is counted there, and its removal.
//! Processes stand in leaves only; a sandbox enters its leaf by itself. In: names and limits in the
//! kernel's numbers. Out: [`Leaf`]s, and the name of a pod's group for a runtime that makes its own
//! in it. Every verb is idempotent and blocks for some file operations or some jobs of systemd, what
//! removes until processes have ended; starts no task.
//!
//! Where a group stands is said by [`Cgroups::name`] alone. With systemd a container's group is a
//! slice in its pod's, and its processes stand in a scope in that: a scope goes with its last
//! process, and with it what was counted there, while a slice stays until it was looked into.

mod driver;
mod error;
mod files;
mod huge;
mod leaf;
mod limits;
mod name;
mod resize;
mod units;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use driver::{Driver, UnknownDriver};
pub(crate) use error::CgroupError;
use files::{apply, checked, is_refused, mountinfo};
use leaf::Units;
pub(crate) use leaf::{Leaf, LeafSpec};
pub(crate) use limits::{Class, Controller, HugePages, Limits, PodLimits};
use limits::{Level, Setting};
use name::Group;
pub(crate) use resize::Held;

use super::systemd::{Property, Systemd};

/// Levels of groups below a container's: a runtime or a guest's init may have made some.
const DEPTH_MAX: usize = 8;
/// The name of the group of all pods (upstream `defaultNodeAllocatableCgroupName`).
const KUBEPODS: &str = "kubepods";
/// The name of the group of our containers where pods have none (`cgroupsPerQOS: false`).
const PODLESS: &str = "copepod";
/// What stands before a pod's uid (upstream `podCgroupNamePrefix`).
const POD_PREFIX: &str = "pod";
/// What systemd shows of a group.
const DESCRIPTION: &str = "Copepod pods";

/// Where and how the groups are made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// By whom.
    pub(crate) driver: Driver,
    /// The group below which `kubepods` stands (KubeletConfiguration `cgroupRoot`), as a path of the
    /// file system whatever the driver; `/` is the root of each hierarchy.
    pub(crate) cgroup_root: String,
    /// Whether pods and classes have groups (KubeletConfiguration `cgroupsPerQOS`).
    pub(crate) per_class: bool,
    /// Whether an OOM kill takes all processes of a container (version 2; KubeletConfiguration
    /// `singleProcessOOMKill` is the contrary).
    pub(crate) oom_kills_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: Driver::Cgroupfs,
            cgroup_root: "/".into(),
            per_class: true,
            oom_kills_all: true,
        }
    }
}

/// The version of the kernel's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// A hierarchy for each controller, or for some together.
    V1,
    /// One hierarchy for all.
    V2,
}

/// One tree of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    controllers: Vec<Controller>,
}

/// A leaf of version 2 in any directory, for tests of what reads one.
#[cfg(test)]
pub(crate) fn fake_leaf(dir: &Path) -> Leaf {
    Leaf::new(Version::V2, vec![dir.into()], Some(dir.into()), None)
}

/// The groups of this node's pods.
#[derive(Debug)]
pub(crate) struct Cgroups {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    /// Where the other hierarchies of version 1 are. A container runtime makes its containers' groups
    /// in all of them, in a pod's that it makes and leaves: they are removed with the pod's.
    others: Vec<PathBuf>,
    /// Who makes them, if not we.
    systemd: Option<Systemd>,
    /// That of all pods.
    root: Group,
    /// Whether pods and classes have their own.
    per_class: bool,
    missing: Vec<Controller>,
    /// Sizes of huge pages, in bytes.
    page_sizes: Vec<u64>,
    oom_kills_all: bool,
}

impl Cgroups {
    /// Finds out which version this host has, and makes `kubepods` and the groups of the classes.
    /// A controller that is not there or that cannot be used is one of [`Cgroups::missing`].
    ///
    /// # Errors
    /// [`CgroupError`]: nothing is mounted, a group cannot be made, or systemd is to make them and
    /// is not there.
    pub(crate) fn open(options: &Options) -> Result<Self, CgroupError> {
        let text = mountinfo()?;
        let (version, hierarchies) = match v2::mount(&text) {
            Some(mount) => {
                let controllers = Vec::new();
                (Version::V2, vec![Hierarchy { mount, controllers }])
            }
            None => (Version::V1, v1::hierarchies(&text)),
        };
        let systemd = match options.driver {
            Driver::Cgroupfs => None,
            Driver::Systemd => Some(Systemd::open().map_err(CgroupError::Systemd)?),
        };
        let others = match version {
            Version::V1 => v1::others(&text, &hierarchies),
            Version::V2 => Vec::new(),
        };
        Ok(Self { others, ..Self::open_at(version, hierarchies, systemd, options)? })
    }

    fn open_at(
        version: Version,
        hierarchies: Vec<Hierarchy>,
        systemd: Option<Systemd>,
        options: &Options,
    ) -> Result<Self, CgroupError> {
        if hierarchies.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let top = if options.per_class { KUBEPODS } else { PODLESS };
        let mut cgroups = Self {
            version,
            hierarchies,
            others: Vec::new(),
            systemd,
            root: Group::of_path(&options.cgroup_root)?.join(top, options.driver)?,
            per_class: options.per_class,
            missing: Vec::new(),
            page_sizes: huge::sizes(Path::new(huge::SIZES)),
            oom_kills_all: options.oom_kills_all,
        };
        cgroups.make_root()?;
        let has = |c: &Controller| cgroups.hierarchies.iter().any(|h| h.controllers.contains(c));
        let mut all = Controller::ALL.into_iter();
        cgroups.missing = all.by_ref().filter(|c| c.is_needed() && !has(c)).collect();
        for class in Class::ALL {
            // What asks for nothing gets what others leave (upstream `MinShares`).
            let least = (class == Class::BestEffort).then_some(1);
            cgroups.make_class(class, least.map(|_| 2), least)?;
        }
        Ok(cgroups)
    }

    /// Makes the group of all pods in every hierarchy; one that may not be written is given up.
    fn make_root(&mut self) -> Result<(), CgroupError> {
        self.ensure_slice(&self.root, Vec::new())?;
        let mut usable = Vec::new();
        let root = self.root.path(self.driver());
        for mut hierarchy in std::mem::take(&mut self.hierarchies) {
            let dir = hierarchy.mount.join(&root);
            let made = match self.version {
                Version::V1 => fs::create_dir_all(&dir),
                Version::V2 => v2::make_root(&hierarchy.mount, &root),
            };
            match made {
                Ok(()) => {}
                Err(error) if is_refused(&error) => {
                    tracing::warn!(path = %dir.display(), %error, "cannot use a control group");
                    continue;
                }
                Err(source) => return Err(CgroupError::Make { path: dir, source }),
            }
            match self.version {
                Version::V1 => v1::prepare_root(&dir),
                Version::V2 => {
                    hierarchy.controllers = v2::controllers(&dir)?;
                    v2::enable(&dir, &hierarchy.controllers)?;
                }
            }
            usable.push(hierarchy);
        }
        self.hierarchies = usable;
        Ok(())
    }

    /// Who makes the groups.
    pub(crate) fn driver(&self) -> Driver {
        if self.systemd.is_some() { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// The controllers that are not there: what they limit is not limited.
    pub(crate) fn missing(&self) -> &[Controller] {
        &self.missing
    }

    /// The group of a class, of a pod, of a container.
    fn name(
        &self,
        class: Class,
        uid: Option<&str>,
        container_id: Option<&str>,
    ) -> Result<Group, CgroupError> {
        let pod = uid.map(|uid| format!("{POD_PREFIX}{uid}"));
        let mut levels: Vec<&str> = Vec::new();
        if self.per_class {
            levels.extend(class.group());
            levels.extend(pod.as_deref());
        }
        levels.extend(container_id);
        // Checked where there is no such group as well.
        let mut group = uid.map_or(Ok(""), checked).map(|_| self.root.clone())?;
        for level in levels {
            group = group.join(level, self.driver())?;
        }
        Ok(group)
    }

    /// The pod's group as CRI's `cgroup_parent` names it for a runtime that makes its containers'
    /// groups in it: the path below the hierarchies' mounts, with slices in full where systemd makes
    /// them (upstream `GetPodCgroupParent`). Empty where pods have no groups: the runtime's own.
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(crate) fn parent(&self, class: Class, uid: &str) -> Result<String, CgroupError> {
        let group = self.name(class, Some(uid), None)?;
        if !self.per_class {
            return Ok(String::new());
        }
        Ok(Path::new("/").join(group.path(self.driver())).to_string_lossy().into_owned())
    }

    /// Whether the kernel's interface is version 2.
    pub(crate) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// Makes a pod's group, or sets the limits of the one that is there. A smaller cpu quota than a
    /// container's is refused: those come first then.
    ///
    /// # Errors
    /// [`CgroupError`]; what is half made is whole after the next call.
    pub(crate) fn make_pod(
        &self,
        uid: &str,
        class: Class,
        limits: &PodLimits,
    ) -> Result<(), CgroupError> {
        let group = self.name(class, Some(uid), None)?;
        if self.per_class { self.make(&group, limits, Level::Inner) } else { Ok(()) }
    }

    /// Makes the group of a container in that of its pod, which is made as well where it is not
    /// there, without limits.
    ///
    /// # Errors
    /// [`CgroupError`]; what is half made is whole after the next call.
    pub(crate) fn make_leaf(
        &self,
        uid: &str,
        class: Class,
        container_id: &str,
        limits: &Limits,
    ) -> Result<Leaf, CgroupError> {
        let name = self.name(class, Some(uid), Some(container_id))?;
        let pod = self.name(class, Some(uid), None)?;
        if !self.dirs(&pod).all(|dir| dir.is_dir()) {
            self.make_pod(uid, class, &Limits::default())?;
        }
        self.make(&name, limits, Level::Leaf)?;
        Ok(self.leaf(&name, container_id))
    }

    /// The group of a container that an earlier agent made; `None` where there is none.
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(crate) fn find_leaf(
        &self,
        uid: &str,
        container_id: &str,
    ) -> Result<Option<Leaf>, CgroupError> {
        for class in Class::ALL {
            let name = self.name(class, Some(uid), Some(container_id))?;
            if self.dirs(&name).any(|dir| dir.is_dir()) {
                return Ok(Some(self.leaf(&name, container_id)));
            }
        }
        Ok(None)
    }

    fn leaf(&self, name: &Group, container_id: &str) -> Leaf {
        let memory = self.hierarchies.iter().find(|h| h.controllers.contains(&Controller::Memory));
        let memory = memory.map(|h| h.mount.join(name.path(self.driver())));
        let units = self.systemd.clone().map(|systemd| Units::new(systemd, name, container_id));
        Leaf::new(self.version, self.dirs(name).collect(), memory, units)
    }

    /// Where a group stands, in each hierarchy.
    fn dirs(&self, group: &Group) -> impl Iterator<Item = PathBuf> {
        let path = group.path(self.driver());
        self.hierarchies.iter().map(move |h| h.mount.join(&path))
    }

    /// Removes a pod's group, of whichever class, and what is left in it, whoever made that; what
    /// still runs there is killed, and waited for.
    ///
    /// # Errors
    /// [`CgroupError`]; the next call goes on with what is left.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        for class in Class::ALL {
            let group = self.name(class, Some(uid), None)?;
            if self.per_class {
                self.remove(&group)?;
            }
        }
        Ok(())
    }

    fn remove(&self, group: &Group) -> Result<(), CgroupError> {
        let path = group.path(self.driver());
        let others = self.others.iter().map(|mount| mount.join(&path));
        let dirs: Vec<PathBuf> = self.dirs(group).chain(others).collect();
        let stop = |systemd| leaf::stop(systemd, &group.slice());
        leaf::destroy(&dirs, || self.systemd.as_ref().map_or(Ok(()), stop))
    }

    /// Sets what all pods together may have (`enforceNodeAllocatable`).
    ///
    /// # Errors
    /// [`CgroupError::Write`], such as for less memory than is in use; to be tried again later.
    pub(crate) fn set_pods_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.make(&self.root, limits, Level::Inner)
    }

    /// Sets what a group of the host's own may have, which must be there; what is not limited stays
    /// as it is (upstream `enforceExistingCgroup`).
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(crate) fn limit_existing(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        let group = Group::of_host(name, self.driver())?;
        if let Some(path) = self.dirs(&group).find(|dir| !dir.is_dir()) {
            return Err(CgroupError::Missing(path));
        }
        if let Some(systemd) = &self.systemd {
            let properties = units::limits(self.version, limits, Level::Inner, true);
            let unit = group.slice();
            let set = systemd.set(&unit, &properties);
            set.map_err(|source| CgroupError::Unit { unit, source })?;
        }
        self.write(&group, limits, Level::Inner, |_| true)
    }

    /// Sets the cpu shares (version 1) or weight (version 2) of all pods of a class together; those
    /// of Guaranteed ones are the pods' own.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(crate) fn set_class_cpu(
        &self,
        class: Class,
        shares: u64,
        weight: u64,
    ) -> Result<(), CgroupError> {
        self.make_class(class, Some(shares), Some(weight))
    }

    fn make_class(
        &self,
        class: Class,
        cpu_shares: Option<u64>,
        cpu_weight: Option<u64>,
    ) -> Result<(), CgroupError> {
        if !self.per_class || class.group().is_none() {
            return Ok(());
        }
        let huge_pages = Some(HugePages::Unbounded);
        let limits = Limits { cpu_shares, cpu_weight, huge_pages, ..Limits::default() };
        self.make(&self.name(class, None, None)?, &limits, Level::Inner)
    }

    /// Removes everything, up to and with the group below which `kubepods` stands, for tests that
    /// have one of their own.
    #[cfg(test)]
    pub(crate) fn remove_all(&self) -> Result<(), CgroupError> {
        let root = self.root.parent().filter(|root| root.parent().is_some()).expect("of its own");
        self.remove(&root)
    }

    /// Makes the group where it is not there, and sets its limits.
    fn make(&self, group: &Group, limits: &Limits, level: Level) -> Result<(), CgroupError> {
        let limits = match &self.systemd {
            Some(_) => &units::rounded(limits),
            None => limits,
        };
        let new = self.make_slice(group, limits, level)?;
        let mut fresh = Vec::new();
        for dir in self.dirs(group) {
            fresh.push(match fs::create_dir(&dir) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => new,
                Err(source) => return Err(CgroupError::Make { path: dir, source }),
            });
        }
        self.write(group, limits, level, |at| fresh[at])?;
        if self.version == Version::V2 && level == Level::Inner {
            for (dir, hierarchy) in self.dirs(group).zip(&self.hierarchies) {
                v2::enable(&dir, &hierarchy.controllers)?;
            }
        }
        Ok(())
    }

    /// Writes limits to a group's files; `fresh` tells whether it was just made in a hierarchy.
    fn write(
        &self,
        group: &Group,
        limits: &Limits,
        level: Level,
        fresh: impl Fn(usize) -> bool,
    ) -> Result<(), CgroupError> {
        for (at, (dir, hierarchy)) in self.dirs(group).zip(&self.hierarchies).enumerate() {
            for controller in &hierarchy.controllers {
                let settings = match (*controller, self.version) {
                    (Controller::HugePages, version) => {
                        let pages = limits.huge_pages.as_ref();
                        let settings = |pages| huge::settings(version, &self.page_sizes, pages);
                        pages.map(settings).unwrap_or_default()
                    }
                    (controller, Version::V1) => v1::settings(controller, limits, level, fresh(at)),
                    (controller, Version::V2) => {
                        let oom_group = level == Level::Leaf && self.oom_kills_all;
                        v2::settings(controller, limits, level, fresh(at), oom_group)
                    }
                };
                settings.iter().try_for_each(|setting| apply(&dir, setting))?;
            }
        }
        Ok(())
    }

    /// Has systemd make the slice of a group, or sets the limits of the one that is there; whether
    /// it is new.
    fn make_slice(
        &self,
        group: &Group,
        limits: &Limits,
        level: Level,
    ) -> Result<bool, CgroupError> {
        if self.systemd.is_none() {
            return Ok(false);
        }
        // What was there before is not known yet: all is said, which says nothing new of a new one.
        self.ensure_slice(group, units::limits(self.version, limits, level, false))
    }

    fn ensure_slice(&self, group: &Group, limits: Vec<Property>) -> Result<bool, CgroupError> {
        let Some(systemd) = &self.systemd else { return Ok(false) };
        let unit = group.slice();
        let mut properties = units::accounting(self.version);
        properties.extend(limits);
        let made = systemd.ensure_slice(&unit, DESCRIPTION, units::first(self.version), properties);
        made.map_err(|source| CgroupError::Unit { unit, source })
    }
}
