//! Deletion, kill, grace, tear-down.

use super::*;

fn deleted(mut pod: Pod, grace: Option<i64>) -> Event {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    pod.metadata.deletion_timestamp = Some(Time(wall(0)));
    pod.metadata.deletion_grace_period_seconds = grace;
    Event::Desired(Arc::new(pod))
}

fn kill(secs: u64) -> Event {
    Event::Kill { grace: Duration::from_secs(secs) }
}

#[test]
fn the_grace_is_the_least_that_was_given() {
    let spec =
        |grace: i64| pod_with(&["a"], &json!({"terminationGracePeriodSeconds": grace}), &json!({}));
    let plain = || pod(&["a"], "Always");
    let table = [
        (plain(), deleted(plain(), None), 30),
        (plain(), deleted(plain(), Some(7)), 7),
        (plain(), deleted(plain(), Some(0)), 2),
        (plain(), deleted(plain(), Some(-5)), 2),
        (spec(45), deleted(spec(45), None), 45),
        (spec(-1), deleted(spec(-1), None), 2),
        (spec(45), kill(60), 60),
        (plain(), kill(0), 0),
    ];
    for (before, event, grace) in table {
        let mut rig = Rig::running(before);
        assert_eq!(rig.feed(event.clone()), [stop("a", 0, grace)], "{event:?}");
    }
}

#[test]
fn the_grace_only_ever_shrinks() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    assert_eq!(rig.feed(kill(20)), [stop("a", 0, 20), stop("b", 0, 20)]);
    assert_eq!(rig.feed(kill(40)), []);
    assert_eq!(rig.feed(deleted(pod(&["a", "b"], "Always"), Some(30))), []);
    rig.pass(4);
    assert_eq!(rig.feed(kill(16)), [], "the same end");
    assert_eq!(rig.feed(kill(5)), [stop("a", 0, 5), stop("b", 0, 5)]);
    rig.exit("b", 0, 143);
    assert_eq!(rig.feed(kill(0)), [stop("a", 0, 0)]);
    assert_eq!(rig.feed(kill(0)), []);
}

#[test]
fn what_outlives_its_grace_is_killed_again_and_again() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.feed(kill(10));
    assert_eq!(rig.timer(), (15, vec![stop("a", 0, 0)]));
    assert_eq!(rig.timer(), (5, vec![stop("a", 0, 0)]));
    assert_eq!(rig.timer(), (5, vec![stop("a", 0, 0)]));
    assert_eq!(rig.exit("a", 0, 137), [Action::TearDown]);
    assert_eq!(rig.state.wake_at(), None);
}

#[test]
fn the_end_is_claimed_only_when_all_are_dead() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    rig.feed(kill(30));
    assert_eq!(rig.phase(), "Running");
    assert_eq!(rig.exit("a", 0, 0), [], "no restart");
    assert_eq!(rig.brief("a"), "0 Completed");
    assert_eq!(rig.phase(), "Running");
    assert_eq!(rig.exit("b", 0, 0), [Action::TearDown]);
    assert_eq!(rig.phase(), "Succeeded", "whatever the policy");
    assert_eq!(rig.cond("PodReadyToStartContainers"), "True");
    rig.feed(Event::TornDown(Ok(())));
    assert_eq!(rig.cond("PodReadyToStartContainers"), "False");
    assert!(rig.state.is_terminated());
}

#[test]
fn a_start_under_way_is_stopped_as_soon_as_it_has_an_id() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    rig.actions.clear();
    assert_eq!(rig.feed(kill(30)), []);
    rig.pass(10);
    let starting = Event::Attempt(attempt("a", 0, AttemptState::Starting));
    assert_eq!(rig.feed(starting), [stop("a", 0, 20)], "what is left of the pod's grace");
    assert_eq!(rig.run("a", 0), []);
    assert_eq!(rig.exit("a", 0, 143), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
}

