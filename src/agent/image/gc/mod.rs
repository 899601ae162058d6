//! The removal of images that nobody needs, when a disk is full or they are too old.
//!
//! Owns: what is remembered of images' use and which go ([`decide`], pure), the round over all
//! stores ([`Collector`]). In: the stores of both kinds of images ([`GcStore`]), who uses which
//! image, a [`Policy`]. Out: removed images, a node's events ([`Told`]).
//! Starts no task: [`run`] is one, for the whole node.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustix::fs::statvfs;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};

use self::decide::{Candidate, Need, Records};
use crate::telemetry::chain;

pub(crate) use self::decide::{Disk, Found, Policy};

/// How often images are looked at (upstream `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(5 * 60);
/// Most failures of removals that one error names.
const NAMED_MAX: usize = 8;

/// Why a store did not do something.
pub(crate) type StoreFailure = Box<dyn Error + Send + Sync>;

/// A store of images, as the collector sees it.
pub(crate) trait GcStore: Send + Sync {
    /// All images.
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, StoreFailure>>;
    /// Removes one; gives whether it is gone: one that came into use meanwhile is not.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreFailure>>;
    /// The disk that they lie on.
    fn disk(&self) -> BoxFuture<'_, Result<Disk, StoreFailure>>;
}

/// What people are told about the node: a warning (upstream's reasons and texts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// `InvalidDiskCapacity`, `FreeDiskSpaceFailed` or `ImageGCFailed`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// Why a round failed.
#[derive(Debug, Error)]
pub(crate) enum GcError {
    /// A store did not say what it has, or what it lies on.
    #[error("cannot {0}")]
    Look(&'static str, #[source] StoreFailure),
    /// Nobody says what is in use.
    #[error("cannot tell which images are in use")]
    InUse(#[source] StoreFailure),
    /// The disk is said to have no bytes.
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    /// Images that are too old are still here.
    #[error("wanted to free images older than {}s, encountered errors in image deletion: {failures}", max_age.as_secs())]
    TooOld {
        /// The age.
        max_age: Duration,
        /// Why.
        failures: String,
    },
    /// Some images could not be removed.
    #[error(
        "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image \
         deletion: {failures}"
    )]
    Remove {
        /// How much was to go.
        wanted: u64,
        /// How much went.
        freed: u64,
        /// Why not the rest.
        failures: String,
    },
    /// There are not enough images that may go; upstream's text.
    #[error("{0}")]
    Insufficient(String),
}

/// What removes images.
pub(crate) struct Collector {
    stores: Vec<Arc<dyn GcStore>>,
    policy: Policy,
    records: Records,
    started: Instant,
    /// Whether the last round failed.
    failed: bool,
}

impl Collector {
    /// Takes the stores of the node. Ages count from now.
    pub(crate) fn new(stores: Vec<Arc<dyn GcStore>>, policy: Policy) -> Self {
        Self { stores, policy, records: Records::default(), started: Instant::now(), failed: false }
    }

    /// A round of [`run`], with word of its failure.
    async fn round(
        &mut self,
        in_use: Result<BTreeSet<String>, StoreFailure>,
        told: &(dyn Fn(Told) + Send + Sync),
    ) {
        let round = match in_use {
            Ok(in_use) => self.collect(&in_use, told).await,
            Err(error) => Err(GcError::InUse(error)),
        };
        if let Err(error) = &round {
            let message = chain(error);
            tracing::warn!(error = message, "cannot remove images");
            // Only for who fails again: once is often enough a runtime that is just starting.
            if self.failed {
                told(Told { reason: "ImageGCFailed", message });
            }
        }
        self.failed = round.is_err();
    }

    /// One round: what is too old goes, then what has to for want of space. `in_use` holds what
    /// containers and sandboxes use, by ids, tags or digests; `told` hears what people are told.
    ///
    /// # Errors
    /// [`GcError`]; what could be removed is.
    pub(crate) async fn collect(
        &mut self,
        in_use: &BTreeSet<String>,
        told: &(dyn Fn(Told) + Send + Sync),
    ) -> Result<(), GcError> {
        let candidates = self.candidates(in_use).await?;
        let candidates = self.free_old(candidates).await?;
        let mut disks: Vec<(Disk, Vec<usize>)> = Vec::new();
        for (at, store) in self.stores.iter().enumerate() {
            let disk =
                store.disk().await.map_err(|e| GcError::Look("read the image filesystem", e))?;
            match disks.iter_mut().find(|(known, _)| known.id == disk.id) {
                Some((_, stores)) => stores.push(at),
                None => disks.push((disk, vec![at])),
            }
        }
        let mut result = Ok(());
        for (disk, stores) in disks {
            let on_it: Vec<_> =
                candidates.iter().filter(|one| stores.contains(&one.store)).cloned().collect();
            // A disk's trouble does not keep another from being freed.
            result = result.and(self.free_disk(&disk, on_it, told).await);
        }
        result
    }

