//! The pod's sandbox dies, and what ran in it runs again in the next one, or does not.

use super::*;

const CHANGED: &str = "N - SandboxChanged: Pod sandbox changed, it will be killed and re-created.";

fn dead(sandbox: u32) -> Event {
    Event::SandboxChanged { sandbox }
}

fn running(container: &str, number: u32) -> Attempt {
    attempt(container, number, AttemptState::Running { started_at: wall(0) })
}

fn exited(container: &str, number: u32, code: i32) -> Attempt {
    attempt(container, number, AttemptState::Exited(exit(code, 0)))
}

/// Init container `i` has run, the main containers run.
fn initialised(policy: &str) -> Rig {
    let mut rig = Rig::up(pod_inits(&["i"], &["a", "b"], policy));
    rig.image("i");
    rig.run("i", 0);
    rig.exit("i", 0, 0);
    for container in ["a", "b"] {
        rig.image(container);
        rig.run(container, 0);
    }
    rig.records.clear();
    rig
}

#[test]
fn a_dead_sandbox_takes_all_down_and_the_next_begins_with_init() {
    let mut rig = initialised("Always");
    assert_eq!(rig.feed(dead(0)), [stop("a", 0, 30), stop("b", 0, 30)]);
    let killed = ["a", "b"].map(|name| format!("N {name} Killing: Stopping container {name}"));
    assert_eq!(rig.records, [&[CHANGED.to_owned()], &killed[..]].concat());
    assert_eq!(rig.cond("PodReadyToStartContainers"), "False");
    assert_eq!(rig.status().pod_ip.as_deref(), Some("10.0.0.9"), "until there is another one");
    assert_eq!(rig.exit("a", 0, 143), [], "not while b lives");
    assert_eq!(rig.exit("b", 0, 0), [Action::SetUp]);
    assert_eq!((rig.phase().as_str(), rig.cond("Initialized").as_str()), ("Running", "True"));
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("i")]);
    assert_eq!(rig.cond("PodReadyToStartContainers"), "True");
    assert_eq!(rig.status().pod_ip.as_deref(), Some("10.0.0.10"));
    assert_eq!(rig.image("i"), [start("i", 1)], "its count goes on");
    assert!(rig.shown("i").ready);
    rig.run("i", 1);
    assert_eq!((rig.phase().as_str(), rig.cond("Initialized").as_str()), ("Pending", "True"));
    assert!(!rig.shown("i").ready);
    assert_eq!(rig.exit("i", 1, 0), [prepare("a"), prepare("b")], "whatever their exit codes");
    assert_eq!(rig.image("a"), [start("a", 1)]);
    rig.run("a", 1);
    assert_eq!((rig.phase().as_str(), rig.shown("a").restart_count), ("Running", 1));
    assert_eq!(rig.feed(dead(0)), [], "told twice");
    assert_eq!(rig.records.iter().filter(|told| *told == CHANGED).count(), 1);
}

#[test]
fn what_has_succeeded_under_on_failure_is_not_run_again() {
    let mut rig = initialised("OnFailure");
    rig.exit("a", 0, 0);
    assert_eq!(rig.feed(dead(0)), [stop("b", 0, 30)]);
    assert_eq!(rig.exit("b", 0, 137), [Action::SetUp]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("i")]);
    rig.image("i");
    assert_eq!(rig.exit("i", 1, 0), [prepare("b")]);
    let mut rig = initialised("OnFailure");
    rig.exit("a", 0, 0);
    rig.feed(dead(0));
    assert_eq!(rig.exit("b", 0, 0), [Action::TearDown], "nothing is left for a new one");
    assert_eq!(rig.phase(), "Succeeded");
}

#[test]
fn a_pod_that_never_restarts_ends_with_its_sandbox() {
    let mut rig = initialised("Never");
    assert_eq!(rig.feed(dead(0)), [stop("a", 0, 30), stop("b", 0, 30)]);
    assert!(!rig.records.iter().any(|told| told == CHANGED), "it gets no other one");
    rig.exit("a", 0, 0);
    assert_eq!(rig.exit("b", 0, 143), [Action::TearDown]);
    assert_eq!(rig.phase(), "Failed");
    let mut rig = Rig::up(pod_inits(&["i"], &["a"], "Never"));
    rig.image("i");
    rig.exit("i", 0, 0);
    assert_eq!(rig.feed(dead(0)), [Action::TearDown], "its init container has run");
    assert_eq!(rig.phase(), "Failed");
    let mut rig = Rig::up(pod(&["a"], "Never"));
    assert_eq!(rig.feed(dead(0)), [Action::SetUp], "nothing has run");
    assert_eq!(rig.records, [CHANGED]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), []);
    assert_eq!(rig.image("a"), [start("a", 0)], "what was prepared still is");
}

