//! Control groups of pods and containers, version 1 or 2, through their file systems (the kubelet's
//! `cgroupfs` driver).
//!
//! Owns: the tree below `kubepods`, which is `[burstable/|besteffort/]podUID/CONTAINER-ID` (upstream
//! `pkg/kubelet/cm`), the limits in it, what is counted there, and its removal. Processes stand in
//! leaves only; a sandbox enters its leaf by itself. In: names and limits in the kernel's numbers.
//! Out: [`Leaf`]s. Every verb is idempotent and blocks for some file operations, what removes until
//! processes have ended; starts no task.
//!
//! Where a group stands is said by [`Cgroups::name`] alone.

mod error;
mod files;
mod leaf;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use error::CgroupError;
use files::{apply, checked, is_refused, mountinfo};
pub(crate) use leaf::Leaf;

/// Levels of groups below a container's: a runtime or a guest's init may have made some.
const DEPTH_MAX: usize = 8;
/// The name of the group of all pods (upstream `defaultNodeAllocatableCgroupName`).
const KUBEPODS: &str = "kubepods";
/// What stands before a pod's uid (upstream `podCgroupNamePrefix`).
const POD_PREFIX: &str = "pod";

/// The controllers that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    /// Shares or weight, and quota.
    Cpu,
    /// The limit, and the count of OOM kills.
    Memory,
    /// The number of processes.
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pod's quality of service class: which group its own stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// In `kubepods` itself.
    Guaranteed,
    /// In `kubepods/burstable`.
    Burstable,
    /// In `kubepods/besteffort`.
    BestEffort,
}

impl Class {
    const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    fn group(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// What a group may have. What is not limited is set to "no limit" in a group that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `cpu.shares` of version 1; `None` leaves them as they are.
    pub(crate) cpu_shares: Option<u64>,
    /// `cpu.weight` of version 2; `None` leaves it as it is.
    pub(crate) cpu_weight: Option<u64>,
    /// Microseconds of cpu time in each period.
    pub(crate) cpu_quota_us: Option<u64>,
    /// The period of the quota.
    pub(crate) cpu_period_us: u64,
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_shares: None,
            cpu_weight: None,
            cpu_quota_us: None,
            // The kernel's own.
            cpu_period_us: 100_000,
            memory_bytes: None,
            pids: None,
        }
    }
}

/// What a pod's group may have.
pub(crate) type PodLimits = Limits;

/// Where and how the groups are made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The group below which `kubepods` stands (KubeletConfiguration `cgroupRoot`); `/` is the
    /// root of each hierarchy.
    pub(crate) cgroup_root: String,
    /// Whether an OOM kill takes all processes of a container (version 2; KubeletConfiguration
    /// `singleProcessOOMKill` is the contrary).
    pub(crate) oom_kills_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroup_root: "/".into(), oom_kills_all: true }
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

/// Which kind of group limits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// All pods, a class or a pod.
    Inner,
    /// A container.
    Leaf,
}

/// A leaf of version 2 in any directory, for tests of what reads one.
#[cfg(test)]
pub(crate) fn fake_leaf(dir: &Path) -> Leaf {
    Leaf::new(Version::V2, vec![dir.into()], Some(dir.into()))
}

/// One file of a group and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    file: &'static str,
    value: String,
    /// Whether it is no error that the kernel lacks the file or refuses the value.
    optional: bool,
}

impl Setting {
    fn new(file: &'static str, value: impl ToString) -> Self {
        Self { file, value: value.to_string(), optional: false }
    }

    fn optional(file: &'static str, value: impl ToString) -> Self {
        Self { optional: true, ..Self::new(file, value) }
    }
}

/// The groups of this node's pods.
#[derive(Debug)]
pub(crate) struct Cgroups {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    /// Below each hierarchy's mount.
    root: PathBuf,
    missing: Vec<Controller>,
    oom_kills_all: bool,
}