    /// What may go, in its order.
    async fn candidates(&mut self, in_use: &BTreeSet<String>) -> Result<Vec<Candidate>, GcError> {
        let mut candidates = Vec::new();
        for (at, store) in self.stores.iter().enumerate() {
            let found = store.found().await.map_err(|e| GcError::Look("list images", e))?;
            let now = self.started.elapsed();
            candidates.extend(self.records.look(at, &found, in_use, now));
        }
        decide::order(&mut candidates);
        Ok(candidates)
    }

    /// Removes what is too old; gives what is left.
    async fn free_old(&self, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, GcError> {
        let running = self.started.elapsed();
        let (mut left, mut failures) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match decide::is_too_old(&self.policy, &candidate, running) {
                true => failures.extend(self.remove(&candidate, "it is too old").await.err()),
                false => left.push(candidate),
            }
        }
        match failures.is_empty() {
            true => Ok(left),
            false => {
                Err(GcError::TooOld { max_age: self.policy.max_age, failures: joined(&failures) })
            }
        }
    }

    async fn free_disk(
        &self,
        disk: &Disk,
        candidates: Vec<Candidate>,
        told: &(dyn Fn(Told) + Send + Sync),
    ) -> Result<(), GcError> {
        let (used, bytes) = match decide::need(&self.policy, disk) {
            Need::Nothing => return Ok(()),
            Need::NoCapacity => {
                let error = GcError::NoCapacity;
                told(Told { reason: "InvalidDiskCapacity", message: error.to_string() });
                return Err(error);
            }
            Need::Free { used, bytes } => (used, bytes),
        };
        tracing::info!(used, bytes, "removes images: the disk is fuller than it may be");
        let freed = self.free_space(bytes, candidates).await?;
        if freed >= bytes {
            return Ok(());
        }
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({used}% of {} used). \
             Failed to free sufficient space by deleting unused images (freed {freed} bytes). \
             Investigate disk usage, as it could be used by active images, logs, volumes, or other \
             data.",
            decide::size(disk.capacity)
        );
        told(Told { reason: "FreeDiskSpaceFailed", message: message.clone() });
        Err(GcError::Insufficient(message))
    }

    /// Removes images until so many bytes are free; gives how many are.
    async fn free_space(&self, wanted: u64, candidates: Vec<Candidate>) -> Result<u64, GcError> {
        let (mut freed, mut failures) = (0_u64, Vec::new());
        for candidate in candidates {
            if freed >= wanted {
                break;
            }
            if candidate.known < self.policy.min_age {
                continue;
            }
            match self.remove(&candidate, "there is no room").await {
                Ok(true) => freed = freed.saturating_add(candidate.bytes),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        match failures.is_empty() {
            true => Ok(freed),
            false => Err(GcError::Remove { wanted, freed, failures: joined(&failures) }),
        }
    }

    async fn remove(&self, candidate: &Candidate, why: &str) -> Result<bool, String> {
        let Candidate { store, id, bytes, .. } = candidate;
        tracing::info!(image = id, bytes, "removes an image: {why}");
        self.stores[*store].remove(id).await.map_err(|error| chain(&*error))
    }
}

/// The disk that a directory lies on.
///
/// # Errors
/// The system's.
pub(crate) fn disk_of(dir: &Path) -> io::Result<Disk> {
    let (id, about) = (dir.metadata()?.dev(), statvfs(dir)?);
    Ok(Disk {
        id,
        capacity: about.f_blocks.saturating_mul(about.f_frsize),
        available: about.f_bavail.saturating_mul(about.f_frsize),
    })
}

fn joined(failures: &[String]) -> String {
    let mut named = failures.to_vec();
    named.dedup();
    named.truncate(NAMED_MAX);
    match named.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// Looks at all images now and then, for as long as it is not dropped. `in_use` gives what
/// containers and sandboxes use, by ids, tags or digests; `told` hears what people are told of the
/// node. Does nothing under a policy that never removes any.
pub(crate) async fn run(
    mut collector: Collector,
    in_use: impl AsyncFn() -> Result<BTreeSet<String>, StoreFailure>,
    told: impl Fn(Told) + Send + Sync,
) {
    if collector.policy.is_off() {
        return;
    }
    let mut rounds = interval(PERIOD);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        collector.round(in_use().await, &told).await;
    }
}
