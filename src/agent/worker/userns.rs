//! Which of the host's ids a pod with a user namespace of its own has (`hostUsers: false`; upstream
//! `pkg/kubelet/userns`).
//!
//! [`Pool`] decides, and is pure; [`UserIds`] is it with what is kept on disk. What a pod has, it
//! keeps for its life, whatever the node is configured to give to others meanwhile.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ledger::{Ledger, LedgerError};
use crate::runtime::cri::config::IdRange;

/// How many ids a pod has at least, and of which its number is a multiple (upstream
/// `userNsUnitLength`): all that 16 bits can say, as programs expect.
const UNIT: u32 = 65536;

/// Why the host's ids cannot be given to pods.
#[derive(Debug, Error)]
pub(crate) enum UserIdsError {
    /// Their numbers do not go together; upstream's words.
    #[error("kubelet user namespace length {0} is not a multiple of {UNIT}")]
    Length(u32),
    /// The same.
    #[error("kubelet user assigned ID {first} is not a multiple of {per_pod}")]
    First {
        /// The first id.
        first: u32,
        /// How many a pod gets.
        per_pod: u32,
    },
    /// The host's own users are among them; upstream's words.
    #[error("kubelet user assigned ID {first} must be greater or equal to {per_pod}")]
    Low {
        /// The first id.
        first: u32,
        /// How many a pod gets.
        per_pod: u32,
    },
    /// Upstream's words.
    #[error("kubelet user assigned IDs length {length} is not a multiple of {per_pod}")]
    Whole {
        /// How many there are.
        length: u32,
        /// How many a pod gets.
        per_pod: u32,
    },
    /// There are no such ids.
    #[error("{length} ids from {first} on are more than there are")]
    Beyond {
        /// The first id.
        first: u32,
        /// How many there are.
        length: u32,
    },
    /// Upstream's words.
    #[error("kubelet user assigned IDs are not enough to support {0} pods")]
    Few(u32),
    /// What `getsubids` says is not read; upstream's words.
    #[error("error parsing line {0:?}: it must contain only one line")]
    Lines(String),
    /// The same.
    #[error("invalid line {0:?}")]
    Line(String),
    /// All are taken; upstream's words.
    #[error("could not find an empty slot to allocate a user namespace")]
    None,
    /// What a pod has had is no longer its own.
    #[error("pod {uid}: the ids from {first} on are those of pod {other}")]
    Taken {
        /// Whose record says so.
        uid: String,
        /// The first of its ids.
        first: u32,
        /// Who has them.
        other: String,
    },
    /// A pod's record is not one of ours; upstream's words.
    #[error(
        "pod {0}: invalid user namespace configuration: GID and UID mapping should be identical"
    )]
    Record(String),
    /// What is kept cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The ids that the host has for pods, and who has which.
#[derive(Debug)]
pub(crate) struct Pool {
    range: IdRange,
    per_pod: u32,
    used: BTreeMap<String, IdRange>,
    /// The slot at which the next search begins: ids of a pod that went are not the next one's.
    next: u32,
}

impl Pool {
    /// Of `range`, each pod gets `per_pod` ids.
    ///
    /// # Errors
    /// [`UserIdsError`] where they do not go together, or are too few for `max_pods`.
    pub(crate) fn new(range: IdRange, per_pod: u32, max_pods: u32) -> Result<Self, UserIdsError> {
        let IdRange { first, length } = range;
        if per_pod == 0 || !per_pod.is_multiple_of(UNIT) {
            return Err(UserIdsError::Length(per_pod));
        }
        if !first.is_multiple_of(per_pod) {
            return Err(UserIdsError::First { first, per_pod });
        }
        // 0 is the host's root.
        if first < per_pod {
            return Err(UserIdsError::Low { first, per_pod });
        }
        if !length.is_multiple_of(per_pod) {
            return Err(UserIdsError::Whole { length, per_pod });
        }
        if u64::from(first) + u64::from(length) > 1 << 32 {
            return Err(UserIdsError::Beyond { first, length });
        }
        if length / per_pod < max_pods {
            return Err(UserIdsError::Few(max_pods));
        }
        Ok(Self { range, per_pod, used: BTreeMap::new(), next: 0 })
    }

    /// What the pod has.
    pub(crate) fn get(&self, uid: &str) -> Option<IdRange> {
        self.used.get(uid).copied()
    }

    /// Ids that nobody has.
    ///
    /// # Errors
    /// [`UserIdsError::None`].
    fn find(&self) -> Result<IdRange, UserIdsError> {
        let slots = self.range.length / self.per_pod;
        let of_slot = |slot: u32| IdRange {
            first: self.range.first + slot * self.per_pod,
            length: self.per_pod,
        };
        // Below 2^16 each.
        let mut all = (0..slots).map(|step| of_slot((self.next + step) % slots));
        all.find(|ids| self.owner(*ids).is_none()).ok_or(UserIdsError::None)
    }

    /// The pod has these from now on, which were found.
    fn give(&mut self, uid: &str, ids: IdRange) {
        let slots = self.range.length / self.per_pod;
        self.next = ((ids.first - self.range.first) / self.per_pod + 1) % slots;
        self.used.insert(uid.to_owned(), ids);
    }

