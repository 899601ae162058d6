//! Changes from outside: an eviction, a definition that is another one.

use super::*;

fn evict() -> Event {
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".to_owned();
    Event::Evict(Failure { reason: "Evicted".to_owned(), message })
}

fn preempt() -> Event {
    let message = "Preempted in order to admit critical pod".to_owned();
    Event::Evict(Failure { reason: "Preempting".to_owned(), message })
}

fn replace(container: &str) -> Event {
    Event::Replace { container: container.to_owned() }
}

#[test]
fn an_evicted_pod_is_stopped_within_the_least_time_and_fails() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    assert_eq!(rig.feed(evict()), [stop("a", 0, 2), stop("b", 0, 2)]);
    let status = rig.status();
    assert_eq!((rig.phase().as_str(), status.reason), ("Running", None), "not before the end");
    assert_eq!(rig.exit("a", 0, 0), []);
    let later = Failure { reason: "Other".to_owned(), message: String::new() };
    assert_eq!(rig.feed(Event::Evict(later)), []);
    rig.pass(1);
    assert_eq!(rig.exit("b", 0, 0), [Action::TearDown]);
    let status = rig.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"), "though both have succeeded");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!(status.message.as_deref(), Some(message));
    assert!(status.conditions.iter().flatten().all(|one| one.type_ != "DisruptionTarget"));
    let told = |record: &&String| record.contains("Evicted");
    let evicted: Vec<_> = rig.records.iter().filter(told).collect();
    assert_eq!(evicted, [&format!("W - Evicted: {message}")], "once");
    assert_eq!(rig.cond("Ready"), "False PodFailed");
    rig.feed(Event::TornDown(Ok(())));
    assert!(rig.state.is_terminated());
}

#[test]
fn who_goes_for_a_critical_pod_has_its_own_grace() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.records.clear();
    assert_eq!(rig.feed(preempt()), [stop("a", 0, 30)]);
    assert_eq!(rig.feed(evict()), [stop("a", 0, 2)], "the least counts, of the reasons the first");
    assert_eq!(rig.records, ["N a Killing: Stopping container a"], "the node has told of the rest");
    assert_eq!(rig.exit("a", 0, 143), [Action::TearDown]);
    assert_eq!(rig.status().reason.as_deref(), Some("Preempting"));
    let condition = rig.condition("DisruptionTarget");
    assert_eq!(condition.last_transition_time.unwrap().0.as_second(), wall(0).as_second());
    let text =
        "True TerminationByKubelet Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(rig.cond("DisruptionTarget"), text);
}

#[test]
fn an_eviction_shortens_a_deletion_and_comes_too_late_after_the_end() {
    let mut rig = Rig::running(pod(&["a"], "Never"));
    rig.feed(Event::Kill { grace: Duration::from_secs(30) });
    assert_eq!(rig.feed(evict()), [stop("a", 0, 2)]);
    let mut rig = Rig::running(pod(&["a"], "Never"));
    rig.exit("a", 0, 0);
    rig.feed(evict());
    assert_eq!((rig.phase().as_str(), rig.status().reason), ("Succeeded", None));
}

#[test]
fn an_evicted_pod_that_never_ran_fails_too() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(evict());
    assert_eq!(rig.feed(Event::Observed(Vec::new())), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
}

#[test]
fn a_disruption_that_somebody_else_wrote_stays_unless_this_node_evicts() {
    let theirs = json!({"conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "DeletionByTaintManager"}]});
    let mut object = pod(&["a"], "Never");
    object.status = serde_json::from_value(theirs).unwrap();
    let mut rig = Rig::running(object);
    assert_eq!(rig.cond("DisruptionTarget"), "True DeletionByTaintManager");
    rig.feed(preempt());
    rig.exit("a", 0, 143);
    let kinds = rig.status().conditions.unwrap().into_iter().map(|condition| condition.type_);
    assert_eq!(kinds.filter(|kind| kind == "DisruptionTarget").count(), 1);
    assert_eq!(rig.condition("DisruptionTarget").reason.as_deref(), Some("TerminationByKubelet"));
}

#[test]
fn a_replaced_container_is_stopped_and_starts_again_whatever_the_policy() {
    for policy in ["Never", "OnFailure", "Always"] {
        let mut rig = Rig::running(pod(&["a", "b"], policy));
        assert_eq!(rig.feed(replace("a")), [stop("a", 0, 30)], "{policy}");
        let runs = rig.shown("a");
        assert_eq!((runs.image.as_str(), runs.image_id.as_str()), ("file:///a.wasm", "sha256:abc"));
        assert_eq!(rig.feed(replace("a")), [], "stopped already");
        assert_eq!(rig.exit("a", 0, 0), [prepare("a")]);
        assert_eq!(rig.phase(), "Running");
        assert_eq!(rig.image("a"), [start("a", 1)]);
        rig.run("a", 1);
        assert_eq!(rig.shown("a").restart_count, 1);
        assert_eq!(rig.actions.iter().filter(|action| **action == start("a", 1)).count(), 1);
        let again = rig.exit("a", 1, 0);
        let expected = if policy == "Always" { vec![prepare("a")] } else { Vec::new() };
        assert_eq!(again, expected, "{policy}: the policy holds for the new one");
    }
}

#[test]
fn a_replacement_serves_no_crash_back_off() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    assert_eq!(rig.feed(replace("a")), [stop("a", 1, 30)]);
    assert_eq!(rig.exit("a", 1, 143), [prepare("a")], "at once");
    assert_eq!(rig.image("a"), [start("a", 2)]);
    rig.run("a", 2);
    assert_eq!(rig.exit("a", 2, 1), [prepare("a")], "the count begins anew");
    rig.image("a");
    rig.run("a", 3);
    assert_eq!(rig.exit("a", 3, 1), []);
    assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff: back-off 10s"));
    assert_eq!(rig.feed(replace("a")), [prepare("a")], "a wait is over");
}

#[test]
fn what_has_ended_for_good_is_left_alone() {
    let mut rig = Rig::running(pod(&["a", "b"], "Never"));
    rig.exit("a", 0, 0);
    assert_eq!(rig.feed(replace("a")), []);
    assert_eq!(rig.exit("b", 0, 0), [Action::TearDown]);
    assert_eq!(rig.feed(replace("b")), []);
    assert_eq!(rig.phase(), "Succeeded");
}

#[test]
fn nothing_of_a_pod_that_is_to_end_is_replaced() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.feed(Event::Kill { grace: Duration::from_secs(30) });
    assert_eq!(rig.feed(replace("a")), []);
    assert_eq!(rig.exit("a", 0, 0), [Action::TearDown]);
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.feed(replace("a"));
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(5) }), [stop("a", 0, 5)]);
    assert_eq!(rig.exit("a", 0, 0), [Action::TearDown], "the end comes before the new one");
}

