//! What the status shows: conditions, their times, container statuses, addresses.

use super::*;

const READY_KINDS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

#[test]
fn conditions_come_in_upstreams_order_with_its_texts() {
    let mut rig = Rig::new(pod_inits(&["i"], &["b", "a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    let kinds: Vec<String> =
        rig.status().conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    assert_eq!(kinds, READY_KINDS);
    let unready = "False ContainersNotReady containers with unready status: [b a]";
    let open = "False ContainersNotInitialized containers with incomplete status: [i]";
    assert_eq!(READY_KINDS.map(|kind| rig.cond(kind)), ["False", open, unready, unready, "True"]);
    rig.set_up();
    assert_eq!(rig.cond("PodReadyToStartContainers"), "True");
    rig.image("i");
    rig.exit("i", 0, 0);
    assert_eq!(rig.cond("Initialized"), "True");
    rig.run("a", 0);
    let unready = "False ContainersNotReady containers with unready status: [b]";
    assert_eq!(rig.cond("ContainersReady"), unready);
    rig.run("b", 0);
    assert_eq!(READY_KINDS.map(|kind| rig.cond(kind)), ["True"; 5]);
}

#[test]
fn conditions_at_the_end() {
    for (code, initialized, ready) in
        [(0, "True PodCompleted", "False PodCompleted"), (1, "True", "False PodFailed")]
    {
        let mut rig = Rig::running(pod(&["a"], "Never"));
        rig.exit("a", 0, code);
        let shown = ["Initialized", "Ready", "ContainersReady"].map(|kind| rig.cond(kind));
        assert_eq!(shown, [initialized, ready, ready]);
    }
}

#[test]
fn a_transition_time_moves_only_with_its_status() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    let ready_at = |rig: &Rig| rig.condition("Ready").last_transition_time.unwrap().0.as_second();
    let first = ready_at(&rig);
    assert_eq!(first, wall(0).as_second());
    rig.pass(10);
    rig.exit("a", 0, 1);
    assert_eq!(ready_at(&rig), first + 10);
    rig.pass(10);
    rig.exit("b", 0, 1);
    assert_eq!(ready_at(&rig), first + 10, "another reason is no transition");
    assert_eq!(rig.cond("Ready"), "False ContainersNotReady containers with unready status: [a b]");
    let scheduled = rig.condition("PodScheduled").last_transition_time.unwrap().0;
    assert_eq!(scheduled.as_second(), first);
}

#[test]
fn transition_times_and_start_time_outlive_the_agent() {
    let mut rig = Rig::running(pod(&["a", "b"], "Never"));
    rig.pass(10);
    rig.exit("b", 0, 0);
    let mut object = pod(&["a", "b"], "Never");
    object.status = Some(rig.status());
    rig.pass(100);
    let mut again = Rig::new(object);
    again.now = rig.now;
    assert_eq!(again.status().phase.as_deref(), Some("Running"), "before the first look");
    let running = attempt("a", 0, AttemptState::Running { started_at: wall(0) });
    let mut done = exit(0, 0);
    done.finished_at = wall(0) + Duration::from_secs(10);
    again.feed(Event::Observed(vec![running, attempt("b", 0, AttemptState::Exited(done))]));
    let times = |rig: &Rig| {
        let of = |kind: &str| (rig.cond(kind), rig.condition(kind).last_transition_time.unwrap().0);
        (READY_KINDS.map(of), rig.status().start_time)
    };
    assert_eq!(times(&again), times(&rig));
}

#[test]
fn foreign_conditions_are_kept_and_gates_hold_ready_back() {
    let gated = |conditions: Value| {
        let gates = json!({"readinessGates": [{"conditionType": "x/gate"}]});
        let mut pod = pod_with(&["a"], &gates, &json!({}));
        pod.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
        pod
    };
    let mut rig = Rig::running(gated(json!([])));
    let absent = "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/gate\" \
         does not exist.";
    assert_eq!(rig.cond("Ready"), absent);
    assert_eq!(rig.cond("ContainersReady"), "True");
    let gate = |status: &str| json!([{"type": "x/gate", "status": status, "reason": "Why"}]);
    rig.feed(Event::Desired(Arc::new(gated(gate("False")))));
    let no = "False ReadinessGatesNotReady the status of pod readiness gate \"x/gate\" is not \
              \"True\", but False";
    assert_eq!(rig.cond("Ready"), no);
    rig.feed(Event::Desired(Arc::new(gated(gate("True")))));
    assert_eq!(rig.cond("Ready"), "True");
    assert_eq!(rig.status().conditions.unwrap()[0].type_, "x/gate");
    assert_eq!(rig.cond("x/gate"), "True Why");
}

#[test]
fn the_generation_that_was_seen_is_on_the_status_and_each_condition() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    let newer = pod_with(&["a"], &json!({}), &json!({"generation": 8}));
    rig.feed(Event::Desired(Arc::new(newer)));
    let status = rig.status();
    assert_eq!(status.observed_generation, Some(8));
    let seen = status.conditions.unwrap().into_iter().map(|c| c.observed_generation);
    assert!(seen.into_iter().all(|generation| generation == Some(8)));
}

#[test]
fn a_container_status_shows_the_newest_attempt() {
    let mut rig = Rig::running(pod(&["b", "a"], "Always"));
    rig.pass(3);
    rig.exit("b", 0, 5);
    rig.image("b");
    rig.run("b", 1);
    let status = rig.status();
    let names: Vec<String> =
        status.container_statuses.into_iter().flatten().map(|status| status.name).collect();
    assert_eq!(names, ["a", "b"], "sorted by name");
    let shown = serde_json::to_value(rig.shown("b")).unwrap();
    assert_eq!(
        shown,
        json!({
            "name": "b", "image": "file:///b.wasm", "imageID": "sha256:abc",
            "containerID": "wasm://6231", "restartCount": 1, "started": true, "ready": true,
            "resources": {},
            "state": {"running": {"startedAt": "2023-11-14T22:13:23Z"}},
            "lastState": {"terminated": {
                "containerID": "wasm://6230", "exitCode": 5, "reason": "Error",
                "startedAt": "2023-11-14T22:13:20Z", "finishedAt": "2023-11-14T22:13:23Z",
            }},
        })
    );
}

#[test]
fn init_statuses_come_in_the_specs_order() {
    let rig = Rig::up(pod_inits(&["z", "y", "x"], &["a"], "Always"));
    let inits = rig.status().init_container_statuses.unwrap();
    assert_eq!(inits.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["z", "y", "x"]);
}

#[test]
fn addresses_class_and_start_time_stay_after_the_end() {
    let mut rig = Rig::running(pod(&["a"], "Never"));
    rig.pass(50);
    rig.exit("a", 0, 0);
    rig.feed(Event::TornDown(Ok(())));
    let status = rig.status();
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.7"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(status.pod_ips.unwrap()[0].ip, "10.0.0.9");
    assert_eq!(status.host_ips.unwrap()[0].ip, "192.0.2.7");
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.start_time.unwrap().0, Timestamp::from_second(1_700_000_000).unwrap());
}

