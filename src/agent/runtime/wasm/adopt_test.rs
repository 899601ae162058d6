use std::fs;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use copepod_pod::ImageNames;
use copepod_wasm::state::Exit as Recorded;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::runtime::{Happening, Runtime, TerminationMessage, What};

/// Long enough for a process to end.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    ledger: Arc<Ledger>,
    images: Images,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, run) = (dir.path().join("root"), dir.path().join("run"));
        let ledger = Arc::new(Ledger::open(&root, &run).expect("opens"));
        let images = Images::open(dir.path().join("cache"), "/none".into()).expect("opens");
        Self { dir, ledger, images }
    }

    /// An attempt's directory with what an agent writes first.
    fn begun(&self, attempt: u32) -> PathBuf {
        let dir = self.ledger.attempt_dir("uid", "main", attempt);
        fs::create_dir_all(&dir).expect("makes");
        let (log, link) = (dir.join("log"), Value::Null);
        let boot = linux::boot_id();
        let about = json!({
            "log": log, "link": link, "message": TerminationMessage::default(), "boot": boot,
        });
        fs::write(dir.join("about"), about.to_string()).expect("writes");
        dir
    }

    /// The same with a state file, locked.
    fn held(&self, attempt: u32) -> (PathBuf, StateFile) {
        let dir = self.begun(attempt);
        let state = state(&dir);
        (dir, state)
    }

    /// An agent that has taken over what there is, in an instant.
    async fn adopt(&self) -> (Wasm, mpsc::Receiver<Happening>) {
        let (wasm, happenings) = Wasm::open(Arc::clone(&self.ledger), "/nowhere".into());
        wasm.adopt(None, &self.images).await.expect("takes over");
        (wasm, happenings)
    }
}

/// The state file in this directory, made anew for an id of its own.
fn state(dir: &Path) -> StateFile {
    let number = dir.file_name().and_then(|name| name.to_str()).expect("a number");
    let id = number.repeat(64);
    StateFile::create(&dir.join("state"), &id).expect("makes").expect("is free")
}

/// Makes the file one of another version.
fn of_another_version(dir: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(dir.join("state")).expect("opens");
    file.write_all_at(&[PROTOCOL_VERSION + 1], 8).expect("writes");
}

/// A process that holds the lock of this file, as a sandbox does.
fn sleeper(state: &StateFile) -> Child {
    let held = state.as_fd().try_clone_to_owned().expect("a second descriptor");
    let mut sleep = Command::new("sleep");
    sleep.arg("600").stdout(Stdio::from(held)).spawn().expect("starts")
}

fn launch(pid: u32) -> Launch {
    Launch { pid, at_ns: 5 }
}

fn record() -> Recorded {
    Recorded { code: 3, reason: Reason::Error, message: "m".into(), finished_at_ns: 7 }
}

fn exit(attempt: Attempt) -> (u32, i32, String) {
    match attempt.state {
        AttemptState::Exited(exit) => (attempt.attempt, exit.code, exit.reason),
        AttemptState::Starting | AttemptState::Running { .. } => panic!("{attempt:?}"),
    }
}

/// The numbers of the attempts that are known, with what is known of each.
fn listed(wasm: &Wasm) -> Vec<(u32, &'static str)> {
    let name = |attempt: Attempt| match attempt.state {
        AttemptState::Starting => (attempt.attempt, "starting"),
        AttemptState::Running { .. } => (attempt.attempt, "running"),
        AttemptState::Exited(_) => (attempt.attempt, "exited"),
    };
    let mut all: Vec<_> = wasm.list("uid").into_iter().map(name).collect();
    all.sort_unstable();
    all
}

async fn told(happenings: &mut mpsc::Receiver<Happening>) -> What {
    let told = tokio::time::timeout(SOON, happenings.recv()).await;
    told.expect("in time").expect("is told").what
}