#[test]
fn the_image_of_an_old_definition_starts_nothing() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    assert_eq!(rig.feed(replace("a")), [], "asked for already");
    assert_eq!(rig.image("a"), [prepare("a")], "that answer was the old one's");
    assert_eq!(rig.no_image("a", "ErrImagePull"), []);
    assert_eq!(rig.feed(replace("a")), [prepare("a")], "another image, no back-off");
    assert_eq!(rig.image("a"), [start("a", 0)]);
}

#[test]
fn a_start_under_way_is_replaced_once_it_has_an_id() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    assert_eq!(rig.feed(replace("a")), []);
    let starting = Event::Attempt(attempt("a", 0, AttemptState::Starting));
    assert_eq!(rig.feed(starting), [stop("a", 0, 30)]);
    rig.run("a", 0);
    assert_eq!(rig.exit("a", 0, 143), [prepare("a")]);
    assert_eq!(rig.image("a"), [start("a", 1)]);
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    rig.feed(replace("a"));
    rig.start_failed("a", 0);
    assert_eq!(rig.timer(), (1, vec![prepare("a")]));
    assert_eq!(rig.image("a"), [start("a", 0)]);
    assert_eq!(rig.run("a", 0), [], "this is the new one");
}

#[test]
fn an_init_container_that_runs_or_has_run_is_left_alone() {
    let mut rig = Rig::up(pod_inits(&["i"], &["a"], "Always"));
    rig.image("i");
    rig.run("i", 0);
    assert_eq!(rig.feed(replace("i")), []);
    assert_eq!(rig.exit("i", 0, 0), [prepare("a")]);
    assert_eq!(rig.feed(replace("i")), []);
    rig.image("a");
    rig.run("a", 0);
    assert_eq!(rig.feed(replace("a")), [stop("a", 0, 30)]);
    assert_eq!(rig.exit("a", 0, 0), [prepare("a")], "no init container again");
}

#[test]
fn messages_share_what_a_pod_may_say() {
    let names = ["a", "b", "c", "d"];
    let mut rig = Rig::running(pod(&names, "Never"));
    let mut end = exit(1, 0);
    end.message = "x".repeat(4096);
    rig.feed(Event::Attempt(attempt("a", 0, AttemptState::Exited(end))));
    let shown = rig.shown("a").state.unwrap().terminated.unwrap().message.unwrap();
    assert_eq!(shown.len(), 3072);
}

#[test]
fn what_is_on_its_way_down_is_asked_for_no_liveness() {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1});
    let container = |image: &str| json!({"name": "a", "image": image, "livenessProbe": probe, "readinessProbe": probe});
    let of = |image: &str| pod_with(&[], &json!({"containers": [container(image)]}), &json!({}));
    let mut rig = Rig::running(of("a.wasm"));
    rig.probed("a", 0, ProbeKind::Readiness, true);
    assert_eq!(rig.feed(Event::Desired(Arc::new(of("b.wasm")))), [stop("a", 0, 30)]);
    assert_eq!(rig.timer(), (1, vec![probe_of("a", 0, ProbeKind::Readiness)]));
}

#[test]
fn an_object_brings_no_main_container_that_it_had_not_at_first() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    assert_eq!(rig.feed(Event::Desired(Arc::new(pod(&["a", "b"], "Always")))), []);
    assert_eq!(rig.status().container_statuses.unwrap().len(), 1);
    let mut rig = Rig::new(pod(&["a"], "Always"));
    let running =
        ["a", "x"].map(|name| attempt(name, 0, AttemptState::Running { started_at: wall(0) }));
    assert_eq!(rig.feed(Event::Observed(running.into())), [Action::SetUp, stop("x", 0, 30)]);
    rig.set_up();
    rig.feed(Event::Desired(Arc::new(pod(&["a", "x"], "Always"))));
    assert_eq!(rig.exit("x", 0, 0), [], "it was not the pod's when it ran");
}
