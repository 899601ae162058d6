//! Version 2: one hierarchy, whose controllers are enabled from the top down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{mount_lines, read, write};
use super::{CgroupError, Controller, Level, Limits, Setting};

/// Where it is mounted where it is the host's only one (upstream `IsCgroup2UnifiedMode`).
const MOUNT: &str = "/sys/fs/cgroup";

/// Where the one hierarchy is mounted; `None` on a host of version 1, which may have it elsewhere,
/// without controllers.
pub(super) fn mount(mountinfo: &str) -> Option<PathBuf> {
    // The last one covers those before.
    let top = mount_lines(mountinfo).filter(|line| line.mount == Path::new(MOUNT)).last()?;
    (top.kind == "cgroup2").then_some(top.mount)
}

/// Makes the group `root` below the mount, every controller enabled in what stands above it as far
/// as the kernel lets it.
///
/// # Errors
/// Those of making a directory.
pub(super) fn make_root(mount: &Path, root: &Path) -> io::Result<()> {
    let mut dir = mount.to_path_buf();
    for part in root {
        for controller in Controller::ALL {
            if let Err(error) = enable_one(&dir, controller) {
                // One that is not there, or processes of others in that group.
                tracing::debug!(path = %dir.display(), %controller, %error, "not enabled");
            }
        }
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The controllers that a group has, of those that are used.
///
/// # Errors
/// [`CgroupError::Read`].
pub(super) fn controllers(dir: &Path) -> Result<Vec<Controller>, CgroupError> {
    let path = dir.join("cgroup.controllers");
    let text = read(&path).map_err(|source| CgroupError::Read { path, source })?;
    let has = |c: &Controller| text.split_whitespace().any(|name| name == c.name());
    Ok(Controller::ALL.into_iter().filter(has).collect())
}

/// Enables controllers for the groups in a group.
///
/// # Errors
/// [`CgroupError::Write`].
pub(super) fn enable(dir: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
    for controller in controllers {
        enable_one(dir, *controller).map_err(|source| CgroupError::Write {
            path: dir.join(SUBTREE),
            value: format!("+{controller}"),
            source,
        })?;
    }
    Ok(())
}

const SUBTREE: &str = "cgroup.subtree_control";

fn enable_one(dir: &Path, controller: Controller) -> io::Result<()> {
    let path = dir.join(SUBTREE);
    let enabled = read(&path).unwrap_or_default();
    if enabled.split_whitespace().any(|name| name == controller.name()) {
        return Ok(());
    }
    write(&path, &format!("+{controller}"))
}

/// What is written for one controller, in order.
pub(super) fn settings(
    controller: Controller,
    limits: &Limits,
    level: Level,
    fresh: bool,
    oom_group: bool,
) -> Vec<Setting> {
    let mut all = Vec::new();
    match controller {
        // Of sizes that are not known here.
        Controller::HugePages => {}
        Controller::Cpu => {
            all.extend(limits.cpu_weight.map(|weight| Setting::new("cpu.weight", weight)));
            let period = limits.cpu_period_us;
            match limits.cpu_quota_us {
                Some(quota) => all.push(Setting::new("cpu.max", format!("{quota} {period}"))),
                None if !fresh => all.push(Setting::new("cpu.max", format!("max {period}"))),
                None => {}
            }
        }
        Controller::Memory => {
            match limits.memory_bytes {
                Some(bytes) => all.push(Setting::new("memory.max", bytes)),
                None if !fresh => all.push(Setting::new("memory.max", "max")),
                None => {}
            }
            if level == Level::Leaf {
                // No swap (upstream's default `NoSwap`); kernels may not count it.
                all.push(Setting::optional("memory.swap.max", 0));
            }
            if oom_group {
                // systemd takes it back from its units when it reads all of its files anew (252);
                // one process alone is killed then.
                all.push(Setting::optional("memory.oom.group", 1));
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
