//! The first look after a restart of the agent, relists, and events that come too late.

use super::*;

fn running(container: &str, number: u32) -> Attempt {
    attempt(container, number, AttemptState::Running { started_at: wall(0) })
}

fn exited(container: &str, number: u32, code: i32) -> Attempt {
    attempt(container, number, AttemptState::Exited(exit(code, 0)))
}

#[test]
fn a_running_container_is_adopted() {
    let mut rig = Rig::new(pod(&["a"], "Never"));
    let listed = vec![exited("a", 3, 1), running("a", 4)];
    assert_eq!(rig.feed(Event::Observed(listed)), [Action::SetUp], "its addresses are wanted");
    assert_eq!((rig.phase().as_str(), rig.shown("a").restart_count), ("Running", 4));
    assert_eq!(rig.cond("Ready"), "True");
    assert_eq!(rig.cond("PodReadyToStartContainers"), "True");
    rig.set_up();
    assert_eq!(rig.actions, [Action::SetUp]);
    assert_eq!(rig.exit("a", 4, 0), [Action::TearDown]);
}

#[test]
fn what_ended_while_the_agent_was_away_is_not_run_again_under_never() {
    let mut rig = Rig::new(pod(&["a"], "Never"));
    assert_eq!(rig.feed(Event::Observed(vec![exited("a", 0, 0)])), [Action::TearDown]);
    assert_eq!(rig.phase(), "Succeeded");
}

#[test]
fn what_ended_while_the_agent_was_away_restarts_under_always_with_the_next_number() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(vec![exited("a", 6, 0), exited("a", 5, 0)]));
    rig.set_up();
    assert_eq!(rig.image("a"), [start("a", 7)]);
}

#[test]
fn an_init_sequence_goes_on_where_it_was() {
    let mut rig = Rig::new(pod_inits(&["i", "j"], &["a"], "Always"));
    rig.feed(Event::Observed(vec![exited("j", 1, 0)]));
    rig.set_up();
    assert_eq!(rig.actions, [Action::SetUp, prepare("a")]);
    let gone = rig.shown("i").state.unwrap().terminated.unwrap();
    let text = "Unable to get init container status from container runtime and pod has been \
                initialized, treat it as exited normally";
    assert_eq!((gone.exit_code, gone.message.as_deref()), (0, Some(text)));
    assert_eq!(rig.brief("i"), "0 Completed");
    assert_eq!(rig.cond("Initialized"), "True");
    let mut rig = Rig::new(pod_inits(&["i", "j"], &["a"], "Always"));
    rig.feed(Event::Observed(vec![running("j", 0)]));
    assert_eq!(rig.brief("i"), "0 Completed", "the next one runs");
}

#[test]
fn what_follows_a_start_is_done_for_one_that_an_earlier_agent_began() {
    let hook = json!({"postStart": {"exec": {"command": ["x"]}}});
    let spec = json!({"containers": [{"name": "a", "image": "a.wasm", "lifecycle": hook}]});
    let mut rig = Rig::new(pod_with(&[], &spec, &json!({})));
    rig.feed(Event::Observed(vec![attempt("a", 0, AttemptState::Starting)]));
    rig.set_up();
    assert_eq!(rig.run("a", 0), [hook_of("a", 0, HookKind::PostStart)]);
}

#[test]
fn a_running_attempt_that_is_listed_no_more_was_lost() {
    let mut rig = Rig::running(pod(&["a"], "Never"));
    assert_eq!(rig.feed(Event::Observed(Vec::new())), [Action::TearDown]);
    assert_eq!(
        (rig.phase().as_str(), rig.brief("a").as_str()),
        ("Failed", "137 ContainerStatusUnknown")
    );
    rig.exit("a", 0, 0);
    assert_eq!(rig.brief("a"), "137 ContainerStatusUnknown");
}

