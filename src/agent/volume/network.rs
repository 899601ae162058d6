//! The files that tell a container of its network.

use std::fs::File;
use std::io::Read;

use copepod_pod::{Facts, hostname, hosts_file, resolv_conf};
use k8s_openapi::api::core::v1::Pod;

/// Most that is read of the host's own file: some thousand names.
const HOST_FILE_MAX: u64 = 1 << 20;

/// The pod's `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`.
pub(super) fn files(pod: &Pod, facts: &Facts) -> Vec<(&'static str, String)> {
    let (resolver, left_out) = resolv_conf(pod, None, &of_host("/etc/resolv.conf"));
    for text in left_out {
        tracing::debug!(pod = pod.metadata.name, text, "resolv.conf");
    }
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let hosts = if on_host { of_host("/etc/hosts") } else { String::new() };
    vec![
        ("etc/hosts", hosts_file(pod, facts, &hosts)),
        ("etc/resolv.conf", resolver),
        ("etc/hostname", hostname(pod, facts) + "\n"),
    ]
}

/// A file of the host; empty if there is none that is text.
fn of_host(path: &str) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(HOST_FILE_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::debug!(path, %error, "cannot read the host's file");
        text.clear();
    }
    text
}