async fn told_exit(happenings: &mut mpsc::Receiver<Happening>) -> (u32, i32, String) {
    match told(happenings).await {
        What::Attempt(attempt) => exit(attempt),
        what @ (What::Look | What::SandboxChanged { .. } | What::NeverRan { .. }) => {
            panic!("{what:?}")
        }
    }
}

#[tokio::test]
async fn what_a_death_left_half_made_starts_again_and_what_ended_is_told() {
    let bench = Bench::new();
    let ordinary = bench.ledger.attempt_dir("uid", "other", 0);
    fs::create_dir_all(&ordinary).expect("makes");
    fs::write(volume::message_file(&ordinary), "").expect("writes");
    // Nothing yet; a file without its head; a sandbox that never launched; two that ended; one whose
    // `about` was never written.
    let unmade = bench.begun(0);
    let empty = bench.begun(1);
    fs::write(empty.join("state"), "").expect("writes");
    let (unlaunched, _) = bench.held(2);
    let (killed, file) = bench.held(3);
    file.set_launched(&launch(1)).expect("writes");
    kept::keep_signal(&killed, Signal::TERM).expect("writes");
    drop(file);
    let (_, file) = bench.held(4);
    file.set_launched(&launch(1)).expect("writes");
    file.set_exit(&record()).expect("writes");
    drop(file);
    let (first, _) = bench.held(5);
    fs::remove_file(first.join("about")).expect("removes");

    for _ in 0..2 {
        let (wasm, _happenings) = bench.adopt().await;
        assert!([&unmade, &empty, &unlaunched, &first].iter().all(|dir| !dir.exists()));
        assert!(volume::message_file(&ordinary).exists(), "is not a guest's");
        let mut told: Vec<_> = wasm.list("uid").into_iter().map(exit).collect();
        told.sort();
        let error = || "Error".to_owned();
        assert_eq!(told, [(3, 143, error()), (4, 3, error())]);
    }
}

#[tokio::test]
async fn one_that_hangs_before_its_launch_is_its_pods_trouble_alone() {
    let bench = Bench::new();
    let (_, state) = bench.held(0);
    let mut hangs = sleeper(&state);
    drop(state);
    let (ended_dir, ended) = bench.held(1);
    ended.set_exit(&record()).expect("writes");
    drop((ended, ended_dir));
    let began = Instant::now();
    let (wasm, mut happenings) = bench.adopt().await;
    assert!(began.elapsed() < SETTLE_WITHIN + SOON, "{:?}", began.elapsed());
    assert_eq!(listed(&wasm), [(0, "starting"), (1, "exited")]);
    // It may come to itself, and goes when its pod is to.
    assert!(hangs.try_wait().expect("is ours").is_none());
    wasm.stop(&shown(&"0".repeat(64)), Duration::from_secs(30));
    let what = told(&mut happenings).await;
    let What::NeverRan { container, attempt: 0, failure } = what else { panic!("{what:?}") };
    assert_eq!((&*container, &*failure.reason), ("main", "RunContainerError"));
    assert_eq!(listed(&wasm), [(1, "exited")]);
    hangs.wait().expect("is ours");
}

#[tokio::test]
async fn one_that_comes_to_itself_runs_and_heeds_what_it_was_told_before() {
    let bench = Bench::new();
    let (_, state) = bench.held(0);
    let mut process = sleeper(&state);
    let (wasm, mut happenings) = bench.adopt().await;
    assert_eq!(listed(&wasm), [(0, "starting")]);
    state.set_launched(&launch(process.id())).expect("writes");
    drop(state);
    let what = told(&mut happenings).await;
    let What::Attempt(attempt) = what else { panic!("{what:?}") };
    assert!(matches!(attempt.state, AttemptState::Running { .. }), "{attempt:?}");
    assert_eq!(listed(&wasm), [(0, "running")]);
    wasm.stop(&shown(&"0".repeat(64)), Duration::from_secs(30));
    let end = told_exit(&mut happenings).await;
    assert_eq!((end.0, end.1), (0, 143));
    process.wait().expect("is ours");
}

