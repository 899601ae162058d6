//! Enters the production jail and then tries what a guest that broke out of wasmtime would try.
//!
//! `copepod-escape ALLOWED OUTSIDE VICTIM UID`: the directory that stays open, one that does not,
//! the id of a process to attack, the user to become. Prints a line for each try: its name, a tab,
//! `done` or the error. Tries of which the name starts with `may-` have to work, so that a jail
//! that refuses everything is no proof.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use copepod_sandbox::jail::{Directory, Jail, enter};
use copepod_wasm::User;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, setuid};
// Calls that the filter allows, so that landlock alone is in their way.
use rustix::fs::{AtFlags, CWD, linkat, renameat, unlinkat};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, allowed, outside, victim, uid] = &args[..] else {
        return Err("usage: copepod-escape ALLOWED OUTSIDE VICTIM UID".into());
    };
    let (allowed, outside) = (PathBuf::from(allowed), PathBuf::from(outside));
    let victim = Pid::from_raw(victim.parse()?);
    let uid: u32 = uid.parse()?;
    let directory = File::open(&allowed)?;
    // Open already, as by a mistake of ours: the filter alone is in its way.
    let network = File::open("/proc/self/ns/net")?;
    let user = User { uid, gid: uid, groups: Vec::new() };
    enter(&Jail {
        // 0 stays root, without a capability.
        user: (uid != 0).then_some(&user),
        directories: &[Directory { fd: directory.as_fd(), read_only: false }],
        die_with_parent: false,
    })?;
    files(&allowed, &outside);
    processes(victim);
    kernel();
    tell("join-network", setns(&network, CloneFlags::CLONE_NEWNET));
    tell("join-group", join_group());
    Ok(())
}

/// The root of a hierarchy of either version.
fn join_group() -> io::Result<()> {
    let write = |file| File::options().write(true).open(file).map(drop);
    let unified = write("/sys/fs/cgroup/cgroup.procs");
    if unified.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return write("/sys/fs/cgroup/memory/cgroup.procs");
    }
    unified
}

fn tell<E: std::fmt::Display>(name: &str, result: Result<(), E>) {
    match result {
        Ok(()) => println!("{name}\tdone"),
        Err(error) => println!("{name}\t{error}"),
    }
}

fn files(allowed: &Path, outside: &Path) {
    tell("may-write", fs::write(allowed.join("new"), "x"));
    tell("may-read", fs::read(allowed.join("new")).map(drop));
    tell("may-remove", unlinkat(CWD, allowed.join("new"), AtFlags::empty()));
    tell("read-outside", fs::read(outside.join("secret")).map(drop));
    tell("list-outside", fs::read_dir(outside).map(drop));
    tell("write-outside", fs::write(outside.join("new"), "x"));
    tell("remove-outside", unlinkat(CWD, outside.join("secret"), AtFlags::empty()));
    let (from, to) = (allowed.join("given"), outside.join("given"));
    tell("rename-out", renameat(CWD, &from, CWD, &to));
    tell("link-out", linkat(CWD, &from, CWD, &to, AtFlags::empty()));
    tell("through-dots", fs::read(allowed.join("../outside/secret")).map(drop));
    tell("through-link", fs::read(allowed.join("link/secret")).map(drop));
    tell("passwd", fs::read("/etc/passwd").map(drop));
    tell("own-memory", fs::read("/proc/self/maps").map(drop));
    tell("make-executable", {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(allowed.join("given"), fs::Permissions::from_mode(0o4755))
    });
}

fn processes(victim: Pid) {
    tell("fork", Command::new("/bin/true").status().map(drop));
    tell("execve", Err::<(), io::Error>(Command::new("/bin/true").exec()));
    tell("thread", std::thread::Builder::new().spawn(|| ()).map(drop));
    tell("ptrace", ptrace::attach(victim));
    tell("kill", kill(victim, Signal::SIGKILL));
    tell("probe", kill(victim, None));
    tell("kill-all", kill(Pid::from_raw(-1), Signal::SIGKILL));
}

fn kernel() {
    let none: Option<&str> = None;
    tell("mount", mount(Some("none"), "/mnt", Some("tmpfs"), MsFlags::empty(), none));
    tell("unshare", unshare(CloneFlags::CLONE_NEWUSER));
    tell("back-to-root", setuid(Uid::from_raw(0)));
    tell("unix-socket", UnixStream::connect("/run/nobody.sock").map(drop));
    tell("may-listen", TcpListener::bind("127.0.0.1:0").map(drop));
}
