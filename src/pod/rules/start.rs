//! From nothing to a running pod: order, images, failed steps.

use super::*;

#[test]
fn nothing_is_done_before_the_first_look() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.set_up();
    rig.run("a", 0);
    rig.start_failed("a", 0);
    rig.image("a");
    rig.feed(Event::Timer);
    rig.feed(Event::TornDown(Ok(())));
    rig.feed(Event::Kill { grace: Duration::ZERO });
    assert_eq!(rig.actions, []);
    assert!(!rig.state.is_terminated());
    assert_eq!(rig.phase(), "Pending");
}

#[test]
fn a_pod_runs_and_ends() {
    let mut rig = Rig::new(pod(&["a"], "Never"));
    rig.feed(Event::Observed(Vec::new()));
    rig.set_up();
    assert_eq!(rig.brief("a"), "waiting ContainerCreating");
    assert_eq!(rig.phase(), "Pending");
    rig.image("a");
    rig.feed(Event::Attempt(attempt("a", 0, AttemptState::Starting)));
    assert_eq!(rig.brief("a"), "waiting ContainerCreating");
    rig.run("a", 0);
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Running", "running"));
    rig.exit("a", 0, 0);
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Succeeded", "0 Completed"));
    assert!(!rig.state.is_terminated(), "not torn down yet");
    rig.feed(Event::TornDown(Ok(())));
    assert!(rig.state.is_terminated());
    assert_eq!(rig.state.wake_at(), None);
    let all = [Action::SetUp, prepare("a"), start("a", 0), Action::TearDown];
    assert_eq!(rig.actions, all);
}

#[test]
fn all_main_containers_start_together_and_each_with_its_own_image() {
    let mut rig = Rig::up(pod(&["b", "a"], "Always"));
    assert_eq!(rig.actions, [Action::SetUp, prepare("b"), prepare("a")]);
    assert_eq!(rig.image("a"), [start("a", 0)]);
    rig.run("a", 0);
    assert_eq!(rig.phase(), "Pending", "b has never run");
    assert_eq!(rig.image("b"), [start("b", 0)]);
    rig.run("b", 0);
    assert_eq!(rig.phase(), "Running");
}

#[test]
fn init_containers_run_one_after_the_other_and_never_again() {
    let mut rig = Rig::up(pod_inits(&["z", "i"], &["a"], "Always"));
    assert_eq!(rig.actions, [Action::SetUp, prepare("z")]);
    assert_eq!(rig.brief("a"), "waiting PodInitializing");
    assert_eq!(rig.image("z"), [start("z", 0)]);
    assert_eq!(rig.run("z", 0), []);
    assert_eq!(rig.exit("z", 0, 0), [prepare("i")]);
    rig.image("i");
    assert_eq!(rig.exit("i", 0, 3), [prepare("i")], "the first restart is immediate");
    assert_eq!(rig.image("i"), [start("i", 1)]);
    assert_eq!(rig.phase(), "Pending");
    assert_eq!(rig.exit("i", 1, 0), [prepare("a")]);
    rig.image("a");
    rig.run("a", 0);
    assert_eq!(rig.exit("a", 0, 1), [prepare("a")], "no init container again");
    assert_eq!(rig.phase(), "Running");
    let shown = rig.shown("z");
    assert!(shown.ready && shown.started == Some(false), "{shown:?}");
}

#[test]
fn an_init_container_that_fails_under_never_fails_the_pod() {
    let mut rig = Rig::up(pod_inits(&["i", "j"], &["a"], "Never"));
    rig.image("i");
    rig.run("i", 0);
    assert_eq!(rig.exit("i", 0, 2), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
    assert_eq!(rig.brief("i"), "2 Error");
    assert_eq!(rig.brief("j"), "waiting PodInitializing");
    assert_eq!(rig.brief("a"), "waiting PodInitializing");
    assert_eq!(rig.cond("Ready"), "False PodFailed");
    let open = "False ContainersNotInitialized containers with incomplete status: [i j]";
    assert_eq!(rig.cond("Initialized"), open);
}

#[test]
fn a_failed_pull_shows_its_reason_and_then_the_back_off() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert_eq!(rig.no_image("a", "ErrImagePull"), []);
        assert_eq!(rig.brief("a"), "waiting ErrImagePull: no luck");
        assert_eq!(rig.timer(), (5, Vec::new()));
        let text =
            "waiting ImagePullBackOff: Back-off pulling image \"a.wasm\": ErrImagePull: no luck";
        assert_eq!(rig.brief("a"), text);
        let (wait, actions) = rig.timer();
        assert_eq!(actions, [prepare("a")]);
        assert_eq!(rig.brief("a"), text, "shown until the answer");
        waits.push(wait + 5);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(rig.image("a"), [start("a", 0)]);
    rig.run("a", 0);
    assert_eq!(rig.brief("a"), "running");
}

