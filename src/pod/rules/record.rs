//! What people are told, to the letter.

use super::*;

#[test]
fn a_start_is_told_step_by_step() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.feed(Event::Pulling { container: "a".to_owned() });
    let pulled = crate::Pulled {
        took: Duration::from_micros(1_234_567),
        waited: Duration::from_millis(2500),
        bytes: 4096,
    };
    let image = ImageRef { image: "a".to_owned(), image_id: "b".to_owned(), pulled: Some(pulled) };
    rig.feed(Event::Image { container: "a".to_owned(), result: Ok(image) });
    rig.feed(Event::Attempt(attempt("a", 0, AttemptState::Starting)));
    rig.run("a", 0);
    let told = [
        "N a Pulling: Pulling image \"a.wasm\"",
        "N a Pulled: Successfully pulled image \"a.wasm\" in 1.234s (2.5s including waiting). Image \
         size: 4096 bytes.",
        "N a Created: Container created",
        "N a Started: Container started",
    ];
    assert_eq!(std::mem::take(&mut rig.records), told);
    rig.run("a", 0);
    assert_eq!(rig.records, [""; 0], "told twice, said once");
}

#[test]
fn a_start_that_a_relist_shows_first_is_told() {
    let mut rig = Rig::up(pod(&["a"], "Never"));
    rig.image("a");
    rig.records.clear();
    rig.feed(Event::Observed(vec![attempt("a", 0, AttemptState::Running { started_at: wall(0) })]));
    rig.run("a", 0);
    assert_eq!(rig.records, ["N a Created: Container created", "N a Started: Container started"]);
}

#[test]
fn an_adopted_attempt_is_no_news() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    let running = AttemptState::Running { started_at: wall(0) };
    rig.feed(Event::Observed(vec![attempt("a", 0, running)]));
    assert_eq!(rig.records, [""; 0]);
    rig.exit("a", 0, 1);
    assert_eq!(rig.records, [""; 0], "upstream says nothing of an exit");
}

#[test]
fn a_restart_waits_aloud_and_once() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    rig.records.clear();
    rig.exit("a", 1, 1);
    let told = ["W a BackOff: Back-off restarting failed container a in pod p_ns(u-1)"];
    assert_eq!(rig.records, told);
    rig.feed(Event::Changed);
    assert_eq!(rig.records, told);
}

#[test]
fn failures_of_an_image_have_upstreams_words() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.no_image("a", "ErrImagePull");
    rig.timer();
    let told = [
        "W a Failed: Failed to pull image \"a.wasm\": no luck",
        "W a Failed: Error: ErrImagePull",
        "N a BackOff: Back-off pulling image \"a.wasm\"",
        "W a Failed: Error: ImagePullBackOff",
    ];
    assert_eq!(rig.records, told);
    for (reason, told) in [
        ("InvalidImageName", ["W a InspectFailed: no luck", "W a Failed: Error: InvalidImageName"]),
        (
            "ImageInspectError",
            ["W a InspectFailed: no luck", "W a Failed: Error: ImageInspectError"],
        ),
        (
            "CreateContainerConfigError",
            ["W a Failed: no luck", "W a Failed: Error: CreateContainerConfigError"],
        ),
        (
            "ErrImageNeverPull",
            ["W a ErrImageNeverPull: no luck", "W a Failed: Error: ErrImageNeverPull"],
        ),
    ] {
        let mut rig = Rig::up(pod(&["a"], "Always"));
        rig.no_image("a", reason);
        assert_eq!(rig.records, told);
    }
}

#[test]
fn a_failed_start_and_a_failed_set_up_are_told() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.image("a");
    rig.records.clear();
    rig.start_failed("a", 0);
    assert_eq!(rig.records, ["W a Failed: Error: no luck"]);
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    rig.feed(Event::SetUp(Err(failure("FailedMount"))));
    assert_eq!(rig.records, ["W - FailedMount: no luck"]);
    rig.feed(Event::Kill { grace: Duration::ZERO });
    rig.feed(Event::TornDown(Err(failure("FailedKillPod"))));
    assert_eq!(rig.records[1..], ["W - FailedKillPod: error killing pod: no luck"]);
}

