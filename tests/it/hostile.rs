//! The sandbox by itself: agents that are away, come back, or never say a word; a log at its limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use copepod_tests::driver::{Sandbox, describe};
use copepod_tests::{Home, guest, wait_until};
use copepod_wasm::frame::FromSandbox;
use copepod_wasm::state::Reason;
use copepod_wasm::{Description, GuestKind, Preopen};
use serde_json::Value;

use crate::SOON;

/// Small, so that a test's guest fills it in no time.
const LOG_LIMIT: u64 = 64 << 10;

pub(crate) fn artefact(home: &Home, name: &str) -> PathBuf {
    let wasm = guest(name);
    let args = ["compile", "-o", "json", wasm.to_str().expect("UTF-8")];
    let output = home.copepod(args).output(SOON);
    let line: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    line["artefact"].as_str().expect("a path").into()
}

fn hello(artefact: &Path, args: &[&str]) -> Description {
    let mut description = describe(artefact, GuestKind::P1Command);
    description.args.extend(args.iter().map(ToString::to_string));
    description.log_limit_bytes = LOG_LIMIT;
    description
}

#[test]
fn an_exit_record_tells_the_end() {
    let home = Home::new();
    let mut sandbox =
        Sandbox::start(hello(&artefact(&home, "exit"), &["7"]), None).expect("starts");
    sandbox.started().expect("says so");
    let (status, exit) = sandbox.wait().expect("ends");
    let exit = exit.expect("a record");
    assert_eq!((exit.code, exit.reason, status.code()), (7, Reason::Error, Some(7)));
}

#[test]
fn a_full_log_stops_at_twice_its_limit_while_the_agent_is_away() {
    let home = Home::new();
    let description = hello(&artefact(&home, "hello"), &["--count", "20000", "--every", "0"]);
    let mut sandbox = Sandbox::start(description, None).expect("starts");
    sandbox.started().expect("says so");
    assert_eq!(sandbox.frame().expect("a frame"), Some(FromSandbox::LogFull));
    let log = sandbox.log_path();
    let kept = log.with_extension("kept");
    fs::hard_link(&log, &kept).expect("keeps it");
    // No answer: the guest goes on to its end all the same.
    assert_eq!(sandbox.frame().expect("no more is asked"), None);
    let text = fs::read_to_string(&kept).expect("reads");
    let (_, exit) = sandbox.wait().expect("ends");
    assert_eq!(exit.expect("a record").code, 0);
    let len = text.len() as u64;
    assert!(len > LOG_LIMIT && len < 2 * LOG_LIMIT + 1024, "{len} bytes");
    let last = text.lines().last().expect("a line");
    assert!(last.contains("stderr") && last.contains("copepod"), "a marker: {last}");
}

#[test]
fn a_new_log_takes_over_between_two_lines() {
    let home = Home::new();
    let description = hello(&artefact(&home, "hello"), &["--count", "100000000", "--every", "0"]);
    let mut sandbox = Sandbox::start(description, None).expect("starts");
    sandbox.started().expect("says so");
    assert_eq!(sandbox.frame().expect("a frame"), Some(FromSandbox::LogFull));
    let second = sandbox.log_path().with_extension("second");
    let file = File::options().create(true).append(true).open(&second).expect("makes");
    sandbox.new_log(&file).expect("hands it over");
    let grows = || fs::metadata(&second).is_ok_and(|file| file.len() > LOG_LIMIT / 2);
    wait_until(SOON, "the new log grows", grows);
    let first = fs::read_to_string(sandbox.log_path()).expect("reads");
    let second = fs::read_to_string(&second).expect("reads");
    assert!(first.ends_with('\n'), "the old one ends with a line");
    for line in [first.lines().last(), second.lines().next()] {
        let line = line.expect("a line");
        assert!(line.contains(" stdout F count ") || line.contains("copepod"), "{line}");
    }
}

#[test]
fn a_spoilt_artefact_never_ran() {
    let home = Home::new();
    let good = fs::read(artefact(&home, "hello")).expect("reads");
    let spoilt = home.path().join("spoilt.cwasm");
    fs::write(&spoilt, &good[..good.len() / 2]).expect("writes");
    let mut sandbox = Sandbox::start(hello(&spoilt, &[]), None).expect("starts");
    let Some(FromSandbox::Unloadable(text)) = sandbox.frame().expect("a frame") else {
        panic!("it started")
    };
    assert!(text.contains("spoilt.cwasm"), "{text}");
    let (_, exit) = sandbox.wait().expect("ends");
    assert_eq!(exit, None, "the same attempt may start again");
}

#[test]
fn what_cannot_be_started_is_a_start_error() {
    let home = Home::new();
    let mut description = hello(&artefact(&home, "hello"), &[]);
    description.preopens.push(Preopen {
        host: home.path().join("nowhere"),
        guest: "/data".into(),
        read_only: true,
    });
    let mut sandbox = Sandbox::start(description, None).expect("starts");
    let Some(FromSandbox::Failed(text)) = sandbox.frame().expect("a frame") else {
        panic!("it started")
    };
    assert!(text.contains("nowhere") && text.contains("/data"), "{text}");
    let (_, exit) = sandbox.wait().expect("ends");
    let exit = exit.expect("a record");
    assert_eq!((exit.code, exit.reason), (128, Reason::StartError));
    assert_eq!(exit.message, text);
}

#[test]
fn a_sandbox_that_is_told_nothing_ends_and_leaves_no_record() {
    let sandbox = Sandbox::untold().expect("starts");
    let (_, exit) = sandbox.wait_untold().expect("ends");
    assert_eq!(exit, None);
}