#[test]
fn an_image_that_was_never_pulled_keeps_its_reason() {
    for reason in ["InvalidImageName", "ErrImageNeverPull", "ImageInspectError"] {
        let mut rig = Rig::up(pod(&["a"], "Never"));
        for _ in 0..4 {
            rig.no_image("a", reason);
            assert_eq!(rig.timer(), (10, vec![prepare("a")]), "no longer each time");
            assert_eq!(rig.brief("a"), format!("waiting {reason}: no luck"));
        }
    }
}

#[test]
fn a_failed_set_up_is_tried_again() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    for wait in [1, 2, 4, 8, 10, 10] {
        rig.feed(Event::SetUp(Err(failure("FailedMount"))));
        assert_eq!(rig.timer(), (wait, vec![Action::SetUp]));
    }
    rig.set_up();
    assert_eq!(rig.actions.last(), Some(&prepare("a")));
}

#[test]
fn an_attempt_that_never_ran_starts_again_under_its_number_even_under_never() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    for wait in [1, 2, 4] {
        assert_eq!(rig.start_failed("a", 0), []);
        assert_eq!(rig.brief("a"), "waiting RunContainerError: no luck");
        assert_eq!(rig.timer(), (wait, vec![prepare("a")]));
        assert_eq!(rig.image("a"), [start("a", 0)]);
    }
    rig.run("a", 0);
    assert_eq!(rig.shown("a").restart_count, 0);
    assert_eq!(rig.brief("a"), "running");
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.start_failed("a", 0);
    rig.start_failed("a", 1);
    rig.no_image("a", "ErrImagePull");
    rig.feed(Event::SetUp(Err(failure("x"))));
    rig.feed(Event::TornDown(Ok(())));
    assert_eq!((rig.actions.as_slice(), rig.state.wake_at()), (&[][..], None));
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Running", "running"));
    assert_eq!(rig.exit("a", 0, 1), [prepare("a")], "no wait is left of it");
    assert_eq!(rig.brief("a"), "1 Error");
}

#[test]
fn a_set_up_that_lacks_an_image_is_shown_by_its_container_and_waits_as_a_pull_does() {
    let mut rig = Rig::new(pod(&["a", "b"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    for wait in [5, 15, 35] {
        let failure = failure("ErrImagePull");
        let lacking = Event::NoImage { container: "b".to_owned(), failure };
        assert_eq!(rig.feed(lacking.clone()), []);
        assert_eq!(rig.brief("b"), "waiting ErrImagePull: no luck");
        assert_eq!(rig.brief("a"), "waiting ContainerCreating");
        assert_eq!(rig.feed(lacking), [], "nobody asked");
        while rig.now.mono < rig.state.wake_at().unwrap() && !rig.brief("b").contains("BackOff") {
            rig.timer();
        }
        assert_eq!(rig.timer(), (wait, vec![Action::SetUp]));
    }
    assert!(
        rig.records.contains(&"W b Failed: Failed to pull image \"b.wasm\": no luck".to_owned())
    );
    rig.set_up();
    assert_eq!(rig.actions.last(), Some(&prepare("b")));
}

#[test]
fn a_start_that_waits_is_tried_again_when_something_changes() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    for _ in 0..4 {
        rig.image("a");
        rig.start_failed("a", 0);
        if rig.state.wake_at().is_some() {
            rig.timer();
        }
    }
    rig.image("a");
    assert_eq!(rig.start_failed("a", 0), []);
    assert!(rig.feed(Event::Changed).contains(&prepare("a")));
}