#[test]
fn an_adopted_container_keeps_the_image_that_its_object_names() {
    let mut object = pod(&["a"], "Always");
    object.status = Some(Rig::running(pod(&["a"], "Always")).status());
    let list = |id: String, image: Option<&str>| {
        let mut rig = Rig::new(object.clone());
        let state = AttemptState::Running { started_at: wall(0) };
        let named = |id: &str| ImageNames { image: "b.wasm".into(), image_id: id.into() };
        let image = image.map(named);
        rig.feed(Event::Observed(vec![Attempt { id, image, ..attempt("a", 0, state) }]));
        let shown = rig.shown("a");
        (shown.image, shown.image_id)
    };
    let is = |image: &str, id: &str| (image.to_owned(), id.to_owned());
    assert_eq!(list(id("a", 0), Some("other")), is("file:///a.wasm", "sha256:abc"));
    assert_eq!(list("0ddba11".to_owned(), None), is("a.wasm", ""), "another process");
    assert_eq!(list("0ddba11".to_owned(), Some("other")), is("b.wasm", "other"), "it tells");
}

#[test]
fn a_pod_that_was_not_looked_at_shows_what_its_object_says_and_its_class() {
    let status = Rig::new(pod(&["a"], "Always")).status();
    assert_eq!(
        (status.phase.as_deref(), status.qos_class.as_deref()),
        (Some("Pending"), Some("BestEffort"))
    );
}

#[test]
fn what_an_object_says_of_a_container_that_waits_is_old() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.no_image("a", "ErrImagePull");
    let mut object = pod(&["a"], "Always");
    object.status = Some(rig.status());
    let mut rig = Rig::new(object);
    rig.feed(Event::Observed(Vec::new()));
    assert_eq!(rig.brief("a"), "waiting ContainerCreating");
}

