//! The jail of a compile job: it reads and writes open descriptors, computes, and nothing else.
//!
//! The compiler reads hostile input, so it has limits on memory and CPU time, opens no file,
//! starts no program, has no network and signals nobody. It may start threads.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, Scope};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;
use seccompiler::{TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};
use thiserror::Error;

/// Address space of a job: the largest guests here (13 MB of JS, 18 MB of Python) need 0.35 GiB,
/// and what needs more than this would take the agent's node down with it.
pub(crate) const MEMORY_BYTES: u64 = 3 << 29;
/// CPU time of a job over all its threads: the same guests need 15 s.
pub(crate) const CPU_SECONDS: u64 = 60;
/// How far a job steps back behind the pods that run (nice value).
const NICE: i32 = 10;
/// Of all that needs memory on a node a job is the first to go: it is done again.
const OOM_SCORE_ADJ: i32 = 1000;
/// The newest landlock that is asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;
/// ENOSYS: what a kernel without the call would say. So libc falls back from `clone3`, whose
/// flags a filter cannot read, to `clone`, whose flags it can.
const NO_SUCH_CALL: u32 = 38;
/// `CLONE_THREAD`.
const CLONE_THREAD: u64 = 0x0001_0000;

/// Calls refused with any arguments.
const REFUSED: &[&str] = &[
    // New processes and other programs.
    "clone3",
    "execve",
    "execveat",
    "unshare",
    "setns",
    // Files that are not open yet; landlock refuses them too where the kernel has it.
    "openat",
    "openat2",
    "open_by_handle_at",
    "unlinkat",
    "mkdirat",
    "mknodat",
    "linkat",
    "symlinkat",
    "renameat2",
    "truncate",
    "fchmodat",
    "fchownat",
    "fchmod",
    "fchown",
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "pivot_root",
    "chroot",
    // The network.
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendto",
    "sendmsg",
    "sendmmsg",
    // Other processes.
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "kcmp",
    "prlimit64",
    "setrlimit",
    "setpriority",
    // Doors of the kernel that no compiler needs.
    "add_key",
    "request_key",
    "keyctl",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "shmget",
    "memfd_create",
];

/// The same by their older names, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: &[&str] = &[
    "fork", "vfork", "open", "creat", "unlink", "rmdir", "mkdir", "mknod", "link", "symlink",
    "rename", "renameat", "chmod", "chown", "lchown",
];
/// The same by their older names, which this architecture does not have.
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OLD: &[&str] = &[];

/// What a job may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of address space.
    pub(crate) memory_bytes: u64,
    /// Seconds of CPU time.
    pub(crate) cpu_seconds: u64,
}

impl Limits {
    /// Those of a real job.
    pub(crate) const JOB: Self = Self { memory_bytes: MEMORY_BYTES, cpu_seconds: CPU_SECONDS };
}