#[tokio::test]
async fn attempts_of_another_version_are_known_as_far_as_they_can_be_read() {
    let bench = Bench::new();
    // One that ended, one that was killed, one of which nothing can be read.
    let (ended, file) = bench.held(0);
    file.set_exit(&record()).expect("writes");
    let (killed, file) = bench.held(1);
    file.set_launched(&launch(1)).expect("writes");
    let (unknown, file) = bench.held(2);
    drop(file);
    // One that runs, and one that lives.
    let (running, file) = bench.held(3);
    let mut runs = sleeper(&file);
    file.set_launched(&launch(runs.id())).expect("writes");
    let (lives, file) = bench.held(4);
    let mut hangs = sleeper(&file);
    drop(file);
    [&ended, &killed, &unknown, &running, &lives]
        .into_iter()
        .for_each(|dir| of_another_version(dir));

    let (wasm, mut happenings) = bench.adopt().await;
    let all = listed(&wasm);
    let exited = [0, 1, 2].map(|number| (number, "exited"));
    assert_eq!(all, [&exited[..], &[(3, "running"), (4, "starting")]].concat());
    let ends = wasm.list("uid").into_iter().filter(|attempt| attempt.attempt < 3).map(exit);
    let mut ends: Vec<_> = ends.collect();
    ends.sort();
    let lost = || "ContainerStatusUnknown".to_owned();
    assert_eq!(ends, [(0, 3, "Error".into()), (1, 137, lost()), (2, 137, lost())]);
    wasm.stop(&shown(&"4".repeat(64)), Duration::from_secs(30));
    assert_eq!(told_exit(&mut happenings).await, (4, 137, lost()), "it may have run");
    hangs.wait().expect("is ours");
    wasm.stop(&shown(&"3".repeat(64)), Duration::from_secs(30));
    let end = told_exit(&mut happenings).await;
    assert_eq!((end.0, end.1), (3, 143));
    runs.wait().expect("is ours");
    let exited: Vec<_> = (0..5).map(|number| (number, "exited")).collect();
    assert_eq!(listed(&wasm), exited);
}

#[tokio::test]
async fn one_that_can_never_be_known_to_run_is_ended_by_itself() {
    let bench = Bench::new();
    let (dir, state) = bench.held(0);
    let mut hangs = sleeper(&state);
    drop(state);
    of_another_version(&dir);
    let (wasm, mut happenings) = Wasm::open(Arc::clone(&bench.ledger), "/nowhere".into());
    let owner = owner(&dir).expect("is one");
    let left = Left::read((dir, owner), &bench.ledger, None, &bench.images).await;
    wasm.wait_for(left.expect("is there"), Duration::ZERO);
    assert_eq!(listed(&wasm), [(0, "starting")]);
    assert_eq!(told_exit(&mut happenings).await, (0, 137, "ContainerStatusUnknown".into()));
    hangs.wait().expect("is ours");
}

#[tokio::test]
async fn a_signal_of_an_earlier_agent_is_what_one_died_of() {
    let bench = Bench::new();
    let (dir, state) = bench.held(0);
    let mut process = sleeper(&state);
    state.set_launched(&launch(process.id())).expect("writes");
    drop(state);
    kept::keep_signal(&dir, Signal::TERM).expect("writes");
    let (wasm, mut happenings) = bench.adopt().await;
    assert_eq!(listed(&wasm), [(0, "running")]);
    let found = linux::open_process(process.id()).expect("asks").expect("lives");
    linux::signal_process(&found, Signal::TERM).expect("sends");
    let end = told_exit(&mut happenings).await;
    assert_eq!(end, (0, 143, "Error".into()));
    process.wait().expect("is ours");
}

#[tokio::test]
async fn a_state_file_that_was_emptied_under_a_living_sandbox_is_not_made_anew() {
    let bench = Bench::new();
    let (dir, state) = bench.held(0);
    let mut process = sleeper(&state);
    drop(state);
    fs::File::create(dir.join("state")).expect("empties");
    let (wasm, _happenings) = bench.adopt().await;
    assert_eq!(listed(&wasm), [(0, "starting")]);
    process.kill().expect("kills");
    process.wait().expect("is ours");
}