impl Cgroups {
    /// Finds out which version this host has, and makes `kubepods` and the groups of the classes.
    /// A controller that is not there or that cannot be used is one of [`Cgroups::missing`].
    ///
    /// # Errors
    /// [`CgroupError`]: nothing is mounted, or a group cannot be made.
    pub(crate) fn open(options: &Options) -> Result<Self, CgroupError> {
        let text = mountinfo()?;
        let (version, hierarchies) = match v2::mount(&text) {
            Some(mount) => {
                let controllers = Vec::new();
                (Version::V2, vec![Hierarchy { mount, controllers }])
            }
            None => (Version::V1, v1::hierarchies(&text)),
        };
        Self::open_at(version, hierarchies, options)
    }

    fn open_at(
        version: Version,
        hierarchies: Vec<Hierarchy>,
        options: &Options,
    ) -> Result<Self, CgroupError> {
        if hierarchies.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let root = options.cgroup_root.trim_matches('/');
        if root.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(CgroupError::Name(options.cgroup_root.clone()));
        }
        let mut cgroups = Self {
            version,
            hierarchies,
            root: Path::new(root).join(KUBEPODS),
            missing: Vec::new(),
            oom_kills_all: options.oom_kills_all,
        };
        cgroups.make_root()?;
        let has = |c: &Controller| cgroups.hierarchies.iter().any(|h| h.controllers.contains(c));
        cgroups.missing = Controller::ALL.into_iter().filter(|c| !has(c)).collect();
        for class in Class::ALL {
            // What asks for nothing gets what others leave (upstream `MinShares`).
            let least = (class == Class::BestEffort).then_some(1);
            let cpu_shares = least.map(|_| 2);
            let limits = Limits { cpu_shares, cpu_weight: least, ..Limits::default() };
            if class.group().is_some() {
                cgroups.make(&cgroups.name(class, None, None)?, &limits, Level::Inner)?;
            }
        }
        Ok(cgroups)
    }

    /// Makes `kubepods` in every hierarchy; one that may not be written is given up.
    fn make_root(&mut self) -> Result<(), CgroupError> {
        let mut usable = Vec::new();
        for mut hierarchy in std::mem::take(&mut self.hierarchies) {
            let dir = hierarchy.mount.join(&self.root);
            let made = match self.version {
                Version::V1 => fs::create_dir_all(&dir),
                Version::V2 => v2::make_root(&hierarchy.mount, &self.root),
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

    /// The controllers that are not there: what they limit is not limited.
    pub(crate) fn missing(&self) -> &[Controller] {
        &self.missing
    }

    /// Where a group stands below each hierarchy's mount: of a class, of a pod, of a container.
    fn name(
        &self,
        class: Class,
        uid: Option<&str>,
        container_id: Option<&str>,
    ) -> Result<PathBuf, CgroupError> {
        let mut path = self.root.clone();
        path.extend(class.group());
        if let Some(uid) = uid {
            path.push(checked(&format!("{POD_PREFIX}{uid}"))?);
        }
        if let Some(id) = container_id {
            path.push(checked(id)?);
        }
        Ok(path)
    }

    /// Whether the kernel's interface is version 2.
    pub(crate) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// A pod's group as a container runtime is told it (CRI `cgroup_parent`).
    pub(crate) fn parent(&self, class: Class, uid: &str) -> String {
        let name = self.name(class, Some(uid), None);
        name.map(|name| format!("/{}", name.display())).unwrap_or_default()
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
        self.make(&self.name(class, Some(uid), None)?, limits, Level::Inner)
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
        let pod = self.name(class, Some(uid), None)?;
        if !self.hierarchies.iter().all(|h| h.mount.join(&pod).is_dir()) {
            self.make(&pod, &Limits::default(), Level::Inner)?;
        }
        let name = self.name(class, Some(uid), Some(container_id))?;
        self.make(&name, limits, Level::Leaf)?;
        Ok(self.leaf(&name))
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
            if self.hierarchies.iter().any(|h| h.mount.join(&name).is_dir()) {
                return Ok(Some(self.leaf(&name)));
            }
        }
        Ok(None)
    }

    fn leaf(&self, name: &Path) -> Leaf {
        let memory = self.hierarchies.iter().find(|h| h.controllers.contains(&Controller::Memory));
        Leaf::new(
            self.version,
            self.hierarchies.iter().map(|h| h.mount.join(name)).collect(),
            memory.map(|h| h.mount.join(name)),
        )
    }

    /// Removes a pod's group, of whichever class, and what is left in it; what still runs there is
    /// killed.
    ///
    /// # Errors
    /// [`CgroupError`]; the next call goes on with what is left.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        for class in Class::ALL {
            let name = self.name(class, Some(uid), None)?;
            for hierarchy in &self.hierarchies {
                leaf::remove_tree(&hierarchy.mount.join(&name), DEPTH_MAX)?;
            }
        }
        Ok(())
    }

    /// Sets what all pods together may have (`enforceNodeAllocatable`).
    ///
    /// # Errors
    /// [`CgroupError::Write`], such as for less memory than is in use; to be tried again later.
    pub(crate) fn set_pods_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.make(&self.root, limits, Level::Inner)
    }

    /// Sets the cpu shares (version 1) or weight (version 2) of all pods of a class together; those
    /// of Guaranteed ones are the pods' own.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub(crate) fn set_class_cpu(
        &self,
        class: Class,
        shares: u64,
        weight: u64,
    ) -> Result<(), CgroupError> {
        if class.group().is_none() {
            return Ok(());
        }
        let (cpu_shares, cpu_weight) = (Some(shares), Some(weight));
        let limits = Limits { cpu_shares, cpu_weight, ..Limits::default() };
        self.make(&self.name(class, None, None)?, &limits, Level::Inner)
    }

    /// Removes everything, up to and with the group below which `kubepods` stands, for tests that
    /// have one of their own.
    #[cfg(test)]
    pub(crate) fn remove_all(&self) -> Result<(), CgroupError> {
        let root = self.root.parent().filter(|root| *root != Path::new("")).expect("of its own");
        let mut all = self.hierarchies.iter();
        all.try_for_each(|h| leaf::remove_tree(&h.mount.join(root), DEPTH_MAX))
    }

    /// Makes the group `name` where it is not there, and sets its limits.
    fn make(&self, name: &Path, limits: &Limits, level: Level) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mount.join(name);
            let fresh = match fs::create_dir(&dir) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                Err(source) => return Err(CgroupError::Make { path: dir, source }),
            };
            for controller in &hierarchy.controllers {
                let settings = match self.version {
                    Version::V1 => v1::settings(*controller, limits, level, fresh),
                    Version::V2 => {
                        let oom_group = level == Level::Leaf && self.oom_kills_all;
                        v2::settings(*controller, limits, level, fresh, oom_group)
                    }
                };
                settings.iter().try_for_each(|setting| apply(&dir, setting))?;
            }
            if self.version == Version::V2 && level == Level::Inner {
                v2::enable(&dir, &hierarchy.controllers)?;
            }
        }
        Ok(())
    }
}

/// A container's group that is made once the container has its id.
#[derive(Clone, Debug)]
pub(crate) struct LeafSpec {
    /// Where.
    pub(crate) cgroups: Arc<Cgroups>,
    /// In the group of a pod of this class.
    pub(crate) class: Class,
    /// What it may have.
    pub(crate) limits: Limits,
}

impl LeafSpec {
    /// Makes it, of the pod `uid`.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing of it is left then.
    pub(crate) fn make(&self, uid: &str, container_id: &str) -> Result<Leaf, CgroupError> {
        let made = self.cgroups.make_leaf(uid, self.class, container_id, &self.limits);
        if made.is_err()
            && let Ok(Some(leaf)) = self.cgroups.find_leaf(uid, container_id)
        {
            // Nobody is in it; what cannot be removed goes with the pod's group.
            let _ = leaf.remove();
        }
        made
    }
}
