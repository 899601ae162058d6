//! The sandbox by itself: the streams of an exec, and mounts below what a guest sees.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write, pipe, read_to_string};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;

use copepod_tests::driver::{Sandbox, describe};
use copepod_tests::{Home, wait_until};
use copepod_wasm::frame::FromSandbox;
use copepod_wasm::state::{Exit, Reason};
use copepod_wasm::{Description, GuestKind, Mount, Preopen, Stdin};
use rustix::pipe::fcntl_getpipe_size;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use crate::SOON;
use crate::hostile::artefact;

/// More than a pipe holds.
const FLOOD: usize = 300_000;

const KINDS: [(&str, GuestKind); 2] = [("", GuestKind::P1Command), ("-p2", GuestKind::P2Command)];

fn command(home: &Home, name: &str, kind: GuestKind, args: &[&str]) -> Description {
    let mut description = describe(&artefact(home, name), kind);
    description.args.extend(args.iter().map(ToString::to_string));
    description
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("opens").into()
}

/// What `work` gives; fails the test if that takes too long.
#[track_caller]
fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    // Nobody waits any more: the test has failed.
    thread::spawn(move || done.send(work()).unwrap_or_default());
    result.recv_timeout(SOON).expect("ends in time")
}

/// All that comes out of a pipe or socket to its end.
#[track_caller]
fn all_of(from: impl Read + Send + 'static) -> String {
    soon(move || read_to_string(from).expect("reads"))
}

/// The exit record of a sandbox whose guest has been told all.
#[track_caller]
fn end(sandbox: Sandbox) -> Exit {
    sandbox.wait().expect("ends").1.expect("a record")
}

#[test]
fn an_exec_copies_what_comes_and_ends_with_its_input() {
    let home = Home::new();
    for (suffix, kind) in KINDS {
        let cat = command(&home, &format!("cat{suffix}"), kind, &[]);
        let (input, mut into) = pipe().expect("a pipe");
        let (out, output) = pipe().expect("a pipe");
        let streams = [input.into(), output.into(), null()];
        let mut sandbox = Sandbox::exec(cat, streams).expect("starts");
        sandbox.started().expect("says so");
        // Each piece comes back before the next goes: nothing waits for a full buffer.
        for piece in ["hello\n", "world\n"] {
            into.write_all(piece.as_bytes()).expect("writes");
            let mut same = out.try_clone().expect("shares");
            let mut back = vec![0; piece.len()];
            let back = soon(move || same.read_exact(&mut back).map(|()| back));
            assert_eq!(back.expect("reads"), piece.as_bytes(), "{kind:?}");
        }
        let sent = "a longer text\n".repeat(FLOOD / 14);
        let text = sent.clone();
        let writer = thread::spawn(move || into.write_all(text.as_bytes()).expect("writes"));
        assert!(all_of(out) == sent, "{kind:?}: another text came back");
        writer.join().expect("writes all");
        let log = sandbox.log_path();
        let logged = fs::metadata(&log).expect("is there").len();
        assert_eq!((end(sandbox).code, logged), (0, 0), "{kind:?}: nothing is in the log");
    }
}

#[test]
fn a_reader_that_stalls_only_waits_and_one_that_leaves_is_an_error() {
    let home = Home::new();
    for (suffix, kind) in KINDS {
        let bytes = FLOOD.to_string();
        let flood = || command(&home, &format!("cat{suffix}"), kind, &["flood", &bytes]);
        let (out, output) = pipe().expect("a pipe");
        let mut sandbox = Sandbox::exec(flood(), [null(), output.into(), null()]).expect("starts");
        sandbox.started().expect("says so");
        wait_until(SOON, "the pipe is full", || is_full(&out));
        wait_until(SOON, "the guest waits", || is_blocked(sandbox.pid()));
        assert_eq!(all_of(out).len(), FLOOD, "{kind:?}");
        assert_eq!(end(sandbox).code, 0, "{kind:?}");

        let (out, output) = pipe().expect("a pipe");
        let (said, error) = pipe().expect("a pipe");
        let streams = [null(), output.into(), error.into()];
        let sandbox = Sandbox::exec(flood(), streams).expect("starts");
        drop(out);
        let said = all_of(said);
        assert!(said.starts_with("cat: "), "{kind:?}: {said}");
        assert_eq!(end(sandbox).code, 1, "{kind:?}: {said}");
    }
}

fn is_full(pipe: &PipeReader) -> bool {
    let held = rustix::io::ioctl_fionread(pipe).expect("asks");
    held >= fcntl_getpipe_size(pipe).expect("asks") as u64
}

/// Whether the process waits in the kernel.
fn is_blocked(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("lives");
    status.contains("State:\tS")
}

