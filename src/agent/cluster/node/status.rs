//! The status of our node: when it is computed, when it is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::select;
use tokio::sync::watch::Receiver;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::address::HostAddresses;
use super::object::{Facts, Said, Wanted, initial, updated};
use super::register::{register, write};
use super::{BACK_OFF_MAX, BackOff, JITTER, LIMIT, Shared, patch};
use crate::cluster::call::{CallError, call, now};
use crate::cluster::spread;
use crate::linux::machine::Machine;
use crate::telemetry::chain;

/// How often a status is tried at once before the next interval (`nodeStatusUpdateRetry`).
const TRIES: u32 = 5;
/// How long a node that was there before is left as it is until somebody has said whether it is
/// ready: a restart of the agent is no change of the node.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How long the facts of the machine hold (cadvisor's `update_machine_info_interval`); addresses
/// are looked at each time.
const MACHINE_HOLDS: Duration = Duration::from_secs(300);
/// The least time between two statuses, however often its inputs change.
const GAP: Duration = Duration::from_millis(100);

/// The task.
struct Reporter {
    api: Api<Node>,
    shared: Arc<Shared>,
    seen: Receiver<Option<Arc<Node>>>,
    /// Our node as our last request left it.
    written: Option<Node>,
    facts: Facts,
    /// When the machine was looked at.
    looked: Option<Instant>,
    /// When a status was written.
    reported: Option<Instant>,
    /// What the next interval of reports is longer by, or shorter, in seconds: all nodes that
    /// changed at one time shall not report at one time ever after.
    shift: f64,
    is_rebooted: bool,
    is_unschedulable: bool,
    is_failing: bool,
}

/// Registers our node and writes its status, for ever.
pub(super) async fn run(
    client: kube::Client,
    shared: Arc<Shared>,
    seen: Receiver<Option<Arc<Node>>>,
) {
    let mut reporter = Reporter {
        api: Api::all(client),
        shared,
        seen,
        written: None,
        facts: Facts::default(),
        looked: None,
        reported: None,
        shift: 0.0,
        is_rebooted: false,
        is_unschedulable: false,
        is_failing: false,
    };
    reporter.look().await;
    reporter.register().await;
    reporter.wait_for_inputs().await;
    let mut back_off = BackOff::new();
    loop {
        let every = reporter.shared.options.update_every.mul_f64(1.0 + JITTER * spread());
        let pause = if reporter.update().await {
            back_off = BackOff::new();
            every
        } else {
            // An API server that is back shall hear of us at once.
            back_off.next().min(every)
        };
        sleep(GAP).await;
        select! {
            () = sleep(pause) => {}
            () = reporter.shared.urgent.notified() => {}
        }
        reporter.look().await;
    }
}

impl Reporter {
    /// Looks at the machine and its addresses.
    async fn look(&mut self) {
        let options = &self.shared.options;
        let (name, storage) = (options.name.clone(), options.storage.clone());
        let holds = self.looked.is_some_and(|looked| looked.elapsed() < MACHINE_HOLDS);
        let read = spawn_blocking(move || {
            (HostAddresses::read(&name), (!holds).then(|| Machine::read(&storage)))
        });
        // It fails with the event loop only.
        let Ok((addresses, machine)) = read.await else { return };
        self.facts.addresses = addresses;
        if let Some(machine) = machine {
            self.facts.machine = machine;
            self.looked = Some(Instant::now());
        }
    }

    /// Registers our node, however long it takes.
    async fn register(&mut self) {
        if !self.shared.options.register {
            return;
        }
        let mut back_off = BackOff::new();
        loop {
            let Wanted { node, events, address_error } =
                initial(&self.shared.options, &self.facts, &self.shared.inputs(), &now());
            if let Some(error) = address_error {
                warn!(error = chain(&error), "the node has no address to report");
            }
            let name = &self.shared.options.name;
            match register(&self.api, &node).await {
                Ok(node) => {
                    info!(node = name, "the node is registered");
                    self.written = Some(node);
                    events.into_iter().for_each(|event| self.shared.say(event));
                    return;
                }
                Err(error) => {
                    warn!(node = name, error = chain(&error), "the node is not registered yet");
                    let asked = error.retry_after().unwrap_or_default().min(BACK_OFF_MAX);
                    sleep(back_off.next().max(asked)).await;
                }
            }
            // A link that has come up since has brought an address.
            self.look().await;
        }
    }

