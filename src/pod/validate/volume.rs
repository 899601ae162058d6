//! Volumes.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, Volume};

use super::name::{check_name, dns_label};
use super::path::no_backsteps;
use super::{Errors, projection};
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

/// Checks the volumes; gives them by name.
pub(super) fn volumes<'a>(errors: &mut Errors, spec: &'a PodSpec) -> HashMap<&'a str, &'a Volume> {
    let mut names = HashMap::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{i}]");
        sources(errors, &path, volume);
        check_name(errors, &format!("{path}.name"), &volume.name, dns_label);
        if names.insert(volume.name.as_str(), volume).is_some() && !volume.name.is_empty() {
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
        errors.forbidden(&format!("{path}.{source}"), "may not specify more than 1 volume type");
    }
    if let Some(source) = &volume.empty_dir {
        empty_dir(errors, &format!("{path}.emptyDir"), source);
    }
    if let Some(host) = &volume.host_path {
        let at = format!("{path}.hostPath.path");
        if host.path.is_empty() {
            errors.required(&at, "");
        }
        no_backsteps(errors, &at, &host.path);
        let kind = host.type_.as_deref().unwrap_or_default();
        if !kind.is_empty() {
            errors.one_of(&format!("{path}.hostPath.type"), Some(kind), &HOST_PATH_TYPES);
        }
    }
    projection::sources(errors, path, volume);
}

/// The medium is checked by upstream only when the volume is set up.
fn empty_dir(errors: &mut Errors, path: &str, source: &EmptyDirVolumeSource) {
    let medium = source.medium.as_deref().unwrap_or_default();
    if !medium.is_empty() && !medium.starts_with("HugePages-") {
        errors.one_of(&format!("{path}.medium"), Some(medium), &["", "HugePages", "Memory"]);
    }
    let Some(limit) = &source.size_limit else { return };
    let path = format!("{path}.sizeLimit");
    match Quantity::parse(&limit.0) {
        Err(e) => errors.invalid(&path, &limit.0, &e.to_string()),
        Ok(limit) if limit.is_negative() => {
            errors.forbidden(&path, "SizeLimit field must be a valid resource quantity");
        }
        Ok(_) => {}
    }
}
