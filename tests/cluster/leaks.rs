//! What a run leaves behind it: found by the names that only this run has, and removed, so that a
//! failed test does not meet the next one.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};

use crate::cluster::{containerd, rules};
use crate::holds_within;

/// What was killed or let go is gone from the kernel's tables a moment later: this long at most, on a
/// machine with other work too.
const SETTLE: Duration = Duration::from_secs(30);
/// Where a kubelet leaves a link to each container's log, wherever the logs are.
const LOG_LINKS: &str = "/var/log/containers";
/// Where that library keeps it, whatever runtime it is part of.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Levels of folders looked into: deeper than any path an agent makes.
const DEPTH_MAX: usize = 24;
/// Mounts on top of one another are taken off one by one: more often than any test mounts.
const UNMOUNTS_MAX: usize = 4096;

/// What all names of this process's runs begin with: directories, bridges, control groups. At most
/// 15 bytes together with a number, as long as a network interface's name may be.
pub fn prefix() -> String {
    format!("cpt{}-", std::process::id())
}

/// The process id in a name that begins as [`prefix`] says.
fn run_of(name: &str) -> Option<Pid> {
    Pid::from_raw(name.strip_prefix("cpt")?.split_once('-')?.0.parse().ok()?)
}

/// Looks until nothing is left, for as long as the kernel may need; what is left then.
pub fn settled(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let mut left = Vec::new();
    holds_within(SETTLE, || {
        left = look();
        if !left.is_empty() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        left.is_empty()
    });
    left
}

/// All processes but this one that have `dir` in their arguments, environment or open files, each
/// with a line about it.
pub fn processes(dir: &Path) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(process) = Pid::from_raw(pid).filter(|process| *process != getpid()) else {
            continue;
        };
        // One that ends meanwhile has no files left here, and one of another user shows none.
        let about = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let arguments = about("cmdline");
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let named = has(&arguments, dir)
            || has(&about("environ"), dir)
            || open.flat_map(|fd| fs::read_link(fd.path())).any(|to| to.starts_with(dir));
        if named {
            let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
            let name = String::from_utf8_lossy(&about("comm")).trim().to_owned();
            found.push((process, format!("process: {pid} {name}: {text}")));
        }
    }
    found
}

fn has(text: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    text.windows(path.len()).any(|part| part == path)
}

/// The mounts and the bound sockets that name `dir`, a line each.
pub fn mounts_and_sockets(dir: &Path) -> Vec<String> {
    let mut left = mounts(dir);
    left.extend(naming(dir, "socket", "/proc/net/unix"));
    left
}

/// The mounts that name `dir`, a line each.
pub fn mounts(dir: &Path) -> Vec<String> {
    naming(dir, "mount", "/proc/self/mountinfo")
}

fn naming(dir: &Path, what: &str, table: &str) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let text = fs::read_to_string(table).expect("/proc is mounted");
    let lines = text.lines().filter(|line| line.contains(&*dir));
    lines.map(|line| format!("{what}: {line}")).collect()
}

/// What the CNI library of a container runtime remembers of networks whose name, or whose name and
/// `-`, begins so.
pub fn results(prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    ours.map(|file| file.path()).collect()
}

/// The files below `dir` that are sockets or lie below one of the `empty` folders.
pub fn files(dir: &Path, empty: &[&Path]) -> Vec<String> {
    let mut all = Vec::new();
    walk(dir, DEPTH_MAX, &mut all);
    let socket = |file: &Path| fs::symlink_metadata(file).is_ok_and(|f| f.file_type().is_socket());
    let left = all.iter().filter(|f| socket(f) || empty.iter().any(|dir| f.starts_with(dir)));
    left.map(|file| format!("file: {}", file.display())).collect()
}

/// Collects everything below `dir` that is not a folder.
fn walk(dir: &Path, depth: usize, into: &mut Vec<PathBuf>) {
    assert!(depth > 0, "{} is deeper than any path the agent makes", dir.display());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth - 1, into);
        } else {
            into.push(entry.path());
        }
    }
}