#[test]
fn a_start_under_way_is_waited_for() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    rig.image("a");
    assert_eq!(rig.feed(dead(0)), []);
    let starting = rig.attempt("a", 0, AttemptState::Starting);
    assert_eq!(rig.feed(starting.clone()), [stop("a", 0, 30)]);
    assert_eq!(rig.start_failed("a", 0), [Action::SetUp]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), []);
    assert_eq!(rig.timer(), (1, vec![prepare("a")]));
    assert_eq!(rig.image("a"), [start("a", 0)]);
    assert_eq!(rig.feed(starting), [], "what an old sandbox still tells");
    rig.run("a", 0);
    assert_eq!(rig.brief("a"), "running");
}

#[test]
fn a_restarted_agent_finds_another_sandbox() {
    let mut rig = Rig::new(pod_inits(&["i"], &["a"], "Always"));
    let listed = vec![exited("i", 2, 0), running("a", 4)];
    assert_eq!(rig.feed(Event::Observed(listed)), [Action::SetUp]);
    assert_eq!(rig.cond("PodReadyToStartContainers"), "True", "as far as is known");
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [stop("a", 4, 30)]);
    assert_eq!(rig.records[0], CHANGED);
    let last = Attempt { sandbox: 0, ..exited("a", 4, 137) };
    assert_eq!(rig.feed(Event::Attempt(last)), [prepare("i")], "after the old one's end");
    assert_eq!(rig.image("i"), [start("i", 3)]);
    let mut rig = Rig::new(pod(&["a"], "Never"));
    rig.feed(Event::Observed(vec![running("a", 0)]));
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [stop("a", 0, 30)], "and nothing more");
    let last = Attempt { sandbox: 0, ..exited("a", 0, 0) };
    assert_eq!(rig.feed(Event::Attempt(last)), [Action::TearDown]);
}

#[test]
fn a_death_that_is_known_before_the_first_look_counts() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    assert_eq!(rig.feed(dead(0)), []);
    assert_eq!(rig.feed(Event::Observed(vec![running("a", 0)])), [stop("a", 0, 30)]);
    assert_eq!(rig.records[0], CHANGED);
    assert_eq!(rig.cond("PodReadyToStartContainers"), "False");
    assert_eq!(rig.exit("a", 0, 137), [Action::SetUp]);
}

#[test]
fn a_set_up_that_was_overtaken_is_void() {
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    assert_eq!(rig.feed(dead(0)), [], "its answer is still to come");
    assert_eq!(rig.set_up(), []);
    assert_eq!(rig.cond("PodReadyToStartContainers"), "False");
    assert_eq!(rig.timer(), (1, vec![Action::SetUp]));
    rig.sandbox = 2;
    assert_eq!(rig.set_up(), [prepare("a")]);
    assert_eq!(rig.feed(dead(1)), [], "an older one");
}

#[test]
fn each_change_is_told_once() {
    let changes = |rig: &Rig| rig.records.iter().filter(|told| *told == CHANGED).count();
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(Vec::new()));
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("a")]);
    assert_eq!(changes(&rig), 0, "nothing was made in an older one");
    rig.image("a");
    rig.run("a", 0);
    rig.feed(dead(1));
    rig.exit("a", 0, 137);
    assert_eq!(rig.feed(dead(1)), []);
    assert_eq!(changes(&rig), 1, "it is known");
    rig.sandbox = 2;
    rig.set_up();
    rig.feed(dead(2));
    rig.sandbox = 3;
    rig.set_up();
    assert_eq!(changes(&rig), 2);
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(Event::Observed(vec![running("a", 0)]));
    rig.set_up();
    assert_eq!(changes(&rig), 0, "it stands");
    let mut rig = Rig::new(pod(&["a"], "Always"));
    rig.feed(dead(0));
    rig.feed(Event::Observed(vec![Attempt { sandbox: 1, ..exited("a", 0, 1) }]));
    assert_eq!(changes(&rig), 1);
    rig.sandbox = 2;
    rig.set_up();
    assert_eq!(changes(&rig), 2, "of the other death nobody told");
}

#[test]
fn one_that_had_crashed_before_the_change_waits_as_before() {
    let mut rig = Rig::running(pod(&["a"], "Always"));
    rig.exit("a", 0, 1);
    rig.image("a");
    rig.run("a", 1);
    assert_eq!(rig.exit("a", 1, 1), []);
    assert_eq!(rig.feed(dead(0)), [Action::SetUp]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), []);
    assert_eq!(rig.timer(), (10, vec![prepare("a")]));
}

