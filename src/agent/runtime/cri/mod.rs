//! Containers that are ordinary images, and the sandboxes of pods that have any: a container runtime
//! behind CRI v1.
//!
//! Owns: the connection ([`client`]), what is known of sandboxes and containers ([`table`]) and the
//! one task that looks at all of them ([`relist`]), the verbs of sandboxes ([`sandbox`]) and of
//! containers ([`container`]), images ([`images`]), from a pod to CRI's messages ([`config`]), the
//! runtime's own health ([`health`]), rotation of logs ([`rotate`]), and what is cleaned away
//! ([`collect`]); streams are the runtime's own, at addresses that it gives ([`stream`]).
//! In: the verbs of [`Runtime`](super::Runtime). Out: [`Happening`]s.
//! Starts four tasks for the runtime as a whole (relist, events, health, rotation), and one for
//! each stop and each look at a container.
//!
//! Nothing of it is kept on disk: what an agent needs that is started again lies in labels and
//! annotations that the runtime keeps.

pub(crate) mod client;
mod collect;
pub(crate) mod config;
mod container;
#[cfg(test)]
mod fake;
pub(crate) mod health;
pub(crate) mod images;
mod relist;
mod resize;
mod rotate;
mod sandbox;
mod status;
mod stream;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use copepod_pod::Attempt;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

pub(crate) use self::client::{Client, CriError};
pub(crate) use self::container::Ordinary;
pub(crate) use self::health::Health;
use self::images::Images;
pub(crate) use self::sandbox::{PodSandbox, SandboxSpec};
use self::table::Table;
use super::{Happening, LogLimits};
use crate::ledger::Ledger;

/// What a runtime has to be told.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How much of each container's log is kept.
    pub(crate) log_limits: LogLimits,
    /// Where links to logs are put (upstream: `legacyContainerLogsDir`).
    pub(crate) log_links: PathBuf,
    /// Where attempts have their files.
    pub(crate) ledger: Arc<Ledger>,
}

/// A container runtime behind CRI. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Cri(Arc<Inner>);

/// What the tasks share.
#[derive(Debug)]
struct Inner {
    client: Client,
    images: Images,
    /// Its name, which stands before its ids.
    name: String,
    options: Options,
    table: Table,
    happenings: mpsc::Sender<Happening>,
    /// Wakes the relist.
    wake: Notify,
    /// How the relist goes; each container that was looked at is news as well.
    looked: watch::Sender<LookedAt>,
    /// Who looks at a container has one.
    looks: Semaphore,
    has_events: AtomicBool,
    health: watch::Sender<Health>,
}

/// How the relist goes.
#[derive(Clone, Debug, Default)]
struct LookedAt {
    /// Looks that were had.
    times: u64,
    /// The last one.
    at: Option<Instant>,
}

impl Cri {
    /// The runtime behind `client` with its `images`, whose name is known; starts its tasks. What becomes of
    /// containers is told to `happenings`.
    pub(crate) fn start(
        client: Client,
        images: Images,
        name: String,
        options: Options,
        happenings: mpsc::Sender<Happening>,
    ) -> Self {
        let inner = Arc::new(Inner {
            client,
            images,
            name,
            options,
            table: Table::default(),
            happenings,
            wake: Notify::new(),
            looked: watch::Sender::default(),
            looks: Semaphore::new(relist::LOOKS),
            has_events: AtomicBool::new(false),
            health: watch::Sender::default(),
        });
        tokio::spawn(relist::run(Arc::clone(&inner)));
        tokio::spawn(relist::hear(Arc::clone(&inner)));
        tokio::spawn(health::run(Arc::clone(&inner)));
        tokio::spawn(rotate::run(Arc::clone(&inner)));
        Self(inner)
    }

    /// The scheme of its ids, without `://`.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Its images.
    pub(crate) fn images(&self) -> &Images {
        &self.0.images
    }

    /// Waits until the runtime was looked at once, and each container that it has of this pod (upstream:
    /// nothing of a pod is synced while its status cannot be had). May be dropped and asked again.
    pub(crate) async fn looked(&self, pod_uid: &str) {
        let mut looked = self.0.looked.subscribe();
        let is_known =
            |looked: &LookedAt| looked.times > 0 && self.0.table.lock().is_known(pod_uid);
        // It ends with the agent.
        let _ = looked.wait_for(is_known).await;
    }

    /// All attempts of the pod that the runtime knows.
    pub(crate) fn list(&self, pod_uid: &str) -> Vec<Attempt> {
        self.0.table.lock().attempts(pod_uid, &self.0.name)
    }

    /// The id without its scheme, if it is of this runtime.
    fn own_id<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.strip_prefix(&*self.0.name)?.strip_prefix("://")
    }
}

impl Inner {
    async fn tell(&self, happening: Happening) {
        // Its worker's dispatcher ends with the agent.
        let _ = self.happenings.send(happening).await;
    }
}
