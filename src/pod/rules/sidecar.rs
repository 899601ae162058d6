//! Sidecars: init containers that stay.

use super::*;

/// A pod of sidecars `s` and `t`, a regular init container between them, and the mains.
fn with_sidecars(mains: &[&str], policy: &str) -> Pod {
    let inits = json!([
        {"name": "s", "restartPolicy": "Always"}, {"name": "i"}, {"name": "t", "restartPolicy": "Always"},
    ]);
    pod_with(mains, &json!({"restartPolicy": policy, "initContainers": inits}), &json!({}))
}

/// The pod, with everything of it running.
fn all_running(pod: Pod) -> Rig {
    let mut rig = Rig::up(pod);
    rig.image("s");
    rig.run("s", 0);
    rig.image("i");
    rig.run("i", 0);
    rig.exit("i", 0, 0);
    rig.image("t");
    rig.run("t", 0);
    for main in rig.mains() {
        rig.image(&main);
        rig.run(&main, 0);
    }
    rig.actions.clear();
    rig
}

#[test]
fn each_starts_once_what_is_before_it_has_started() {
    let mut rig = Rig::up(with_sidecars(&["a"], "Never"));
    assert_eq!(rig.actions, [Action::SetUp, prepare("s")]);
    assert_eq!(rig.image("s"), [start("s", 0)]);
    let open = "False ContainersNotInitialized containers with incomplete status: [s i t]";
    assert_eq!(rig.cond("Initialized"), open);
    assert_eq!(rig.run("s", 0), [prepare("i")]);
    let open = "False ContainersNotInitialized containers with incomplete status: [i t]";
    assert_eq!(rig.cond("Initialized"), open);
    rig.image("i");
    assert_eq!(rig.exit("i", 0, 0), [prepare("t")]);
    rig.image("t");
    assert_eq!(rig.phase(), "Pending");
    assert_eq!(rig.run("t", 0), [prepare("a")]);
    assert_eq!(rig.cond("Initialized"), "True");
    rig.image("a");
    rig.run("a", 0);
    assert_eq!((rig.phase().as_str(), rig.cond("Ready").as_str()), ("Running", "True"));
    let shown: Vec<_> = ["s", "i", "t"].map(|name| rig.shown(name)).into();
    assert_eq!(
        shown.iter().map(|s| s.started).collect::<Vec<_>>(),
        [Some(true), Some(false), Some(true)]
    );
    assert!(shown.iter().all(|status| status.ready));
}

#[test]
fn one_that_ends_starts_again_whatever_the_policy_and_counts_for_ready() {
    let mut rig = all_running(with_sidecars(&["a"], "Never"));
    assert_eq!(rig.exit("s", 0, 0), [prepare("s")], "the first restart is immediate");
    let unready = "False ContainersNotReady containers with unready status: [s]";
    assert_eq!((rig.phase().as_str(), rig.cond("Ready").as_str()), ("Running", unready));
    assert_eq!(rig.image("s"), [start("s", 1)]);
    rig.run("s", 1);
    assert_eq!(rig.cond("Ready"), "True");
    assert_eq!(rig.exit("s", 1, 1), [], "then it waits");
    assert!(rig.brief("s").starts_with("waiting CrashLoopBackOff"));
    assert_eq!(rig.exit("a", 0, 0), [stop("t", 0, 30)], "and holds nothing up");
    assert_eq!(rig.exit("t", 0, 143), [Action::TearDown]);
    assert_eq!(rig.phase(), "Succeeded", "sidecars count for nothing");
}

#[test]
fn they_end_after_the_main_containers_in_reverse_within_one_grace() {
    let mut rig = all_running(with_sidecars(&["a", "b"], "Always"));
    rig.records.clear();
    let grace = Duration::from_secs(20);
    assert_eq!(rig.feed(Event::Kill { grace }), [stop("a", 0, 20), stop("b", 0, 20)]);
    assert_eq!(rig.records.len(), 4, "all are told at once: {:?}", rig.records);
    rig.pass(4);
    assert_eq!(rig.exit("b", 0, 143), []);
    assert_eq!(rig.exit("a", 0, 143), [stop("t", 0, 16)]);
    rig.pass(5);
    assert_eq!(rig.exit("t", 0, 143), [stop("s", 0, 11)]);
    assert_eq!(rig.exit("s", 0, 143), [Action::TearDown]);
}

#[test]
fn their_turn_comes_in_any_case_when_the_grace_is_used_up() {
    let mut rig = all_running(with_sidecars(&["a"], "Always"));
    let grace = Duration::from_secs(10);
    assert_eq!(rig.feed(Event::Kill { grace }), [stop("a", 0, 10)]);
    assert_eq!(rig.timer(), (10, vec![stop("t", 0, 2), stop("s", 0, 2)]), "the least there is");
}