#[test]
fn an_older_attempt_that_is_listed_is_not_the_one_that_ran() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    rig.feed(Event::Observed(vec![exited("a", 0, 1)]));
    assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "137 ContainerStatusUnknown");
    // Nor is another process of its number.
    let mut rig = Rig::running(pod(&["a"], "Never"));
    let other = Attempt { id: "ff".to_owned(), ..exited("a", 0, 0) };
    assert_eq!(rig.feed(Event::Observed(vec![other])), [Action::TearDown]);
    assert_eq!(rig.brief("a"), "137 ContainerStatusUnknown");
}

#[test]
fn an_attempt_whose_start_is_under_way_may_be_absent() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    assert_eq!(rig.feed(Event::Observed(Vec::new())), []);
    rig.feed(Event::Attempt(attempt("a", 0, AttemptState::Starting)));
    assert_eq!(rig.feed(Event::Observed(Vec::new())), []);
    assert_eq!(rig.state.wake_at(), None, "its answer is still to come");
    assert_eq!(rig.feed(Event::Observed(vec![running("a", 0)])), []);
    assert_eq!(rig.brief("a"), "running");
}

#[test]
fn a_lost_event_is_made_good_by_a_relist() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    assert_eq!(rig.feed(Event::Observed(vec![exited("a", 0, 3)])), [Action::TearDown]);
    assert_eq!(rig.brief("a"), "3 Error");
}

#[test]
fn an_adopted_attempt_that_is_gone_before_its_launch_starts_again() {
    let mut rig = Rig::new(pod(&["a"], "Never"));
    rig.feed(Event::Observed(vec![attempt("a", 0, AttemptState::Starting)]));
    rig.set_up();
    assert_eq!(rig.actions, [Action::SetUp], "no second start beside it");
    assert_eq!(rig.feed(Event::Observed(Vec::new())), []);
    assert_eq!(rig.timer(), (1, vec![prepare("a")]));
    assert_eq!(rig.image("a"), [start("a", 0)]);
}

#[test]
fn stale_events_are_dropped() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    rig.actions.clear();
    let other = |state| Attempt { id: "ff".to_owned(), ..attempt("a", 1, state) };
    let stale = [
        running("a", 0),
        exited("a", 0, 9),
        attempt("a", 1, AttemptState::Starting),
        other(AttemptState::Exited(exit(9, 0))),
        other(AttemptState::Running { started_at: wall(9) }),
        attempt("a", 5, AttemptState::Starting),
        running("nobody", 0),
    ];
    for event in stale {
        assert_eq!(rig.feed(Event::Attempt(event.clone())), [], "{event:?}");
        let shown = rig.shown("a");
        assert_eq!((brief(&shown.state.unwrap()).as_str(), shown.restart_count), ("running", 1));
        assert_eq!(shown.container_id, Some(id("a", 1)), "{event:?}");
        assert_eq!(brief(&shown.last_state.unwrap()), "1 Error", "{event:?}");
    }
}

#[test]
fn an_exit_is_final() {
    let mut rig = Rig::running(pod(&["a", "b"], "Never"));
    rig.exit("a", 0, 4);
    rig.run("a", 0);
    rig.exit("a", 0, 0);
    assert_eq!(rig.brief("a"), "4 Error");
}

#[test]
fn a_launch_binds_an_attempt_to_its_process() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    let late = Attempt { id: "0d".into(), ..attempt("a", 0, AttemptState::Starting) };
    rig.feed(Event::Attempt(late));
    rig.run("a", 0);
    assert_eq!(rig.shown("a").container_id, Some(id("a", 0)));
    rig.actions.clear();
    assert_eq!(rig.feed(Event::Kill { grace: Duration::ZERO }), [stop("a", 0, 0)]);
}

#[test]
fn two_living_attempts_become_one() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    let actions = rig.feed(Event::Observed(vec![running("a", 1), running("a", 2)]));
    assert_eq!(actions, [Action::SetUp, stop("a", 1, 30)]);
    assert_eq!(rig.exit("a", 2, 0), [], "no start while the other lives");
}