#[test]
fn files_sockets_and_terminals_are_streams_too() {
    let home = Home::new();
    for (suffix, kind) in KINDS {
        let cat = format!("cat{suffix}");
        let dir = tempfile::tempdir().expect("makes");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "text").expect("writes");
        let output = File::create(&to).expect("makes");
        let input = File::open(&from).expect("opens");
        let streams = [input.into(), output.into(), null()];
        let sandbox = Sandbox::exec(command(&home, &cat, kind, &[]), streams).expect("starts");
        assert_eq!(end(sandbox).code, 0, "{kind:?}");
        assert_eq!(fs::read_to_string(&to).expect("reads"), "text", "{kind:?}");

        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let second = theirs.try_clone().expect("shares").into();
        let streams = [theirs.into(), second, null()];
        let sandbox = Sandbox::exec(command(&home, &cat, kind, &[]), streams).expect("starts");
        ours.write_all(b"over a socket").expect("writes");
        ours.shutdown(std::net::Shutdown::Write).expect("ends");
        assert_eq!(all_of(ours), "over a socket", "{kind:?}");
        assert_eq!(end(sandbox).code, 0, "{kind:?}");

        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&terminal).expect("unlocks");
        let name = ptsname(&terminal, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let guests = File::options().read(true).open(name).expect("opens");
        let (said, output) = pipe().expect("a pipe");
        let streams = [guests.into(), output.into(), null()];
        let tty = command(&home, &cat, kind, &["tty"]);
        let sandbox = Sandbox::exec(tty, streams).expect("starts");
        let said = all_of(said);
        assert!(said.contains("stdin: terminal\nstdout: no terminal"), "{kind:?}: {said}");
        assert_eq!(end(sandbox).code, 0, "{kind:?}");
    }
}

/// A pipe whose end to be written does not block.
fn output_pipe() -> (PipeReader, OwnedFd) {
    let (out, output) = pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&output, true).expect("is set");
    (out, output.into())
}

#[test]
fn clients_are_attached_one_after_the_other_and_heard_at_once() {
    let home = Home::new();
    for (suffix, kind) in KINDS {
        let mut cat = command(&home, &format!("cat{suffix}"), kind, &[]);
        cat.stdin = Stdin::Open;
        let mut sandbox = Sandbox::start(cat, None).expect("starts");
        sandbox.started().expect("says so");
        for text in ["one client's\n", "the next one's\n"] {
            let (input, mut into) = pipe().expect("a pipe");
            let (mut out, output) = output_pipe();
            sandbox.attach([Some(input.into()), Some(output), None]).expect("is sent");
            into.write_all(text.as_bytes()).expect("writes");
            let mut back = vec![0; text.len()];
            let back = soon(move || out.read_exact(&mut back).map(|()| back));
            assert_eq!(back.expect("reads"), text.as_bytes(), "{kind:?}");
            // Its end is not the guest's.
            drop(into);
        }
        let (mut out, output) = output_pipe();
        sandbox.attach([None, Some(output), None]).expect("is sent");
        let (input, mut into) = pipe().expect("a pipe");
        sandbox.attach([Some(input.into()), None, None]).expect("is sent");
        into.write_all(b"!\n").expect("writes");
        let back = soon(move || out.read(&mut [0; 8]));
        assert_eq!(back.expect("reads"), 2, "{kind:?}: another client hears it");
        let log = fs::read_to_string(sandbox.log_path()).expect("reads");
        assert!(log.contains("F one client's\n") && log.contains("F the next one's\n"), "{log}");
    }
}

#[test]
fn a_client_that_takes_nothing_is_let_go_of() {
    let home = Home::new();
    for (suffix, kind) in KINDS {
        let mut cat = command(&home, &format!("cat{suffix}"), kind, &[]);
        cat.stdin = Stdin::Once;
        let mut sandbox = Sandbox::start(cat, None).expect("starts");
        sandbox.started().expect("says so");
        let dir = tempfile::tempdir().expect("makes");
        let from = dir.path().join("from");
        fs::write(&from, "a longer text\n".repeat(FLOOD / 14)).expect("writes");
        let (stalled, output) = output_pipe();
        let input = File::open(&from).expect("opens");
        sandbox.attach([Some(input.into()), Some(output), None]).expect("is sent");
        let log = File::open(sandbox.log_path()).expect("opens");
        // Its input's end is the guest's, which is held up meanwhile, but not for ever.
        let ended = sandbox.wait().expect("ends").1.expect("a record");
        assert_eq!(ended.code, 0, "{kind:?}: {}", ended.message);
        assert!(is_full(&stalled), "{kind:?}");
        let logged = read_to_string(log).expect("reads").lines().count();
        assert_eq!(logged, FLOOD / 14, "{kind:?}: the log has all of it");
    }
}

