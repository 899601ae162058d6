//! Hooks, deadlines and rules of restart.

use super::*;

/// A pod of containers that each have this lifecycle.
fn hooked(names: &[&str], lifecycle: &Value) -> Pod {
    let all: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "image": format!("{name}.wasm"), "lifecycle": lifecycle}))
        .collect();
    pod_with(&[], &json!({"containers": all}), &json!({}))
}

fn exec() -> Value {
    json!({"exec": {"command": ["x"]}})
}

const POST: HookKind = HookKind::PostStart;
const PRE: HookKind = HookKind::PreStop;

#[test]
fn until_its_post_start_hook_is_done_a_container_has_not_started() {
    let mut rig = Rig::up(hooked(&["a", "b"], &json!({"postStart": exec()})));
    assert_eq!(rig.actions, [Action::SetUp, prepare("a")], "the next waits for it");
    rig.image("a");
    assert_eq!(rig.run("a", 0), [hook_of("a", 0, POST)]);
    assert_eq!(
        (rig.brief("a").as_str(), rig.phase().as_str()),
        ("waiting ContainerCreating", "Pending")
    );
    assert_eq!(rig.cond("Initialized"), "True");
    assert_eq!(rig.hooked("a", 0, POST, Ok(())), [prepare("b")]);
    assert_eq!(rig.brief("a"), "running");
    assert_eq!(rig.hooked("a", 0, POST, Err("late")), [], "said once");
}

#[test]
fn a_post_start_hook_that_sleeps_no_time_is_none() {
    let mut rig = Rig::up(hooked(&["a"], &json!({"postStart": {"sleep": {"seconds": 0}}})));
    rig.image("a");
    rig.run("a", 0);
    assert_eq!((rig.brief("a").as_str(), rig.state.wake_at()), ("running", None));
}

#[test]
fn a_failed_post_start_hook_stops_its_container() {
    let mut rig = Rig::up(hooked(&["a"], &json!({"postStart": exec()})));
    rig.image("a");
    rig.run("a", 0);
    assert_eq!(rig.phase(), "Pending");
    rig.records.clear();
    assert_eq!(rig.hooked("a", 0, POST, Err("why")), [stop("a", 0, 30)]);
    rig.records.sort();
    let told =
        ["N a Killing: FailedPostStartHook", "W a FailedPostStartHook: PostStartHook failed"];
    assert_eq!(rig.records, told);
    assert_eq!(rig.exit("a", 0, 143), [prepare("a")], "the first restart is immediate");
    rig.image("a");
    rig.run("a", 1);
    rig.hooked("a", 1, POST, Err("why"));
    assert_eq!(rig.exit("a", 1, 143), []);
    assert_eq!(rig.brief("a"), "waiting PostStartHookError: why");
    rig.timer();
    assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff"));
}

#[test]
fn one_that_ends_under_its_post_start_hook_goes_on_when_that_has_said_how() {
    let mut rig = Rig::up(hooked(&["a"], &json!({"postStart": exec()})));
    for number in 0..2 {
        rig.image("a");
        rig.run("a", number);
        rig.records.clear();
        assert_eq!(rig.exit("a", number, 1), [], "its hook ends with it");
        let follows = if number == 0 { vec![prepare("a")] } else { Vec::new() };
        assert_eq!(rig.hooked("a", number, POST, Err("why")), follows);
        rig.records.sort();
        let told =
            ["N a Killing: FailedPostStartHook", "W a FailedPostStartHook: PostStartHook failed"];
        assert_eq!(rig.records, told);
        assert_eq!(rig.brief("a"), "waiting PostStartHookError: why");
    }
}

