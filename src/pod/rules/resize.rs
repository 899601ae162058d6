//! Resources that are changed in place.

use super::*;
use crate::{Actuated, ResizeNews, Resized};

/// A pod of two containers with these cpu limits in thousandths and memory limits in MiB, of this
/// generation.
fn sized(generation: i64, a: (u32, u32), b: (u32, u32), policy: Value) -> Pod {
    let container = |name: &str, (milli, mebi): (u32, u32)| {
        let all = json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")});
        json!({"name": name, "image": format!("{name}.wasm"), "resizePolicy": policy,
            "resources": {"requests": all, "limits": all}})
    };
    let spec = json!({"restartPolicy": "Always",
        "containers": [container("a", a), container("b", b)]});
    pod_with(&[], &spec, &json!({"generation": generation}))
}

fn plain(generation: i64, a: (u32, u32), b: (u32, u32)) -> Pod {
    sized(generation, a, b, json!([]))
}

fn allocated(pod: Pod) -> Event {
    Event::Resize(ResizeNews::Allocated(Arc::new(pod)))
}

fn resize(containers: &[&str]) -> Action {
    let resized =
        |name: &&str| Resized { container: (*name).to_owned(), attempt: 0, id: id(name, 0) };
    Action::Resize { containers: containers.iter().map(resized).collect() }
}

/// The memory limit that a container's status shows, and the one that it was allocated.
fn memory(rig: &Rig, container: &str) -> (String, String) {
    let shown = rig.shown(container);
    let limits = shown.resources.unwrap().limits.unwrap();
    let allocated = shown.allocated_resources.unwrap();
    (limits["memory"].0.clone(), allocated["memory"].0.clone())
}

fn reasons(rig: &mut Rig) -> Vec<String> {
    let told = std::mem::take(&mut rig.records);
    told.iter().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
}

fn has(rig: &Rig, kind: &str) -> bool {
    rig.status().conditions.unwrap().iter().any(|condition| condition.type_ == kind)
}

#[test]
fn what_is_allocated_is_brought_to_those_that_have_other_resources() {
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    rig.records.clear();
    let done = rig.feed(allocated(plain(4, (200, 128), (100, 64))));
    assert_eq!(done, [resize(&["a"])]);
    assert_eq!(reasons(&mut rig), ["N - ResizeStarted"]);
    assert_eq!(memory(&rig, "a"), ("64Mi".to_owned(), "128Mi".to_owned()), "not yet");
    assert_eq!(rig.condition("PodResizeInProgress").observed_generation, Some(4));
    assert_eq!(rig.feed(Event::Resized(Ok(()))), []);
    assert_eq!(memory(&rig, "a").0, "128Mi");
    let completed = rig.records.pop().unwrap();
    let list = r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"200m","memory":"128Mi"}}},{"name":"b","resources":{"limits":{"cpu":"100m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":4}"#;
    assert_eq!(completed, format!("N - ResizeCompleted: Pod resize completed: {list}"));
    assert!(!has(&rig, "PodResizeInProgress"));
    let status = rig.status();
    assert_eq!(status.allocated_resources.unwrap()["cpu"].0, "300m");
    assert_eq!(status.resources.unwrap().limits.unwrap()["memory"].0, "192Mi");
}

#[test]
fn a_container_shows_the_cpu_that_it_has_if_the_kernel_can_tell() {
    let cpu = |rig: &Rig| {
        let shown = rig.shown("a").resources.unwrap();
        [shown.limits, shown.requests].map(|list| list.unwrap()["cpu"].0.clone())
    };
    for (had, wanted, before) in [
        (100, 200, ["100m", "100m"]),
        (5, 11, ["5m", "5m"]),
        (5, 10, ["10m", "5m"]),
        (1, 2, ["2m", "2m"]),
    ] {
        let mut rig = Rig::running(plain(3, (had, 64), (100, 64)));
        assert_eq!(rig.feed(allocated(plain(4, (wanted, 64), (100, 64)))), [resize(&["a"])]);
        assert_eq!(cpu(&rig), before, "from {had} to {wanted}");
        rig.feed(Event::Resized(Ok(())));
        assert_eq!(cpu(&rig), [format!("{wanted}m"), format!("{wanted}m")]);
    }
}

#[test]
fn a_pod_shows_what_it_asks_for_and_from_when_it_runs_what_it_has() {
    let whole = |rig: &Rig| serde_json::to_value(rig.status().resources).unwrap();
    let sum = |milli: &str| {
        let all = json!({"cpu": milli, "memory": "128Mi"});
        json!({"requests": all, "limits": all})
    };
    assert_eq!(whole(&Rig::up(plain(3, (100, 64), (100, 64)))), sum("200m"));
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    rig.feed(allocated(plain(4, (200, 64), (100, 64))));
    assert_eq!(whole(&rig), sum("200m"));
    rig.feed(Event::Resized(Ok(())));
    assert_eq!(whole(&rig), sum("300m"));
    let requests = json!({"cpu": "1m", "ephemeral-storage": "1Gi"});
    let limits = json!({"cpu": "10m"});
    let resources = json!({"requests": requests, "limits": limits});
    let spec = json!({"containers": [{"name": "a", "resources": resources}]});
    let object = pod_with(&[], &spec, &json!({}));
    assert_eq!(whole(&Rig::up(object.clone())), resources);
    assert_eq!(whole(&Rig::running(object)), json!({}), "no more than the kernel can tell");
    assert_eq!(whole(&Rig::up(pod(&["a"], "Always"))), json!({}));
}

#[test]
fn one_resize_at_a_time_and_the_last_wish_counts() {
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    assert_eq!(rig.feed(allocated(plain(4, (200, 64), (100, 64)))), [resize(&["a"])]);
    assert_eq!(rig.feed(allocated(plain(5, (200, 64), (300, 64)))), []);
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [resize(&["b"])]);
    assert_eq!(rig.feed(allocated(plain(6, (200, 64), (100, 64)))), []);
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [resize(&["b"])], "and back");
    assert_eq!(rig.feed(Event::Resized(Ok(()))), []);
    assert!(!has(&rig, "PodResizeInProgress"));
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [], "an answer that nobody waits for");
}