#[test]
fn an_exec_without_its_streams_is_not_started() {
    let home = Home::new();
    let mut description = command(&home, "cat", GuestKind::P1Command, &[]);
    description.streams = true;
    let exit = end(Sandbox::start(description, None).expect("starts"));
    assert_eq!((exit.code, exit.reason), (128, Reason::StartError));
    assert!(exit.message.contains("three standard streams"), "{}", exit.message);
}

/// Folders of a pod: the guest's root, and what is mounted below it.
fn folders(dir: &Path) -> (Preopen, Vec<Mount>) {
    for name in ["root/etc", "root/data", "volume/deep"] {
        fs::create_dir_all(dir.join(name)).expect("makes");
    }
    for (name, text) in [("root/etc/hosts", ""), ("hosts", "of the pod"), ("volume/deep/f", "x")] {
        fs::write(dir.join(name), text).expect("writes");
    }
    let mount = |source: &str, target: &str, read_only| Mount {
        source: dir.join(source),
        target: dir.join(target),
        read_only,
    };
    let root = Preopen { host: dir.join("root"), guest: "/".into(), read_only: false };
    let mounts = vec![mount("hosts", "root/etc/hosts", true), mount("volume", "root/data", false)];
    (root, mounts)
}

/// Runs steps of `files` with the folders; gives the end and what it wrote.
fn files(home: &Home, preopen: &Preopen, mounts: &[Mount], steps: &str) -> (Exit, String) {
    let steps: Vec<&str> = steps.split(' ').collect();
    let mut description = command(home, "files", GuestKind::P1Command, &steps);
    description.preopens = vec![preopen.clone()];
    description.mounts = mounts.to_vec();
    let (said, output) = pipe().expect("a pipe");
    let error = output.try_clone().expect("shares").into();
    let sandbox = Sandbox::exec(description, [null(), output.into(), error]).expect("starts");
    let said = all_of(said);
    (end(sandbox), said)
}

#[test]
fn mounts_are_seen_below_a_directory_and_by_nobody_else() {
    let home = Home::new();
    let dir = tempfile::tempdir().expect("makes");
    let (root, mut mounts) = folders(dir.path());
    let steps = "read /etc/hosts -- list /data -- write /data/deep/g new -- list /";
    let (exit, said) = files(&home, &root, &mounts, steps);
    assert_eq!(exit.code, 0, "{said}");
    assert!(said.starts_with("of the pod") && said.contains("deep"), "{said}");
    let written = fs::read_to_string(dir.path().join("volume/deep/g")).expect("is written");
    assert_eq!(written, "new\n", "to the volume itself");
    // The engine has no word for a file system that may only be read: an I/O error.
    let (exit, said) = files(&home, &root, &mounts, "write /etc/hosts mine");
    assert_eq!(exit.code, 1, "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("hosts")).expect("reads"), "of the pod");
    let ours = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!ours.contains(&*dir.path().to_string_lossy()), "a mount has come here: {ours}");

    // A root that may only be read, with a volume in it that may be written.
    let whole = Mount { source: root.host.clone(), target: root.host.clone(), read_only: true };
    mounts.insert(0, whole);
    let (exit, said) = files(&home, &root, &mounts, "write /data/h new -- write /new x");
    assert_eq!(exit.code, 1, "{said}");
    assert!(said.starts_with("write /new x: "), "{said}");
    assert!(dir.path().join("volume/h").exists() && !dir.path().join("root/new").exists());
}

#[test]
fn a_mount_goes_through_no_link_that_a_guest_left() {
    let home = Home::new();
    let outside = tempfile::tempdir().expect("makes");
    fs::write(outside.path().join("hosts"), "untouched").expect("writes");
    for (target, source) in [("etc", ""), ("etc/hosts", ""), ("", "volume"), ("", "hosts")] {
        let dir = tempfile::tempdir().expect("makes");
        let (root, mounts) = folders(dir.path());
        let swap = |path: &Path, to: &Path| {
            fs::rename(path, path.with_extension("away")).expect("moves");
            symlink(to, path).expect("links");
        };
        match (target, source) {
            ("etc", _) => swap(&root.host.join("etc"), outside.path()),
            ("etc/hosts", _) => swap(&root.host.join(target), &outside.path().join("hosts")),
            (_, source) => swap(&dir.path().join(source), outside.path()),
        }
        let mut description = command(&home, "files", GuestKind::P1Command, &["list", "/"]);
        description.preopens = vec![root];
        description.mounts = mounts;
        let mut sandbox = Sandbox::start(description, None).expect("starts");
        let Some(FromSandbox::Failed(text)) = sandbox.frame().expect("a frame") else {
            panic!("{target}{source}: it started")
        };
        assert!(text.starts_with("cannot open"), "{text}");
        assert!(text.contains("ymbolic link"), "{text}");
        assert_eq!(end(sandbox).reason, Reason::StartError);
    }
    let kept = fs::read_to_string(outside.path().join("hosts")).expect("reads");
    assert_eq!(kept, "untouched");
}