#[test]
fn a_pre_stop_hook_takes_of_the_grace() {
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": exec()})));
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(20) }), [hook_of("a", 0, PRE)]);
    rig.pass(5);
    rig.records.clear();
    assert_eq!(rig.hooked("a", 0, PRE, Err("why")), [stop("a", 0, 15)], "failed or not");
    assert_eq!(rig.records, ["W a FailedPreStopHook: PreStopHook failed"]);
    // One that hangs is cut off.
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": exec()})));
    rig.feed(Event::Kill { grace: Duration::from_secs(20) });
    rig.records.clear();
    assert_eq!(rig.timer(), (20, vec![stop("a", 0, 2)]), "with the least time for SIGTERM");
    assert_eq!(rig.records, ["W a FailedPreStopHook: PreStopHook failed"]);
    assert_eq!(rig.hooked("a", 0, PRE, Err("cut")), []);
    // A container that ends by itself needs none.
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": exec()})));
    assert_eq!(rig.exit("a", 0, 1), [prepare("a")]);
    // Nor is there time for one without a grace.
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": exec()})));
    assert_eq!(rig.feed(Event::Kill { grace: Duration::ZERO }), [stop("a", 0, 0)]);
}

#[test]
fn one_that_starts_while_its_pod_ends_has_its_pre_stop_hook_unless_it_was_stopped_before() {
    // The start is answered by a process that runs already.
    let mut rig = Rig::up(hooked(&["a"], &json!({"preStop": exec()})));
    rig.image("a");
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(20) }), []);
    assert_eq!(rig.run("a", 0), [hook_of("a", 0, PRE)]);
    // By one that is stopped before it runs.
    let mut rig = Rig::up(hooked(&["a"], &json!({"preStop": exec()})));
    rig.image("a");
    rig.feed(Event::Kill { grace: Duration::from_secs(20) });
    let starting = rig.attempt("a", 0, AttemptState::Starting);
    assert_eq!(rig.feed(starting), [stop("a", 0, 20)]);
    assert_eq!(rig.run("a", 0), []);
    // By one whose turn to be stopped is still to come.
    let sidecar =
        json!([{"name": "s", "restartPolicy": "Always", "lifecycle": {"preStop": exec()}}]);
    let pod = pod_with(&["a"], &json!({"initContainers": sidecar}), &json!({}));
    for (waits, follows) in [(4, vec![hook_of("s", 1, PRE)]), (20, vec![])] {
        let mut rig = Rig::up(pod.clone());
        rig.image("s");
        rig.run("s", 0);
        rig.image("a");
        rig.run("a", 0);
        rig.exit("s", 0, 1);
        rig.image("s");
        assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(20) }), [stop("a", 0, 20)]);
        let starting = rig.attempt("s", 1, AttemptState::Starting);
        assert_eq!(rig.feed(starting), []);
        rig.pass(waits);
        let late = (waits == 20).then(|| stop("s", 1, 2));
        let follows: Vec<Action> = late.into_iter().chain(follows).collect();
        assert_eq!(rig.run("s", 1), follows, "{waits}");
    }
}

#[test]
fn a_sleep_is_waited_for_and_ends_early_with_a_shorter_grace() {
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": {"sleep": {"seconds": 8}}})));
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(20) }), []);
    assert_eq!(rig.timer(), (8, vec![stop("a", 0, 12)]));
    let mut rig = Rig::running(hooked(&["a"], &json!({"preStop": {"sleep": {"seconds": 8}}})));
    rig.feed(Event::Kill { grace: Duration::from_secs(20) });
    rig.pass(1);
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(3) }), []);
    assert_eq!(rig.timer(), (3, vec![stop("a", 0, 2)]));
    let mut rig = Rig::up(hooked(&["a"], &json!({"postStart": {"sleep": {"seconds": 3}}})));
    rig.image("a");
    assert_eq!(rig.run("a", 0), []);
    assert_eq!(rig.brief("a"), "waiting ContainerCreating");
    assert_eq!(rig.timer(), (3, Vec::new()));
    assert_eq!(rig.brief("a"), "running");
}

#[test]
fn no_hook_of_what_an_earlier_agent_started() {
    let mut rig = Rig::new(hooked(&["a"], &json!({"postStart": exec(), "preStop": exec()})));
    let running = AttemptState::Running { started_at: wall(0) };
    rig.feed(Event::Observed(vec![attempt("a", 0, running)]));
    assert_eq!(rig.actions, [Action::SetUp]);
    assert_eq!(rig.brief("a"), "running");
    rig.set_up();
    assert_eq!(rig.feed(Event::Kill { grace: Duration::from_secs(9) }), [hook_of("a", 0, PRE)]);
}

