//! What an ordinary container sees of the host's files: paths that its runtime binds (upstream
//! `makeMounts` of `kubelet_pods.go` and of `kuberuntime_container.go`).
//!
//! The runtime follows links on the host, so no path of what guests write to is given to it: a part
//! of a volume (`subPath`) is found beneath the volume and bound, as the open file that it is then,
//! at a place of the agent's own in the attempt's directory. Those binds serve the creation and the
//! start of the container alone; they go with [`release`], and with the removal of the directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use copepod_pod::sub_path;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, VolumeMount};
use rustix::fs::{FileType, OFlags, fstat};

use super::sub_path::open;
use super::tree::{DEFAULT_MESSAGE, FILE, MESSAGE, inside};
use super::{Kind, ReadOnlyModeError, TreeError, Volume, Volumes};
use crate::linux;

/// Where the parts of volumes are bound, in the directory of an attempt.
const PARTS: &str = "parts";
/// The file of the termination message, in the directory of an attempt.
const MESSAGE_FILE: &str = "termination-log";
/// The pod's `/etc/hosts`, in the pod's directory (upstream `getEtcHostsPath`).
const HOSTS_FILE: &str = "etc-hosts";
/// Where a container sees it (upstream `etcHostsPath`).
const HOSTS: &str = "/etc/hosts";

/// What the binds of a container are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindInput<'a> {
    /// Whose they are.
    pub(crate) container: &'a ContainerSpec,
    /// The pod's volumes.
    pub(crate) volumes: &'a Volumes,
    /// The container's environment, for `subPathExpr`.
    pub(crate) env: &'a [(String, String)],
    /// The pod's directory.
    pub(crate) pod_dir: &'a Path,
    /// The text of the pod's `/etc/hosts`; `None` while the pod has no address and is not on the
    /// host's network: the container has its runtime's own then.
    pub(crate) hosts: Option<&'a str>,
    /// Whether the pod's runtime handler makes mounts below a mount read-only too (CRI
    /// `RuntimeHandlerFeatures.recursive_read_only_mounts`).
    pub(crate) recursive_read_only: bool,
    /// Whether the kernel labels files for SELinux.
    pub(crate) selinux: bool,
}

/// A path of the host that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    /// What it sees; no guest can lead this path elsewhere.
    pub(crate) host_path: PathBuf,
    /// Where, an absolute path.
    pub(crate) container_path: String,
    /// It cannot be written to.
    pub(crate) read_only: bool,
    /// Neither can what is mounted below it.
    pub(crate) recursive_read_only: bool,
    /// What of later mounts is seen on the other side.
    pub(crate) propagation: Propagation,
    /// It is labelled for the container.
    pub(crate) selinux_relabel: bool,
}

/// A mount's `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Neither side sees later mounts of the other.
    #[default]
    None,
    /// The container sees those of the host.
    HostToContainer,
    /// Each sees those of the other.
    Bidirectional,
}

