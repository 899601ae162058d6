//! Restart policies and the crash-loop back-off.

use super::*;

#[test]
fn the_policy_and_the_exit_code_decide_on_a_restart() {
    let table = [
        ("Always", 0, None),
        ("Always", 1, None),
        ("OnFailure", 0, Some("Succeeded")),
        ("OnFailure", 1, None),
        ("Never", 0, Some("Succeeded")),
        ("Never", 1, Some("Failed")),
    ];
    for (policy, code, end) in table {
        let mut rig = Rig::running(pod(&["a"], policy));
        let actions = rig.exit("a", 0, code);
        match end {
            None => {
                assert_eq!(actions, [prepare("a")], "{policy} {code}");
                assert_eq!(rig.phase(), "Running", "{policy} {code}");
            }
            Some(phase) => {
                assert_eq!(actions, [Action::TearDown], "{policy} {code}");
                assert_eq!(rig.phase(), phase, "{policy} {code}");
            }
        }
    }
}

#[test]
fn a_pod_ends_when_its_last_container_does_and_one_failure_fails_it() {
    let mut rig = Rig::running(pod(&["a", "b"], "Never"));
    assert_eq!(rig.exit("b", 0, 7), []);
    assert_eq!(rig.phase(), "Running");
    assert_eq!(rig.cond("Ready"), "False ContainersNotReady containers with unready status: [b]");
    assert_eq!(rig.exit("a", 0, 0), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
}

/// Exits at once and restarts, until the back-off holds; gives how long it was.
fn crash(rig: &mut Rig, attempt: u32) -> u64 {
    let mut actions = rig.exit("a", attempt, 1);
    let mut wait = 0;
    if actions.is_empty() {
        (wait, actions) = rig.timer();
    }
    assert_eq!(actions, [prepare("a")]);
    assert_eq!(rig.image("a"), [start("a", attempt + 1)]);
    rig.run("a", attempt + 1);
    wait
}

#[test]
fn the_back_off_doubles_from_ten_seconds_to_five_minutes() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    let waits: Vec<u64> = (0..9).map(|attempt| crash(&mut rig, attempt)).collect();
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    let shown = rig.shown("a");
    assert_eq!(shown.restart_count, 9);
    assert_eq!(brief(&shown.last_state.unwrap()), "1 Error");
}

#[test]
fn the_back_off_shows_upstreams_text() {
    let mut rig = Rig::running(pod(&["a"], "OnFailure"));
    for (attempt, delay) in [(0, ""), (1, "10s"), (2, "20s"), (3, "40s"), (4, "1m20s")] {
        rig.exit("a", attempt, 1);
        if attempt > 0 {
            let text = format!(
                "waiting CrashLoopBackOff: back-off {delay} restarting failed container=a \
                 pod=p_ns(u-1)"
            );
            assert_eq!(rig.brief("a"), text);
            assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "1 Error");
            assert_eq!(rig.shown("a").restart_count, i32::try_from(attempt).unwrap(), "not yet");
            assert_eq!(rig.phase(), "Running");
            rig.timer();
            assert_eq!(rig.brief("a"), text, "what was waited for, until it runs");
        } else {
            assert_eq!(rig.brief("a"), "1 Error", "restarted at once");
        }
        rig.image("a");
        rig.run("a", attempt + 1);
    }
}

#[test]
fn the_back_off_is_measured_from_the_exit_and_reset_after_ten_quiet_minutes() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    assert_eq!(crash(&mut rig, 0), 0);
    assert_eq!(crash(&mut rig, 1), 10);
    rig.pass(570);
    assert_eq!(crash(&mut rig, 2), 20);
    rig.pass(570);
    assert_eq!(crash(&mut rig, 3), 30, "it is forgotten while it is waited for");
    assert_eq!(crash(&mut rig, 4), 10);
    rig.pass(600);
    assert_eq!(crash(&mut rig, 5), 0);
    assert_eq!(crash(&mut rig, 6), 10);
}

#[test]
fn a_jump_of_the_wall_clock_moves_no_wait() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    crash(&mut rig, 0);
    rig.exit("a", 1, 1);
    for jump in [-86_400, 2 * 86_400] {
        rig.now.wall = wall(jump);
        assert_eq!(rig.feed(Event::Timer), []);
    }
    assert_eq!(rig.timer(), (10, vec![prepare("a")]));
}

#[test]
fn a_failing_image_on_a_restart_does_not_serve_the_back_off_twice() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    crash(&mut rig, 0);
    rig.exit("a", 1, 1);
    assert_eq!(rig.timer(), (10, vec![prepare("a")]));
    rig.no_image("a", "InvalidImageName");
    assert_eq!(rig.brief("a"), "waiting InvalidImageName: no luck");
    assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "1 Error");
    assert_eq!(rig.phase(), "Running");
    assert_eq!(rig.timer(), (10, vec![prepare("a")]));
    assert_eq!(rig.image("a"), [start("a", 2)]);
}

