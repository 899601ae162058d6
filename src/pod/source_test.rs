use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::static_pod::Source::{File, Http};

fn pod(name: &str, uid: &str, image: &str) -> Pod {
    let pod = serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"containers": [{"name": "c", "image": image}]},
    });
    serde_json::from_value(pod).expect("a pod")
}

fn uids(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect()
}

#[test]
fn a_source_adds_changes_and_removes_its_own_pods_alone() {
    let mut all = StaticPods::of([File, Http], []);
    assert!(!all.has_seen_all() && !all.has_seen(File));
    let change = all.set(File, vec![pod("a", "1", "x"), pod("b", "2", "x")], true, "t1");
    assert_eq!(uids(&change.added), ["1", "2"]);
    assert_eq!(annotation(&change.added[0], SEEN_ANNOTATION), Some("t1"));
    assert!(all.has_seen(File) && !all.has_seen_all());
    let change = all.set(Http, vec![pod("c", "3", "x")], true, "t2");
    assert_eq!((uids(&change.added), uids(&change.removed)), (vec!["3"], vec![]));
    assert!(all.has_seen_all());
    // The same again is no change; another image of a uid that was given is one.
    let again = vec![pod("a", "1", "x"), pod("b", "2", "x")];
    assert_eq!(all.set(File, again, true, "t3"), Change::default());
    let change = all.set(File, vec![pod("a", "1", "y"), pod("b", "4", "x")], true, "t4");
    assert_eq!(uids(&change.updated), ["1"]);
    assert_eq!(annotation(&change.updated[0], SEEN_ANNOTATION), Some("t1"));
    assert_eq!((uids(&change.added), uids(&change.removed)), (vec!["4"], vec!["2"]));
}

#[test]
fn what_is_remembered_does_not_say_that_a_source_was_seen() {
    let mut all = StaticPods::of([Http], []);
    assert_eq!(uids(&all.set(Http, vec![pod("a", "1", "x")], false, "t").added), ["1"]);
    assert!(!all.has_seen_all());
    assert_eq!(all.set(Http, vec![pod("a", "1", "x")], true, "t"), Change::default());
    assert!(all.has_seen_all());
    assert!(StaticPods::of([], []).has_seen_all());
}

#[test]
fn a_second_pod_of_a_name_stands_behind_the_first_and_is_named_once() {
    let mut all = StaticPods::of([File], []);
    let change = all.set(File, vec![pod("a", "2", "x")], true, "t");
    assert_eq!(uids(&change.added), ["2"]);
    // Though it sorts first.
    let both = vec![pod("a", "1", "x"), pod("a", "2", "x"), pod("b", "2", "x")];
    let change = all.set(File, both.clone(), true, "t");
    assert_eq!((uids(&change.added), uids(&change.removed)), (vec![], vec![]));
    assert_eq!(uids(&change.doubles), ["1", "2"]);
    assert_eq!(all.set(File, both, true, "t"), Change::default());
    // Once the first is gone, its turn has come.
    let change = all.set(File, vec![pod("a", "1", "x")], true, "t");
    assert_eq!((uids(&change.added), uids(&change.removed)), (vec!["1"], vec!["2"]));
}

#[test]
fn what_an_earlier_agent_had_stands_before_its_doubles() {
    let both = || vec![pod("a", "1", "x"), pod("a", "2", "x")];
    let mut all = StaticPods::of([File], [&both()[1]]);
    let change = all.set(File, both(), true, "t");
    assert_eq!((uids(&change.added), uids(&change.doubles)), (vec!["2"], vec!["1"]));
    // That is of its first word alone.
    all.set(File, vec![], true, "t");
    assert_eq!(uids(&all.set(File, both(), true, "t").added), ["1"]);
}

#[test]
fn a_pod_waits_for_an_older_one_of_its_name() {
    let pods = [pod("a", "1", "x"), pod("a", "2", "x"), pod("b", "3", "x")].map(Arc::new);
    let mut waiting = pods.to_vec();
    let ready = next_to_start(&mut waiting, |pod| full_name(pod).1 == "b");
    assert_eq!((uids(&ready), uids(&waiting)), (vec!["1"], vec!["2", "3"]));
    let ready = next_to_start(&mut waiting, |pod| full_name(pod).1 == "a");
    assert_eq!((uids(&ready), uids(&waiting)), (vec!["3"], vec!["2"]));
    // The first of a name that has to wait holds up the others of it, too.
    let mut waiting = pods.to_vec();
    let ready = next_to_start(&mut waiting, |pod| pod.metadata.uid.as_deref() == Some("1"));
    assert_eq!((uids(&ready), uids(&waiting)), (vec!["3"], vec!["1", "2"]));
}

/// What one word of a source says: which it is, and its pods by name, content and kind.
type Word = (bool, Vec<(u8, u8, u8)>);

fn words() -> impl Strategy<Value = Vec<Word>> {
    let one = (0..4_u8, 0..6_u8, 0..2_u8);
    vec((any::<bool>(), vec(one, 0..6)), 0..12)
}

proptest! {
    /// Whoever applies the changes has what the sources want: each name once, nothing of a source
    /// that was not heard touched, a pod that is still wanted never removed.
    #[test]
    fn changes_lead_to_what_is_wanted(words in words()) {
        let mut all = StaticPods::of([File, Http], []);
        let mut have: BTreeMap<Source, BTreeMap<String, Arc<Pod>>> = BTreeMap::new();
        for (is_file, pods) in words {
            let source = if is_file { File } else { Http };
            let pods: Vec<Pod> = pods
                .iter()
                .map(|(name, uid, image)| {
                    pod(&format!("n{name}"), &format!("{source}-{uid}"), &image.to_string())
                })
                .collect();
            let change = all.set(source, pods.clone(), true, "t");
            let mine = have.entry(source).or_default();
            let before = mine.clone();
            for pod in &change.removed {
                prop_assert!(mine.remove(pod.metadata.uid.as_deref().unwrap()).is_some());
            }
            for pod in &change.added {
                let uid = pod.metadata.uid.clone().unwrap();
                prop_assert!(mine.insert(uid, Arc::clone(pod)).is_none());
            }
            for pod in &change.updated {
                let uid = pod.metadata.uid.clone().unwrap();
                let old = mine.insert(uid, Arc::clone(pod));
                prop_assert!(old.is_some_and(|old| old != *pod));
            }
            let names: BTreeSet<FullName> = mine.values().map(|pod| full_name(pod)).collect();
            prop_assert_eq!(names.len(), mine.len(), "each name once");
            let uids: BTreeSet<&String> = pods.iter().filter_map(|p| p.metadata.uid.as_ref()).collect();
            for (uid, pod) in &before {
                let same = |p: &Pod| p.metadata.uid.as_ref() == Some(uid) && full_name(p) == full_name(pod);
                if pods.iter().any(same) {
                    prop_assert!(mine.contains_key(uid), "{uid} is still wanted");
                }
            }
            prop_assert!(mine.keys().all(|uid| uids.contains(uid)));
        }
    }
}