#[test]
fn what_is_not_in_the_spec_is_stopped_before_the_end() {
    let mut rig = Rig::new(pod(&["a"], "Never"));
    let listed = vec![exited("a", 0, 0), running("x", 0)];
    assert_eq!(rig.feed(Event::Observed(listed)), [stop("x", 0, 30)]);
    assert_eq!(rig.phase(), "Running", "something still runs");
    assert_eq!(rig.status().container_statuses.unwrap().len(), 1);
    let actions = rig.feed(Event::Attempt(exited("x", 0, 0)));
    assert_eq!((actions, rig.phase().as_str()), (vec![Action::TearDown], "Succeeded"));
}

#[test]
fn a_pod_that_the_api_calls_over_is_not_run_again() {
    let mut over = pod(&["a"], "Always");
    over.status = serde_json::from_value(json!({
        "phase": "Failed", "reason": "Evicted", "message": "low on memory", "podIP": "10.0.0.9",
        "containerStatuses": [{"name": "a", "image": "x", "imageID": "y", "ready": false,
            "containerID": "cri://a", "restartCount": 2, "state": {"running": {}}}],
    }))
    .unwrap();
    let said = over.status.clone().unwrap().container_statuses;
    let mut rig = Rig::new(over);
    assert_eq!(rig.feed(Event::Observed(Vec::new())), [Action::TearDown]);
    assert_eq!(rig.status().container_statuses, said, "the object knows better");
    let status = rig.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
}

/// A pod whose object says that the container runs or has ended, of which the runtime knows nothing.
fn forgotten(policy: &str, state: Value, last: Value) -> Rig {
    let mut rig = Rig::new(remembered(policy, state, last));
    rig.feed(Event::Observed(Vec::new()));
    rig
}

/// The object of such a pod.
fn remembered(policy: &str, state: Value, last: Value) -> Pod {
    let mut object = pod_inits(&["i"], &["a"], policy);
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let status = |name: &str, state: Value, last: Value, count: i32| {
        json!({"name": name, "image": "x", "imageID": "y", "containerID": format!("cri://{name}"),
            "ready": false, "restartCount": count, "state": state, "lastState": last})
    };
    object.status = serde_json::from_value(json!({"phase": "Running",
        "initContainerStatuses": [status("i", done, json!({}), 1)],
        "containerStatuses": [status("a", state, last, 3)]}))
    .unwrap();
    object
}

#[test]
fn what_the_runtime_has_forgotten_does_not_run_again_under_never() {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let rig = forgotten("Never", running, json!({}));
    assert_eq!(rig.actions, [Action::TearDown]);
    let shown = rig.shown("a");
    assert_eq!((rig.phase().as_str(), shown.restart_count), ("Failed", 3));
    let end = shown.state.unwrap().terminated.unwrap();
    let text = "The container could not be located when the pod was deleted.  The container used \
                to be Running";
    assert_eq!((end.exit_code, end.message.as_deref()), (137, Some(text)));
    assert_eq!(end.reason.as_deref(), Some("ContainerStatusUnknown"));
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let rig = forgotten("Never", done, json!({}));
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Succeeded", "0 Completed"));
}

#[test]
fn what_the_runtime_has_forgotten_restarts_from_its_first_init_container_and_counts_on() {
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let failed = json!({"terminated": {"exitCode": 4, "reason": "Error"}});
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    for (state, last, brief_of_last) in
        [(running, json!({}), "137 ContainerStatusUnknown"), (waiting, failed, "4 Error")]
    {
        let mut rig = forgotten("Always", state, last);
        assert_eq!(rig.set_up(), [prepare("i")]);
        assert_eq!(rig.image("i"), [start("i", 2)]);
        assert_eq!(rig.exit("i", 2, 0), [prepare("a")]);
        assert_eq!(rig.image("a"), [start("a", 4)]);
        rig.run("a", 4);
        let shown = rig.shown("a");
        assert_eq!((shown.restart_count, brief(&shown.state.unwrap()).as_str()), (4, "running"));
        assert_eq!(brief(&shown.last_state.unwrap()), brief_of_last);
    }
}

