//! A pod's files: its volumes, and what each of its containers sees as `/`.
//!
//! Owns: making and removing volumes as a kubelet lays them out ([`set_up`], [`tear_down`]): the
//! empty ones ([`empty_dir`]), the host's ([`host_path`]), and those that come from objects, whose
//! files `pod` makes and [`atomic`] writes; the tree of a container attempt ([`tree`]); what a runtime
//! of ordinary containers is to bind for one ([`binds`]); how much a volume holds ([`usage`]). Starts
//! no task.
//!
//! A volume is written to by guests: whatever is looked for in one is looked for beneath it
//! (`linux::open_below`), and all that is given on is a path without any link in it, which the
//! sandbox opens so (and not at all if a guest has put a link there meanwhile).

mod atomic;
mod binds;
mod copy;
mod empty_dir;
mod error;
mod host_path;
mod network;
mod sub_path;
mod tree;
pub(crate) mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use copepod_pod::{Facts, Failure, Objects, Payload, Resolver, payload};
use k8s_openapi::api::core::v1::{Pod, Volume as VolumeSpec};

pub(crate) use binds::{Bind, BindInput, Propagation, binds, message_file, release};
pub(crate) use error::{ReadOnlyModeError, TreeError, VolumeError};
pub(crate) use host_path::missing;
pub(crate) use tree::{Seen, build};

use crate::linux;

/// Most of a file of variables (`fileKeyRef`): as much as a config map may hold.
const READ_MAX: u64 = 1 << 20;

/// Bits of a mode that are left where a volume that ought to be in memory is not.
const OWN: u32 = 0o700;

/// A pod's volumes, by name.
pub(crate) type Volumes = BTreeMap<String, Volume>;

/// What all containers of a pod are given their files from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Its volumes.
    pub(crate) volumes: Volumes,
    /// Its single files, by path in the tree without the slash before it, and their text.
    pub(crate) single: Vec<(&'static str, String)>,
    /// What had to be left out of them, as warnings of the pod's events.
    pub(crate) warnings: Vec<Failure>,
}

/// A volume that is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Where it lies on the host: no link is on the way.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What differs between volumes once they are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The pod's own, written to by its guests.
    EmptyDir,
    /// The host's, a directory or a file.
    HostPath,
    /// Made of objects, written to by the agent alone.
    Payload {
        /// It is kept off disks.
        secret: bool,
    },
}

/// Where a pod's volumes are made, and what may be done for them.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The pod's directory.
    pub(crate) disk: PathBuf,
    /// The pod's directory of what is kept off disks.
    pub(crate) memory: PathBuf,
    /// Whether the agent may mount.
    pub(crate) mounts: bool,
    /// Whether the agent may give files to other users and groups.
    pub(crate) changes_user: bool,
    /// Whether the pod has ordinary containers.
    pub(crate) ordinary: bool,
}

/// Makes the pod's volumes, those that are there already are brought up to date; and the texts of
/// its single files.
///
/// # Errors
/// The first volume that cannot be had.
pub(crate) fn set_up(
    pod: &Pod,
    objects: &Objects,
    facts: &Facts,
    place: &Place,
) -> Result<Files, VolumeError> {
    let specs = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let one = |spec: &VolumeSpec| {
        let payload = payload(pod, spec, objects, facts)
            .map_err(|source| VolumeError::Payload { volume: spec.name.clone(), source })?;
        let volume = match payload {
            Some(payload) => of_payload(spec, &payload, group(pod, place), place)?,
            None if spec.empty_dir.is_some() => empty_dir::set_up(spec, group(pod, place), place)?,
            None => host_path::set_up(spec, place.ordinary)?,
        };
        Ok((spec.name.clone(), volume))
    };
    let volumes = specs.iter().map(one).collect::<Result<_, _>>()?;
    let (single, warnings) = single(pod, facts);
    Ok(Files { volumes, single, warnings })
}

/// The single files of the pod with these facts, and what had to be left out of them, as warnings
/// of the pod's events.
pub(crate) fn single(pod: &Pod, facts: &Facts) -> (Vec<(&'static str, String)>, Vec<Failure>) {
    network::files(pod, facts)
}

/// What the resolver of the pod's containers is told, for a runtime that writes `/etc/resolv.conf` by
/// itself; and what had to be left out of it, as warnings of the pod's events. Reads one small file.
pub(crate) fn resolver(pod: &Pod, facts: &Facts) -> (Resolver, Vec<Failure>) {
    network::resolver(pod, facts)
}

/// Reads a file that a guest wrote below one of the pod's volumes, of a MiB at most; `None` if it
/// is not there.
///
/// # Errors
/// What it is instead, or the kernel's.
pub(crate) fn read(volumes: &Volumes, volume: &str, path: &str) -> io::Result<Option<Vec<u8>>> {
    match volumes.get(volume) {
        Some(volume) => linux::read_below(&volume.path, Path::new(path), READ_MAX),
        None => Ok(None),
    }
}

/// The pod's `fsGroup`, where it can be given files.
fn group(pod: &Pod, place: &Place) -> Option<u32> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let group = context.and_then(|context| context.fs_group).filter(|_| place.changes_user);
    group.and_then(|group| u32::try_from(group).ok())
}

fn of_payload(
    spec: &VolumeSpec,
    payload: &Payload,
    group: Option<u32>,
    place: &Place,
) -> Result<Volume, VolumeError> {
    // A config map is the one kind that a kubelet puts on disk.
    let (plugin, secret) = match spec {
        VolumeSpec { config_map: Some(_), .. } => ("configmap", false),
        VolumeSpec { secret: Some(_), .. } => ("secret", true),
        VolumeSpec { downward_api: Some(_), .. } => ("downward-api", true),
        _ => ("projected", true),
    };
    let base = if secret { memory(&spec.name, place)? } else { place.disk.clone() };
    let modes = if secret && !linux::is_memory(&base) { OWN } else { u32::MAX };
    let path = directory(&base, plugin, &spec.name);
    let owned = atomic::Owned { group, modes, users: place.changes_user };
    atomic::write(&path, payload, owned).map_err(|source| VolumeError::Write {
        volume: spec.name.clone(),
        path: path.clone(),
        source,
    })?;
    Ok(Volume { path, kind: Kind::Payload { secret } })
}

/// The pod's directory of what is kept off disks, made; in memory, if that can be had.
fn memory(volume: &str, place: &Place) -> Result<PathBuf, VolumeError> {
    let path = &place.memory;
    let failed = |source| VolumeError::Make { volume: volume.into(), path: path.clone(), source };
    fs::create_dir_all(path).map_err(failed)?;
    if place.mounts && !linux::is_memory(path) {
        linux::mount_memory(path, OWN, None).map_err(failed)?;
    }
    Ok(path.clone())
}

/// Where a kubelet has a volume, below a pod's directory.
fn directory(base: &Path, plugin: &str, volume: &str) -> PathBuf {
    base.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

/// Removes the pod's own volumes and what was mounted for them; the host's paths stay.
///
/// # Errors
/// [`VolumeError::Remove`].
pub(crate) fn tear_down(place: &Place) -> Result<(), VolumeError> {
    for path in [place.memory.clone(), place.disk.join("volumes")] {
        linux::remove_tree(&path).map_err(|source| VolumeError::Remove { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
