//! `hostPath`: what the host has (upstream `pkg/volume/hostpath`, whose texts these are).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume as VolumeSpec};

use super::{Kind, Volume, VolumeError};

/// Finds a hostPath volume, or makes it where its type says so; without a type also where `ordinary`
/// containers see it, as container runtimes do.
pub(super) fn set_up(spec: &VolumeSpec, ordinary: bool) -> Result<Volume, VolumeError> {
    let Some(source) = &spec.host_path else {
        return Err(VolumeError::Kind { volume: spec.name.clone(), what: "its kind".into() });
    };
    let path = Path::new(&source.path);
    let failed =
        |source| VolumeError::Make { volume: spec.name.clone(), path: path.into(), source };
    let missing = matches!(fs::metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" | "" if missing && (ordinary || !kind.is_empty()) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
        }
        "FileOrCreate" if missing => {
            let file = File::options().write(true).create_new(true).mode(0o644).open(path);
            file.map_err(failed)?;
        }
        // Upstream looks at nothing.
        "" if ordinary => {}
        _ => check(&spec.name, source)?,
    }
    let path = path.canonicalize().map_err(failed)?;
    Ok(Volume { path, kind: Kind::HostPath })
}

/// Whether the host has what the type asks for. Makes nothing.
///
/// Without a type upstream looks at nothing, and a container runtime makes a directory of what is
/// not there; here that is more likely a typing error.
fn check(volume: &str, source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = PathBuf::from(&source.path);
    let about = fs::metadata(&path);
    let is_dir = about.as_ref().is_ok_and(fs::Metadata::is_dir);
    let is_file = about.as_ref().is_ok_and(fs::Metadata::is_file);
    let is_a = |is: fn(&fs::FileType) -> bool| about.as_ref().is_ok_and(|a| is(&a.file_type()));
    let (good, expected) = match source.type_.as_deref().unwrap_or_default() {
        "" => (is_dir || is_file, "a directory"),
        "Directory" | "DirectoryOrCreate" => (is_dir, "a directory"),
        "File" | "FileOrCreate" => (is_file, "a file"),
        "Socket" => (is_a(FileTypeExt::is_socket), "a socket"),
        "CharDevice" => (is_a(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is_a(FileTypeExt::is_block_device), "a block device"),
        other => {
            let what = format!("hostPath type {other}");
            return Err(VolumeError::Kind { volume: volume.into(), what });
        }
    };
    if good {
        Ok(())
    } else {
        Err(VolumeError::HostPathType { volume: volume.into(), path, expected })
    }
}

/// The hostPath volumes of which the host has not what their type asks for. Makes nothing.
pub(crate) fn missing(pod: &Pod) -> Vec<VolumeError> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let asked = volumes.filter_map(|volume| Some((&volume.name, volume.host_path.as_ref()?)));
    let made = |source: &HostPathVolumeSource| {
        let made = source.type_.as_deref().is_some_and(|kind| kind.ends_with("OrCreate"));
        made && fs::symlink_metadata(&source.path).is_err()
    };
    asked.filter(|(_, source)| !made(source)).filter_map(|(n, s)| check(n, s).err()).collect()
}