#[test]
fn what_the_runtime_has_forgotten_counts_though_the_next_attempt_is_starting() {
    let failed = json!({"terminated": {"exitCode": 4, "reason": "Error"}});
    // The number may be that of a restart of all, which is counted before it is begun.
    for (number, before) in [(4, 3), (3, 2)] {
        let mut rig = Rig::new(remembered("Always", failed.clone(), json!({})));
        let listed = vec![attempt("a", number, AttemptState::Starting)];
        assert_eq!(rig.feed(Event::Observed(listed)), [Action::SetUp]);
        let shown = |rig: &Rig| (rig.shown("a").restart_count, rig.brief("a"));
        assert_eq!(shown(&rig), (before, "4 Error".to_owned()), "{number}");
        rig.run("a", number);
        assert_eq!(shown(&rig), (before + 1, "running".to_owned()), "{number}");
    }
}

#[test]
fn what_the_runtime_lists_is_not_taken_for_forgotten() {
    let failed = json!({"terminated": {"exitCode": 4, "reason": "Error"}});
    let mut rig = Rig::new(remembered("Always", failed, json!({})));
    rig.feed(Event::Observed(vec![attempt("a", 3, AttemptState::Exited(exit(5, 1)))]));
    let shown = rig.shown("a");
    assert_eq!((shown.restart_count, rig.brief("a").as_str()), (3, "5 Error"));
    assert_eq!(shown.last_state, None, "it is no attempt before");
}

#[test]
fn what_is_shown_without_having_run_is_not_taken_for_forgotten() {
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    let mut object = pod(&["a"], "Never");
    let status = json!({"name": "a", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": waiting});
    object.status = serde_json::from_value(json!({"containerStatuses": [status]})).unwrap();
    let mut rig = Rig::new(object);
    assert_eq!(rig.feed(Event::Observed(Vec::new())), [Action::SetUp]);
    rig.set_up();
    assert_eq!(rig.image("a"), [start("a", 0)]);
}

#[test]
fn of_a_pod_that_runs_the_dead_may_be_removed() {
    for policy in ["Never", "OnFailure"] {
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let mut object = remembered(policy, done, json!({}));
        let spec = object.spec.as_mut().unwrap();
        spec.containers.push(serde_json::from_value(json!({"name": "b"})).unwrap());
        let mut rig = Rig::new(object);
        assert_eq!(rig.feed(Event::Observed(vec![running("b", 0)])), [Action::SetUp], "{policy}");
        assert_eq!(rig.set_up(), [], "{policy}: neither i nor a");
        assert_eq!((rig.phase().as_str(), rig.brief("b").as_str()), ("Running", "running"));
        assert_eq!(rig.brief("a"), "0 Completed");
        assert_eq!(rig.exit("b", 0, 0), [Action::TearDown], "{policy}");
        assert_eq!(rig.phase(), "Succeeded");
    }
}

#[test]
fn an_adopted_container_keeps_the_end_before_its_own() {
    let running_since = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let failed = json!({"terminated": {"exitCode": 4, "reason": "Error"}});
    let mut rig = Rig::new(remembered("Always", running_since, failed));
    let listed = Attempt { id: "cri://a".to_owned(), ..running("a", 3) };
    rig.feed(Event::Observed(vec![listed]));
    assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "4 Error", "whose record is gone");
}

#[test]
fn what_was_stopped_for_its_deadline_has_failed_though_the_agent_died_meanwhile() {
    let spec = json!({"restartPolicy": "Never", "activeDeadlineSeconds": 10});
    let mut object = pod_with(&["a"], &spec, &json!({}));
    object.status = Some(Rig::running(object.clone()).status());
    // (when the container ended, whether that was after the pod's deadline)
    for (secs, is_late) in [(9, false), (10, true), (15, true)] {
        let mut rig = Rig::new(object.clone());
        rig.pass(20);
        let ended = attempt("a", 0, AttemptState::Exited(exit(0, secs)));
        assert_eq!(rig.feed(Event::Observed(vec![ended])), [Action::TearDown]);
        let reason = is_late.then(|| "DeadlineExceeded".to_owned());
        let phase = if is_late { "Failed" } else { "Succeeded" };
        assert_eq!((rig.phase().as_str(), rig.status().reason), (phase, reason), "{secs}");
        assert_eq!(rig.records.len(), usize::from(is_late), "{:?}", rig.records);
    }
}
