use super::*;

fn range(first: u32, length: u32) -> IdRange {
    IdRange { first, length }
}

fn pool(pods: u32) -> Pool {
    Pool::new(range(UNIT, UNIT * pods), UNIT, pods).expect("they go together")
}

#[test]
fn numbers_that_do_not_go_together_are_named() {
    for ((first, length), per_pod, max_pods, expected) in [
        ((UNIT, UNIT), 5, 1, "kubelet user namespace length 5 is not a multiple of 65536"),
        ((UNIT, UNIT), 0, 1, "kubelet user namespace length 0 is not a multiple of 65536"),
        ((UNIT + 1, UNIT), UNIT, 1, "kubelet user assigned ID 65537 is not a multiple of 65536"),
        ((0, UNIT), UNIT, 1, "kubelet user assigned ID 0 must be greater or equal to 65536"),
        (
            (UNIT, UNIT + 1),
            UNIT,
            1,
            "kubelet user assigned IDs length 65537 is not a multiple of 65536",
        ),
        ((0xffff_0000, 2 * UNIT), UNIT, 1, "131072 ids from 4294901760 on are more than there are"),
        ((UNIT, 3 * UNIT), UNIT, 4, "kubelet user assigned IDs are not enough to support 4 pods"),
    ] {
        let error = Pool::new(range(first, length), per_pod, max_pods).expect_err("is refused");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn by_default_all_but_the_hosts_own_are_given() {
    for per_pod in [UNIT, 2 * UNIT] {
        let all = default_range(per_pod);
        assert_eq!(u64::from(all.first) + u64::from(all.length), 1 << 32);
        Pool::new(all, per_pod, 250).expect("they go together");
    }
}

#[test]
fn the_words_of_getsubids() {
    let found = parse_sub_ids("0: kubelet 65536 2147483648\n").expect("is read");
    assert_eq!(found, range(65536, 2_147_483_648));
    for (text, expected) in [
        ("", "invalid line \"\""),
        ("0: kubelet 65536", "invalid line \"0: kubelet 65536\""),
        ("0: kubelet 65536 many", "invalid line \"0: kubelet 65536 many\""),
        ("0: kubelet 65536 4294967296", "invalid line \"0: kubelet 65536 4294967296\""),
        ("a\nb\n", "error parsing line \"a\\nb\\n\": it must contain only one line"),
    ] {
        assert_eq!(parse_sub_ids(text).expect_err("is none").to_string(), expected);
    }
}

#[test]
fn no_two_pods_have_an_id_in_common() {
    let mut pool = pool(3);
    let first = pool.take("a").expect("there is one");
    assert_eq!(first, range(UNIT, UNIT));
    assert_eq!(pool.take("a").expect("its own"), first);
    assert_eq!(pool.take("b").expect("there is one"), range(2 * UNIT, UNIT));
    // What was just given back is not the next one's.
    pool.release("a");
    assert_eq!(pool.take("c").expect("there is one"), range(3 * UNIT, UNIT));
    assert_eq!(pool.take("d").expect("there is one"), first);
    let error = pool.take("e").expect_err("there is none");
    assert_eq!(error.to_string(), "could not find an empty slot to allocate a user namespace");
}

#[test]
fn what_a_pod_has_of_another_range_is_its_own() {
    let mut pool = pool(4);
    // Of a node that gave twice as many, from elsewhere.
    pool.keep("old", range(2 * UNIT + 100, 2 * UNIT)).expect("nobody has them");
    pool.keep("old", range(2 * UNIT + 100, 2 * UNIT)).expect("they are its own");
    let error = pool.keep("other", range(4 * UNIT, UNIT)).expect_err("they are old's");
    assert_eq!(error.to_string(), "pod other: the ids from 262144 on are those of pod old");
    assert_eq!(pool.take("new").expect("there is one"), range(UNIT, UNIT));
    pool.take("more").expect_err("the rest overlap");
}

#[test]
fn what_is_kept_is_found_by_the_next_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(&dir.path().join("r"), &dir.path().join("run")).expect("opens");
    let ids = UserIds::open(pool(3), &ledger).expect("opens");
    let [one, two] = ["one", "two"].map(|uid| ids.take(uid, &ledger).expect("there is one"));
    assert_ne!(one, two);
    let file = ledger.pod_dir("one").join("userns");
    assert_eq!(
        std::fs::read_to_string(&file).expect("is there"),
        r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}"#
    );
    {
        // Who looks waits for no disk.
        let _turn = ids.turn();
        assert_eq!(ids.get("one"), Some(one));
    }
    let next = UserIds::open(pool(3), &ledger).expect("opens");
    assert_eq!((next.get("one"), next.get("two"), next.get("three")), (Some(one), Some(two), None));
    next.release("one", &ledger).expect("is released");
    assert!(!file.exists() && next.get("one").is_none());
    next.release("one", &ledger).expect("once more is no error");
    assert_ne!(next.take("three", &ledger).expect("there is one"), two);
}

#[test]
fn a_record_that_is_not_ours_keeps_the_agent_from_starting() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(&dir.path().join("r"), &dir.path().join("run")).expect("opens");
    std::fs::create_dir_all(ledger.pod_dir("one")).expect("made");
    let mapping = |host: u32, inside: u32| {
        format!(r#"[{{"hostId":{host},"containerId":{inside},"length":65536}}]"#)
    };
    let both = |uids: &str, gids: &str| format!(r#"{{"uidMappings":{uids},"gidMappings":{gids}}}"#);
    let ours = mapping(65536, 0);
    for text in [
        "{}".to_owned(),
        both("[]", "[]"),
        both(&ours, &mapping(131_072, 0)),
        both(&mapping(65536, 1), &mapping(65536, 1)),
    ] {
        std::fs::write(ledger.pod_dir("one").join("userns"), &text).expect("written");
        assert!(UserIds::open(pool(3), &ledger).is_err(), "{text}");
    }
}

#[test]
fn a_record_that_was_lost_with_the_power_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(&dir.path().join("r"), &dir.path().join("run")).expect("opens");
    let ids = UserIds::open(pool(3), &ledger).expect("opens");
    ids.take("one", &ledger).expect("there is one");
    let file = ledger.pod_dir("one").join("userns");
    let whole = std::fs::read_to_string(&file).expect("is there");
    for len in [0, whole.len() / 2] {
        std::fs::write(&file, &whole[..len]).expect("written");
        let ids = UserIds::open(pool(3), &ledger).expect("opens all the same");
        assert_eq!(ids.get("one"), None);
        ids.take("one", &ledger).expect("there is one");
    }
}

impl Pool {
    /// Gives the pod its ids, if it has none.
    ///
    /// # Errors
    /// [`UserIdsError::None`].
    fn take(&mut self, uid: &str) -> Result<IdRange, UserIdsError> {
        if let Some(found) = self.get(uid) {
            return Ok(found);
        }
        let found = self.find()?;
        self.give(uid, found);
        Ok(found)
    }
}