    /// The pod has had these, maybe of another range than what is given now.
    ///
    /// # Errors
    /// [`UserIdsError::Taken`].
    pub(crate) fn keep(&mut self, uid: &str, ids: IdRange) -> Result<(), UserIdsError> {
        if let Some(other) = self.owner(ids).filter(|other| *other != uid) {
            let (uid, other) = (uid.to_owned(), other.to_owned());
            return Err(UserIdsError::Taken { uid, first: ids.first, other });
        }
        self.used.insert(uid.to_owned(), ids);
        Ok(())
    }

    /// The pod needs none any more.
    pub(crate) fn release(&mut self, uid: &str) {
        self.used.remove(uid);
    }

    /// Who has any of these.
    fn owner(&self, ids: IdRange) -> Option<&str> {
        let end = |ids: IdRange| u64::from(ids.first) + u64::from(ids.length);
        let overlap =
            |one: IdRange| u64::from(one.first) < end(ids) && u64::from(ids.first) < end(one);
        self.used.iter().find(|(_, one)| overlap(**one)).map(|(uid, _)| &**uid)
    }
}

/// All ids but the host's own, for whom nobody says otherwise.
pub(crate) fn default_range(per_pod: u32) -> IdRange {
    // 2^32 less those.
    IdRange { first: per_pod, length: per_pod.wrapping_neg() }
}

/// The range that the words of `getsubids kubelet` name (`0: kubelet FIRST LENGTH`).
///
/// # Errors
/// [`UserIdsError::Lines`], [`UserIdsError::Line`].
pub(crate) fn parse_sub_ids(text: &str) -> Result<IdRange, UserIdsError> {
    let mut lines = text.trim_matches('\n').split('\n');
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(UserIdsError::Lines(text.to_owned()));
    };
    let wrong = || UserIdsError::Line(line.to_owned());
    let parts: Vec<&str> = line.split_whitespace().collect();
    let [_, _, first, length] = parts[..] else { return Err(wrong()) };
    let number = |text: &str| text.parse().map_err(|_| wrong());
    Ok(IdRange { first: number(first)?, length: number(length)? })
}

/// What is kept of a pod, in upstream's form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Record {
    fn of(ids: IdRange) -> Self {
        let one = Mapping { host_id: ids.first, container_id: 0, length: ids.length };
        Self { uid_mappings: vec![one], gid_mappings: vec![one] }
    }

    fn ids(&self) -> Option<IdRange> {
        let ([uids], [gids]) = (&self.uid_mappings[..], &self.gid_mappings[..]) else {
            return None;
        };
        let ids = IdRange { first: uids.host_id, length: uids.length };
        (uids == gids && uids.container_id == 0).then_some(ids)
    }
}

/// The pool, and what is kept of it in the pods' directories.
#[derive(Debug)]
pub(crate) struct UserIds {
    /// Held for a look or a change: the event loop looks too.
    pool: Mutex<Pool>,
    /// Held over a change of what is on disk and in the pool, one after the other.
    disk: Mutex<()>,
}

impl UserIds {
    /// With what the pods on disk have already. Blocks.
    ///
    /// # Errors
    /// [`UserIdsError`] where that cannot be read: nothing may be given to two.
    pub(crate) fn open(mut pool: Pool, ledger: &Ledger) -> Result<Self, UserIdsError> {
        for pod in ledger.kept_pods()? {
            let uid = pod.metadata.uid.unwrap_or_default();
            let Some(record) = ledger.user_namespace::<Record>(&uid)? else { continue };
            let ids = record.ids().ok_or_else(|| UserIdsError::Record(uid.clone()))?;
            pool.keep(&uid, ids)?;
        }
        Ok(Self { pool: Mutex::new(pool), disk: Mutex::default() })
    }

    /// What the pod has.
    pub(crate) fn get(&self, uid: &str) -> Option<IdRange> {
        self.pool().get(uid)
    }

    /// The pod's ids, which are kept before they are told. Blocks.
    ///
    /// # Errors
    /// [`UserIdsError`].
    pub(crate) fn take(&self, uid: &str, ledger: &Ledger) -> Result<IdRange, UserIdsError> {
        // Nobody else takes or gives back meanwhile, and who looks sees what is kept alone.
        let _turn = self.turn();
        if let Some(ids) = self.get(uid) {
            return Ok(ids);
        }
        let ids = self.pool().find()?;
        ledger.keep_user_namespace(uid, &Record::of(ids))?;
        self.pool().give(uid, ids);
        Ok(ids)
    }

    /// Nothing of the pod runs any more: others may have its ids. Blocks.
    ///
    /// # Errors
    /// [`UserIdsError`]; it has them still then.
    pub(crate) fn release(&self, uid: &str, ledger: &Ledger) -> Result<(), UserIdsError> {
        let _turn = self.turn();
        if self.get(uid).is_some() {
            ledger.forget_user_namespace(uid)?;
            self.pool().release(uid);
        }
        Ok(())
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // A panic elsewhere leaves the pool whole: each change is one call.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // Guards the order of changes, which is no matter for one that panicked.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "userns_test.rs"]
mod tests;