    /// Waits a little for whoever knows whether the node is ready.
    async fn wait_for_inputs(&self) {
        let known = async {
            while self.shared.inputs().problems.is_none() {
                self.shared.urgent.notified().await;
            }
        };
        if timeout(FIRST_LOOK, known).await.is_err() {
            debug!("nobody has said yet whether the node is ready");
        }
    }

    /// Computes the status and writes it if need be; whether the API server has what it shall have.
    async fn update(&mut self) -> bool {
        for tried in 0..TRIES {
            let error = match self.try_update(tried == 0).await {
                Ok(()) => {
                    if self.is_failing {
                        info!("the node's status is written again");
                        self.is_failing = false;
                        self.shared.recorder.api_answers();
                    }
                    return true;
                }
                Err(error) => error,
            };
            if error.is_not_found() && self.shared.options.register {
                warn!(
                    node = self.shared.options.name,
                    "the node was deleted; it is registered anew"
                );
                self.register().await;
                self.reported = None;
                continue;
            }
            if self.is_failing {
                debug!(tried, error = chain(&error), "the node's status is not written");
            } else {
                warn!(tried, error = chain(&error), "the node's status is not written");
            }
            self.is_failing = true;
            // One that does not answer does not do so five times in a row, either.
            if error.is_passing() {
                return false;
            }
        }
        false
    }

    async fn try_update(&mut self, from_cache: bool) -> Result<(), CallError> {
        let base = match self.newest().filter(|_| from_cache) {
            Some(node) => node,
            None => call(LIMIT, self.api.get(&self.shared.options.name)).await?,
        };
        let inputs = self.shared.inputs();
        let Wanted { node, mut events, address_error } =
            updated(&base, &self.shared.options, &self.facts, &inputs, &now());
        if let Some(error) = address_error {
            debug!(error = chain(&error), "the node's addresses stay as they were");
        }
        events.extend(self.schedulable(&base));
        let is_change = patch::is_change(&base, &node).map_err(CallError::Json)?;
        if is_change || self.is_due() {
            let first = is_change || self.reported.is_none();
            if let Some(written) = write(&self.api, &base, &node).await? {
                self.written = Some(written);
            }
            self.reported = Some(Instant::now());
            let report_every = self.shared.options.report_every.as_secs_f64();
            self.shift = if first { report_every * (spread() - 0.5) } else { 0.0 };
        }
        self.tell(events, base.spec.and_then(|spec| spec.unschedulable).unwrap_or(false));
        Ok(())
    }

    /// Whether a status is to be written though nothing has changed.
    fn is_due(&self) -> bool {
        let every = self.shared.options.report_every.as_secs_f64() + self.shift;
        self.reported.is_none_or(|reported| reported.elapsed().as_secs_f64() >= every)
    }

    /// Our node in its newest version: as the watch shows it, or as we wrote it last. `None` once
    /// the watch has shown that it is gone.
    fn newest(&mut self) -> Option<Node> {
        let seen = self.seen.borrow_and_update().clone();
        let Some(seen) = seen else { return self.written.take() };
        match &self.written {
            Some(written) if is_newer(written, &seen) => Some(written.clone()),
            Some(_) | None => Some(Node::clone(&seen)),
        }
    }

    /// Tells of a node that was cordoned, or is so no longer.
    fn schedulable(&self, node: &Node) -> Option<Said> {
        let is = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        let reason = if is { "NodeNotSchedulable" } else { "NodeSchedulable" };
        (is != self.is_unschedulable).then(|| Said {
            warning: false,
            reason,
            message: format!("Node {} status is now: {reason}", self.shared.options.name),
        })
    }

    /// Tells what is true now that it is written.
    fn tell(&mut self, events: Vec<Said>, is_unschedulable: bool) {
        self.is_unschedulable = is_unschedulable;
        for event in events {
            // One boot, one event, though the node may be deleted and come back.
            if event.reason == "Rebooted" && std::mem::replace(&mut self.is_rebooted, true) {
                continue;
            }
            self.shared.say(event);
        }
    }
}

/// Whether `one` is a later version than `other`; of the same object, or of a later one.
fn is_newer(one: &Node, other: &Node) -> bool {
    let version = |node: &Node| {
        node.metadata.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok())
    };
    version(one) > version(other)
}
