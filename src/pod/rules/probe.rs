//! Probes: when they are made and what comes of them.

use super::*;

/// A pod of one container with these probes.
fn probed(probes: &Value, policy: &str) -> Pod {
    let mut container = json!({"name": "a", "image": "a.wasm"});
    for (key, value) in probes.as_object().unwrap() {
        container[key] = value.clone();
    }
    pod_with(&[], &json!({"containers": [container], "restartPolicy": policy}), &json!({}))
}

fn tcp(more: Value) -> Value {
    let mut probe = json!({"tcpSocket": {"port": 1}});
    for (key, value) in more.as_object().unwrap() {
        probe[key] = value.clone();
    }
    probe
}

const LIVENESS: ProbeKind = ProbeKind::Liveness;
const READINESS: ProbeKind = ProbeKind::Readiness;
const STARTUP: ProbeKind = ProbeKind::Startup;

#[test]
fn readiness_comes_with_enough_successes_and_goes_with_enough_failures() {
    let timing = json!({"periodSeconds": 2, "successThreshold": 2, "failureThreshold": 2});
    let mut rig = Rig::up(probed(&json!({"readinessProbe": tcp(timing)}), "Always"));
    rig.image("a");
    assert_eq!(rig.run("a", 0), [probe_of("a", 0, READINESS)], "at once");
    let shown = rig.shown("a");
    assert_eq!((shown.started, shown.ready), (Some(true), false));
    let mut said = Vec::new();
    for success in [true, false, true, true, false, true, false, false, true, true] {
        rig.probed("a", 0, READINESS, success);
        said.push(rig.cond("Ready") == "True");
        assert_eq!(rig.timer(), (2, vec![probe_of("a", 0, READINESS)]));
    }
    assert_eq!(said, [false, false, false, true, true, true, true, false, false, true]);
    assert_eq!(rig.records.last().unwrap(), "W a Unhealthy: Readiness probe failed: no luck");
}

#[test]
fn a_pods_own_number_is_the_hash_of_its_uid() {
    let seed = |uid: &str| {
        let object = pod_with(&["a"], &json!({}), &json!({"uid": uid}));
        State::new(Arc::new(object)).seed()
    };
    // FNV-1a's published values.
    assert_eq!((seed("a"), seed("foobar")), (0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8));
}

#[test]
fn an_error_counts_for_nothing_and_a_warning_as_a_success() {
    let mut rig = Rig::up(probed(&json!({"readinessProbe": tcp(json!({}))}), "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.records.clear();
    rig.outcome("a", 0, READINESS, ProbeOutcome::Error("odd".to_owned()));
    assert!(!rig.shown("a").ready);
    rig.timer();
    rig.outcome("a", 0, READINESS, ProbeOutcome::Broken("unexpected EOF".to_owned()));
    assert!(!rig.shown("a").ready);
    rig.timer();
    rig.outcome("a", 0, READINESS, ProbeOutcome::Warning("hm".to_owned()));
    assert!(rig.shown("a").ready);
    let told = [
        "W a Unhealthy: Readiness probe errored and resulted in unknown state: odd",
        "W a Unhealthy: Readiness probe errored and resulted in failure state: unexpected EOF",
        "W a ProbeWarning: Readiness probe warning: hm",
    ];
    assert_eq!(rig.records, told);
}

#[test]
fn a_liveness_failure_stops_and_restarts_by_the_probes_grace() {
    let timing = json!({"periodSeconds": 1, "terminationGracePeriodSeconds": 5});
    let mut rig = Rig::up(probed(&json!({"livenessProbe": tcp(timing)}), "OnFailure"));
    rig.image("a");
    assert_eq!(rig.run("a", 0), [], "not before upstream's first tick");
    rig.timer();
    for _ in 0..2 {
        assert_eq!(rig.probed("a", 0, LIVENESS, false), []);
        rig.timer();
    }
    rig.records.clear();
    assert_eq!(rig.probed("a", 0, LIVENESS, false), [stop("a", 0, 5)]);
    let told = [
        "N a Killing: Container a failed liveness probe, will be restarted",
        "W a Unhealthy: Liveness probe failed: no luck",
    ];
    rig.records.sort();
    assert_eq!(rig.records, told);
    assert_eq!(rig.exit("a", 0, 0), [prepare("a")], "though it exited with 0");
    rig.image("a");
    rig.run("a", 1);
    assert_eq!(
        rig.timer(),
        (1, vec![probe_of("a", 1, LIVENESS)]),
        "of the new one, from the start"
    );
}

#[test]
fn one_that_is_stopped_again_and_again_waits_longer_each_time() {
    let timing = json!({"periodSeconds": 1, "failureThreshold": 1});
    let mut rig = Rig::up(probed(&json!({"livenessProbe": tcp(timing)}), "Always"));
    let mut waits = Vec::new();
    for number in 0..6 {
        rig.image("a");
        rig.run("a", number);
        rig.timer();
        rig.probed("a", number, LIVENESS, false);
        let begin = rig.now.mono;
        let mut actions = rig.exit("a", number, 143);
        if actions.is_empty() {
            actions = rig.timer().1;
        }
        assert_eq!(actions, [prepare("a")], "woken once at the most");
        waits.push((rig.now.mono - begin).as_secs());
    }
    assert_eq!(waits, [0, 0, 10, 20, 40, 80], "upstream looks for an end before this one");
}

#[test]
fn under_never_a_liveness_failure_is_the_end() {
    let timing = json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 5});
    let mut rig = Rig::up(probed(&json!({"livenessProbe": tcp(timing)}), "Never"));
    rig.image("a");
    rig.run("a", 0);
    rig.timer();
    rig.records.clear();
    assert_eq!(rig.probed("a", 0, LIVENESS, false), [stop("a", 0, 30)]);
    assert!(rig.records.contains(&"N a Killing: Stopping container a".to_owned()));
    rig.exit("a", 0, 143);
    assert_eq!(rig.phase(), "Failed");
}

