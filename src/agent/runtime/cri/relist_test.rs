//! Relists of a runtime whose calls go wrong.

use std::time::Duration;

use copepod_cri::ContainerState::{
    ContainerCreated as Created, ContainerExited as Exited, ContainerRunning as Running,
    ContainerUnknown as Unknown,
};
use copepod_pod::{AttemptState, ImageNames};
use futures_util::FutureExt;
use tonic::Code;

use super::super::fake::{Fake, Fault, Side, until, written};

/// The states of a pod's attempts, by their names.
fn states(side: &Side, pod: &str) -> Vec<String> {
    let state = |state: &AttemptState| match state {
        AttemptState::Running { .. } => "running".to_owned(),
        AttemptState::Exited(exit) => format!("{} {}", exit.code, exit.reason),
        AttemptState::Starting => "starting".to_owned(),
    };
    let all = side.cri.list(pod);
    all.iter().map(|one| format!("{} {}", one.container, state(&one.state))).collect()
}

/// Two pods whose containers run, and are known.
async fn two_run(fake: &Fake) -> Side {
    for (pod, id) in [("a", "x"), ("b", "y")] {
        fake.sandbox(pod, true);
        fake.container(pod, id, Running);
    }
    let mut side = fake.agent();
    for pod in ["a", "b"] {
        side.knows(pod).await;
        side.told().await;
    }
    assert_eq!([states(&side, "a"), states(&side, "b")], [["x running"], ["y running"]]);
    let image = ImageNames { image: "h.io/app:1".into(), image_id: "h.io/app@sha256:1".into() };
    assert_eq!(side.cri.list("a")[0].image, Some(image));
    side
}

fn fails(on: &'static str, fault: Fault) -> impl Fn(&str, &str) -> Option<Fault> {
    move |method, id| (method == "ContainerStatus" && id == on).then_some(fault)
}

#[tokio::test]
async fn a_container_that_cannot_be_looked_at_costs_no_other_pod_its_news() {
    for fault in [Fault::Refuse(Code::Unavailable), Fault::Hang] {
        let fake = Fake::start();
        let mut side = two_run(&fake).await;
        fake.plan(fails("y", fault));
        fake.sandbox("b", false);
        fake.container("a", "x", Exited);
        fake.container("b", "y", Exited);
        side.wake();
        let mut told = [side.told().await, side.told().await];
        told.sort();
        assert_eq!(told, ["a looks", "b has lost sandbox 0"]);
        assert_eq!([states(&side, "a"), states(&side, "b")], [["x 7 Error"], ["y running"]]);
        // Whatever becomes of it, others are heard of on.
        fake.container("a", "z", Running);
        side.wake();
        assert_eq!(side.told().await, "a looks");
        fake.calm();
        if matches!(fault, Fault::Refuse(_)) {
            // Nobody wakes it: it is asked again by itself.
            assert_eq!(side.told().await, "b looks");
            assert_eq!(states(&side, "b"), ["y 7 Error"]);
        }
    }
}

#[tokio::test]
async fn at_the_start_a_pod_waits_for_its_own_containers_alone() {
    for fault in [Fault::Refuse(Code::Unavailable), Fault::Hang] {
        let fake = Fake::start();
        fake.container("a", "x", Running);
        fake.container("b", "y", Exited);
        fake.plan(fails("y", fault));
        let side = fake.agent();
        side.knows("a").await;
        side.knows("new").await;
        assert_eq!(states(&side, "a"), ["x running"]);
        assert!(side.cri.looked("b").now_or_never().is_none());
        if matches!(fault, Fault::Refuse(_)) {
            fake.calm();
            side.knows("b").await;
            assert_eq!(states(&side, "b"), ["y 7 Error"]);
        }
    }
}