#[test]
fn one_waits_for_its_startup_probe_and_its_hook() {
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 5});
    let hook = json!({"postStart": {"exec": {"command": ["a"]}}});
    let init =
        json!([{"name": "s", "restartPolicy": "Always", "startupProbe": probe, "lifecycle": hook}]);
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": init}), &json!({})));
    rig.image("s");
    assert_eq!(rig.run("s", 0), [hook_of("s", 0, HookKind::PostStart)]);
    assert_eq!(rig.brief("s"), "waiting PodInitializing");
    assert_eq!(
        rig.hooked("s", 0, HookKind::PostStart, Ok(())),
        [probe_of("s", 0, ProbeKind::Startup)]
    );
    assert_eq!(rig.brief("s"), "running");
    assert_eq!(rig.probed("s", 0, ProbeKind::Startup, false), []);
    assert_eq!(rig.shown("s").started, Some(false));
    assert_eq!(rig.timer(), (5, vec![probe_of("s", 0, ProbeKind::Startup)]));
    assert_eq!(rig.probed("s", 0, ProbeKind::Startup, true), [prepare("a")]);
    assert_eq!(rig.shown("s").started, Some(true));
}

#[test]
fn an_init_failure_takes_them_down() {
    let mut rig = Rig::up(with_sidecars(&["a"], "Never"));
    rig.image("s");
    rig.run("s", 0);
    rig.image("i");
    rig.run("i", 0);
    assert_eq!(rig.exit("i", 0, 1), [stop("s", 0, 30)]);
    assert_eq!(rig.phase(), "Pending");
    rig.exit("s", 0, 143);
    assert_eq!(rig.phase(), "Failed");
}

#[test]
fn a_new_image_replaces_one_that_runs_whenever_it_is_seen() {
    let mut rig = all_running(with_sidecars(&["a"], "Never"));
    rig.records.clear();
    let mut new = with_sidecars(&["a"], "Never");
    let inits = new.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
    inits[0].image = Some("other".to_owned());
    let definition = crate::definition(&inits[0]);
    assert_eq!(rig.feed(Event::Desired(Arc::new(new.clone()))), [stop("s", 0, 30)]);
    assert_eq!(rig.records, ["N s Killing: Init container s definition changed"]);
    assert_eq!(rig.exit("s", 0, 143), [prepare("s")]);

    // An agent that comes later sees it by what the runtime knows.
    for (made, stops) in [(definition, 0), (definition ^ 1, 1)] {
        let mut rig = Rig::new(new.clone());
        let running = AttemptState::Running { started_at: wall(0) };
        let listed = ["s", "t", "a"].map(|name| Attempt {
            definition: Some(made).filter(|_| name == "s"),
            ..attempt(name, 0, running.clone())
        });
        let actions = rig.feed(Event::Observed(listed.into()));
        assert_eq!(actions.iter().filter(|a| **a == stop("s", 0, 30)).count(), stops);
    }
}

#[test]
fn when_no_main_container_runs_the_last_one_is_waited_for_again() {
    let mut rig = all_running(with_sidecars(&["a", "b"], "Always"));
    rig.exit("t", 0, 1);
    rig.image("t");
    rig.run("t", 1);
    assert_eq!(rig.exit("t", 1, 1), [], "its back-off");
    assert_eq!(rig.exit("a", 0, 1), [prepare("a")], "b runs");
    rig.image("a");
    rig.run("a", 1);
    rig.exit("b", 0, 1);
    assert_eq!(rig.image("b"), [start("b", 1)], "a runs");
    rig.run("b", 1);
    rig.exit("a", 1, 1);
    assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff"));
    rig.actions.clear();
    rig.exit("b", 1, 1);
    assert_eq!(rig.timer(), (10, vec![prepare("t")]));
    assert_eq!(rig.image("t"), [start("t", 2)]);
    let then = rig.run("t", 2);
    assert!(then.ends_with(&[prepare("a"), prepare("b")]), "their back-offs are over: {then:?}");
    // A regular init container that is the last has done its part.
    let inits = json!([{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]);
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": inits}), &json!({})));
    for (name, ends) in [("s", false), ("i", true), ("a", false)] {
        rig.image(name);
        rig.run(name, 0);
        if ends {
            rig.exit(name, 0, 0);
        }
    }
    rig.exit("s", 0, 1);
    assert_eq!(rig.exit("a", 0, 1), [prepare("a")]);
}
