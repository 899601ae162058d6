//! The compile job: its cache, its limits, and an agent that stays small beside it.

use std::fs;
use std::time::Duration;

use copepod_tests::bomb::compile_bomb;
use copepod_tests::{Home, copepod, guest, holds_within};
use serde_json::Value;

use crate::guard::Guard;
use crate::{SOON, Scene};

/// What the agent may hold while another process compiles: it reads no Wasm beyond its digest.
const AGENT_KIB_MAX: u64 = 32 << 10;

fn scene() -> Scene {
    let home = Home::with_empty_cache();
    Scene { guard: Guard::new(&home), home }
}

#[test]
fn an_image_is_compiled_once() {
    let scene = scene();
    let hello = guest("hello");
    let mut lines = Vec::new();
    for _ in 0..2 {
        let args = ["compile", "--output", "json", hello.to_str().expect("UTF-8")];
        let output = scene.home.copepod(args).output(SOON);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        lines.push(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"));
    }
    assert_eq!((&lines[0]["cached"], &lines[1]["cached"]), (&false.into(), &true.into()));
    assert_eq!(lines[0]["artefact"], lines[1]["artefact"]);
    let artefact = fs::metadata(lines[0]["artefact"].as_str().expect("a path")).expect("is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&artefact.permissions()) & 0o777, 0o600);
    scene.guard.finish();
}

#[test]
fn a_spoilt_artefact_is_compiled_anew() {
    let scene = scene();
    let hello = guest("hello");
    let hello = hello.to_str().expect("UTF-8");
    let output = scene.home.copepod(["compile", "-o", "json", hello]).output(SOON);
    let line: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let artefact = line["artefact"].as_str().expect("a path");
    fs::write(artefact, "spoilt").expect("writes");
    let run = ["run", hello, "--", "--count", "1"];
    let first = scene.home.copepod(run).output(SOON);
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(text.contains("count 1"), "{text}");
    scene.guard.finish();
}

/// Runs `copepod compile FILE` and gives its exit code, its text, and the most memory that the
/// agent itself ever held, in KiB.
fn compile(scene: &Scene, file: &str, within: Duration) -> (Option<i32>, String, u64) {
    let mut command = scene.home.command(copepod());
    command.args(["compile", file]);
    let mut run = copepod_tests::Run::spawn(command);
    let status = format!("/proc/{}/status", run.pid().as_raw_nonzero());
    let mut peak = 0;
    let ended = holds_within(within, || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        // A zombie has no memory left.
        kib.is_none() && peak > 0
    });
    assert!(ended, "it ends");
    let code = run.wait(SOON).code();
    (code, run.stderr(), peak)
}

#[test]
fn a_truncated_module_is_one_error() {
    let scene = scene();
    let wasm = fs::read(guest("hello")).expect("reads");
    let path = scene.home.path().join("half.wasm");
    fs::write(&path, &wasm[..wasm.len() / 2]).expect("writes");
    let (code, text, peak) = compile(&scene, path.to_str().expect("UTF-8"), SOON);
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("half.wasm"), "{text}");
    assert!(peak < AGENT_KIB_MAX, "the agent held {peak} KiB");
    scene.guard.finish();
}

/// Numbers that are the same in each run (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Cuts it off, flips bits of it, puts bytes into it, or puts others in the place of a piece.
fn spoil(mut wasm: Vec<u8>, way: usize, numbers: &mut Numbers) -> Vec<u8> {
    let at = numbers.below(wasm.len());
    let bytes = |count, numbers: &mut Numbers| -> Vec<u8> {
        (0..count).map(|_| numbers.below(256) as u8).collect()
    };
    match way {
        0 => wasm.truncate(at),
        1 => {
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(wasm.len());
                wasm[at] ^= 1 << numbers.below(8);
            }
        }
        2 => {
            let count = 1 + numbers.below(64);
            wasm.splice(at..at, bytes(count, numbers));
        }
        _ => {
            let end = wasm.len().min(at + 1 + numbers.below(4096));
            wasm.splice(at..end, bytes(end - at, numbers));
        }
    }
    wasm
}

#[test]
fn each_of_two_hundred_spoilt_modules_is_one_answer() {
    let scene = scene();
    let dir = scene.home.path().join("spoilt");
    fs::create_dir(&dir).expect("makes");
    let mut numbers = Numbers(4);
    let good = ["exit", "hello-p2", "http"].map(|name| fs::read(guest(name)).expect("reads"));
    let files: Vec<String> = (0..200)
        .map(|n| {
            let path = dir.join(format!("{n}.wasm"));
            let wasm = spoil(good[n % 3].clone(), n / 3 % 4, &mut numbers);
            fs::write(&path, wasm).expect("writes");
            path.to_str().expect("UTF-8").into()
        })
        .collect();
    let args = ["compile", "-o", "json"].into_iter().chain(files.iter().map(String::as_str));
    let output = scene.home.copepod(args).output(Duration::from_secs(300));
    assert_eq!(output.status.code(), Some(1), "some are refused, and nothing worse");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), files.len());
    let mut made = std::collections::BTreeSet::new();
    for (line, file) in lines.iter().zip(&files) {
        match (line["artefact"].as_str(), line["error"].as_str()) {
            (Some(artefact), None) => {
                made.insert(artefact);
            }
            (None, Some(error)) => {
                assert!(error.contains(file) && !error.contains("panicked"), "{error}");
                assert!(!error.contains(char::is_control) && error.len() < 2000, "{error:?}");
            }
            _ => panic!("neither made nor refused: {line}"),
        }
    }
    assert!(made.len() < files.len() / 2, "most are refused");
    let kept = fs::read_dir(scene.home.cache().join("copepod")).expect("is there").count();
    assert_eq!(kept, made.len(), "what was refused has left nothing");
    scene.guard.finish();
}

#[test]
fn a_compile_bomb_is_one_error_and_the_agent_stays_small() {
    let scene = scene();
    let path = scene.home.path().join("bomb.wasm");
    fs::write(&path, compile_bomb()).expect("writes");
    let (code, text, peak) =
        compile(&scene, path.to_str().expect("UTF-8"), Duration::from_secs(300));
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("bomb.wasm") && (text.contains("memory") || text.contains("CPU time")),
        "{text}"
    );
    assert!(peak < AGENT_KIB_MAX, "the agent held {peak} KiB");
    let cached = fs::read_dir(scene.home.cache().join("copepod")).expect("is there").count();
    assert_eq!(cached, 0, "nothing of it is kept");
    scene.guard.finish();
}