#[tokio::test]
async fn what_has_gone_on_since_it_was_asked_for_is_asked_for_again() {
    let fake = Fake::start();
    let mut side = two_run(&fake).await;
    // All turns are taken, so that the first question waits.
    let turns = side.cri.0.looks.acquire_many(8).await.unwrap();
    fake.container("a", "z", Running);
    side.wake();
    until("it is asked for", || !side.cri.0.table.lock().is_known("a")).await;
    fake.container("a", "z", Exited);
    side.wake();
    until("it was listed again", || side.cri.0.table.lock().is_asked_again("z")).await;
    drop(turns);
    assert_eq!(side.told().await, "a looks");
    until("its end is known", || states(&side, "a").contains(&"z 7 Error".to_owned())).await;
}

#[tokio::test]
async fn after_a_stop_the_pod_looks_even_if_all_was_known() {
    let fake = Fake::start();
    let mut side = two_run(&fake).await;
    fake.container("a", "x", Exited);
    side.wake();
    assert_eq!(side.told().await, "a looks");
    side.cri.stop_container("fake://x", Duration::MAX);
    assert_eq!(side.told().await, "a looks");
    assert_eq!(fake.stops(), [("x".to_owned(), 365 * 24 * 3600)]);
}

#[tokio::test]
async fn a_container_whose_start_was_not_answered_has_its_log_all_the_same() {
    let fake = Fake::start();
    let mut side = two_run(&fake).await;
    fake.container("a", "z", Created);
    side.wake();
    let is_listed = || side.cri.0.table.lock().containers.contains_key("z");
    until("it is listed", is_listed).await;
    fake.container("a", "z", Running);
    written(&fake.log("z"));
    side.wake();
    assert_eq!(side.told().await, "a looks");
    let log = side.cri.0.table.lock().containers["z"].log.clone();
    assert_eq!(log, fake.log("z"), "it is rotated");
    side.cri.remove_container("fake://z").await;
    assert!(!log.exists(), "and goes with it");
}

#[tokio::test]
async fn what_the_runtime_lost_sight_of_is_stopped_and_has_ended() {
    for (stopped, state) in [
        // It knows then how it ended, or not even that.
        (Exited, "x 7 Error"),
        (Unknown, "x 137 ContainerStatusUnknown"),
    ] {
        let fake = Fake::start();
        let mut side = two_run(&fake).await;
        fake.stopped(stopped);
        fake.container("a", "x", Unknown);
        side.wake();
        assert_eq!(side.told().await, "a looks");
        assert_eq!(states(&side, "a"), [state]);
        assert_eq!(fake.stops(), [("x".to_owned(), 2)]);
    }
}

#[tokio::test]
async fn one_that_cannot_be_stopped_holds_up_no_other() {
    for fault in [Fault::Refuse(Code::Internal), Fault::Hang] {
        let fake = Fake::start();
        let mut side = two_run(&fake).await;
        let stop = move |method: &str, _: &str| (method == "StopContainer").then_some(fault);
        fake.plan(stop);
        // More of them than are looked at beside each other.
        fake.container("a", "x", Unknown);
        for n in 0..9 {
            fake.container("a", &format!("lost-{n}"), Unknown);
        }
        fake.container("b", "y", Exited);
        side.wake();
        assert_eq!(side.told().await, "b looks");
        assert_eq!(states(&side, "a"), ["x running"], "nobody knows better");
        // A new agent does nothing of that pod, and all of the other.
        let second = fake_again(&fake, side).await;
        second.knows("b").await;
        assert!(second.cri.looked("a").now_or_never().is_none());
        if matches!(fault, Fault::Refuse(_)) {
            fake.calm();
            second.knows("a").await;
            assert!(states(&second, "a").contains(&"x 7 Error".to_owned()));
        }
    }
}

/// Another agent after this one.
async fn fake_again(fake: &Fake, side: Side) -> Side {
    let root = fake.dir.path().join("root");
    drop(side);
    // The lock of the first one's directory is its tasks', which go on: the second has its own.
    std::fs::rename(&root, fake.dir.path().join("old")).unwrap();
    fake.agent()
}
