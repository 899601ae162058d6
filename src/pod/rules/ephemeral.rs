//! Ephemeral containers: added to a pod that runs, run once, beside everything else.

use super::*;

/// The pod with ephemeral containers.
fn with(mut pod: Pod, names: &[&str]) -> Pod {
    let all: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "image": format!("{name}.wasm")})).collect();
    let spec = pod.spec.as_mut().unwrap();
    spec.ephemeral_containers = serde_json::from_value(json!(all)).unwrap();
    pod
}

fn add(pod: Pod, names: &[&str]) -> Event {
    Event::Desired(Arc::new(with(pod, names)))
}

#[test]
fn one_that_is_added_runs_once_and_changes_nothing_else() {
    let plain = || pod(&["a"], "Always");
    let mut rig = Rig::running(plain());
    rig.records.clear();
    assert_eq!(rig.feed(add(plain(), &["e"])), [prepare("e")]);
    let shown = serde_json::to_value(rig.shown("e")).unwrap();
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    assert_eq!(
        shown,
        json!({"name": "e", "image": "e.wasm", "imageID": "", "ready": false, "restartCount": 0,
            "state": waiting})
    );
    assert_eq!(rig.no_image("e", "ErrImagePull"), []);
    assert_eq!(rig.brief("e"), "waiting ErrImagePull: no luck");
    rig.timer();
    assert_eq!(rig.timer(), (5, vec![prepare("e")]));
    assert_eq!(rig.image("e"), [start("e", 0)]);
    rig.run("e", 0);
    assert_eq!(rig.brief("e"), "running");
    assert_eq!(rig.records.last().unwrap(), "N e Started: Container started");
    let (shown, status) = (rig.shown("e"), rig.status());
    assert_eq!((shown.ready, shown.started), (false, None), "upstream says neither");
    assert_eq!((rig.phase().as_str(), rig.cond("Ready").as_str()), ("Running", "True"));
    assert_eq!(status.container_statuses.unwrap().len(), 1);
    assert_eq!(rig.exit("e", 0, 3), []);
    assert_eq!((rig.brief("e").as_str(), rig.phase().as_str()), ("3 Error", "Running"));
    assert_eq!(rig.feed(add(plain(), &["e", "d"])), [prepare("d")], "only the new one");
    let status = rig.status().ephemeral_container_statuses.unwrap();
    assert_eq!(status.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["d", "e"]);
}

#[test]
fn one_may_run_before_init_is_done() {
    let plain = || pod_inits(&["i"], &["a"], "Always");
    let mut rig = Rig::new(plain());
    rig.feed(Event::Observed(Vec::new()));
    assert_eq!(rig.feed(add(plain(), &["e"])), [], "not before the set-up");
    assert_eq!(rig.brief("e"), "waiting PodInitializing");
    assert_eq!(rig.set_up(), [prepare("i"), prepare("e")]);
    assert_eq!(rig.image("e"), [start("e", 0)]);
    rig.run("e", 0);
    assert_eq!(rig.phase(), "Pending");
    assert!(rig.cond("Initialized").starts_with("False"), "it is none of those after them");
    rig.image("i");
    assert_eq!(rig.exit("i", 0, 0), [prepare("a")]);
}

#[test]
fn one_ends_with_its_pod_and_keeps_it_from_nothing() {
    let plain = || pod(&["a"], "Never");
    let mut rig = Rig::running(plain());
    rig.feed(add(plain(), &["e"]));
    rig.image("e");
    rig.run("e", 0);
    assert_eq!(rig.exit("a", 0, 0), [stop("e", 0, 30)], "the main container is done");
    assert_eq!(rig.phase(), "Running", "something still runs");
    assert_eq!(rig.exit("e", 0, 143), [Action::TearDown]);
    assert_eq!((rig.phase().as_str(), rig.brief("e").as_str()), ("Succeeded", "143 Error"));
}

#[test]
fn one_that_ran_is_not_run_again_in_a_new_sandbox() {
    let plain = || pod(&["a"], "Always");
    let mut rig = Rig::running(plain());
    rig.feed(add(plain(), &["e", "f"]));
    rig.image("e");
    rig.run("e", 0);
    let dead = Event::SandboxChanged { sandbox: 0 };
    assert_eq!(rig.feed(dead), [stop("a", 0, 30), stop("e", 0, 30)]);
    rig.exit("e", 0, 143);
    rig.exit("a", 0, 143);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("a")]);
    assert_eq!(rig.image("f"), [start("f", 0)], "the other had not run");
}

#[test]
fn a_restarted_agent_knows_which_ran() {
    let mut rig = Rig::new(with(pod(&["a"], "Always"), &["e", "f"]));
    let running = AttemptState::Running { started_at: wall(0) };
    let ended = attempt("e", 0, AttemptState::Exited(exit(0, 0)));
    rig.feed(Event::Observed(vec![attempt("a", 0, running.clone()), ended]));
    assert_eq!(rig.set_up(), [prepare("f")]);
    // Its object is older than the runtime's containers.
    let mut rig = Rig::new(pod(&["a"], "Always"));
    let listed = ["a", "e"].map(|name| attempt(name, 0, running.clone()));
    assert_eq!(rig.feed(Event::Observed(listed.into())), [Action::SetUp, stop("e", 0, 30)]);
    rig.set_up();
    assert_eq!(rig.feed(add(pod(&["a"], "Always"), &["e"])), []);
    assert_eq!(rig.exit("e", 0, 143), [], "it has run");
    assert_eq!(rig.brief("e"), "143 Error");
}

#[test]
fn one_that_never_ran_is_tried_again() {
    let plain = || pod(&["a"], "Never");
    let mut rig = Rig::running(plain());
    rig.feed(add(plain(), &["e"]));
    rig.image("e");
    let failure = failure("CreateContainerConfigError");
    rig.feed(Event::StartFailed { container: "e".to_owned(), attempt: 0, failure });
    assert_eq!(rig.brief("e"), "waiting CreateContainerConfigError: no luck");
    assert_eq!(rig.timer(), (1, vec![prepare("e")]));
    assert_eq!(rig.image("e"), [start("e", 0)]);
}
