//! The node object: registration, status, lease, and what others write into it.
//!
//! Owns: the whole object ([`object`], pure) and when which part of it is written. In:
//! [`NodeOptions`], and through the [`NodeHandle`] what changes: why the node is not ready, its
//! images. Out: the node as the API server has it, on a watch channel;
//! events about the node.
//! Starts three tasks ([`start`]), which end with the last handle: one watches our own node, one
//! registers it and writes its status, one renews its lease. An API server that is away stops none
//! of them: each tries again, at most [`BACK_OFF_MAX`] later.

mod address;
mod condition;
mod fetch;
mod lease;
mod object;
mod options;
mod patch;
mod register;
mod status;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerImage, Node};
use tokio::sync::Notify;
use tokio::sync::watch as channel;
use tokio::task::{JoinSet, spawn_blocking};

use self::address::HostAddresses;
pub(crate) use self::fetch::fetch;
use self::object::{Facts, Inputs, Said};
pub(crate) use self::object::{Handler, RuntimeReport};
pub(crate) use self::options::{NodeOptions, Threshold};
use super::call::now;
use super::events::{Recorder, node_reference};
use crate::linux::machine::Machine;

/// The first pause after a failure (upstream's registration and lease).
const BACK_OFF: Duration = Duration::from_millis(100);
/// The longest pause after a failure: so late at most is noticed that the API server is back.
const BACK_OFF_MAX: Duration = Duration::from_secs(7);
/// How long one request may take: upstream's heartbeat client has one update's interval.
const LIMIT: Duration = Duration::from_secs(10);
/// By how much intervals are stretched at random (upstream's jitter of both loops).
const JITTER: f64 = 0.04;

/// Our node, for all who know something about it or want to. Cheap to clone; the tasks end with the
/// last one.
#[derive(Clone, Debug)]
pub(crate) struct NodeHandle {
    node: channel::Receiver<Option<Arc<Node>>>,
    shared: Arc<Shared>,
    _tasks: Arc<JoinSet<()>>,
}

/// What handles and tasks share.
#[derive(Debug)]
struct Shared {
    options: NodeOptions,
    recorder: Recorder,
    inputs: Mutex<Inputs>,
    /// Something that others wait for has changed: readiness.
    urgent: Notify,
}

/// Starts the node's tasks with `client`, whose user is `system:node:NAME`.
pub(crate) fn start(client: kube::Client, options: NodeOptions, recorder: Recorder) -> NodeHandle {
    let (seen, node) = channel::channel(None);
    let inputs = Mutex::default();
    let shared = Arc::new(Shared { options, recorder, inputs, urgent: Notify::new() });
    // The kubelet's first words (`BirthCry`).
    shared.say(Said { warning: false, reason: "Starting", message: "Starting kubelet.".into() });
    let mut tasks = JoinSet::new();
    tasks.spawn(watch::run(client.clone(), Arc::clone(&shared), seen));
    tasks.spawn(lease::run(client.clone(), Arc::clone(&shared), node.clone()));
    tasks.spawn(status::run(client, Arc::clone(&shared), node.clone()));
    NodeHandle { node, shared, _tasks: Arc::new(tasks) }
}

impl NodeHandle {
    /// Our node as the API server has it: labels, taints, uid, pod networks. `None` before it was
    /// seen, and while there is none.
    pub(crate) fn node(&self) -> channel::Receiver<Option<Arc<Node>>> {
        self.node.clone()
    }

    /// Our node as it would be registered now, for whoever cannot wait for an API server (upstream:
    /// `initialNode`).
    pub(crate) async fn expected(&self) -> Arc<Node> {
        let shared = Arc::clone(&self.shared);
        let look = move || {
            let Shared { options, .. } = &*shared;
            let machine = Machine::read(&options.storage);
            let facts = Facts { machine, addresses: HostAddresses::read(&options.name) };
            object::initial(options, &facts, &shared.inputs(), &now()).node
        };
        let looked = spawn_blocking(look).await;
        // The look is not aborted, but for an end of the whole event loop.
        Arc::new(looked.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic())))
    }

    /// Says all that keeps the node from being ready, in upstream's words; nothing makes it ready.
    /// Before the first call the node is not ready, and one that was stays as it is for a while.
    pub(crate) fn set_problems(&self, problems: Vec<String>) {
        self.shared.change(true, |inputs| inputs.problems = Some(problems));
    }

    /// Says what the container runtime is.
    pub(crate) fn set_runtime(&self, runtime: RuntimeReport) {
        self.shared.change(true, |inputs| inputs.runtime = Some(runtime));
    }

    /// Says which images the node has, each with its digests before its tags. Written with the
    /// next status.
    pub(crate) fn set_images(&self, images: Vec<ContainerImage>) {
        self.shared.change(false, |inputs| inputs.images = images);
    }

    /// Tells that a control group has its limits, or that it has not, in upstream's words.
    pub(crate) fn enforced(&self, said: Result<String, String>) {
        let (warning, reason, message) = match said {
            Ok(message) => (false, "NodeAllocatableEnforced", message),
            Err(message) => (true, "FailedNodeAllocatableEnforcement", message),
        };
        self.shared.say(Said { warning, reason, message });
    }
}

impl Shared {
    fn say(&self, Said { warning, reason, message }: Said) {
        let about = node_reference(&self.options.name);
        self.recorder.record(about, warning, reason, message);
    }

    fn inputs(&self) -> Inputs {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, urgent: bool, change: impl FnOnce(&mut Inputs)) {
        // A panic elsewhere leaves the inputs whole: each change is one assignment.
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inputs.clone();
        change(&mut inputs);
        if urgent && *inputs != before {
            self.urgent.notify_one();
        }
    }
}

/// Our node, once it was seen.
async fn known(node: &mut channel::Receiver<Option<Arc<Node>>>) -> Arc<Node> {
    loop {
        if let Some(node) = node.borrow_and_update().clone() {
            return node;
        }
        if node.changed().await.is_err() {
            // The watch ends with the event loop only.
            std::future::pending::<()>().await;
        }
    }
}

/// Pauses after failures: each twice as long as the one before.
#[derive(Debug)]
struct BackOff(Duration);

impl BackOff {
    fn new() -> Self {
        Self(BACK_OFF)
    }

    /// How long to wait now.
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = pause.saturating_mul(2).min(BACK_OFF_MAX);
        pause
    }
}

#[cfg(test)]
#[path = "node_test.rs"]
mod tests;