#[test]
fn old_dead_attempts_are_removed_but_the_newest_two() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    let remove =
        |number| Action::Remove { container: "a".into(), attempt: number, id: id("a", number) };
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    rig.exit("a", 1, 1);
    rig.timer();
    rig.image("a");
    assert!(!rig.actions.iter().any(|action| matches!(action, Action::Remove { .. })));
    assert_eq!(rig.run("a", 2), [remove(0)]);
    assert_eq!(rig.feed(Event::Timer), []);
    let running = AttemptState::Running { started_at: rig.now.wall };
    let dead = |number| attempt("a", number, AttemptState::Exited(exit(1, 0)));
    let listed = vec![dead(0), dead(1), attempt("a", 2, running.clone())];
    assert_eq!(rig.feed(Event::Observed(listed)), [remove(0)], "it is still there");
    let listed = vec![dead(1), attempt("a", 2, running)];
    assert_eq!(rig.feed(Event::Observed(listed)), []);
    assert_eq!(rig.shown("a").restart_count, 2);
    assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "1 Error");
}

/// An attempt that was made and could not be started, as containerd tells it.
fn start_error(rig: &Rig, number: u32) -> Event {
    let id = id("a", number);
    let message = format!("failed to start {}: no such file", id.trim_start_matches("wasm://"));
    let finished_at = rig.now.wall;
    let reason = "StartError".to_owned();
    let exit = Exit { started_at: None, finished_at, code: 128, reason, message };
    rig.attempt("a", number, AttemptState::Exited(exit))
}

#[test]
fn a_container_that_cannot_be_started_waits_by_upstreams_reasons() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.image("a");
    rig.records.clear();
    assert_eq!(rig.feed(start_error(&rig, 0)), [prepare("a")], "the first restart is immediate");
    let told =
        ["N a Created: Container created", "W a Failed: Error: failed to start a: no such file"];
    assert_eq!(rig.records, told, "with the name for the id");
    let text = "waiting RunContainerError: failed to start 6130: no such file";
    assert_eq!(rig.brief("a"), text);
    assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "128 StartError");
    rig.image("a");
    rig.records.clear();
    assert_eq!(rig.feed(start_error(&rig, 1)), []);
    assert!(rig.brief("a").starts_with("waiting RunContainerError"));
    assert_eq!(rig.timer(), (5, Vec::new()));
    assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff: back-off 10s"));
    assert_eq!(
        rig.records[2],
        "W a BackOff: Back-off restarting failed container a in pod p_ns(u-1)"
    );
    assert_eq!(rig.timer(), (5, vec![prepare("a")]));
    let mut rig = Rig::up(pod(&["a", "b"], "Never"));
    rig.image("a");
    assert_eq!(rig.feed(start_error(&rig, 0)), []);
    assert_eq!(rig.brief("a"), "128 StartError", "it is not to run again");
}

#[test]
fn a_container_that_cannot_be_made_waits_by_its_own_reason() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    for _ in 0..2 {
        let failure = failure("CreateContainerError");
        rig.feed(Event::StartFailed { container: "a".to_owned(), attempt: 1, failure });
        assert_eq!(rig.brief("a"), "waiting CreateContainerError: no luck");
        assert_eq!(brief(&rig.shown("a").last_state.unwrap()), "1 Error");
        assert_eq!(rig.timer().1, [prepare("a")]);
        assert_eq!(rig.image("a"), [start("a", 1)]);
    }
}

#[test]
fn the_back_off_has_the_nodes_limit_and_begins_anew_with_other_resources() {
    let object = pod(&["a"], "Always");
    let mut rig = Rig::new(object.clone());
    let host = Host { restart_max: Duration::from_secs(25), ..Host::default() };
    rig.state = State::new(Arc::new(object.clone())).on(host);
    rig.feed(Event::Observed(Vec::new()));
    rig.set_up();
    rig.image("a");
    rig.run("a", 0);
    let waits: Vec<u64> = (0..5).map(|attempt| crash(&mut rig, attempt)).collect();
    assert_eq!(waits, [0, 10, 20, 25, 25]);
    assert_eq!(rig.exit("a", 5, 1), []);
    let mut resized = object;
    let container = &mut resized.spec.as_mut().unwrap().containers[0];
    let more = json!({"limits": {"cpu": "1"}});
    container.resources = serde_json::from_value(more).unwrap();
    rig.feed(Event::Desired(Arc::new(resized)));
    assert_eq!(rig.feed(Event::Resized(Ok(()))), [prepare("a")], "at once");
}
