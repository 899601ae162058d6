//! The memory limit, inside the engine.
//!
//! One budget per process: the sum over all linear memories of all instances, so that a guest of
//! many memories or a server of many requests has no more than a guest of one. A refused growth is
//! `memory.grow` returning -1, which a guest may handle; the refusal is remembered, so that a trap
//! after it is known to be for want of memory. The limit may be changed while the guest runs; before
//! a growth is refused the agent is heard, so that a guest that waits for nothing else has what it
//! was given. The cgroup is the backstop for what the engine
//! itself needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use wasmtime::ResourceLimiter;

use crate::agent::Agent;

/// Elements of all tables of one store: a large Go program has 50,000, and each costs 8 bytes that
/// the memory limit does not see.
const TABLE_ELEMENTS: usize = 1 << 20;
/// Core instances of one store: a component made of many is some dozen.
const INSTANCES: usize = 1000;
/// Tables of one store: each component brings a few.
const TABLES: usize = 1000;
/// Memories of one store: each reserves 4 GiB of address space.
const MEMORIES: usize = 100;

/// What all memories of the process may hold together.
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// Who may change the limit.
    agent: OnceLock<Agent>,
}

impl Budget {
    /// A budget of `limit` bytes; `None` is no limit.
    pub(crate) fn new(limit: Option<u64>) -> Arc<Self> {
        let limit = AtomicU64::new(limit.unwrap_or(u64::MAX));
        Arc::new(Self { limit, used: AtomicU64::new(0), agent: OnceLock::new() })
    }

    /// From now on the agent is heard of new limits. Both live as long as the process.
    pub(crate) fn follow(self: &Arc<Self>, agent: &Agent) {
        agent.set_budget(Arc::clone(self));
        // Called once.
        let _ = self.agent.set(agent.clone());
    }

    /// Changes the limit to `limit` bytes; `None` is no limit. What is used stays.
    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// As [`Budget::take`], with what the agent has said meanwhile.
    fn take_or_hear(&self, bytes: u64) -> Result<(), u64> {
        self.take(bytes).or_else(|_| {
            if let Some(agent) = self.agent.get() {
                agent.hear();
            }
            self.take(bytes)
        })
    }

    /// Takes `bytes` if they are left. `Err` is what all memories would have held.
    fn take(&self, bytes: u64) -> Result<(), u64> {
        let wanted = self.used.load(Ordering::Relaxed).saturating_add(bytes);
        if wanted > self.limit() {
            return Err(wanted);
        }
        // One thread runs all guests: nothing comes between the load and the store.
        self.used.store(wanted, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A growth of memory that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What all memories of the container would have held, in bytes.
    pub(crate) wanted: u64,
    /// What they may hold.
    pub(crate) limit: u64,
}

/// The part of one store (one run of a guest) in the budget; given back when it is dropped.
///
/// A growth that was granted and that the kernel then could not give stays counted: the engine also
/// reports failures that were never granted, and a guest must not shrink its count by those.
pub(crate) struct Limiter {
    budget: Arc<Budget>,
    held: u64,
    refused: Option<Refused>,
    elements: usize,
}

impl Limiter {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, held: 0, refused: None, elements: 0 }
    }

    /// The refusal, if the growth that was asked for last was refused. A guest that got memory
    /// after it has coped.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own bound: not the container's limit.
            return Ok(false);
        }
        let bytes = desired.saturating_sub(current) as u64;
        match self.budget.take_or_hear(bytes) {
            Ok(()) => {
                self.held += bytes;
                self.refused = None;
                Ok(true)
            }
            Err(wanted) => {
                self.refused = Some(Refused { wanted, limit: self.budget.limit() });
                Ok(false)
            }
        }
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    fn grow(limiter: &mut Limiter, from: usize, to: usize) -> bool {
        limiter.memory_growing(from * PAGE, to * PAGE, None).expect("never a trap")
    }

    #[test]
    fn memories_of_all_stores_count_together() {
        let budget = Budget::new(Some(10 * PAGE as u64));
        let mut a = Limiter::new(budget.clone());
        let mut b = Limiter::new(budget.clone());
        assert!(grow(&mut a, 0, 4) && grow(&mut b, 0, 4) && grow(&mut a, 4, 6));
        assert!(!grow(&mut b, 4, 5));
        let wanted = 11 * PAGE as u64;
        assert_eq!(b.refused(), Some(Refused { wanted, limit: 10 * PAGE as u64 }));
        assert_eq!(a.refused(), None, "another store's refusal is not its own");
        drop(a);
        assert!(grow(&mut b, 4, 10), "a finished store gives back");
        assert_eq!(b.refused(), None, "who got memory after a refusal has coped");
        drop(b);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_limit_may_change_and_what_is_held_stays() {
        let budget = Budget::new(Some(4 * PAGE as u64));
        let mut limiter = Limiter::new(budget.clone());
        assert!(grow(&mut limiter, 0, 4) && !grow(&mut limiter, 4, 5));
        budget.set_limit(Some(6 * PAGE as u64));
        assert!(grow(&mut limiter, 4, 6) && !grow(&mut limiter, 6, 7));
        budget.set_limit(Some(PAGE as u64));
        assert!(!grow(&mut limiter, 6, 7));
        assert_eq!(budget.used.load(Ordering::Relaxed), 6 * PAGE as u64);
        budget.set_limit(None);
        assert!(grow(&mut limiter, 6, 7));
    }

    #[test]
    fn no_limit_is_none_and_a_modules_own_bound_is_no_refusal() {
        let mut limiter = Limiter::new(Budget::new(None));
        assert!(limiter.memory_growing(0, 1 << 40, None).expect("grants"));
        assert!(!limiter.memory_growing(0, 2 * PAGE, Some(PAGE)).expect("refuses"));
        assert_eq!(limiter.refused(), None);
    }

    #[test]
    fn tables_are_bounded_together() {
        let mut limiter = Limiter::new(Budget::new(None));
        assert!(limiter.table_growing(0, TABLE_ELEMENTS - 1, None).expect("grants"));
        assert!(!limiter.table_growing(0, 2, None).expect("refuses"));
        assert!(limiter.table_growing(0, 1, None).expect("grants"));
    }
}
