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
