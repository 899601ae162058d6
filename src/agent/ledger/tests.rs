use super::*;

#[test]
fn one_root_directory_has_one_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, run) = (dir.path().join("base/a"), dir.path().join("run"));
    let first = Ledger::open(&root, &run).expect("opens");
    let second = Ledger::open(&root, &run).expect_err("is refused");
    assert!(matches!(second, LedgerError::InUse(_)), "{second}");
    assert!(abandoned(&dir.path().join("base"), &run).expect("lists").is_empty());
    drop(first);
    let found = abandoned(&dir.path().join("base"), &run).expect("lists");
    assert_eq!(found.len(), 1);
    for ledger in found {
        ledger.remove().expect("removes");
    }
    assert!(!root.exists());
}

#[test]
fn attempts_are_found_where_they_are_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(&dir.path().join("r"), &dir.path().join("run")).expect("opens");
    assert!(ledger.attempt_dirs().expect("lists").is_empty());
    let made = ledger.attempt_dir("uid", "main", 3);
    fs::create_dir_all(&made).expect("makes");
    assert_eq!(ledger.attempt_dirs().expect("lists"), [made]);
}

#[test]
fn a_long_run_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = dir.path().join("x".repeat(100));
    let error = Ledger::open(&dir.path().join("r"), &run).expect_err("is refused");
    assert!(matches!(error, LedgerError::TooLong(_)), "{error}");
}

#[test]
fn links_to_logs_that_are_gone_go() {
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().expect("a directory");
    let at = |path: &str| dir.path().join(path);
    let dirs = LogDirs { logs: at("logs"), links: at("links") };
    let ledger = Ledger::of_node(&at("r"), &at("run"), dirs).expect("opens");
    fs::write(at("logs/0.log"), "").expect("writes");
    let link = |name: &str, log: PathBuf| {
        std::os::unix::fs::symlink(log, at("links").join(name)).expect("links");
    };
    link("lives.log", at("logs/0.log"));
    link("dead.log", at("logs/1.log"));
    link("anothers.log", at("elsewhere/1.log"));
    fs::write(at("links/no-link.log"), "").expect("writes");
    let left = |after: u64| {
        let now = SystemTime::now() + Duration::from_secs(after);
        ledger.remove_dead_links(now).expect("removes");
        let mut left: Vec<String> = entries(&at("links"))
            .expect("lists")
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        left.sort();
        left
    };
    assert_eq!(left(0), ["anothers.log", "dead.log", "lives.log", "no-link.log"], "a new one");
    assert_eq!(left(61), ["anothers.log", "lives.log", "no-link.log"]);
    let mut pod = Pod::default();
    pod.metadata.namespace = Some("ns".to_owned());
    pod.metadata.name = Some("a".to_owned());
    pod.metadata.uid = Some("uid".to_owned());
    let log = ledger.log_dir_of(&pod, "main").join("0.log");
    fs::create_dir_all(log.parent().expect("a directory")).expect("makes");
    fs::write(&log, "").expect("writes");
    link("pods.log", log);
    ledger.forget_pod(&pod).expect("forgets");
    assert_eq!(left(0), ["anothers.log", "lives.log", "no-link.log"], "with its pod's logs");
    let plain = Ledger::open(&at("p"), &at("run")).expect("opens");
    plain.remove_dead_links(SystemTime::now()).expect("has none");
}