#[test]
fn a_failure_before_upstreams_first_tick_is_nobodys_fault() {
    let timing = json!({"periodSeconds": 7, "failureThreshold": 1});
    let probes = json!({"startupProbe": tcp(timing.clone()), "livenessProbe": tcp(timing)});
    let mut rig = Rig::up(probed(&probes, "Always"));
    rig.image("a");
    assert_eq!(rig.run("a", 0), [probe_of("a", 0, STARTUP)], "a success is welcome");
    rig.records.clear();
    assert_eq!(rig.probed("a", 0, STARTUP, false), []);
    assert_eq!(rig.records, [""; 0]);
    assert_eq!(rig.timer(), (7, vec![probe_of("a", 0, STARTUP)]));
    assert_eq!(rig.probed("a", 0, STARTUP, false), [stop("a", 0, 30)]);
    let mut rig = Rig::up(probed(&probes, "Always"));
    rig.image("a");
    rig.run("a", 0);
    assert_eq!(rig.probed("a", 0, STARTUP, true), [], "liveness has its own first tick");
    assert_eq!(rig.timer(), (7, vec![probe_of("a", 0, LIVENESS)]));
    assert_eq!(rig.probed("a", 0, LIVENESS, false), [stop("a", 0, 30)]);
    // After an early one comes that first tick, whatever the delay was.
    let timing = json!({"initialDelaySeconds": 5, "periodSeconds": 7, "failureThreshold": 1});
    for early in [false, true] {
        let mut rig = Rig::up(probed(&json!({"startupProbe": tcp(timing.clone())}), "Always"));
        rig.image("a");
        assert_eq!(rig.run("a", 0), []);
        assert_eq!(rig.timer(), (5, vec![probe_of("a", 0, STARTUP)]));
        rig.records.clear();
        let error = ProbeOutcome::Error("no such command".to_owned());
        let failed = ProbeOutcome::Failure("no luck".to_owned());
        rig.outcome("a", 0, STARTUP, if early { error } else { failed });
        assert_eq!(rig.records, [""; 0], "nobody asked for it");
        assert_eq!(rig.timer(), (2, vec![probe_of("a", 0, STARTUP)]));
        assert_eq!(rig.probed("a", 0, STARTUP, false), [stop("a", 0, 30)]);
    }
}

