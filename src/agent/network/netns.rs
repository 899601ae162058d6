//! The pods' network namespaces: `RUN/netns/UID`, each held by a mount.
//!
//! The directory is a mount of its own and passes nothing on, so that no namespace is mounted
//! anywhere else; the copies that a new mount namespace takes go when the file is removed. It is
//! unmounted with its last namespace.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::record::uids_in;
use crate::linux::network;

/// Any port may be bound without a capability: there is nobody else in the namespace.
const LOW_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// The namespaces of one agent's pods.
#[derive(Debug)]
pub(super) struct Namespaces {
    dir: PathBuf,
    /// Held while the directory becomes a mount or ceases to be one.
    mounting: Mutex<()>,
}

impl Namespaces {
    /// Those below the run directory `run`; nothing is made yet.
    pub(super) fn new(run: &Path) -> Self {
        Self { dir: run.join("netns"), mounting: Mutex::new(()) }
    }

    /// Where a pod's namespace is held.
    pub(super) fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(uid)
    }

    /// Whether there is one for the pod.
    pub(super) fn is_there(&self, uid: &str) -> bool {
        network::is_held(&self.path(uid))
    }

    /// Makes a new namespace for the pod; one that is there is let go of.
    pub(super) fn make(&self, uid: &str) -> io::Result<PathBuf> {
        let path = self.path(uid);
        let mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        DirBuilder::new().recursive(true).mode(0o711).create(&self.dir)?;
        network::keep_private(&self.dir)?;
        network::release(&path)?;
        // It takes a while, and is not done twice for one pod: others need not wait. What lies in
        // the directory meanwhile keeps it a mount.
        fs::File::create_new(&path)?;
        drop(mounting);
        let (name, value) = LOW_PORTS;
        network::hold_new(&path, || write_sysctl(name, value))?;
        Ok(path)
    }

    /// Removes the pod's namespace; none is no error.
    pub(super) fn remove(&self, uid: &str) -> io::Result<()> {
        let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        network::release(&self.path(uid))?;
        let is_empty = match fs::read_dir(&self.dir) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        if is_empty { network::unmount_all(&self.dir) } else { Ok(()) }
    }

    /// The uids of all pods that have one.
    pub(super) fn uids(&self) -> Vec<String> {
        uids_in(&self.dir, "")
    }

    /// Writes the pod's sysctls, by name, in its namespace. Those of other namespaces (`kernel.`,
    /// `fs.mqueue.`) are about shared memory and queues, which no guest has.
    pub(super) fn apply_sysctls(&self, uid: &str, sysctls: &[(String, String)]) -> io::Result<()> {
        let of_network = sysctls.iter().filter(|(name, _)| normal(name).starts_with("net/"));
        let of_network: Vec<_> = of_network.collect();
        if of_network.is_empty() {
            return Ok(());
        }
        network::inside(&self.path(uid), || {
            of_network.iter().try_for_each(|(name, value)| write_sysctl(name, value))
        })
    }
}

/// A sysctl's path below `/proc/sys`. Its first separator, a dot or a slash, is the one between
/// all its parts; the other one stands for itself (upstream `NormalizeName`).
fn normal(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => {
            let swap = |c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            };
            name.chars().map(swap).collect()
        }
        Some(_) | None => name.to_owned(),
    }
}

fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = normal(name);
    let leads_away = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(leads_away) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("sysctl {name:?}")));
    }
    fs::write(Path::new("/proc/sys").join(path), value)
        .map_err(|e| io::Error::new(e.kind(), format!("write sysctl key {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn mounts_below(dir: &Path, process: &str) -> usize {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("reads");
        mounts.lines().filter(|line| line.contains(&*dir.to_string_lossy())).count()
    }

    #[test]
    fn namespaces_come_and_go_with_their_mounts() {
        let run = tempfile::tempdir().expect("a directory");
        let all = Namespaces::new(run.path());
        all.remove("none").expect("nothing to do");
        for _ in 0..2 {
            let path = all.make("a").expect("makes");
            assert!(all.is_there("a") && network::is_held(&path));
        }
        all.make("b").expect("makes");
        let mut uids = all.uids();
        uids.sort();
        assert_eq!(uids, ["a", "b"]);
        assert_eq!(mounts_below(run.path(), "self"), 3, "the directory and two of them");
        // Somebody else's mount namespace holds nothing.
        let mut sleeper = Command::new("unshare")
            .args(["-m", "--propagation", "unchanged", "sh", "-c", "echo; read x"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let mut ready = [0];
        io::Read::read_exact(sleeper.stdout.as_mut().expect("a pipe"), &mut ready).expect("is up");
        let process = sleeper.id().to_string();
        assert_eq!(mounts_below(run.path(), &process), 3);
        all.remove("a").expect("removes");
        all.remove("b").expect("removes");
        assert_eq!(mounts_below(&run.path().join("netns/"), &process), 0);
        assert_eq!(mounts_below(run.path(), "self"), 0);
        assert!(all.uids().is_empty() && !all.is_there("a"));
        sleeper.kill().expect("ends");
        sleeper.wait().expect("ended");
    }

    #[test]
    fn sysctls_are_written_in_the_namespace_alone() {
        let run = tempfile::tempdir().expect("a directory");
        let all = Namespaces::new(run.path());
        let path = all.make("a").expect("makes");
        let read = |name: &str| {
            network::inside(&path, || fs::read_to_string(Path::new("/proc/sys/net").join(name)))
                .expect("reads")
        };
        let own = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert_eq!(read("ipv4/ip_unprivileged_port_start"), "0\n");
        all.apply_sysctls("a", &own("net.ipv4.ip_unprivileged_port_start", "80")).expect("writes");
        assert_eq!(read("ipv4/ip_unprivileged_port_start"), "80\n");
        all.apply_sysctls("a", &own("net/ipv4/ping_group_range", "0 5")).expect("writes");
        assert_eq!(read("ipv4/ping_group_range"), "0\t5\n");
        let here = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        assert_ne!(here.expect("reads"), "80\n");
        let before = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").expect("reads");
        all.apply_sysctls("a", &own("kernel.shm_rmid_forced", "1")).expect("is left out");
        let after = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").expect("reads");
        assert_eq!(after, before);
        for name in ["net.ipv4.none", "net.//.//.kernel.shm_rmid_forced", "net/../kernel/domain"] {
            let error = all.apply_sysctls("a", &own(name, "1")).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
        all.remove("a").expect("removes");
    }
}
