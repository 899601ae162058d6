//! The group of one container: what is counted in it, its processes and its end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::files::read;
use super::name::Group;
use super::{CgroupError, Cgroups, Class, DEPTH_MAX, Limits, Version};
use crate::linux::systemd::Systemd;
use crate::linux::{kill_process, open_process};

/// How long a killed process may take to be gone: the kernel has to free its memory.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a group may stay busy after the end of its last process, which is in it until the
/// kernel has switched away from it.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks at a group that is busy.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// A group's processes.
const PROCESSES: &str = "cgroup.procs";
/// What systemd shows of a container's scope.
const DESCRIPTION: &str = "Copepod sandbox";

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

/// The units of a container's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Units {
    systemd: Systemd,
    /// The group itself.
    slice: String,
    /// Where its processes stand, in that.
    scope: String,
}

impl Units {
    pub(super) fn new(systemd: Systemd, group: &Group, container_id: &str) -> Self {
        let scope = format!("copepod-{container_id}.scope");
        Self { systemd, slice: group.slice(), scope }
    }
}

/// The group of a container, in each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    version: Version,
    paths: Vec<PathBuf>,
    /// That of the memory controller.
    memory: Option<PathBuf>,
    /// Where systemd has made it.
    units: Option<Units>,
}

impl Leaf {
    pub(super) fn new(
        version: Version,
        paths: Vec<PathBuf>,
        memory: Option<PathBuf>,
        units: Option<Units>,
    ) -> Self {
        Self { version, paths, memory, units }
    }

    /// Whether a process has to be [admitted](Self::admit) before it can enter.
    pub(crate) fn admits(&self) -> bool {
        self.units.is_some()
    }

    /// Has systemd take a process into the group before it enters by [`Self::entries`]; nothing to
    /// do where systemd has not made it. The process must not do anything that counts before this
    /// returns. Blocks until systemd has done it.
    ///
    /// # Errors
    /// [`CgroupError::Unit`], also for a process that is gone.
    pub(crate) fn admit(&self, pid: u32) -> Result<(), CgroupError> {
        let Some(Units { systemd, slice, scope }) = &self.units else { return Ok(()) };
        let started = systemd.start_scope(scope, slice, DESCRIPTION, pid);
        started.map_err(|source| CgroupError::Unit { unit: scope.clone(), source })
    }

    /// The files by which a process of one thread enters it: each takes the text `0`. With systemd
    /// they are there once the first process was admitted.
    ///
    /// Of version 1 it is the list of threads, not of processes: a thread that moves itself waits
    /// for nobody, where a move of a process waits until every cpu has seen it, 7 to 20 ms
    /// (measured on Linux 6.18; `cgroup_procs_write_start`). Version 2 has no such way.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        let entry = |path: &PathBuf| match (self.version, &self.units) {
            // Version 1 allows processes in a slice, whose counts do not include the scope's. The
            // scope is then in systemd's own hierarchy.
            (Version::V1, _) => path.join("tasks"),
            (Version::V2, None) => path.join(PROCESSES),
            (Version::V2, Some(units)) => path.join(&units.scope).join(PROCESSES),
        };
        self.paths.iter().map(entry).collect()
    }

    /// Those of [`Self::entries`] that an [admitted](Self::admit) process still has to enter by.
    pub(crate) fn own_entries(&self) -> Vec<PathBuf> {
        match (self.version, &self.units) {
            // systemd has no part in some hierarchies.
            (Version::V1, _) | (Version::V2, None) => self.entries(),
            (Version::V2, Some(_)) => Vec::new(),
        }
    }

    /// How many of its processes were killed for want of memory, be it its own, its pod's or the
    /// host's; none where memory is not counted. Where all are killed together, version 2 counts the
    /// one that was chosen twice (Linux 6.1).
    ///
    /// # Errors
    /// `NotFound` once it is removed.
    pub(crate) fn oom_kills(&self) -> io::Result<u64> {
        let Some(dir) = &self.memory else { return Ok(0) };
        let text = read(&dir.join(match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        }))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        // Not counted before Linux 4.13.
        Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    /// Removes it; what is gone already is no error. Nothing may run in it.
    ///
    /// # Errors
    /// [`CgroupError`], also for one that stays busy for 2 s.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        self.stop()?;
        self.paths.iter().try_for_each(|path| remove_dir(path))
    }

    /// Ends what runs in it and below it, and removes all of that.
    ///
    /// # Errors
    /// [`CgroupError`]; the next call goes on with what is left.
    pub(crate) fn destroy(&self) -> Result<(), CgroupError> {
        destroy(&self.paths, || self.stop())
    }

    fn stop(&self) -> Result<(), CgroupError> {
        let Some(Units { systemd, slice, .. }) = &self.units else { return Ok(()) };
        stop(systemd, slice)
    }
}