/// What the runtime is to bind for a container attempt, each place before those below it. Makes the
/// pod's `/etc/hosts`, missing parts of volumes, and in `dir`, the attempt's directory, an empty
/// termination message and what the parts are bound at. Blocks for some file operations.
///
/// # Errors
/// [`TreeError`]; no bind is left then.
pub(crate) fn binds(input: &BindInput<'_>, dir: &Path) -> Result<Vec<Bind>, TreeError> {
    let failed = |source| TreeError::Make { path: dir.into(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    // An earlier try of this attempt.
    release(dir).map_err(failed)?;
    let made = all(input, dir);
    if made.is_err() {
        // What cannot be removed now goes with the pod's directory.
        let _ = release(dir);
    }
    made
}

/// Undoes the mounts that [`binds`] made for an attempt: its runtime has its own of them once the
/// container was started, and a restart is another attempt. Idempotent.
///
/// # Errors
/// The kernel's.
pub(crate) fn release(dir: &Path) -> io::Result<()> {
    linux::remove_tree(&dir.join(PARTS))
}

/// The file of an attempt's termination message; its guest writes to it and cannot replace it.
pub(crate) fn message_file(dir: &Path) -> PathBuf {
    dir.join(MESSAGE_FILE)
}

fn all(input: &BindInput<'_>, dir: &Path) -> Result<Vec<Bind>, TreeError> {
    let mounts = input.container.volume_mounts.as_deref().unwrap_or_default();
    let of_volume = |(index, mount)| of_volume(input, dir, index, mount);
    let mut binds = mounts.iter().enumerate().map(of_volume).collect::<Result<Vec<_>, _>>()?;
    let is_hosts = |bind: &Bind| inside(&bind.container_path) == inside(HOSTS);
    if let Some(text) = input.hosts.filter(|_| !binds.iter().any(is_hosts)) {
        let path = input.pod_dir.join(HOSTS_FILE);
        write_hosts(&path, text)
            .map_err(|source| TreeError::Make { path: path.clone(), source })?;
        binds.push(own(path, HOSTS.into(), input));
    }
    let message = input.container.termination_message_path.as_deref();
    let message = message.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_MESSAGE);
    let path = message_file(dir);
    make_message(&path).map_err(|source| TreeError::Make { path: path.clone(), source })?;
    binds.push(own(path, absolute(message), input));
    binds.sort_by_key(|bind| inside(&bind.container_path).components().count());
    Ok(binds)
}

/// A file of the agent's own making.
fn own(host_path: PathBuf, container_path: String, input: &BindInput<'_>) -> Bind {
    Bind {
        host_path,
        container_path,
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::None,
        selinux_relabel: input.selinux,
    }
}

fn of_volume(
    input: &BindInput<'_>,
    dir: &Path,
    index: usize,
    mount: &VolumeMount,
) -> Result<Bind, TreeError> {
    let volume =
        input.volumes.get(&mount.name).ok_or_else(|| TreeError::NoVolume(mount.name.clone()))?;
    let path = sub_path(mount, input.env)
        .map_err(|source| TreeError::SubPathName { volume: mount.name.clone(), source })?;
    let propagation = propagation(mount)?;
    let recursive = recursive_read_only(mount, input.recursive_read_only);
    let host_path = match path {
        None => volume.path.clone(),
        Some(path) => {
            part(volume, Path::new(&path), &dir.join(PARTS), index).map_err(|source| {
                TreeError::SubPath {
                    volume: mount.name.clone(),
                    container: input.container.name.clone(),
                    source,
                }
            })?
        }
    };
    // Volumes that the agent writes are read-only whatever the mount says, and all but the host's
    // are labelled (upstream `GetAttributes` of each plugin).
    let (made, labelled) = match volume.kind {
        Kind::EmptyDir => (false, true),
        Kind::HostPath => (false, false),
        Kind::Payload { .. } => (true, true),
    };
    Ok(Bind {
        host_path,
        container_path: absolute(&mount.mount_path),
        read_only: made || mount.read_only == Some(true),
        recursive_read_only: recursive.map_err(TreeError::ReadOnlyMode)?,
        propagation,
        selinux_relabel: labelled && input.selinux,
    })
}

/// A path of the guest, from its root (upstream `MakeAbsolutePath`).
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("/{path}") }
}

/// Upstream `translateMountPropagation`.
fn propagation(mount: &VolumeMount) -> Result<Propagation, TreeError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(Propagation::None),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(TreeError::Propagation(other.into())),
    }
}

/// Upstream `resolveRecursiveReadOnly`.
fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, ReadOnlyModeError> {
    let volume = || mount.name.clone();
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    if mount.read_only != Some(true) {
        return Err(ReadOnlyModeError::Writable(volume()));
    }
    if let Some(other) = mount.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        let (volume, propagation) = (volume(), other.into());
        return Err(ReadOnlyModeError::Propagates { volume, propagation });
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(ReadOnlyModeError::Unsupported(volume())),
        other => Err(ReadOnlyModeError::Unknown(other.into())),
    }
}

/// Binds a part of a volume at a place of its own in `parts`, and gives that.
fn part(volume: &Volume, path: &Path, parts: &Path, index: usize) -> io::Result<PathBuf> {
    let found: OwnedFd = open(volume, path)?;
    fs::create_dir_all(parts)?;
    let place = parts.join(index.to_string());
    // A file stands for any other kind, sockets and devices too.
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::Directory => fs::create_dir(&place)?,
        FileType::RegularFile
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => drop(File::create_new(&place)?),
    }
    linux::bind(&found, &place)?;
    Ok(place)
}

/// Brings the pod's `/etc/hosts` up to date, in place: running containers have it bound.
fn write_hosts(path: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.mode(FILE).custom_flags(flags).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(FILE))?;
    let mut held = Vec::new();
    // A guest may have put anything into it: no more is read than shows a difference.
    let bound = u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(1);
    (&file).take(bound).read_to_end(&mut held)?;
    if held == text.as_bytes() {
        return Ok(());
    }
    io::Seek::rewind(&mut file)?;
    file.write_all(text.as_bytes())?;
    file.set_len(bound - 1)
}

/// Makes an empty file for last words, anew: no earlier try's are this one's.
fn make_message(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let file = File::create_new(path)?;
    file.set_permissions(fs::Permissions::from_mode(MESSAGE))
}

#[cfg(test)]
#[path = "binds_test.rs"]
mod tests;
