//! What was decided, for a time and up to a number.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

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
    pub(super) fn get(&self, key: &Key) -> Option<&T> {
        let (value, until) = self.entries.get(key)?;
        (Instant::now() < *until).then_some(value)
    }

    /// Keeps a decision for `ttl`. Where that is one too many, the one that would end first goes.
    pub(super) fn insert(&mut self, key: Key, value: T, ttl: Duration) {
        let now = Instant::now();
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
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn decisions_hold_for_their_time_and_number() {
        let mut cache = Cache::new(3);
        let second = Duration::from_secs(1);
        cache.insert([0; 32], 'a', 10 * second);
        cache.insert([1; 32], 'b', 2 * second);
        cache.insert([2; 32], 'c', 0 * second);
        assert_eq!(cache.get(&[2; 32]), None, "no time is no entry");
        cache.insert([2; 32], 'c', 5 * second);
        cache.insert([0; 32], 'A', 10 * second);
        assert_eq!(cache.entries.len(), 3);
        cache.insert([3; 32], 'd', 10 * second);
        assert_eq!(cache.get(&[1; 32]), None, "the first to end made room");
        assert_eq!(
            [0, 2, 3].map(|n| cache.get(&[n; 32]).copied()),
            [Some('A'), Some('c'), Some('d')]
        );
        advance(5 * second).await;
        assert_eq!([0, 2, 3].map(|n| cache.get(&[n; 32]).copied()), [Some('A'), None, Some('d')]);
        advance(5 * second).await;
        assert_eq!(cache.get(&[0; 32]), None);
        cache.insert([4; 32], 'e', second);
        assert_eq!(cache.entries.len(), 1, "what has ended is gone");
    }
}