/// A pod whose one container has ended for good, each file of it whole, as before a loss of power.
fn finished(bench: &Bench) -> Vec<PathBuf> {
    let ledger = &bench.ledger;
    let pod = json!({"metadata": {"uid": "uid", "namespace": "ns", "name": "a"}, "spec": {
        "containers": [{"name": "main"}]}});
    ledger.keep_pod(&serde_json::from_value(pod).expect("a pod")).expect("writes");
    ledger.keep_kinds("uid", &json!({"a": 1})).expect("writes");
    let ids = json!({"uidMappings": [{"hostId": 65536, "containerId": 0, "length": 65536}],
        "gidMappings": [{"hostId": 65536, "containerId": 0, "length": 65536}]});
    ledger.keep_user_namespace("uid", &ids).expect("writes");
    let allocation = copepod_pod::Allocation::of(&ledger.kept_pod("uid").expect("is kept"));
    ledger.keep_allocation("uid", &allocation).expect("writes");
    let has = copepod_pod::Actuated::default();
    ledger.keep_actuated(("uid", "main", 0), has, true).expect("writes");
    let (dir, state) = bench.held(0);
    let about = fs::read_to_string(dir.join("about")).expect("reads");
    fs::write(dir.join("about"), about.replace(linux::boot_id(), "another")).expect("writes");
    state.set_launched(&launch(1)).expect("writes");
    state.set_exit(&record()).expect("writes");
    kept::keep_signal(&dir, Signal::TERM).expect("writes");
    let end = Exit {
        started_at: None,
        finished_at: timestamp(7),
        code: 3,
        reason: "Error".into(),
        message: "told".into(),
    };
    kept::keep_end(&dir, &end).expect("writes");
    let of_pod = ["pod.json", "kinds.json", "userns", "allocation.json", "actuated/main.json"];
    let of_attempt = ["about", "state", "ended", "signal"];
    let of_pod = of_pod.map(|name| ledger.pod_dir("uid").join(name));
    of_pod.into_iter().chain(of_attempt.map(|name| dir.join(name))).collect()
}

