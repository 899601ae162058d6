//! Version 1: the controllers' own hierarchies.

use std::path::{Path, PathBuf};

use super::files::{apply, mount_lines};
use super::{Controller, Hierarchy, Level, Limits, Setting};

/// The hierarchies that can be written and have a controller that is used. Of several mounts of
/// one, that with the shortest path (upstream `getCgroupSubsystemsV1`).
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut mounts: Vec<_> =
        mount_lines(mountinfo).filter(|line| line.kind == "cgroup" && line.writable).collect();
    mounts.sort_by_key(|line| line.mount.as_os_str().len());
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts {
        let has = |c: &Controller| line.options.split(',').any(|option| option == c.name());
        let known = |c: &Controller| found.iter().any(|h| h.controllers.contains(c));
        let controllers: Vec<_> =
            Controller::ALL.into_iter().filter(|c| has(c) && !known(c)).collect();
        if !controllers.is_empty() {
            found.push(Hierarchy { mount: line.mount, controllers });
        }
    }
    found
}

/// The mounts of all other hierarchies, named ones and version 2's beside them too.
pub(super) fn others(mountinfo: &str, used: &[Hierarchy]) -> Vec<PathBuf> {
    let all = mount_lines(mountinfo)
        .filter(|line| matches!(line.kind, "cgroup" | "cgroup2") && line.writable);
    let mounts = all.map(|line| line.mount);
    mounts.filter(|mount| used.iter().all(|hierarchy| hierarchy.mount != *mount)).collect()
}

/// Has what is below `kubepods` count in it, as kernels since 5.11 do by themselves.
pub(super) fn prepare_root(dir: &Path) {
    // Optional: refused once there is a group in it, and absent in the other hierarchies. It is
    // looked for before, since a file cannot be made here.
    if dir.join("memory.use_hierarchy").exists() {
        let _ = apply(dir, &Setting::optional("memory.use_hierarchy", 1));
    }
}

/// What is written for one controller, in order. A group that was there before is first set free
/// of what would be in the way of its new limits.
pub(super) fn settings(
    controller: Controller,
    limits: &Limits,
    level: Level,
    fresh: bool,
) -> Vec<Setting> {
    let mut all = Vec::new();
    match controller {
        // Of sizes that are not known here.
        Controller::HugePages => {}
        Controller::Cpu => {
            all.extend(limits.cpu_shares.map(|shares| Setting::new("cpu.shares", shares)));
            if !fresh {
                all.push(Setting::optional("cpu.cfs_quota_us", -1));
            }
            if let Some(quota) = limits.cpu_quota_us {
                all.push(Setting::new("cpu.cfs_period_us", limits.cpu_period_us));
                all.push(Setting::new("cpu.cfs_quota_us", quota));
            }
        }
        Controller::Memory => {
            const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
            if !fresh {
                all.push(Setting::optional(WITH_SWAP, -1));
            }
            match limits.memory_bytes {
                Some(bytes) => {
                    all.push(Setting::new("memory.limit_in_bytes", bytes));
                    if level == Level::Leaf {
                        // No swap (upstream's default `NoSwap`); kernels may not count it.
                        all.push(Setting::optional(WITH_SWAP, bytes));
                    }
                }
                None if !fresh => all.push(Setting::new("memory.limit_in_bytes", -1)),
                None => {}
            }
        }
        Controller::Pids => match limits.pids {
            Some(pids) => all.push(Setting::new("pids.max", pids)),
            None if !fresh => all.push(Setting::new("pids.max", "max")),
            None => {}
        },
    }
    all
}
