//! The pure core: how long one pod takes to decide what is to be done.
//!
//! The whole lifetime of a pod with one container, and one event of a busy pod of five.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{
    Attempt, AttemptState, Event, Exit, ImageRef, Now, SetUpDone, State, apply_defaults, step,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

const NOW: Now = Now { wall: Timestamp::UNIX_EPOCH, mono: Duration::from_secs(5) };

const FIVE: [&str; 5] = ["web", "cache", "queue", "sync", "metrics"];

fn pod(containers: &[&str], policy: &str) -> Arc<Pod> {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({"name": name, "image": format!("./{name}.wasm"), "args": ["a", "b"]}))
        .collect();
    let mut pod = serde_json::from_value(json!({
        "metadata": {"name": "bench", "namespace": "default", "uid": "u-1"},
        "spec": {"restartPolicy": policy, "containers": containers},
    }))
    .expect("a pod");
    apply_defaults(&mut pod);
    Arc::new(pod)
}

fn attempt(container: &str, attempt: u32, state: AttemptState) -> Event {
    let id = format!("{attempt:064x}");
    Event::Attempt(Attempt {
        container: container.into(),
        attempt,
        sandbox: 0,
        id,
        definition: None,
        user: None,
        image: None,
        state,
    })
}

fn running() -> AttemptState {
    AttemptState::Running { started_at: NOW.wall }
}

fn exited(code: i32) -> AttemptState {
    AttemptState::Exited(Exit {
        started_at: Some(NOW.wall),
        finished_at: NOW.wall,
        code,
        reason: "Error".into(),
        message: "wasm trap: unreachable".into(),
    })
}

/// What happens to a pod until all its containers run.
fn up(containers: &[&str]) -> Vec<Event> {
    let mut events = vec![Event::Observed(Vec::new()), Event::SetUp(Ok(SetUpDone::default()))];
    for name in containers {
        let image = format!("file:///{name}.wasm");
        let image =
            ImageRef { image, image_id: format!("sha256:{}", "0".repeat(64)), pulled: None };
        events.push(Event::Image { container: (*name).into(), result: Ok(image) });
        events.push(attempt(name, 0, AttemptState::Starting));
        events.push(attempt(name, 0, running()));
    }
    events
}

fn feed(state: State, events: Vec<Event>) -> State {
    events.into_iter().fold(state, |state, event| {
        let (state, actions) = step(state, event, NOW);
        black_box(actions);
        state
    })
}

fn lifetime(criterion: &mut Criterion) {
    let pod = pod(&["main"], "Never");
    let mut events = up(&["main"]);
    events.push(attempt("main", 0, exited(0)));
    events.push(Event::TornDown(Ok(())));
    let end = feed(State::new(pod.clone()), events.clone());
    assert!(end.is_terminated(), "the events are a lifetime: {end:?}");
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("lifetime", |bencher| {
        let pod_and_events = || (pod.clone(), events.clone());
        let live = |(pod, events)| feed(State::new(pod), events);
        bencher.iter_batched(pod_and_events, live, BatchSize::SmallInput);
    });
    group.finish();
}

fn busy(criterion: &mut Criterion) {
    let mut state = feed(State::new(pod(&FIVE, "Always")), up(&FIVE));
    // Each has crashed once and runs again, so that there are two attempts of each.
    for name in FIVE {
        state = feed(state, vec![attempt(name, 0, exited(1))]);
        let later = Now { mono: NOW.mono + Duration::from_secs(3600), ..NOW };
        state = step(state, Event::Timer, later).0;
        state = feed(state, vec![attempt(name, 1, running())]);
    }
    let count = |state: &State| {
        let statuses = state.status().container_statuses.unwrap_or_default();
        statuses.iter().filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some())).count()
    };
    assert_eq!(count(&state), FIVE.len(), "all run: {state:?}");
    let crash = attempt("queue", 1, exited(1));
    assert_eq!(count(&step(state.clone(), crash.clone(), NOW).0), FIVE.len() - 1);
    let mut group = criterion.benchmark_group("busy");
    group.bench_function("event", |bencher| {
        let both = || (state.clone(), crash.clone());
        let live = |(state, event)| step(state, event, NOW);
        bencher.iter_batched(both, live, BatchSize::SmallInput);
    });
    group.bench_function("status", |bencher| bencher.iter(|| state.status()));
    group.finish();
}

criterion_group!(benches, lifetime, busy);
criterion_main!(benches);
