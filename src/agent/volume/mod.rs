//! A pod's volumes as directories of the host.
//!
//! Owns: making and removing them below the pod's directory, as a kubelet lays them out. Serves
//! `emptyDir` and `hostPath`; other kinds are refused before a pod gets here (room `sources`).
//! Starts no task.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use copepod_wasm::Preopen;
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use thiserror::Error;

/// Where each volume of a pod lies on the host, by its name.
pub(crate) type Volumes = BTreeMap<String, PathBuf>;

/// Why a volume is not there.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    /// An emptyDir's directory.
    #[error("volume {volume:?}: cannot make {path}")]
    Make {
        /// The volume.
        volume: String,
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The path of a hostPath volume is not what its type says.
    #[error("volume {volume:?}: hostPath type check failed: {path} is not {expected}")]
    HostPathType {
        /// The volume.
        volume: String,
        /// Its path.
        path: PathBuf,
        /// What the type asks for.
        expected: &'static str,
    },
    /// A kind of volume, or of hostPath, that is not served.
    #[error(
        "volume {volume:?}: {what} is not served yet: expected an emptyDir or a directory as hostPath"
    )]
    Kind {
        /// The volume.
        volume: String,
        /// What it is.
        what: String,
    },
    /// What was left of a pod could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Makes the pod's volumes below `pod_dir`; those that are there already stay as they are.
///
/// # Errors
/// The first volume that cannot be had.
pub(crate) fn set_up(pod: &Pod, pod_dir: &Path) -> Result<Volumes, VolumeError> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().map(|v| Ok((v.name.clone(), one(v, pod_dir)?))).collect()
}

fn one(volume: &Volume, pod_dir: &Path) -> Result<PathBuf, VolumeError> {
    if volume.empty_dir.is_some() {
        return empty_dir(&volume.name, pod_dir);
    }
    match &volume.host_path {
        Some(source) => host_path(&volume.name, source),
        None => Err(VolumeError::Kind { volume: volume.name.clone(), what: "its kind".into() }),
    }
}

/// As a kubelet makes it: open to every user, since a guest's may be any.
fn empty_dir(name: &str, pod_dir: &Path) -> Result<PathBuf, VolumeError> {
    let path = pod_dir.join("volumes/kubernetes.io~empty-dir").join(name);
    let failed = |source| VolumeError::Make { volume: name.into(), path: path.clone(), source };
    fs::create_dir_all(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(path)
}

fn host_path(name: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "" | "Directory" if path.is_dir() => Ok(path),
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).map_err(|source| VolumeError::Make {
                volume: name.into(),
                path: path.clone(),
                source,
            })?;
            Ok(path)
        }
        "" | "Directory" => {
            Err(VolumeError::HostPathType { volume: name.into(), path, expected: "a directory" })
        }
        other => {
            Err(VolumeError::Kind { volume: name.into(), what: format!("hostPath type {other}") })
        }
    }
}

/// The hostPath volumes of which the host has not what their type asks for. Makes nothing.
pub(crate) fn missing(pod: &Pod) -> Vec<VolumeError> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let asked = volumes.filter_map(|volume| Some((&volume.name, volume.host_path.as_ref()?)));
    let made = |source: &HostPathVolumeSource| source.type_.as_deref() == Some("DirectoryOrCreate");
    asked.filter(|(_, source)| !made(source)).filter_map(|(n, s)| host_path(n, s).err()).collect()
}

/// What a container sees of its pod's volumes.
///
/// # Errors
/// [`VolumeError::Kind`] when a mount names no volume of the pod; validation refuses that before.
pub(crate) fn mounts(
    container: &Container,
    volumes: &Volumes,
) -> Result<Vec<Preopen>, VolumeError> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let host = volumes.get(&mount.name).ok_or_else(|| VolumeError::Kind {
            volume: mount.name.clone(),
            what: "a mount without its volume".into(),
        })?;
        Ok(Preopen {
            host: host.clone(),
            guest: mount.mount_path.clone(),
            read_only: mount.read_only.unwrap_or(false),
        })
    };
    mounts.iter().map(one).collect()
}

/// Removes the pod's own volumes; the host's paths stay.
///
/// # Errors
/// [`VolumeError::Remove`].
pub(crate) fn tear_down(pod_dir: &Path) -> Result<(), VolumeError> {
    let path = pod_dir.join("volumes");
    match fs::remove_dir_all(&path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(VolumeError::Remove { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, VolumeMount};

    use super::*;

    fn pod(volumes: Vec<Volume>) -> Pod {
        let spec = PodSpec { volumes: Some(volumes), ..PodSpec::default() };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    fn host(path: &Path, kind: &str) -> Volume {
        let source =
            HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.into()) };
        Volume { name: "h".into(), host_path: Some(source), ..Volume::default() }
    }

    #[test]
    fn an_empty_dir_is_anybodys_and_goes_with_the_pod() {
        let dir = tempfile::tempdir().expect("a directory");
        let empty = Volume {
            name: "scratch".into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        };
        let volumes = set_up(&pod(vec![empty.clone()]), dir.path()).expect("sets up");
        let path = &volumes["scratch"];
        assert_eq!(fs::metadata(path).expect("is there").permissions().mode() & 0o777, 0o777);
        fs::write(path.join("f"), "x").expect("writes");
        set_up(&pod(vec![empty]), dir.path()).expect("sets up again");
        assert!(path.join("f").exists(), "what is there stays");
        let container = Container {
            volume_mounts: Some(vec![VolumeMount {
                name: "scratch".into(),
                mount_path: "/data".into(),
                read_only: Some(true),
                ..VolumeMount::default()
            }]),
            ..Container::default()
        };
        let seen = mounts(&container, &volumes).expect("mounts");
        assert_eq!(seen[0].guest, "/data");
        assert!(seen[0].read_only);
        tear_down(dir.path()).expect("tears down");
        tear_down(dir.path()).expect("tears down twice");
        assert!(!path.exists());
    }

    #[test]
    fn a_host_path_is_checked_by_its_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, new) = (dir.path().join("file"), dir.path().join("a/b"));
        fs::write(&file, "x").expect("writes");
        set_up(&pod(vec![host(dir.path(), "")]), dir.path()).expect("a directory will do");
        set_up(&pod(vec![host(&new, "DirectoryOrCreate")]), dir.path()).expect("is made");
        assert!(new.is_dir());
        for (path, kind) in [(&file, "Directory"), (&dir.path().join("none"), "")] {
            let error = set_up(&pod(vec![host(path, kind)]), dir.path()).expect_err("is refused");
            assert!(matches!(error, VolumeError::HostPathType { .. }), "{error}");
        }
        let error = set_up(&pod(vec![host(&file, "Socket")]), dir.path()).expect_err("is refused");
        assert!(error.to_string().contains("hostPath type Socket is not served yet"), "{error}");
    }
}
