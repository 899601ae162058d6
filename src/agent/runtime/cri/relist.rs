//! The one task that looks at the whole runtime: a relist is the truth, an event only wakes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_cri::{
    Container as CriContainer, ContainerState, GetEventsRequest, ListContainersRequest,
    ListPodSandboxRequest,
};
use tokio::time::{sleep, timeout};

use super::Inner;
use super::client::{CriError, call, within};
use super::config::labels;
use super::status::look;
use super::table::{Container, Listed, Sandbox, is_ready};
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
pub(super) const LOOKS: usize = 8;
/// Events that come together, a start's, are one wake.
const SETTLE: Duration = Duration::from_millis(5);

/// Looks again and again, for as long as the agent lives.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        if let Err(error) = relist(&inner).await {
            tracing::warn!(error = chain(&error), "cannot list what the container runtime runs");
        }
        // Without an answer there is nothing to wait out: a wake, or the period.
        let _ = timeout(period(&inner), inner.wake.notified()).await;
        sleep(SETTLE).await;
    }
}

fn period(inner: &Inner) -> Duration {
    let table = inner.table.lock();
    if !table.knows_all() {
        // Who was not answered is asked again, and its pod waits for that.
        return PERIOD;
    }
    let any = table.containers.values().any(Container::is_running)
        || table.sandboxes.values().any(|sandbox| sandbox.ready);
    match (any, inner.has_events.load(std::sync::atomic::Ordering::Relaxed)) {
        (false, _) => PERIOD_IDLE,
        (true, true) => PERIOD_WITH_EVENTS,
        (true, false) => PERIOD,
    }
}

/// One look. Pods of which anything has changed are told; of those of which more has to be asked each
/// is told when it was answered, so that one whose question fails or hangs holds up its own pod alone
/// (upstream `reconcilePodRecord`, `podsToReinspect`).
///
/// # Errors
/// [`CriError`] of the lists; the table is as it was then.
async fn relist(inner: &Arc<Inner>) -> Result<(), CriError> {
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
    let (fallen, gone, ask) = {
        let mut table = inner.table.lock();
        let fallen = table.take_sandboxes(sandboxes, mark);
        let gone: BTreeSet<String> = table.forget_unlisted(&listed, mark).into_iter().collect();
        (fallen, gone, table.take_listed(listed))
    };
    inner.looked.send_modify(|looked| {
        (looked.times, looked.at) = (looked.times + 1, Some(Instant::now()));
    });
    for listed in ask {
        tokio::spawn(look_at(Arc::clone(inner), listed));
    }
    for (pod_uid, sandbox) in fallen {
        inner.tell(Happening { pod_uid, what: What::SandboxChanged { sandbox } }).await;
    }
    for pod_uid in gone {
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

/// Asks more of a container that is new or has gone on, and tells its pod.
async fn look_at(inner: Arc<Inner>, listed: Listed) {
    // What the runtime lost sight of is stopped as well, which takes its time. Never closed.
    let _turn = match listed.state {
        ContainerState::ContainerUnknown => None,
        ContainerState::ContainerCreated
        | ContainerState::ContainerRunning
        | ContainerState::ContainerExited => inner.looks.acquire().await.ok(),
    };
    let id = &listed.id;
    let looked = match look(&inner.client, id).await {
        Ok(looked) => Some(looked),
        // It went away between the two questions.
        Err(error) if error.is_not_found() => None,
        Err(error) => {
            let error = chain(&error);
            let is_new = inner.table.lock().not_answered(id);
            // Once; what follows says the same.
            match is_new {
                true => tracing::warn!(container = id, error, "cannot look at a container"),
                false => tracing::debug!(container = id, error, "cannot look at a container"),
            }
            return;
        }
    };
    let answered = inner.table.lock().answered(&listed, looked);
    // Workers wait for what their pods have.
    inner.looked.send_modify(|_| ());
    if answered.again {
        inner.wake.notify_one();
    }
    if answered.is_change {
        inner.tell(Happening { pod_uid: listed.pod_uid, what: What::Look }).await;
    }
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

#[cfg(test)]
#[path = "relist_test.rs"]
mod tests;
