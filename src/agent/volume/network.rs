//! The files that tell a container of its network.

use std::fs::File;
use std::io::Read;

use copepod_pod::{Facts, Failure, Resolver, hostname, hosts_file};
use k8s_openapi::api::core::v1::Pod;

/// Most that is read of the host's own file: some thousand names.
const HOST_FILE_MAX: u64 = 1 << 20;

/// The resolver configuration of a node that names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The pod's `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, and what had to be left out.
pub(super) fn files(pod: &Pod, facts: &Facts) -> (Vec<(&'static str, String)>, Vec<Failure>) {
    let (resolver, left_out) = resolver(pod, facts);
    for warning in &left_out {
        tracing::debug!(pod = pod.metadata.name, text = warning.message, "resolv.conf");
    }
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let hosts = if on_host { of_host("/etc/hosts") } else { String::new() };
    let files = vec![
        ("etc/hosts", hosts_file(pod, facts, &hosts)),
        ("etc/resolv.conf", resolver.text()),
        ("etc/hostname", hostname(pod, facts) + "\n"),
    ];
    (files, left_out)
}

/// What the pod's resolver is told, for whoever writes the file by itself; and what had to be left
/// out.
pub(super) fn resolver(pod: &Pod, facts: &Facts) -> (Resolver, Vec<Failure>) {
    let of_node = match facts.resolv_conf.as_deref().unwrap_or(RESOLV_CONF) {
        "" => String::new(),
        path => of_host(path),
    };
    copepod_pod::resolver(pod, facts, &of_node)
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