/// Stops a slice of systemd's, with all that stands in it.
pub(super) fn stop(systemd: &Systemd, slice: &str) -> Result<(), CgroupError> {
    let stopped = systemd.stop(slice);
    stopped.map_err(|source| CgroupError::Unit { unit: slice.into(), source })
}

/// Ends what runs in a group, in each hierarchy, and removes all of it; `stop` has systemd forget it
/// in between, which waits for processes that do not end.
pub(super) fn destroy(
    dirs: &[PathBuf],
    stop: impl FnOnce() -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    dirs.iter().try_for_each(|dir| kill_tree(dir, DEPTH_MAX))?;
    stop()?;
    dirs.iter().try_for_each(|dir| remove_tree(dir, DEPTH_MAX))
}

fn processes_of(dir: &Path) -> io::Result<Vec<u32>> {
    match read(&dir.join(PROCESSES)) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        // Removed, also between the open and the read.
        Err(e) if is_gone(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn is_gone(error: &io::Error) -> bool {
    let removed = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(removed)
}

/// Kills every process in one group and waits for their ends; also those that were made meanwhile.
fn kill_in(dir: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Kill { path: dir.into(), source };
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let listed = processes_of(dir).map_err(failed)?;
        if listed.is_empty() {
            return Ok(());
        }
        let opened: Vec<(u32, OwnedFd)> = listed
            .into_iter()
            .filter_map(|pid| Some((pid, open_process(pid).transpose()?)))
            .map(|(pid, fd)| Ok((pid, fd?)))
            .collect::<io::Result<_>>()
            .map_err(failed)?;
        // An id that is still here now, with its descriptor open, is that process's own.
        let still = processes_of(dir).map_err(failed)?;
        for (pid, process) in &opened {
            if still.contains(pid) {
                kill_process(process).map_err(failed)?;
            }
        }
        let mut waited: Vec<PollFd<'_>> =
            opened.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
        poll(&mut waited, Some(&MOMENT)).map_err(|e| failed(e.into()))?;
        if Instant::now() > deadline {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
    }
}

fn remove_dir(dir: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if is_gone(&e) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                // A wait without anything to wait for: not all versions tell of it.
                let _ = poll(&mut [], Some(&MOMENT));
            }
            Err(source) => return Err(CgroupError::Remove { path: dir.into(), source }),
        }
    }
}

/// The groups in a group; none where it is not there.
fn groups_in(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let failed = |source| CgroupError::Read { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Kills what runs in a group and in those in it, `depth` levels at most.
fn kill_tree(dir: &Path, depth: usize) -> Result<(), CgroupError> {
    if let Some(below) = depth.checked_sub(1) {
        for group in groups_in(dir)? {
            kill_tree(&group, below)?;
        }
    }
    kill_in(dir)
}

/// Removes a group with all groups in it, `depth` levels at most, and kills what runs there.
fn remove_tree(dir: &Path, depth: usize) -> Result<(), CgroupError> {
    if let Some(below) = depth.checked_sub(1) {
        for group in groups_in(dir)? {
            remove_tree(&group, below)?;
        }
    }
    kill_in(dir)?;
    remove_dir(dir)
}
