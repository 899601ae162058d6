//! The names that a guest may import.

/// The module name of WASI preview 1.
pub(super) const P1: &str = "wasi_snapshot_preview1";

/// Functions of WASI preview 1, as wasmtime-wasi 48's `wasi_snapshot_preview1.witx` has them.
const P1_FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Interfaces of WASI 0.2 that wasmtime-wasi 48 (`p2::add_to_linker_async`) and
/// wasmtime-wasi-http 48 (`p2::add_only_http_to_linker_async`) link without unstable features.
/// So `wasi:clocks/timezone` and `wasi:http/incoming-handler` are not among them.
const P2_INTERFACES: [&str; 29] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The version of an interface's name, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// A release of 0.2: the linker takes each for any other.
    V02,
    /// A release of 0.3.
    V03,
    /// None, a pre-release, or another.
    Other,
}

/// The name without its version, and the version.
pub(super) fn split(name: &str) -> (&str, Version) {
    let Some((name, version)) = name.split_once('@') else { return (name, Version::Other) };
    let digits = |patch: &str| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit());
    let version = match (version.strip_prefix("0.2."), version.strip_prefix("0.3.")) {
        (Some(patch), _) if digits(patch) => Version::V02,
        (_, Some(patch)) if digits(patch) => Version::V03,
        (Some(_) | None, Some(_) | None) => Version::Other,
    };
    (name, version)
}

/// Whether a component may import this interface, given with its version.
pub(super) fn interface(name: &str) -> bool {
    let (name, version) = split(name);
    version == Version::V02 && P2_INTERFACES.contains(&name)
}

/// Whether WASI preview 1 has this function.
pub(super) fn p1_function(name: &str) -> bool {
    P1_FUNCTIONS.contains(&name)
}

/// What to say about an import that is not served.
pub(super) mod hint {
    use super::{P1, Version, split};

    /// For an import of a core module.
    pub(in super::super) fn module(module: &str) -> &'static str {
        match module {
            P1 => "WASI preview 1 has no function of that name",
            "wasi_unstable" => {
                "that is the snapshot before WASI preview 1; build it for wasm32-wasip1 with a \
                 current toolchain"
            }
            name if name.starts_with("wasi:") || name == "$root" => {
                "this core module was made to become a component; make one of it (wasm-tools \
                 component new)"
            }
            _ => "a core module may import only from wasi_snapshot_preview1",
        }
    }

    /// For an import of a component.
    pub(in super::super) fn component(name: &str) -> &'static str {
        match split(name) {
            (name, _) if !name.starts_with("wasi:") => {
                "a component may import only interfaces of WASI 0.2; compose it with the component \
                 that provides this one"
            }
            (_, Version::V03) => "WASI 0.3 is not served yet",
            (_, Version::V02) => {
                "served are wasi:cli, clocks, filesystem, http (types, outgoing-handler), io, \
                 random and sockets of WASI 0.2, without unstable interfaces"
            }
            (_, Version::Other) => "expected a release of WASI 0.2, such as 0.2.0",
        }
    }
}