#[tokio::test]
async fn no_file_that_a_loss_of_power_cut_keeps_an_agent_from_starting_or_runs_anything_twice() {
    let files = finished(&Bench::new()).len();
    // Each alone, then all that are not synced at once.
    for cut in (0..files).map(Some).chain([None]) {
        for divisor in [0, 2] {
            let bench = Bench::new();
            let all = finished(&bench);
            let torn: Vec<_> = match cut {
                Some(cut) => vec![all[cut].clone()],
                None => all.into_iter().filter(|path| !path.ends_with("state")).collect(),
            };
            for path in &torn {
                let file = fs::File::options().write(true).open(path).expect("opens");
                let len = file.metadata().expect("is there").len();
                file.set_len(len.checked_div(divisor).unwrap_or(0)).expect("cuts");
            }
            let user_ids: Result<Option<Value>, _> = bench.ledger.user_namespace("uid");
            user_ids.expect("is read, or is none");
            assert_eq!(bench.ledger.kept_pods().expect("lists").len(), 1);
            let (_, _): (Option<Value>, _) =
                (bench.ledger.kinds("uid"), bench.ledger.allocation("uid"));
            for _ in 0..2 {
                let (wasm, _happenings) = bench.adopt().await;
                let told: Vec<_> = wasm.list("uid").into_iter().map(exit).collect();
                assert_eq!(told.len(), 1, "{torn:?}");
                assert_eq!((told[0].0, told[0].1), (0, 3), "{torn:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_may_have_run_before_the_power_was_lost_does_not_run_again() {
    let bench = Bench::new();
    let all = finished(&bench);
    // Killed, so that nothing of it was ever synced.
    for path in &all {
        fs::File::create(path).expect("empties");
    }
    let (wasm, _happenings) = bench.adopt().await;
    let told: Vec<_> = wasm.list("uid").into_iter().map(exit).collect();
    assert_eq!(told, [(0, 137, "ContainerStatusUnknown".into())]);
    // It is removed like any other.
    let id = wasm.list("uid")[0].id.clone();
    wasm.remove(&id).await;
    assert!(!bench.ledger.attempt_dir("uid", "main", 0).exists());
}

#[tokio::test]
async fn what_was_lost_of_an_attempt_is_found_again_by_its_pods_object_or_its_logs() {
    for kept in [true, false] {
        let bench = Bench::new();
        let all = finished(&bench);
        let dir = bench.ledger.attempt_dir("uid", "main", 0);
        fs::File::create(dir.join("about")).expect("empties");
        fs::remove_file(dir.join("ended")).expect("removes");
        let logs = bench.ledger.log_dir("ns", "a", "uid", "main");
        fs::create_dir_all(&logs).expect("makes");
        fs::write(logs.join("0.log"), "").expect("writes");
        let dev = dir.join("root/dev");
        fs::create_dir_all(&dev).expect("makes");
        fs::write(dev.join("termination-log"), "last words").expect("writes");
        if !kept {
            fs::File::create(&all[0]).expect("empties");
        }
        let (wasm, _happenings) = bench.adopt().await;
        let found = About::read(&dir).expect("is whole again");
        assert_eq!(found.log, logs.join("0.log"));
        let attempt = wasm.list("uid").remove(0);
        let AttemptState::Exited(exit) = attempt.state else { panic!("{attempt:?}") };
        assert_eq!((exit.code, &*exit.message), (3, "m: last words"));
        wasm.remove(&attempt.id).await;
        assert!(!logs.join("0.log").exists());
    }
}

#[tokio::test]
async fn the_image_of_one_that_was_taken_over_is_held_and_shown_until_it_is_removed() {
    let bench = Bench::new();
    let blobs = bench.dir.path().join("cache/images/blobs/sha256");
    fs::create_dir_all(&blobs).expect("makes");
    let put = |bytes: &[u8]| {
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        fs::write(blobs.join(&digest), bytes).expect("writes");
        digest
    };
    let (config, wasm) = (put(b"{}"), put(b"\0asm"));
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json",
            "digest": format!("sha256:{config}"), "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": format!("sha256:{wasm}"), "size": 4}],
    });
    let manifest = put(manifest.to_string().as_bytes());
    // Its name has gone to another image: none of the store leads to it.
    let (dir, state) = bench.held(0);
    let mut process = sleeper(&state);
    state.set_launched(&launch(process.id())).expect("writes");
    drop(state);
    let about = fs::read(dir.join("about")).expect("reads");
    let mut about: Value = serde_json::from_slice(&about).expect("is JSON");
    about["image"] = json!({
        "image": "r/app:latest", "image_id": "r/app@sha256:1",
        "manifest": format!("sha256:{manifest}"),
        "wasm": {"path": blobs.join(&wasm), "digest": wasm},
    });
    fs::write(dir.join("about"), about.to_string()).expect("writes");

    let (runtime, mut happenings) = bench.adopt().await;
    let attempt = runtime.list("uid").remove(0);
    let names = ImageNames { image: "r/app:latest".into(), image_id: "r/app@sha256:1".into() };
    assert_eq!(attempt.image, Some(names));
    // Opened for the first time, the store removes what nobody has.
    bench.images.prune().await.expect("tidies up");
    assert!([&manifest, &config, &wasm].iter().all(|blob| blobs.join(blob).exists()));
    runtime.stop(&attempt.id, Duration::ZERO);
    told_exit(&mut happenings).await;
    process.wait().expect("is ours");
    bench.images.prune().await.expect("tidies up");
    assert!(blobs.join(&wasm).exists(), "it may start again");
    runtime.remove(&attempt.id).await;
    // Its monitor has told the end before it let go.
    let gone = async {
        while blobs.join(&manifest).exists() || blobs.join(&wasm).exists() {
            bench.images.prune().await.expect("tidies up");
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("in time");
}
