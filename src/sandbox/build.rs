//! Assembles the seccomp filter, so that a start of a sandbox does not (350 us, measured).
//!
//! Writes `seccomp.rs` into `OUT_DIR`: the program as a constant array, and the marker in it that
//! stands for the process's own id, which is known only when the filter is applied.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use seccompiler::{BpfProgram, TargetArch, compile_from_json};

/// Stands for the own process id in the filter: above any id (`PID_MAX_LIMIT` is 2^22), and no
/// other number of the filter.
const PID_MARKER: u32 = 0xC0DE_11D5;

/// The error of a refused call: EPERM.
const REFUSED: u32 = 1;

/// Calls allowed with any arguments.
const ALLOWED: &[&str] = &[
    // The guest's files, through its preopened directories: landlock says which.
    "openat",
    "openat2",
    "read",
    "readv",
    "pread64",
    "preadv",
    "preadv2",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "lseek",
    "close",
    "fstat",
    "newfstatat",
    "statx",
    "faccessat",
    "faccessat2",
    "getdents64",
    "mkdirat",
    "unlinkat",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "readlinkat",
    "utimensat",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "fadvise64",
    // A new log is put onto the old one's number.
    "dup3",
    // Memory; what must not become executable is a rule below.
    "munmap",
    "mremap",
    "madvise",
    "brk",
    // Traps are signals to the own thread.
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "getpid",
    "gettid",
    // The event loop, its timers and locks.
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "eventfd2",
    "ppoll",
    "futex",
    "sched_yield",
    "restart_syscall",
    // Clocks and random numbers.
    "clock_gettime",
    "clock_getres",
    "clock_nanosleep",
    "nanosleep",
    "getrandom",
    // Sockets: the agent's, the http server's, the guest's. Which families is a rule below.
    "bind",
    "listen",
    "accept4",
    "connect",
    "getsockname",
    "getpeername",
    "setsockopt",
    "getsockopt",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "shutdown",
    // The end.
    "exit",
    "exit_group",
];

/// The older calls that x86_64 still has and its libraries still use.
const ALLOWED_X86_64: &[&str] = &["epoll_wait", "poll"];

const PROT_EXEC: u32 = 4;

/// Calls allowed with some values of one argument: name, argument, operation, values.
///
/// - A socket is IPv4 or IPv6: no Unix sockets, netlink, packets, vsock.
/// - No memory becomes executable: the artefact is mapped before the filter is applied.
/// - A signal goes to the own process only: `abort` ends by one.
/// - A descriptor's flags, but not its owner (`F_SETOWN` would signal others).
/// - The event loop switches sockets to non-blocking by `FIONBIO`.
const RULES: &[(&str, u8, &str, &[u32])] = &[
    ("socket", 0, r#""eq""#, &[2, 10]),
    ("mmap", 2, r#"{"masked_eq": 4}"#, &[0]),
    ("mprotect", 2, r#"{"masked_eq": 4}"#, &[0]),
    ("tgkill", 0, r#""eq""#, &[PID_MARKER]),
    // F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    ("fcntl", 1, r#""eq""#, &[1, 2, 3, 4, 1030]),
    ("ioctl", 1, r#""eq""#, &[0x5421]),
];

fn filter(arch: TargetArch, own: &[&str]) -> Result<BpfProgram, Box<dyn Error>> {
    assert_eq!(PROT_EXEC, 4, "the mask in the rules");
    let mut rules: Vec<String> =
        ALLOWED.iter().chain(own).map(|name| format!(r#"{{"syscall": "{name}"}}"#)).collect();
    for (name, index, op, values) in RULES {
        for value in *values {
            rules.push(format!(
                r#"{{"syscall": "{name}", "args": [{{"index": {index}, "type": "dword", "op": {op}, "val": {value}}}]}}"#
            ));
        }
    }
    let json = format!(
        r#"{{"sandbox": {{"mismatch_action": {{"errno": {REFUSED}}}, "match_action": "allow", "filter": [{}]}}}}"#,
        rules.join(",")
    );
    let mut filters = compile_from_json(json.as_bytes(), arch)?;
    filters.remove("sandbox").ok_or_else(|| "no filter was made".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // Both are made on either, so that a name that one lacks is found on the other.
    let x86_64 = filter(TargetArch::x86_64, ALLOWED_X86_64)?;
    let aarch64 = filter(TargetArch::aarch64, &[])?;
    let program = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => x86_64,
        "aarch64" => aarch64,
        other => return Err(format!("no seccomp filter for the architecture {other}").into()),
    };
    let mut out = format!(
        "/// Stands for the own process id.\nconst PID_MARKER: u32 = {PID_MARKER};\n\
         /// The filter, in order.\nconst FILTER: [sock_filter; {}] = [\n",
        program.len()
    );
    for i in &program {
        writeln!(
            out,
            "    sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},",
            i.code, i.jt, i.jf, i.k
        )?;
    }
    out.push_str("];\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("seccomp.rs"), out)?;
    Ok(())
}