#[test]
fn a_container_shows_as_whom_it_began() {
    let mut rig = Rig::up(pod(&["a", "b"], "Never"));
    for (name, groups, shown) in [
        ("a", vec![], json!({"uid": 5, "gid": 6})),
        ("b", vec![6, 7], json!({"uid": 5, "gid": 6, "supplementalGroups": [6, 7]})),
    ] {
        rig.image(name);
        rig.feed(Event::Attempt(attempt(name, 0, AttemptState::Starting)));
        let user = Some(crate::User { uid: 5, gid: 6, groups });
        let running = AttemptState::Running { started_at: wall(0) };
        rig.feed(Event::Attempt(Attempt { user, ..attempt(name, 0, running) }));
        let exited = AttemptState::Exited(exit(0, 0));
        rig.feed(Event::Attempt(attempt(name, 0, exited)));
        let user = serde_json::to_value(rig.shown(name).user).unwrap();
        assert_eq!(user, json!({"linux": shown}), "also when its end comes without");
    }
}

#[test]
fn times_are_rounded_down_to_whole_seconds() {
    for (millis, secs) in [(1_999, 1), (2_000, 2), (-1, -1), (-1_000, -1)] {
        let time = Timestamp::from_millisecond(millis).unwrap();
        assert_eq!(crate::status::whole_seconds(time), Timestamp::from_second(secs).unwrap());
    }
}

#[test]
fn the_nodes_addresses_are_shown_from_the_first() {
    let host = Host {
        ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        ..Host::default()
    };
    for on_host in [false, true] {
        let object = pod_with(&["a"], &json!({"hostNetwork": on_host}), &json!({}));
        let mut rig = Rig::new(object.clone());
        rig.state = State::new(Arc::new(object)).on(host.clone());
        rig.feed(Event::Observed(Vec::new()));
        rig.feed(Event::SetUp(Err(failure("FailedMount"))));
        let status = rig.status();
        assert_eq!(status.host_ip.as_deref(), Some("192.0.2.7"));
        assert_eq!(status.host_ips.map(|ips| ips.len()), Some(2));
        let of_pod = on_host.then_some("192.0.2.7");
        assert_eq!(status.pod_ip.as_deref(), of_pod);
        assert_eq!(status.pod_ips.map(|ips| ips.len()), on_host.then_some(2));
    }
}

#[test]
fn a_pod_that_was_initialised_stays_so() {
    let init = json!([{"name": "s", "restartPolicy": "Always"}]);
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": init}), &json!({})));
    assert_eq!(
        rig.cond("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [s]"
    );
    rig.image("s");
    rig.run("s", 0);
    assert_eq!(rig.cond("Initialized"), "True");
    rig.exit("s", 0, 1);
    assert_eq!(rig.cond("Initialized"), "True", "though the main container has not run");
}

#[test]
fn a_read_only_mount_says_whether_all_below_it_is() {
    let mount = |name: &str, read_only: bool, mode: Value, propagation: Value| {
        json!({"name": name, "mountPath": format!("/{name}"), "readOnly": read_only,
            "recursiveReadOnly": mode, "mountPropagation": propagation})
    };
    let mounts = [
        mount("w", false, Value::Null, Value::Null),
        mount("plain", true, Value::Null, Value::Null),
        mount("off", true, json!("Disabled"), Value::Null),
        mount("maybe", true, json!("IfPossible"), json!("None")),
        mount("seen", true, json!("IfPossible"), json!("HostToContainer")),
        mount("must", true, json!("Enabled"), Value::Null),
    ];
    let spec = json!({"containers": [{"name": "a", "image": "a.wasm", "volumeMounts": mounts}]});
    let mut rig = Rig::up(pod_with(&[], &spec, &json!({})));
    let first = serde_json::to_value(&rig.shown("a").volume_mounts.unwrap()[..2]).unwrap();
    let plain = json!({"name": "plain", "mountPath": "/plain", "readOnly": true,
        "recursiveReadOnly": "Disabled"});
    assert_eq!(first, json!([{"name": "w", "mountPath": "/w"}, plain]));
    let shown = |rig: &Rig| {
        let all = rig.shown("a").volume_mounts.unwrap_or_default().into_iter();
        all.map(|mount| mount.recursive_read_only.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&rig), ["", "Disabled", "Disabled", "Enabled", "Disabled", "Enabled"]);
    let done = SetUpDone::default();
    rig = Rig::new((**rig.state.pod()).clone());
    rig.feed(Event::Observed(Vec::new()));
    rig.feed(Event::SetUp(Ok(done)));
    assert_eq!(shown(&rig), ["", "Disabled", "Disabled", "Disabled", "Disabled", "Disabled"]);
}
