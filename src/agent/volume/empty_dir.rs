//! `emptyDir`: the pod's own directory, on disk or in memory.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};

use copepod_pod::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume as VolumeSpec};

use super::{Kind, Place, Volume, VolumeError, directory, memory};
use crate::linux;

/// As a kubelet makes it: open to every user, since a guest's may be any.
const MODE: u32 = 0o777;
/// What `fsGroup` adds to a directory: its files are of that group too (upstream `volume_linux.go`).
const SETGID: u32 = 0o2000;

/// Makes an emptyDir, or finds it as it was made before.
pub(super) fn set_up(
    spec: &VolumeSpec,
    group: Option<u32>,
    place: &Place,
) -> Result<Volume, VolumeError> {
    let source = spec.empty_dir.clone().unwrap_or_default();
    let in_memory = source.medium.as_deref() == Some("Memory");
    let base = if in_memory { memory(&spec.name, place)? } else { place.disk.clone() };
    let path = directory(&base, "empty-dir", &spec.name);
    let failed =
        |source| VolumeError::Make { volume: spec.name.clone(), path: path.clone(), source };
    let made = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::create_dir(&path) {
            Ok(()) => {}
            // An earlier try that failed on another volume.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(e),
        }
        let mode = MODE | group.map_or(0, |_| SETGID);
        if in_memory && place.mounts {
            linux::mount_memory(&path, MODE, size_limit(&source))?;
        }
        chown(&path, None, group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    };
    made().map_err(failed)?;
    Ok(Volume { path, kind: Kind::EmptyDir })
}

/// `sizeLimit` in bytes; none and zero are no limit.
pub(super) fn size_limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    // What does not parse, validation has refused.
    let limit = Quantity::parse(&source.size_limit.as_ref()?.0).ok()?;
    u64::try_from(limit.value()).ok().filter(|bytes| *bytes > 0)
}