#[test]
fn a_resize_that_is_taken_back_on_its_way_is_not_done() {
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    assert_eq!(rig.feed(allocated(plain(4, (200, 64), (100, 64)))), [resize(&["a"])]);
    rig.records.clear();
    assert_eq!(rig.feed(allocated(plain(5, (100, 64), (100, 64)))), []);
    assert_eq!(reasons(&mut rig), ["N - ResizeStarted"]);
    assert!(has(&rig, "PodResizeInProgress"));
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [resize(&["a"])], "back again");
    rig.feed(Event::Resized(Ok(())));
    assert_eq!(reasons(&mut rig), ["N - ResizeCompleted"]);
}

#[test]
fn what_an_earlier_agent_began_is_done_when_the_pod_is_set_up() {
    let mut object = plain(4, (100, 64), (100, 64));
    let shown = json!({"type": "PodResizeInProgress", "status": "True", "observedGeneration": 4,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let ready = json!({"type": "Ready", "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    object.status = serde_json::from_value(json!({"conditions": [ready, shown]})).unwrap();
    let mut rig = Rig::new(object);
    let running = |name| attempt(name, 0, AttemptState::Running { started_at: wall(-9) });
    rig.feed(Event::Observed(vec![running("a"), running("b")]));
    assert!(has(&rig, "PodResizeInProgress"), "nobody knows yet");
    assert!(!has(&rig, "PodResizePending"));
    assert_eq!(reasons(&mut rig), [""; 0]);
    rig.set_up();
    assert!(!has(&rig, "PodResizeInProgress"));
    assert_eq!(reasons(&mut rig), ["N - ResizeCompleted"]);
}

#[test]
fn a_resize_that_fails_is_told_once_and_tried_again() {
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    rig.records.clear();
    rig.feed(allocated(plain(4, (100, 16), (100, 64))));
    let refused = || Event::Resized(Err("cannot decrease memory limits: no".to_owned()));
    let since = |rig: &Rig| {
        rig.condition("PodResizeInProgress").last_transition_time.unwrap().0.as_second()
    };
    let begun = since(&rig);
    rig.pass(5);
    assert_eq!(rig.feed(refused()), []);
    assert_eq!(since(&rig), begun + 5, "another reason");
    assert_eq!(rig.cond("PodResizeInProgress"), "True Error cannot decrease memory limits: no");
    assert_eq!(reasons(&mut rig), ["N - ResizeStarted", "W - ResizeError"]);
    let (wait, done) = rig.timer();
    assert_eq!((wait, done), (1, vec![resize(&["a"])]));
    rig.feed(refused());
    assert_eq!(since(&rig), begun + 5);
    let shown = rig.condition("PodResizeInProgress");
    assert_eq!(shown.observed_generation, Some(4), "of when it began");
    assert_eq!(shown.last_probe_time.unwrap().0.as_second(), begun + 6);
    assert_eq!(reasons(&mut rig), [""; 0]);
    // Taken back: nothing is to be done.
    assert_eq!(rig.feed(allocated(plain(5, (100, 64), (100, 64)))), []);
    assert_eq!(reasons(&mut rig), ["N - ResizeStarted", "N - ResizeCompleted"]);
    assert!(!has(&rig, "PodResizeInProgress"));
}

#[test]
fn what_waits_is_shown_and_told_once_for_each_wish() {
    let mut rig = Rig::running(plain(3, (100, 64), (100, 64)));
    rig.records.clear();
    let pending = |generation, reason: &str, message: &str| {
        let desired = Arc::new(plain(generation, (900, 64), (100, 64)));
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Event::Resize(ResizeNews::Pending { desired, reason, message })
    };
    assert_eq!(rig.feed(pending(4, "OutOfcpu", "no room")), []);
    assert_eq!(rig.cond("PodResizePending"), "True Deferred no room");
    let told = rig.records.pop().unwrap();
    assert!(
        told.starts_with("W - ResizeDeferred: Pod resize OutOfcpu: {\"containers\":"),
        "{told}"
    );
    assert!(told.ends_with(",\"generation\":4,\"error\":\"no room\"}"), "{told}");
    let since = rig.condition("PodResizePending").last_transition_time;
    rig.pass(30);
    rig.feed(pending(4, "OutOfcpu", "less room"));
    assert_eq!(rig.cond("PodResizePending"), "True Deferred less room");
    assert_eq!(rig.condition("PodResizePending").last_transition_time, since);
    assert_eq!(rig.records, [""; 0]);
    rig.feed(pending(5, "Infeasible", "never"));
    assert_eq!(rig.cond("PodResizePending"), "True Infeasible never");
    assert_eq!(reasons(&mut rig), ["W - ResizeInfeasible"]);
    rig.feed(Event::Resize(ResizeNews::None));
    assert!(!has(&rig, "PodResizePending"));
    rig.feed(pending(6, "OutOfcpu", "no room"));
    rig.feed(Event::Kill { grace: Duration::ZERO });
    rig.exit("a", 0, 0);
    rig.exit("b", 0, 0);
    assert!(!has(&rig, "PodResizePending"), "of a pod that is over nothing waits");
}

#[test]
fn a_container_that_asks_for_it_is_restarted_before_anything_else_is_resized() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let sized = |generation, a, b| sized(generation, a, b, policy.clone());
    let mut rig = Rig::running(sized(3, (100, 64), (100, 64)));
    rig.records.clear();
    assert_eq!(rig.feed(allocated(sized(4, (200, 64), (100, 64)))), [resize(&["a"])]);
    rig.feed(Event::Resized(Ok(())));
    reasons(&mut rig);
    let done = rig.feed(allocated(sized(5, (200, 128), (200, 64))));
    assert_eq!(done, [stop("a", 0, 30)]);
    let told = rig.records.join("\n");
    assert!(told.contains("N a Killing: Container a resize requires restart"), "{told}");
    rig.actions.clear();
    let done = rig.exit("a", 0, 137);
    assert_eq!(done.first(), Some(&resize(&["b"])), "{done:?}");
    rig.feed(Event::Resized(Ok(())));
    assert!(has(&rig, "PodResizeInProgress"), "until it runs");
    rig.image("a");
    assert!(rig.actions.contains(&start("a", 1)), "{:?}", rig.actions);
    rig.run("a", 1);
    assert!(!has(&rig, "PodResizeInProgress"));
    assert_eq!(rig.shown("a").restart_count, 1);
    assert_eq!(memory(&rig, "a"), ("128Mi".to_owned(), "128Mi".to_owned()));
}

#[test]
fn who_is_restarted_first_waits_for_the_others_and_for_the_pods_group() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let sized = |generation, a, b| sized(generation, a, b, policy.clone());
    let mut rig = Rig::running(sized(3, (100, 64), (100, 64)));
    let done = rig.feed(allocated(sized(4, (100, 128), (100, 128))));
    assert_eq!(done, [stop("a", 0, 30), stop("b", 0, 30)]);
    assert_eq!(rig.exit("a", 0, 137), [], "b ends yet");
    assert_eq!(rig.exit("b", 0, 137), [resize(&[])]);
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [prepare("a"), prepare("b")]);
}

#[test]
fn a_later_agent_goes_on_with_what_was_not_done() {
    let had = |milli: i64, mebi: i64| Actuated {
        cpu_request: milli,
        cpu_limit: milli,
        memory_request: mebi << 20,
        memory_limit: mebi << 20,
    };
    let mut rig = Rig::new(plain(4, (200, 128), (100, 64)));
    let known = vec![("a".to_owned(), 0, had(100, 64)), ("b".to_owned(), 0, had(100, 64))];
    assert_eq!(rig.feed(Event::Actuated(known)), []);
    let running = |name| attempt(name, 0, AttemptState::Running { started_at: wall(-9) });
    assert_eq!(rig.feed(Event::Observed(vec![running("a"), running("b")])), [Action::SetUp]);
    assert_eq!(rig.set_up(), [resize(&["a"])]);
    assert_eq!(memory(&rig, "a").0, "64Mi");
    rig.feed(Event::Resized(Ok(())));
    assert_eq!(memory(&rig, "a").0, "128Mi");
    // Of those that it does not know it says what they are to have.
    let mut rig = Rig::new(plain(4, (200, 128), (100, 64)));
    rig.feed(Event::Observed(vec![running("a"), running("b")]));
    assert_eq!(rig.set_up(), []);
    assert_eq!(memory(&rig, "a").0, "128Mi");
}