#[test]
fn a_change_is_a_crash_only_behind_init_containers() {
    // (init containers, exits before it, what follows on the main containers' turn)
    for (inits, exits, wait) in [(&[][..], 1, 0), (&["i"][..], 1, 10), (&["i"][..], 0, 0)] {
        let mut rig = Rig::up(pod_inits(inits, &["a"], "Always"));
        for init in inits {
            rig.image(init);
            rig.exit(init, 0, 0);
        }
        for number in 0..=exits {
            rig.image("a");
            rig.run("a", number);
            if number < exits {
                rig.exit("a", number, 1);
            }
        }
        rig.feed(dead(0));
        rig.exit("a", exits, 137);
        rig.sandbox = 1;
        rig.set_up();
        let mut actions = std::mem::take(&mut rig.actions);
        for init in inits {
            rig.image(init);
            actions = rig.exit(init, 1, 0);
        }
        if wait > 0 {
            assert!(rig.brief("a").starts_with("waiting CrashLoopBackOff"), "{inits:?}");
            assert_eq!(rig.timer(), (wait, vec![prepare("a")]));
        } else {
            assert_eq!(actions.last(), Some(&prepare("a")), "{inits:?} {exits}");
        }
    }
}

#[test]
fn an_init_container_serves_no_back_off_of_an_old_sandbox() {
    let mut rig = Rig::up(pod_inits(&["i"], &["a"], "Always"));
    rig.image("i");
    rig.exit("i", 0, 1);
    rig.image("i");
    assert_eq!(rig.exit("i", 1, 1), []);
    assert_eq!(rig.feed(dead(0)), [Action::SetUp]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("i")]);
    rig.image("i");
    assert!(!rig.exit("i", 2, 1).contains(&prepare("i")), "but there it goes on");
    assert!(rig.brief("i").starts_with("waiting CrashLoopBackOff: back-off 10s"));
}

#[test]
fn the_end_of_the_pod_comes_before_a_new_sandbox() {
    let mut rig = initialised("Always");
    rig.feed(dead(0));
    let kill = Event::Kill { grace: Duration::from_secs(5) };
    assert_eq!(rig.feed(kill), [stop("a", 0, 5), stop("b", 0, 5)]);
    rig.exit("a", 0, 0);
    assert_eq!(rig.exit("b", 0, 0), [Action::TearDown]);
    assert_eq!(rig.feed(dead(3)), []);
}

#[test]
fn the_next_sandbox_waits_for_whoever_writes_the_volumes() {
    let mut rig = Rig::up(pod(&["a"], "Always"));
    assert_eq!(rig.feed(Event::Changed), [Action::Refresh]);
    assert_eq!(rig.feed(dead(0)), []);
    assert_eq!(rig.feed(Event::Refreshed(Ok(()))), [Action::SetUp]);
}

#[test]
fn nor_does_a_sidecar() {
    let inits = json!([{"name": "s", "restartPolicy": "Always"}]);
    let mut rig = Rig::up(pod_with(&["a"], &json!({"initContainers": inits}), &json!({})));
    for number in 0..2 {
        rig.image("s");
        rig.run("s", number);
        rig.exit("s", number, 1);
    }
    assert!(rig.brief("s").starts_with("waiting CrashLoopBackOff: back-off 10s"));
    assert_eq!(rig.feed(dead(0)), [Action::SetUp]);
    rig.sandbox = 1;
    assert_eq!(rig.set_up(), [prepare("s")]);
    rig.image("s");
    rig.run("s", 2);
    assert_eq!(rig.exit("s", 2, 1), [], "but there it goes on");
    assert!(rig.brief("s").starts_with("waiting CrashLoopBackOff: back-off 10s"));
}

#[test]
fn an_init_container_that_fails_for_good_in_the_next_one_fails_the_pod() {
    let spec = json!({"restartPolicy": "Always", "initContainers": [{"name": "i", "restartPolicy": "Never"}]});
    let mut rig = Rig::up(pod_with(&["a"], &spec, &json!({})));
    rig.image("i");
    rig.exit("i", 0, 0);
    rig.image("a");
    rig.run("a", 0);
    rig.feed(dead(0));
    rig.exit("a", 0, 0);
    rig.sandbox = 1;
    rig.set_up();
    rig.image("i");
    assert_eq!(rig.exit("i", 1, 1), [Action::TearDown]);
    assert_eq!((rig.phase().as_str(), rig.brief("a").as_str()), ("Failed", "0 Completed"));
}
