//! What a sandbox enters before its guest runs: control groups, OOM score, network.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use copepod_tests::driver::{Sandbox, describe};
use copepod_tests::{Home, Run, wait_until};
use copepod_wasm::frame::FromSandbox;
use copepod_wasm::state::Reason;
use copepod_wasm::{GuestKind, User};
use rustix::process::Pid;

use crate::SOON;
use crate::hostile::artefact;
use crate::jail::assert_jailed;

/// A control group of the test's own with a memory limit, removed with this.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = Self(root.join(format!("copepod-test-{}-{number}", std::process::id())));
        fs::create_dir(&group.0).expect("makes a control group (needs root)");
        let file = group.file("memory.limit_in_bytes", "memory.max");
        fs::write(group.0.join(file), limit.to_string()).expect("limits");
        group
    }

    fn file(&self, v1: &'static str, v2: &'static str) -> &'static str {
        if self.0.join("tasks").exists() { v1 } else { v2 }
    }

    /// As the agent names it to a sandbox.
    fn entry(&self) -> PathBuf {
        self.0.join(self.file("tasks", "cgroup.procs"))
    }

    fn oom_kills(&self) -> u64 {
        let file = self.file("memory.oom_control", "memory.events");
        let text = fs::read_to_string(self.0.join(file)).expect("reads");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).expect("is counted")
    }

    fn holds(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).expect("reads");
        text.lines().any(|line| line == pid.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let removed = || match fs::remove_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => false,
            result => {
                result.expect("removes");
                true
            }
        };
        wait_until(SOON, "its processes have ended", removed);
    }
}

fn pid(sandbox: &Sandbox) -> Pid {
    Pid::from_raw(i32::try_from(sandbox.pid()).expect("an id")).expect("an id")
}

#[test]
fn a_guest_beyond_its_groups_memory_is_killed_by_the_kernel_and_counted() {
    let home = Home::new();
    let group = Group::new(24 << 20);
    let mut description = describe(&artefact(&home, "hog"), GuestKind::P1Command);
    description.cgroups = vec![group.entry()];
    // Without a limit of the engine's own, the group is all that there is.
    description.args.push("100".into());
    let mut sandbox = Sandbox::start(description, None).expect("starts");
    sandbox.started().expect("says so");
    let (status, record) = sandbox.wait().expect("ends");
    assert_eq!((status.signal(), record), (Some(9), None));
    assert_eq!(group.oom_kills(), 1);
}

#[test]
fn a_guest_within_its_groups_memory_is_in_the_group_with_its_score_and_the_jail() {
    let home = Home::new();
    let group = Group::new(64 << 20);
    let mut description = describe(&artefact(&home, "hog"), GuestKind::P1Command);
    description.cgroups = vec![group.entry()];
    description.oom_score_adj = Some(876);
    description.user = Some(User { uid: 1234, gid: 1234, groups: Vec::new() });
    description.args.extend(["8", "--hold", "600000"].map(String::from));
    let mut sandbox = Sandbox::start(description.clone(), None).expect("starts");
    sandbox.started().expect("says so");
    assert!(group.holds(sandbox.pid()), "it stands in its group");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", sandbox.pid()));
    assert_eq!(score.expect("lives").trim(), "876");
    assert_jailed(pid(&sandbox));
    // A command beside it, in the same group.
    let null = || {
        let opened = fs::File::options().read(true).write(true).open("/dev/null");
        std::os::fd::OwnedFd::from(opened.expect("opens"))
    };
    let mut exec = Sandbox::exec(description, [null(), null(), null()]).expect("starts");
    exec.started().expect("says so");
    assert!(group.holds(exec.pid()) && group.holds(sandbox.pid()));
    drop((exec, sandbox));
    assert_eq!(group.oom_kills(), 0);
}

#[test]
fn a_server_listens_in_the_network_that_it_joined() {
    let home = Home::new();
    // A namespace that lives as long as this process, with its loopback up.
    let mut command = home.command("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec tail -f /dev/null"]);
    let holder = Run::spawn(command);
    holder.wait_line("up", SOON);
    let holder_pid = holder.pid().as_raw_nonzero();
    let path = PathBuf::from(format!("/proc/{holder_pid}/ns/net"));

    let mut description = describe(&artefact(&home, "http"), GuestKind::Http);
    description.network = Some(path.clone());
    // A port that may be taken on the host is free there, and so is that of a privileged service.
    description.listen = vec!["127.0.0.1:80".parse().expect("an address")];
    description.user = Some(User { uid: 1234, gid: 1234, groups: Vec::new() });
    let mut sandbox = Sandbox::start(description, None).expect("starts");
    sandbox.started().expect("says so");
    let of = |path: &Path| fs::read_link(path).expect("reads");
    let own = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid()));
    assert_eq!(of(&own), of(&path));
    assert_ne!(of(&own), of(Path::new("/proc/self/ns/net")));
    assert_jailed(pid(&sandbox));

    let mut asks = Command::new("nsenter");
    asks.arg(format!("--net={}", path.display())).args(["bash", "-c"]);
    asks.arg(
        "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /healthz HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3",
    );
    let mut asks = asks.stdout(Stdio::piped()).spawn().expect("starts");
    let mut answer = String::new();
    asks.stdout.take().expect("piped").read_to_string(&mut answer).expect("reads");
    asks.wait().expect("ours");
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
}

#[test]
fn what_cannot_be_entered_is_a_start_error_that_names_it() {
    let home = Home::new();
    let artefact = artefact(&home, "hello");
    let nowhere = home.path().join("nowhere");
    let plain = describe(&artefact, GuestKind::P1Command);
    let mut group = plain.clone();
    group.cgroups = vec![nowhere.clone()];
    let mut network = plain.clone();
    network.network = Some(nowhere.clone());
    let mut other = plain.clone();
    other.network = Some("/proc/self/ns/uts".into());
    let mut score = plain;
    score.oom_score_adj = Some(2000);
    for (description, text) in [
        (group, format!("cannot enter the control group by {}", nowhere.display())),
        (network, format!("cannot open the network namespace {}", nowhere.display())),
        (other, "cannot join the network namespace /proc/self/ns/uts".into()),
        (score, "cannot write 2000 to /proc/self/oom_score_adj".into()),
    ] {
        let mut sandbox = Sandbox::start(description, None).expect("starts");
        let said = sandbox.frame().expect("a frame");
        let Some(FromSandbox::Failed(said)) = said else { panic!("{text}: {said:?}") };
        assert!(said.starts_with(&text), "{said}");
        let exit = sandbox.wait().expect("ends").1.expect("a record");
        assert_eq!((exit.code, exit.reason), (128, Reason::StartError));
    }
}
