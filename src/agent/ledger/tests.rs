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
fn the_links_to_a_pods_logs_go_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |path: &str| dir.path().join(path);
    let dirs = LogDirs { logs: at("logs"), links: at("links") };
    let ledger = Ledger::of_node(&at("r"), &at("run"), dirs).expect("opens");
    let mut pod = Pod::default();
    pod.metadata.namespace = Some("ns".to_owned());
    pod.metadata.name = Some("a".to_owned());
    pod.metadata.uid = Some("uid".to_owned());
    let logs = ledger.log_dir_of(&pod, "main");
    fs::create_dir_all(&logs).expect("makes");
    fs::write(logs.join("0.log"), "").expect("writes");
    for (name, log) in [
        ("one.log", logs.join("0.log")),
        ("gone.log", logs.join("1.log")),
        ("anothers.log", at("logs/ns_a_other/main/0.log")),
    ] {
        std::os::unix::fs::symlink(log, at("links").join(name)).expect("links");
    }
    fs::write(at("links/no-link.log"), "").expect("writes");
    for _ in 0..2 {
        ledger.forget_pod(&pod).expect("forgets");
        let left = entries(&at("links")).expect("lists");
        let mut left: Vec<_> = left.iter().filter_map(|path| path.file_name()).collect();
        left.sort();
        assert_eq!(left, ["anothers.log", "no-link.log"]);
    }
    Ledger::open(&at("p"), &at("run")).expect("opens").forget_pod(&pod).expect("has no links");
}