/// Why the jail does not hold.
#[derive(Debug, Error)]
pub(crate) enum JailError {
    /// A limit or a flag of the process was refused.
    #[error("cannot set {0}")]
    Limit(&'static str, #[source] io::Error),
    /// The agent is gone.
    #[error("the agent has ended")]
    Orphan,
    /// Landlock is there and failed.
    #[error("cannot apply landlock")]
    Landlock(#[from] RulesetError),
    /// The filter of system calls was refused.
    #[error("cannot apply the filter of system calls")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Jails the calling thread, which must be the only one, and bounds its process by `limits`.
///
/// `agent` is a pipe whose other end the agent alone holds; the process dies with it.
///
/// # Errors
/// [`JailError`] when a part of it cannot be had; a kernel without landlock is none, since the
/// filter refuses to open files as well.
pub(crate) fn enter(limits: &Limits, agent: BorrowedFd<'_>) -> Result<(), JailError> {
    let failed = |what| move |e: rustix::io::Errno| JailError::Limit(what, e.into());
    // Else it had its agent's.
    super::set_oom_score_adj(OOM_SCORE_ADJ).map_err(|e| JailError::Limit("the OOM score", e))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("the death signal"))?;
    // It may have died before it could be told.
    let mut pipe = [PollFd::from_borrowed_fd(agent, PollFlags::empty())];
    poll(&mut pipe, Some(&Timespec::default())).map_err(failed("the watch on the agent"))?;
    if pipe[0].revents().contains(PollFlags::ERR) {
        return Err(JailError::Orphan);
    }
    let bound = |value| Rlimit { current: Some(value), maximum: Some(value) };
    // One second more to the hard limit: the soft one's signal says which limit it was.
    let cpu = Rlimit { current: Some(limits.cpu_seconds), maximum: Some(limits.cpu_seconds + 1) };
    for (what, resource, value) in [
        ("the limit of address space", Resource::As, bound(limits.memory_bytes)),
        ("the limit of CPU time", Resource::Cpu, cpu),
        ("the limit of file size", Resource::Fsize, bound(limits.memory_bytes)),
        ("the limit of core dumps", Resource::Core, bound(0)),
    ] {
        setrlimit(resource, value).map_err(failed(what))?;
    }
    nice(NICE).map_err(failed("the nice value"))?;
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .restrict_self()?;
    filter()
}

fn filter() -> Result<(), JailError> {
    let failed = |e: seccompiler::Error| JailError::Filter(e.into());
    let arch =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|e| JailError::Filter(e.into()))?;
    let rules = rules(std::process::id()).to_string();
    let programs = compile_from_json(rules.as_bytes(), arch).map_err(failed)?;
    programs.values().try_for_each(|program| apply_filter(program).map_err(failed))
}

/// The filter as seccompiler reads it; `pid` is the one process that may be signalled, for abort.
fn rules(pid: u32) -> Value {
    let whole = REFUSED.iter().chain(REFUSED_OLD).map(|name| json!({ "syscall": name }));
    let argument = |name, op, value| {
        let condition = json!({ "index": 0, "type": "dword", "op": op, "val": value });
        json!({ "syscall": name, "args": [condition] })
    };
    let parts = [
        argument("clone", json!({ "masked_eq": CLONE_THREAD }), 0),
        argument("tgkill", json!("ne"), pid),
    ];
    json!({ "job": {
        "default_action": "allow",
        "filter_action": { "errno": NO_SUCH_CALL },
        "filter": whole.chain(parts).collect::<Vec<_>>(),
    } })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Error;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use super::*;

    const IN_JAIL: &str = "COPEPOD_TEST_IN_JAIL";

    /// Runs one test of this program again, in a process of its own that it may ruin.
    fn again(test: &str) -> (bool, String) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(IN_JAIL, "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }

    #[test]
    fn what_a_job_may_not() {
        let name = "linux::compile_jail::tests::what_a_job_may_not";
        if std::env::var_os(IN_JAIL).is_none() {
            let (well, text) = again(name);
            assert!(well && text.contains("seen from inside"), "{text}");
            return;
        }
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let mut score = File::open("/proc/self/oom_score_adj").unwrap();
        enter(&Limits::JOB, io::stderr().as_fd()).unwrap();
        let refused = |what: &str, error: Error| {
            let errno = error.raw_os_error();
            assert!(errno == Some(38) || errno == Some(13), "{what}: {error}");
        };
        refused("open", File::open("/etc/passwd").unwrap_err());
        refused("create", File::create("/tmp/copepod-jail-test").unwrap_err());
        refused("network", UdpSocket::bind("127.0.0.1:0").unwrap_err());
        refused("program", Command::new("/bin/true").spawn().unwrap_err());
        let pid = rustix::process::getpid();
        refused("signal", rustix::process::kill_process(pid, Signal::TERM).unwrap_err().into());
        let raised = setrlimit(Resource::As, Rlimit { current: None, maximum: None });
        refused("limit", raised.unwrap_err().into());
        assert!(rustix::thread::no_new_privs().unwrap());
        assert_eq!(nice(), (before + NICE).min(19));
        assert_eq!(io::read_to_string(&mut score).unwrap().trim(), "1000");
        // A thread it may start, which is held as well.
        let thread = std::thread::spawn(|| File::open("/etc/passwd").unwrap_err());
        refused("open in a thread", thread.join().unwrap());
        let big = usize::try_from(MEMORY_BYTES).unwrap();
        assert!(Vec::<u8>::new().try_reserve_exact(big).is_err(), "more memory than a job has");
        println!("seen from inside");
    }

    #[test]
    fn a_job_whose_agent_is_gone_does_not_begin() {
        let name = "linux::compile_jail::tests::a_job_whose_agent_is_gone_does_not_begin";
        if std::env::var_os(IN_JAIL).is_none() {
            let (well, text) = again(name);
            assert!(well && text.contains("seen from inside"), "{text}");
            return;
        }
        let (agent, job) = io::pipe().unwrap();
        drop(agent);
        assert!(matches!(enter(&Limits::JOB, job.as_fd()), Err(JailError::Orphan)));
        println!("seen from inside");
    }
}
