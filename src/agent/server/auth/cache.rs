//! What was decided, for a time and up to a number.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A SHA-256 of what was decided about: nothing of it is kept, and nobody chooses where it falls.
pub(super) type Key = [u8; 32];

/// Decisions by their key.
pub(super) struct Cache<T> {
    most: usize,
    entries: HashMap<Key, (T, Instant)>,
}

impl<T> Cache<T> {
    /// An empty cache of at most `most` decisions.
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new() }
    }

    /// The decision, if it still holds.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<&T> {
        let (value, until) = self.entries.get(key)?;
        (now < *until).then_some(value)
    }

    /// Keeps a decision for `ttl`. Where that is one too many, the one that would end first goes.
    pub(super) fn insert(&mut self, key: Key, value: T, ttl: Duration, now: Instant) {
        if ttl.is_zero() {
            return;
        }
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (_, until)| now < *until);
            if self.entries.len() >= self.most {
                let first = self.entries.iter().min_by_key(|(_, (_, until))| *until);
                if let Some(first) = first.map(|(key, _)| *key) {
                    self.entries.remove(&first);
                }
            }
        }
        self.entries.insert(key, (value, now + ttl));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_hold_for_their_time_and_number() {
        let mut cache = Cache::new(3);
        let (second, now) = (Duration::from_secs(1), Instant::now());
        cache.insert([0; 32], 'a', 10 * second, now);
        cache.insert([1; 32], 'b', 2 * second, now);
        cache.insert([2; 32], 'c', Duration::ZERO, now);
        assert_eq!(cache.get(&[2; 32], now), None, "no time is no entry");
        cache.insert([2; 32], 'c', 5 * second, now);
        cache.insert([0; 32], 'A', 10 * second, now);
        assert_eq!(cache.entries.len(), 3);
        cache.insert([3; 32], 'd', 10 * second, now);
        assert_eq!(cache.get(&[1; 32], now), None, "the first to end made room");
        let known =
            |after: u32| [0, 2, 3].map(|n| cache.get(&[n; 32], now + after * second).copied());
        assert_eq!(known(4), [Some('A'), Some('c'), Some('d')]);
        assert_eq!(known(5), [Some('A'), None, Some('d')]);
        assert_eq!(known(10), [None; 3]);
        cache.insert([4; 32], 'e', second, now + 10 * second);
        assert_eq!(cache.entries.len(), 1, "what has ended is gone");
    }
}
