//! Volumes.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::Errors;
use super::name::{check_name, dns_label};
use crate::quantity::Quantity;

/// The types that `hostPath` knows.
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The sources that a volume names, by field name in the order of the spec; a good volume (with
/// defaults applied) has exactly one.
#[must_use]
pub fn volume_sources(volume: &Volume) -> Vec<&'static str> {
    macro_rules! named {
        ($($field:ident => $name:literal),+ $(,)?) => {{
            // Whole on purpose: a source of a newer API breaks the build here.
            let Volume { name: _, $($field),+ } = volume;
            [$(($name, $field.is_some())),+]
        }};
    }
    let all = named! {
        aws_elastic_block_store => "awsElasticBlockStore",
        azure_disk => "azureDisk",
        azure_file => "azureFile",
        cephfs => "cephfs",
        cinder => "cinder",
        config_map => "configMap",
        csi => "csi",
        downward_api => "downwardAPI",
        empty_dir => "emptyDir",
        ephemeral => "ephemeral",
        fc => "fc",
        flex_volume => "flexVolume",
        flocker => "flocker",
        gce_persistent_disk => "gcePersistentDisk",
        git_repo => "gitRepo",
        glusterfs => "glusterfs",
        host_path => "hostPath",
        image => "image",
        iscsi => "iscsi",
        nfs => "nfs",
        persistent_volume_claim => "persistentVolumeClaim",
        photon_persistent_disk => "photonPersistentDisk",
        portworx_volume => "portworxVolume",
        projected => "projected",
        quobyte => "quobyte",
        rbd => "rbd",
        scale_io => "scaleIO",
        secret => "secret",
        storageos => "storageos",
        vsphere_volume => "vsphereVolume",
    };
    all.into_iter().filter_map(|(name, set)| set.then_some(name)).collect()
}

/// Checks the volumes; gives their names.
pub(super) fn volumes<'a>(errors: &mut Errors, spec: &'a PodSpec) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{i}]");
        sources(errors, &path, volume);
        check_name(errors, &format!("{path}.name"), &volume.name, dns_label);
        if !names.insert(volume.name.as_str()) && !volume.name.is_empty() {
            errors.duplicate(&format!("{path}.name"), &volume.name);
        }
    }
    names
}

fn sources(errors: &mut Errors, path: &str, volume: &Volume) {
    let sources = volume_sources(volume);
    if sources.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for source in sources.iter().skip(1) {
        let text = "Forbidden: may not specify more than 1 volume type";
        errors.add(&format!("{path}.{source}"), text.into());
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) {
        let path = format!("{path}.emptyDir.sizeLimit");
        match Quantity::parse(&limit.0) {
            Err(e) => errors.invalid(&path, &limit.0, &e.to_string()),
            Ok(q) if q.is_negative() => {
                let text = "Forbidden: SizeLimit field must be a valid resource quantity";
                errors.add(&path, text.into());
            }
            Ok(_) => {}
        }
    }
    if let Some(host) = &volume.host_path {
        let at = format!("{path}.hostPath.path");
        if host.path.is_empty() {
            errors.required(&at, "");
        } else if host.path.split('/').any(|part| part == "..") {
            errors.invalid(&at, &host.path, "must not contain '..'");
        }
        let kind = host.type_.as_deref().unwrap_or_default();
        if !kind.is_empty() {
            errors.one_of(&format!("{path}.hostPath.type"), Some(kind), &HOST_PATH_TYPES);
        }
    }
}