#[test]
fn a_pod_that_has_had_its_time_fails() {
    let spec = json!({"activeDeadlineSeconds": 60});
    let mut rig = Rig::running(pod_with(&["a"], &spec, &json!({})));
    // The wall clock may jump: the time runs on.
    rig.now.wall += Duration::from_secs(500);
    assert_eq!(rig.feed(Event::Changed), [Action::Refresh]);
    rig.feed(Event::Refreshed(Ok(())));
    rig.records.clear();
    assert_eq!(rig.wake(), (59_300, vec![stop("a", 0, 30)]), "of a start in whole seconds");
    let text = "Pod was active on the node longer than the specified deadline";
    assert!(rig.records.contains(&format!("N - DeadlineExceeded: {text}")));
    assert_eq!(rig.phase(), "Running");
    rig.exit("a", 0, 0);
    let status = rig.status();
    assert_eq!(rig.phase(), "Failed");
    assert_eq!(
        (status.reason.as_deref(), status.message.as_deref()),
        (Some("DeadlineExceeded"), Some(text))
    );
    assert!(status.conditions.unwrap().iter().all(|c| c.type_ != "DisruptionTarget"));
}

#[test]
fn a_deadline_may_be_shortened_and_counts_from_the_pods_start() {
    let with =
        |seconds: u32| pod_with(&["a"], &json!({"activeDeadlineSeconds": seconds}), &json!({}));
    let mut rig = Rig::running(with(600));
    rig.pass(40);
    rig.feed(Event::Desired(Arc::new(with(50))));
    assert_eq!(rig.wake(), (9_300, vec![stop("a", 0, 30)]));
    let mut object = with(50);
    object.status = Some(Rig::running(with(50)).status());
    let mut rig = Rig::new(object);
    rig.now.wall += Duration::from_secs(30);
    let running = AttemptState::Running { started_at: wall(0) };
    rig.feed(Event::Observed(vec![attempt("a", 0, running)]));
    rig.set_up();
    let left = rig.state.wake_at().unwrap() - rig.now.mono;
    assert_eq!(left.as_secs(), 19, "a new agent goes on: {left:?}");
}

#[test]
fn rules_of_exit_codes_come_before_the_policy() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let container = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules});
    let mut rig = Rig::running(pod_with(&[], &json!({"containers": [container]}), &json!({})));
    assert_eq!(rig.exit("a", 0, 42), [prepare("a")]);
    rig.image("a");
    rig.run("a", 1);
    assert_eq!(rig.exit("a", 1, 1), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
}

#[test]
fn a_hook_that_nobody_asked_for_has_not_failed() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.feed(Event::Kill { grace: Duration::from_secs(9) });
    rig.records.clear();
    rig.hooked("a", 0, HookKind::PreStop, Err("late"));
    assert_eq!(rig.records, [""; 0]);
}

/// Rules by which an exit with 7 has the whole pod begin anew.
fn anew() -> Value {
    json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}])
}

#[test]
fn a_pod_that_an_earlier_agent_began_anew_is_gone_on_with() {
    // (when the other one began that runs, whether that was before the end at 10 s)
    for (began, is_past) in [(9, true), (10, true), (11, false)] {
        let spec = json!({"containers": [
            {"name": "a", "restartPolicyRules": anew()}, {"name": "b"},
        ]});
        let mut rig = Rig::new(pod_with(&[], &spec, &json!({})));
        let ended = attempt("a", 0, AttemptState::Exited(exit(7, 10)));
        let other = attempt("b", 3, AttemptState::Running { started_at: wall(began) });
        let mut expected = vec![Action::SetUp];
        expected.extend(is_past.then(|| stop("b", 3, 2)));
        assert_eq!(rig.feed(Event::Observed(vec![ended, other])), expected, "{began}");
    }
}

