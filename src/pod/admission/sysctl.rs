//! Sysctls that a pod may set: the safe ones, and those that the node's configuration allows
//! (upstream `pkg/kubelet/sysctl`, `k8s.io/component-helpers/node/util/sysctl`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use thiserror::Error;

use super::Rejection;

/// Major and minor version of a kernel.
pub type KernelVersion = (u32, u32);

/// Safe ones, and the kernel since which each is a namespace's own.
const SAFE: [(&str, KernelVersion); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];
/// Names of the namespace of inter-process communication.
const IPC: [&str; 10] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];
/// Longest name (upstream `SysctlMaxLength`).
const MAX_BYTES: usize = 253;
/// Upstream's form, for its message (`SysctlContainSlashPatternFmt`).
const FORM: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]";

/// Why a list of sysctls is none; upstream's words.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SysctlError {
    /// No name, and no prefix of names.
    #[error("sysctl {0:?} must have at most {MAX_BYTES} characters and match regex {FORM}")]
    Form(String),
    /// It would be set for the whole machine.
    #[error("the sysctls {0:?} are not known to be namespaced")]
    Unknown(String),
}

/// What a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// Sysctls that pods may set; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlAllowList {
    names: BTreeMap<String, Namespace>,
    prefixes: BTreeMap<String, Namespace>,
}

impl SysctlAllowList {
    /// The safe ones of a kernel, and `more`: names, or prefixes with a `*` at their end.
    ///
    /// # Errors
    /// The first of `more` that is none.
    pub fn new(kernel: KernelVersion, more: &[String]) -> Result<Self, SysctlError> {
        let mut list = Self::default();
        let safe = SAFE.iter().filter(|(_, since)| kernel >= *since).map(|(name, _)| *name);
        for pattern in safe.chain(more.iter().map(String::as_str)) {
            if !is_pattern(pattern) {
                return Err(SysctlError::Form(pattern.into()));
            }
            let name = normal(pattern);
            let (name, is_prefix) =
                name.split_once('*').map_or((name.as_str(), false), |(prefix, _)| (prefix, true));
            let space = namespace(name).ok_or_else(|| SysctlError::Unknown(name.into()))?;
            let map = if is_prefix { &mut list.prefixes } else { &mut list.names };
            map.insert(name.into(), space);
        }
        Ok(list)
    }

    fn namespace(&self, name: &str) -> Option<Namespace> {
        let by_prefix = || self.prefixes.iter().find(|(prefix, _)| name.starts_with(*prefix));
        self.names.get(name).copied().or_else(|| by_prefix().map(|(_, space)| *space))
    }
}

/// Refuses a pod that sets what it may not.
pub(super) fn check(spec: &PodSpec, allowed: &SysctlAllowList) -> Result<(), Rejection> {
    let context = spec.security_context.as_ref();
    let sysctls = context.and_then(|context| context.sysctls.as_ref());
    for name in sysctls.into_iter().flatten().map(|sysctl| normal(&sysctl.name)) {
        let why = match allowed.namespace(&name) {
            None => "not allowlisted",
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                "not allowed with host IPC enabled"
            }
            Some(Namespace::Net) if spec.host_network == Some(true) => {
                "not allowed with host Net enabled"
            }
            Some(Namespace::Ipc | Namespace::Net) => continue,
        };
        let message = format!("forbidden sysctl: {name:?} {why}");
        return Err(Rejection::new("SysctlForbidden", message));
    }
    Ok(())
}

/// Names with slashes, as the file system has them, become names with dots.
fn normal(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        Some(_) | None => name.to_owned(),
    }
}

fn namespace(name: &str) -> Option<Namespace> {
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else {
        name.starts_with("net.").then_some(Namespace::Net)
    }
}

/// Segments of small letters and digits (with `-` and `_` inside); the last may be, or end in, `*`.
fn is_pattern(text: &str) -> bool {
    let is_end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_segment = |part: &str| {
        part.bytes().all(|b| is_end(b) || b == b'-' || b == b'_')
            && part.bytes().next().is_some_and(is_end)
    };
    let mut parts: Vec<&str> = text.split(['.', '/']).collect();
    let last = parts.pop().unwrap_or_default();
    let is_last = match last.strip_suffix('*') {
        Some(start) => start.is_empty() || is_segment(start),
        None => is_segment(last) && last.bytes().last().is_some_and(is_end),
    };
    text.len() <= MAX_BYTES
        && is_last
        && parts.iter().all(|part| is_segment(part) && part.bytes().last().is_some_and(is_end))
}