#[test]
fn an_end_is_told_for_each_container() {
    let mut rig = Rig::running(pod(&["a", "b"], "Always"));
    rig.records.clear();
    rig.feed(Event::Kill { grace: Duration::from_secs(9) });
    rig.feed(Event::Kill { grace: Duration::from_secs(3) });
    let told = ["N a Killing: Stopping container a", "N b Killing: Stopping container b"];
    assert_eq!(rig.records, told);
}

#[test]
fn an_image_changed_in_the_spec_restarts_its_container() {
    let mut rig = Rig::running(pod(&["a", "b"], "Never"));
    rig.records.clear();
    let mut new = pod(&["a", "b"], "Never");
    new.spec.as_mut().unwrap().containers[1].image = Some("other.wasm".to_owned());
    assert_eq!(rig.feed(Event::Desired(Arc::new(new.clone()))), [stop("b", 0, 30)]);
    let told = ["N b Killing: Container b definition changed, will be restarted"];
    assert_eq!(rig.records, told);
    assert_eq!(rig.feed(Event::Desired(Arc::new(new))), [], "once");
    assert_eq!(rig.exit("b", 0, 143), [prepare("b")]);
    assert_eq!(rig.image("b"), [start("b", 1)]);
    assert_eq!(rig.feed(Event::Attempt(attempt("b", 1, AttemptState::Starting))), []);
}

#[test]
fn volumes_follow_what_they_are_made_of() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    assert_eq!(rig.feed(Event::SetUp(Err(failure("FailedMount")))), []);
    assert_eq!(rig.feed(Event::Changed), [Action::SetUp], "no wait any more");
    rig.set_up();
    assert_eq!(rig.actions.pop(), Some(prepare("a")));
    assert_eq!(rig.feed(Event::Refreshed(Ok(()))), [], "the change before the set-up counts");
    assert_eq!(rig.feed(Event::Changed), [Action::Refresh]);
    assert_eq!(rig.feed(Event::Changed), [], "one at a time");
    assert_eq!(rig.feed(Event::Refreshed(Ok(()))), [Action::Refresh], "and none is lost");
    assert_eq!(rig.feed(Event::Refreshed(Err(failure("FailedMount")))), []);
    assert_eq!(rig.timer(), (1, vec![Action::Refresh]));
    assert_eq!(rig.feed(Event::Kill { grace: Duration::ZERO }), [], "not under a refresh");
    assert_eq!(rig.feed(Event::Refreshed(Ok(()))), [Action::TearDown]);
    assert_eq!(rig.feed(Event::Changed), []);
}

#[test]
fn what_a_set_up_leaves_out_is_told_once_for_each_sandbox() {
    const LESS: &str = "W - DNSConfigForming: less";
    let told = |rig: &Rig| rig.records.iter().filter(|told| *told == LESS).count();
    let warnings = vec![Failure { reason: "DNSConfigForming".into(), message: "less".into() }];
    let mut rig = Rig { warnings, ..Rig::new(pod(&["a"], "Always")) };
    rig.feed(Event::Observed(Vec::new()));
    rig.set_up();
    rig.image("a");
    rig.run("a", 0);
    assert_eq!(told(&rig), 1);
    rig.feed(Event::SandboxChanged { sandbox: 0 });
    rig.exit("a", 0, 137);
    rig.sandbox = 1;
    rig.set_up();
    assert_eq!(told(&rig), 2);
    let mut rig = Rig { warnings: rig.warnings, ..Rig::new(pod(&["a"], "Always")) };
    let running = AttemptState::Running { started_at: wall(0) };
    rig.feed(Event::Observed(vec![attempt("a", 0, running)]));
    rig.set_up();
    assert_eq!(told(&rig), 0, "an agent before this one has");
}