/// Where the control groups of this name would be: one directory in each mounted hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let mounts = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let at = mount.split(' ').nth(4)?;
        (kind == "cgroup" || kind == "cgroup2").then(|| Path::new(at).join(name))
    });
    mounts.collect()
}

/// Makes the control groups of this name, as a kubelet wants its root to be there.
pub fn make_cgroups(name: &str) {
    for dir in cgroups(name) {
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        // A new one of cgroup v1's cpuset has no processors and lets nobody in.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = dir.parent().expect("a mount").join(file);
            if dir.join("cgroup.clone_children").exists() && parent.exists() {
                let _ = fs::copy(parent, dir.join(file));
            }
        }
    }
}

/// The groups below the control groups of this name, each once for each hierarchy.
pub fn cgroups_below(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in cgroups(name) {
        groups(&dir, DEPTH_MAX, &mut found);
    }
    found
}

/// Parents before what is below them.
fn groups(dir: &Path, depth: usize, into: &mut Vec<PathBuf>) {
    assert!(depth > 0, "{} is deeper than any group", dir.display());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            into.push(entry.path());
            groups(&entry.path(), depth - 1, into);
        }
    }
}

/// Kills what runs in the control groups of this name and removes them.
pub fn remove_cgroups(name: &str) {
    let mut all = cgroups(name);
    all.extend(cgroups_below(name));
    for dir in all.iter().rev() {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        holds_within(SETTLE, || !dir.exists() || fs::remove_dir(dir).is_ok());
    }
}

/// Kills all that has `dir` open or in its name and takes off all mounts below it.
pub fn remove_below(dir: &Path) {
    for (pid, _) in processes(dir) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let text = dir.to_string_lossy().into_owned();
    for _ in 0..UNMOUNTS_MAX {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let mut points = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
        let Some(last) = points.find(|at| at.starts_with(&text)) else { return };
        if let Err(error) = unmount(last, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {last}: {error}");
            return;
        }
    }
}

/// The links to containers' logs that lie below `dir`.
pub fn log_links(dir: &Path) -> Vec<PathBuf> {
    let links = fs::read_dir(LOG_LINKS).into_iter().flatten().flatten().map(|link| link.path());
    links.filter(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(dir))).collect()
}

/// Removes those links.
pub fn remove_log_links(dir: &Path) {
    for link in log_links(dir) {
        let _ = fs::remove_file(link);
    }
}

/// `ip ARGS`: whether it went well.
pub fn ip(args: &[&str]) -> bool {
    let output = Command::new("ip").args(args).output().expect("ip of `make test-setup`");
    if !output.status.success() {
        eprintln!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}

/// Removes what runs that were killed have left: their process is gone and could not.
pub fn sweep() {
    let gone = |name: &str| run_of(name).is_some_and(|pid| test_kill_process(pid).is_err());
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| gone(n)).collect()
    };
    for name in names(&std::env::temp_dir()) {
        let dir = std::env::temp_dir().join(name);
        for one in fs::read_dir(&dir).into_iter().flatten().flatten() {
            for file in containerd::outside(&one.path()) {
                let _ = fs::remove_file(file);
            }
        }
        remove_below(&dir);
        remove_log_links(&dir);
        let _ = fs::remove_dir_all(dir);
    }
    for name in names(Path::new("/sys/class/net")) {
        ip(&["link", "del", &name]);
    }
    for parent in cgroups("") {
        for name in names(&parent) {
            remove_cgroups(&name);
        }
    }
    for name in names(Path::new(CNI_RESULTS)) {
        let _ = fs::remove_file(Path::new(CNI_RESULTS).join(name));
    }
    for name in rules::networks().into_iter().filter(|name| gone(name)) {
        rules::remove(&name);
    }
}