#[test]
fn one_that_is_not_ready_is_asked_each_minute_at_least() {
    let timing = json!({"periodSeconds": 200});
    let mut rig = Rig::up(probed(&json!({"readinessProbe": tcp(timing)}), "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.probed("a", 0, READINESS, false);
    assert_eq!(rig.timer(), (60, vec![probe_of("a", 0, READINESS)]));
    rig.probed("a", 0, READINESS, true);
    assert_eq!(rig.timer().0, 60);
    rig.probed("a", 0, READINESS, true);
    assert_eq!(rig.timer().0, 200);
}

#[test]
fn a_probe_has_a_grace_of_its_own_also_a_longer_one() {
    let timing = json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 90});
    let mut rig = Rig::up(probed(&json!({"livenessProbe": tcp(timing)}), "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.timer();
    assert_eq!(rig.probed("a", 0, LIVENESS, false), [stop("a", 0, 90)]);
    let kill = Event::Kill { grace: Duration::from_secs(10) };
    assert_eq!(rig.feed(kill), [stop("a", 0, 10)], "that of its pod shortens it");
    let timing = json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 7});
    let mut rig = Rig::up(probed(&json!({"startupProbe": tcp(timing)}), "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.probed("a", 0, STARTUP, false);
    rig.timer();
    assert_eq!(rig.probed("a", 0, STARTUP, false), [stop("a", 0, 7)]);
}

#[test]
fn of_two_main_containers_that_fail_under_never_the_last_ends_with_its_pod() {
    let probe = tcp(json!({"failureThreshold": 1}));
    let main = |name| json!({"name": name, "image": "a.wasm", "livenessProbe": probe});
    let spec = json!({"containers": [main("a"), main("b")], "restartPolicy": "Never"});
    let mut rig = Rig::up(pod_with(&[], &spec, &json!({})));
    for main in ["a", "b"] {
        rig.image(main);
        rig.run(main, 0);
    }
    rig.timer();
    rig.records.clear();
    assert_eq!(rig.probed("a", 0, LIVENESS, false), [stop("a", 0, 30)]);
    assert_eq!(rig.probed("b", 0, LIVENESS, false), [stop("b", 0, 30)]);
    let told = [
        "N a Killing: Container a failed liveness probe",
        "W a Unhealthy: Liveness probe failed: no luck",
        "N b Killing: Stopping container b",
        "W b Unhealthy: Liveness probe failed: no luck",
    ];
    rig.records.sort_by_key(|told| (told.contains(" b "), told.starts_with('W')));
    assert_eq!(rig.records, told);
}

#[test]
fn others_are_held_until_the_startup_probe_has_passed() {
    let probes = json!({
        "startupProbe": tcp(json!({"initialDelaySeconds": 14, "failureThreshold": 2})),
        "livenessProbe": tcp(json!({})), "readinessProbe": tcp(json!({})),
    });
    let mut rig = Rig::up(probed(&probes, "Always"));
    rig.image("a");
    assert_eq!(rig.run("a", 0), [], "not before the initial delay");
    assert_eq!(rig.timer(), (14, vec![probe_of("a", 0, STARTUP)]));
    assert_eq!(rig.shown("a").started, Some(false));
    let then = rig.probed("a", 0, STARTUP, true);
    assert_eq!(then, [probe_of("a", 0, LIVENESS), probe_of("a", 0, READINESS)]);
    let shown = rig.shown("a");
    assert_eq!((shown.started, shown.ready), (Some(true), false));
    rig.probed("a", 0, READINESS, true);
    assert!(rig.shown("a").ready);
    let mut rig = Rig::up(probed(&probes, "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.timer();
    rig.probed("a", 0, STARTUP, false);
    rig.timer();
    assert_eq!(rig.probed("a", 0, STARTUP, false), [stop("a", 0, 30)]);
}

#[test]
fn what_is_said_of_another_attempt_counts_for_nothing() {
    let mut rig = Rig::up(probed(&json!({"readinessProbe": tcp(json!({}))}), "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    rig.records.clear();
    rig.probed("a", 0, READINESS, true);
    assert!(!rig.shown("a").ready);
    assert_eq!(rig.records, [""; 0]);
    rig.probed("a", 1, READINESS, true);
    assert!(rig.shown("a").ready);
    rig.probed("a", 1, READINESS, false);
    assert!(rig.shown("a").ready, "nobody asked");
}

#[test]
fn an_ending_pod_is_probed_for_readiness_alone() {
    let probes = json!({
        "livenessProbe": tcp(json!({"periodSeconds": 3, "failureThreshold": 1})),
        "readinessProbe": tcp(json!({"periodSeconds": 3, "failureThreshold": 1})),
    });
    let mut rig = Rig::up(probed(&probes, "Always"));
    rig.image("a");
    rig.run("a", 0);
    rig.probed("a", 0, LIVENESS, true);
    rig.probed("a", 0, READINESS, true);
    rig.feed(Event::Kill { grace: Duration::from_secs(20) });
    assert_eq!(rig.cond("Ready"), "True");
    assert_eq!(rig.timer(), (3, vec![probe_of("a", 0, READINESS)]));
    rig.probed("a", 0, READINESS, false);
    assert!(rig.cond("Ready").starts_with("False"));
}

#[test]
fn a_new_agent_believes_what_the_pods_object_says() {
    let probes = json!({
        "startupProbe": tcp(json!({})), "readinessProbe": tcp(json!({"periodSeconds": 10})),
    });
    let mut object = probed(&probes, "Always");
    let mut rig = Rig::up(object.clone());
    rig.image("a");
    rig.run("a", 0);
    rig.probed("a", 0, STARTUP, true);
    rig.probed("a", 0, READINESS, true);
    object.status = Some(rig.status());
    let running = AttemptState::Running { started_at: wall(0) };
    let mut rig = Rig::new(object.clone());
    assert_eq!(rig.feed(Event::Observed(vec![attempt("a", 0, running.clone())])), [Action::SetUp]);
    assert_eq!(rig.cond("Ready"), "True");
    assert!(
        rig.state.wake_at().unwrap() <= rig.now.mono + Duration::from_secs(10),
        "within a period"
    );
    let other = Attempt { id: "wasm://ff".to_owned(), ..attempt("a", 1, running) };
    let mut rig = Rig::new(object);
    rig.feed(Event::Observed(vec![other]));
    assert_eq!(rig.shown("a").started, Some(false), "of another process it says nothing");
}

#[test]
fn a_new_agent_spreads_its_first_probes_and_keeps_to_what_is_left_of_the_delay() {
    let probes = json!({"startupProbe": tcp(json!({"initialDelaySeconds": 100}))});
    let first = |uid: &str| {
        let mut object = probed(&probes, "Always");
        object.metadata.uid = Some(uid.to_owned());
        let mut rig = Rig::new(object);
        let running = AttemptState::Running { started_at: wall(0) };
        rig.feed(Event::Observed(vec![attempt("a", 0, running)]));
        rig.state.wake_at().unwrap() - rig.now.mono
    };
    let all = ["u1", "u2", "u3"].map(first);
    assert!(all.iter().all(|wait| (100..110).contains(&wait.as_secs())), "{all:?}");
    assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
}

#[test]
fn the_last_main_container_that_fails_under_never_takes_all_with_it_at_once() {
    let hook = json!({"preStop": {"exec": {"command": ["x"]}}});
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always", "lifecycle": hook}, {"name": "t", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "a.wasm", "livenessProbe": tcp(json!({"failureThreshold": 1}))}]});
    let mut rig = Rig::up(pod_with(&[], &spec, &json!({})));
    for name in ["s", "t", "a"] {
        rig.image(name);
        rig.run(name, 0);
    }
    rig.timer();
    rig.records.clear();
    let then = rig.probed("a", 0, LIVENESS, false);
    assert_eq!(then, [stop("a", 0, 30), hook_of("s", 0, HookKind::PreStop)]);
    let killed = ["a", "t", "s"].map(|name| format!("N {name} Killing: Stopping container {name}"));
    assert_eq!(rig.records[1..], killed);
    rig.pass(25);
    rig.hooked("s", 0, HookKind::PreStop, Ok(()));
    assert_eq!(rig.exit("a", 0, 143), [stop("t", 0, 5)], "of one grace");
    assert_eq!(rig.exit("t", 0, 143), [stop("s", 0, 5)]);
    assert_eq!(rig.exit("s", 0, 143), [Action::TearDown]);
    assert_eq!((rig.phase().as_str(), rig.records.len()), ("Failed", 4));
}
