//! The one task that looks at the whole runtime: a relist is the truth, an event only wakes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_cri::{
    Container as CriContainer, ContainerState, GetEventsRequest, ListContainersRequest,
    ListPodSandboxRequest,
};
use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};

use super::Inner;
use super::client::{CriError, call, within};
use super::config::labels;
use super::status::{Looked, look};
use super::table::{Container, Listed, Sandbox, State, is_ready};
use crate::runtime::{Happening, What};
use crate::telemetry::chain;

/// How often the runtime is looked at while anything runs in it and it tells of nothing by itself
/// (upstream: `genericPlegRelistPeriod`).
const PERIOD: Duration = Duration::from_secs(1);
/// The same where it tells of its containers' ends: a lost event is made good then (upstream:
/// `eventedPlegRelistPeriod` is 300 s; a sandbox that dies tells of itself to nobody).
const PERIOD_WITH_EVENTS: Duration = Duration::from_secs(10);
/// The same while nothing runs in it.
const PERIOD_IDLE: Duration = Duration::from_secs(10);
/// Between tries to have its events.
const EVENTS_AGAIN: Duration = Duration::from_secs(10);
/// Containers looked at beside each other.
const LOOKS: usize = 8;
/// Events that come together, a start's, are one wake.
const SETTLE: Duration = Duration::from_millis(5);

/// Looks again and again, for as long as the agent lives.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        match relist(&inner).await {
            Ok(()) => inner.looked.send_modify(|looked| {
                (looked.times, looked.at) = (looked.times + 1, Some(Instant::now()));
            }),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot list what the container runtime runs"
                );
            }
        }
        // Without an answer there is nothing to wait out: a wake, or the period.
        let _ = timeout(period(&inner), inner.wake.notified()).await;
        sleep(SETTLE).await;
    }
}

fn period(inner: &Inner) -> Duration {
    let table = inner.table.lock();
    let any = table.containers.values().any(Container::is_running)
        || table.sandboxes.values().any(|sandbox| sandbox.ready);
    match (any, inner.has_events.load(std::sync::atomic::Ordering::Relaxed)) {
        (false, _) => PERIOD_IDLE,
        (true, true) => PERIOD_WITH_EVENTS,
        (true, false) => PERIOD,
    }
}

/// One look. Pods of which anything has changed are told.
///
/// # Errors
/// [`CriError`]; the table is as it was then.
async fn relist(inner: &Inner) -> Result<(), CriError> {
    let limit = inner.client.patience;
    let mark = inner.table.lock().mark();
    let mut runtime = inner.client.runtime();
    let request = ListPodSandboxRequest::default();
    let sandboxes =
        call("ListPodSandbox", limit, runtime.list_pod_sandbox(within(limit, request))).await?;
    let request = ListContainersRequest::default();
    let containers =
        call("ListContainers", limit, runtime.list_containers(within(limit, request))).await?;
    let sandboxes = sandboxes.items.iter().filter_map(|one| {
        let of = labels::of_sandbox(&one.labels)?;
        let sandbox = Sandbox {
            pod_uid: of.uid,
            generation: one.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            ready: is_ready(one.state()),
            created_at: one.created_at,
            stopped: false,
            changed: 0,
        };
        Some((one.id.clone(), sandbox))
    });
    let sandboxes: Vec<(String, Sandbox)> = sandboxes.collect();
    let listed: Vec<Listed> = containers.containers.iter().filter_map(listed).collect();
    let mut fallen = Vec::new();
    let mut changed = BTreeSet::new();
    let news: Vec<Listed> = {
        let mut table = inner.table.lock();
        fallen.extend(table.take_sandboxes(sandboxes, mark));
        changed.extend(table.forget_unlisted(&listed, mark));
        table.news(&listed).into_iter().cloned().collect()
    };
    changed.extend(take_news(inner, news).await?);
    for (pod_uid, sandbox) in fallen {
        inner.tell(Happening { pod_uid, what: What::SandboxChanged { sandbox } }).await;
    }
    for pod_uid in changed {
        inner.tell(Happening { pod_uid, what: What::Look }).await;
    }
    Ok(())
}

fn listed(one: &CriContainer) -> Option<Listed> {
    let of = labels::of_container(&one.labels, &one.annotations)?;
    Some(Listed {
        id: one.id.clone(),
        pod_uid: of.pod.uid,
        name: of.container,
        attempt: one.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        sandbox: one.pod_sandbox_id.clone(),
        definition: of.hash,
        state: one.state(),
    })
}

/// Asks more of containers that are new or have gone on; gives the pods of those that have.
async fn take_news(inner: &Inner, news: Vec<Listed>) -> Result<BTreeSet<String>, CriError> {
    let looks = stream::iter(news).map(|listed| async move {
        let looked = match listed.state {
            // There is no more to know of it, and its start is to come.
            ContainerState::ContainerCreated => None,
            ContainerState::ContainerRunning
            | ContainerState::ContainerExited
            | ContainerState::ContainerUnknown => Some(look(&inner.client, &listed.id).await),
        };
        (listed, looked)
    });
    let mut looks = looks.buffer_unordered(LOOKS);
    let mut changed = BTreeSet::new();
    while let Some((listed, looked)) = looks.next().await {
        let looked = match looked {
            None => Looked::created(),
            Some(Ok(looked)) => looked,
            // It went away between the two questions.
            Some(Err(error)) if error.is_not_found() => continue,
            // It cannot be stopped now; the others are looked at all the same, and it the next time.
            Some(Err(error)) if listed.state == ContainerState::ContainerUnknown => {
                let (container, error) = (&listed.id, chain(&error));
                tracing::warn!(container, error, "cannot stop what the container runtime lost");
                continue;
            }
            Some(Err(error)) => return Err(error),
        };
        let mut table = inner.table.lock();
        let is_change = match table.containers.get(&listed.id) {
            Some(_) => table.advance(&listed.id, looked),
            None => {
                let is_change = looked.state != State::Created;
                table.set(&listed.id, Container::new(&listed, looked));
                is_change
            }
        };
        if is_change {
            changed.insert(listed.pod_uid);
        }
    }
    Ok(changed)
}

/// Hears the runtime's events, where it has any, each of which wakes the relist.
pub(super) async fn hear(inner: Arc<Inner>) {
    use std::sync::atomic::Ordering::Relaxed;
    loop {
        let mut runtime = inner.client.runtime();
        let answer = runtime.get_container_events(GetEventsRequest::default()).await;
        match answer {
            Ok(events) => {
                inner.has_events.store(true, Relaxed);
                let mut events = events.into_inner();
                // What happened before they were heard.
                inner.wake.notify_one();
                while let Ok(Some(_)) = events.message().await {
                    inner.wake.notify_one();
                }
                inner.has_events.store(false, Relaxed);
                inner.wake.notify_one();
            }
            // It never will: a runtime of another version comes with another connection, and is
            // looked at more often meanwhile.
            Err(status) => tracing::debug!(%status, "the container runtime tells no events"),
        }
        sleep(EVENTS_AGAIN).await;
    }
}