#[test]
fn a_start_under_way_that_fails_is_not_tried_again() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    rig.feed(kill(30));
    assert_eq!(rig.start_failed("a", 0), [Action::TearDown]);
    assert_eq!(
        (rig.phase().as_str(), rig.brief("a").as_str()),
        ("Failed", "137 ContainerStatusUnknown")
    );
}

#[test]
fn tear_down_waits_for_the_set_up_and_is_tried_again() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    assert_eq!(rig.feed(kill(30)), []);
    rig.actions.clear();
    rig.set_up();
    assert_eq!(rig.actions, [Action::TearDown]);
    for wait in [1, 2, 4, 8] {
        rig.feed(Event::TornDown(Err(failure("busy"))));
        assert!(!rig.state.is_terminated());
        assert_eq!(rig.timer(), (wait, vec![Action::TearDown]));
    }
    rig.feed(Event::TornDown(Ok(())));
    assert!(rig.state.is_terminated());
}

#[test]
fn a_pod_deleted_before_anything_started_is_failed() {
    let mut rig = Rig::up(pod_inits(&["i", "j", "k"], &["a"], "Always"));
    assert_eq!(rig.feed(deleted(pod(&["a"], "Always"), None)), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
    let shown = ["i", "j", "k", "a"].map(|name| rig.brief(name));
    let waiting = "waiting PodInitializing";
    assert_eq!(shown, ["137 ContainerStatusUnknown", waiting, waiting, waiting]);
    let message = rig.shown("i").state.unwrap().terminated.unwrap().message.unwrap();
    assert_eq!(message, "The container could not be located when the pod was terminated");
    assert_eq!(rig.image("i"), [], "a late image starts nothing");
}

#[test]
fn a_crash_looping_container_ends_as_it_last_did() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    rig.exit("a", 0, 0);
    rig.image("a");
    rig.run("a", 1);
    rig.exit("a", 1, 0);
    assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff"));
    rig.feed(kill(1));
    assert_eq!(rig.brief("a"), "0 Completed");
    rig.exit("b", 0, 0);
    assert_eq!(rig.phase(), "Succeeded");
}

#[test]
fn a_terminal_phase_is_never_left() {
    let mut rig = Rig::running(pod(&["a"], "Never"));
    rig.exit("a", 0, 0);
    rig.feed(Event::TornDown(Ok(())));
    rig.actions.clear();
    rig.feed(deleted(pod(&["a"], "Always"), None));
    rig.exit("a", 0, 5);
    rig.feed(Event::Observed(Vec::new()));
    rig.feed(kill(0));
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Succeeded", "0 Completed"));
    assert_eq!(rig.actions, []);
    assert!(rig.state.is_terminated());
}

#[test]
fn a_kill_before_the_first_look_holds() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    assert_eq!(rig.feed(kill(30)), []);
    rig.pass(10);
    let running = attempt("a", 4, AttemptState::Running { started_at: wall(0) });
    assert_eq!(rig.feed(Event::Observed(vec![running])), [stop("a", 4, 20)]);
}

#[test]
fn an_object_of_another_uid_is_not_this_pod() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    let mut other = pod(&["a"], "Always");
    other.metadata.uid = Some("u-2".to_owned());
    assert_eq!(rig.feed(deleted(other, None)), []);
}

#[test]
fn what_never_started_behind_a_sidecar_is_lost_at_the_end() {
    let inits = json!([{"name": "s", "restartPolicy": "Always"}]);
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": inits}), &json!({})));
    rig.image("s");
    rig.run("s", 0);
    rig.no_image("a", "ErrImagePull");
    assert_eq!(rig.feed(kill(9)), [stop("s", 0, 9)]);
    assert_eq!(rig.exit("s", 0, 143), [Action::TearDown]);
    assert_eq!(rig.brief("a"), "137 ContainerStatusUnknown");
    // Nothing is lost of what had no turn.
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": inits}), &json!({})));
    rig.no_image("s", "ErrImagePull");
    assert_eq!(rig.feed(kill(9)), [Action::TearDown]);
    assert!(rig.brief("a").starts_with("waiting"), "{}", rig.brief("a"));
}
