use super::*;
use crate::cluster::events::{Recorder, pod_reference};

/// An event as a recorder says it.
fn event(pod: &str, reason: &str, message: &str) -> Event {
    let (recorder, mut inbox) = Recorder::for_test();
    let pod =
        serde_json::from_value(json!({"metadata": {"name": pod, "namespace": "ns", "uid": pod}}));
    recorder.record(pod_reference(&pod.expect("a pod"), None), true, reason, message.to_owned());
    inbox.try_recv().expect("one event")
}

struct Bench {
    correlator: Correlator,
    wall: Timestamp,
    at: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { correlator: Correlator::new(), wall: Timestamp::now(), at: Instant::now() }
    }

    fn say(&mut self, event: Event) -> Option<Correlated> {
        let correlated = self.correlator.correlate(event, self.wall, self.at)?;
        self.correlator.written(&correlated.event);
        Some(correlated)
    }

    fn later(&mut self, seconds: u64) {
        self.at += Duration::from_secs(seconds);
        self.wall += Duration::from_secs(seconds);
    }
}

#[test]
fn the_same_event_again_counts_up_the_first_one() {
    let mut bench = Bench::new();
    let first = bench.say(event("a", "BackOff", "m")).expect("the first");
    assert_eq!((first.event.count, &first.patch), (Some(1), &None));
    bench.later(60);
    let second = bench.say(event("a", "BackOff", "m")).expect("the second");
    assert_eq!(second.event.count, Some(2));
    assert_eq!(second.event.metadata.name, first.event.metadata.name);
    assert_eq!(second.event.first_timestamp, first.event.first_timestamp);
    let patch = second.patch.expect("a patch");
    let fields: Vec<_> = patch.as_object().expect("a map").keys().map(String::as_str).collect();
    assert_eq!(fields, ["count", "lastTimestamp", "message"]);
    assert_eq!(patch["count"], 2);
    for other in [event("a", "BackOff", "n"), event("a", "Failed", "m"), event("b", "BackOff", "m")]
    {
        assert_eq!(bench.say(other).expect("another").patch, None);
    }
}

#[test]
fn ten_that_differ_by_message_only_become_one() {
    let mut bench = Bench::new();
    for n in 0..9 {
        let said = bench.say(event("a", "Failed", &n.to_string())).expect("one of the first nine");
        assert_eq!((said.event.message.as_deref(), said.patch), (Some(&*n.to_string()), None));
    }
    let tenth = bench.say(event("a", "Failed", "9")).expect("the tenth");
    assert_eq!(tenth.event.message.as_deref(), Some("(combined from similar events): 9"));
    assert_eq!((tenth.event.count, &tenth.patch), (Some(1), &None));
    let next = bench.say(event("a", "Failed", "10")).expect("the eleventh");
    assert_eq!(
        (next.event.count, &next.event.metadata.name),
        (Some(2), &tenth.event.metadata.name)
    );
    let patch = next.patch.expect("a patch");
    assert_eq!(patch["message"], "(combined from similar events): 10");
    // Other reasons, and other objects, are not concerned.
    for other in [event("a", "Killing", "10"), event("b", "Failed", "10")] {
        let said = bench.say(other).expect("another");
        assert_eq!(said.event.message.as_deref(), Some("10"));
    }
    bench.later(601);
    let anew = bench.say(event("a", "Failed", "11")).expect("ten minutes later");
    assert_eq!(anew.event.message.as_deref(), Some("11"));
}

#[test]
fn one_object_has_25_at_once_and_then_one_each_five_minutes() {
    let mut bench = Bench::new();
    let say = |bench: &mut Bench, pod, n: u32| bench.say(event(pod, &format!("R{n}"), "m"));
    assert!((0..25).all(|n| say(&mut bench, "a", n).is_some()));
    assert!(say(&mut bench, "a", 25).is_none());
    assert!(say(&mut bench, "b", 25).is_some(), "another object");
    bench.later(299);
    assert!(say(&mut bench, "a", 26).is_none());
    bench.later(1);
    // Seen but not written: it is counted all the same, as upstream does it.
    assert_eq!(say(&mut bench, "a", 26).expect("after five minutes").event.count, Some(2));
    assert!(say(&mut bench, "a", 27).is_none());
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut lru = Lru::new();
    for key in 0..u64::try_from(REMEMBERED).expect("small") {
        lru.put(key, key);
    }
    assert_eq!(lru.get(0), Some(&0), "used again, so that the next one goes");
    lru.put(u64::MAX, 7);
    let found = [0, 1, u64::MAX].map(|key| lru.get(key).copied());
    assert_eq!(found, [Some(0), None, Some(7)]);
    assert_eq!((lru.entries.len(), lru.order.len()), (REMEMBERED, REMEMBERED));
    *lru.entry(0, || 9) += 1;
    assert_eq!(lru.get(0), Some(&1));
    assert_eq!((lru.entries.len(), lru.order.len()), (REMEMBERED, REMEMBERED));
}

#[test]
fn names_of_events() {
    let wall = Timestamp::from_nanosecond(0x18_7b).expect("a time");
    assert_eq!(event_name("web-1", wall), "web-1.187b");
    for odd in ["x".repeat(253), "system:node".into(), String::new()] {
        assert_eq!(event_name(&odd, wall).len(), 36, "{odd}");
    }
}

#[test]
fn a_bucket_fills_by_itself() {
    let start = Instant::now();
    let mut bucket = Bucket::new(2.0, 10.0, start);
    assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
    assert_eq!(bucket.wait(start), Duration::from_millis(100));
    assert!(bucket.take(start + Duration::from_millis(101)));
    let later = start + Duration::from_secs(60);
    assert!(bucket.take(later) && bucket.take(later) && !bucket.take(later), "never more than two");
}