#[test]
fn one_that_is_to_begin_anew_ends_at_once_though_its_definition_is_another_one_too() {
    let spec = json!({"containers": [
        {"name": "a", "restartPolicyRules": anew()}, {"name": "b", "lifecycle": {"preStop": exec()}},
    ]});
    let ended = attempt("a", 0, AttemptState::Exited(exit(7, 10)));
    let running = attempt("b", 0, AttemptState::Running { started_at: wall(9) });
    let old = Attempt { definition: Some(0), ..running };
    let mut rig = Rig::new(pod_with(&[], &spec, &json!({})));
    let first = rig.feed(Event::Observed(vec![ended, old]));
    assert_eq!(first, [Action::SetUp, stop("b", 0, 2)], "without its hook");
    // One that is being replaced has no more time for its hook.
    let mut rig = Rig::running(pod_with(&[], &spec, &json!({})));
    let mut new = rig.state.pod().as_ref().clone();
    new.spec.as_mut().unwrap().containers[1].image = Some("other".to_owned());
    assert_eq!(rig.feed(Event::Desired(Arc::new(new))), [hook_of("b", 0, PRE)]);
    assert_eq!(rig.exit("a", 0, 7), [stop("b", 0, 2)]);
}

#[test]
fn a_rule_may_have_the_whole_pod_begin_anew() {
    let spec = json!({
        "initContainers": [{"name": "i"}],
        "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": anew()}, {"name": "b"},
        ],
    });
    let mut rig = Rig::up(pod_with(&[], &spec, &json!({})));
    rig.image("i");
    rig.exit("i", 0, 0);
    for main in ["a", "b"] {
        rig.image(main);
        rig.run(main, 0);
    }
    rig.actions.clear();
    assert_eq!(rig.cond("AllContainersRestarting"), "False");
    let generations = ["AllContainersRestarting", "Ready"];
    let generations = generations.map(|kind| rig.condition(kind).observed_generation);
    assert_eq!(generations, [None, Some(3)]);
    assert_eq!(rig.exit("a", 0, 7), [stop("b", 0, 2)]);
    let restarting = "True RestartAllContainersStarted container exited with restart policy rule";
    assert_eq!(rig.cond("AllContainersRestarting"), restarting);
    assert!(rig.brief("a").starts_with("waiting RestartingAllContainers"));
    assert_eq!((rig.shown("a").restart_count, rig.shown("b").restart_count), (1, 0), "b ends yet");
    assert_eq!(rig.exit("b", 0, 143), [prepare("i")], "in the same sandbox, from the first on");
    rig.image("i");
    rig.run("i", 1);
    assert_eq!(rig.exit("i", 1, 0), [prepare("a"), prepare("b")]);
    rig.image("a");
    rig.run("a", 1);
    rig.image("b");
    rig.run("b", 1);
    assert_eq!((rig.cond("Ready").as_str(), rig.shown("b").restart_count), ("True", 1));
    assert_eq!(rig.cond("AllContainersRestarting"), "False");
    rig.exit("b", 1, 1);
    rig.image("b");
    rig.run("b", 2);
    assert_eq!(rig.exit("a", 1, 7), [stop("b", 2, 2)]);
    rig.exit("b", 2, 143);
    rig.image("i");
    let again = rig.exit("i", 2, 0);
    assert!(again.ends_with(&[prepare("a"), prepare("b")]), "no crash, so no back-off: {again:?}");
}

#[test]
fn a_rule_sees_the_end_of_one_that_its_probes_have_stopped_unless_it_goes_on_at_once() {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
    let pod_of = |policy: &str| {
        let spec = json!({"containers": [
            {"name": "a", "restartPolicy": policy, "restartPolicyRules": anew(), "livenessProbe": probe},
            {"name": "b"},
        ]});
        pod_with(&[], &spec, &json!({}))
    };
    let cull = |rig: &mut Rig, number: u32| {
        rig.timer();
        let stopped = rig.probed("a", number, ProbeKind::Liveness, false);
        assert_eq!(stopped, [stop("a", number, 30)]);
        rig.exit("a", number, 7)
    };
    let mut rig = Rig::running(pod_of("Never"));
    assert_eq!(cull(&mut rig, 0), [stop("b", 0, 2)], "it is not to run again by itself");
    let mut rig = Rig::running(pod_of("Always"));
    for number in 0..2 {
        assert_eq!(cull(&mut rig, number), [prepare("a")], "stopped and started in one go");
        rig.image("a");
        rig.run("a", number + 1);
    }
    rig.exit("a", 2, 1);
    rig.timer();
    rig.image("a");
    rig.run("a", 3);
    assert_eq!(cull(&mut rig, 3), [stop("b", 0, 2)], "but for its back-off");
}
