//! How long to wait before an API call is made again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::request::ReadError;

/// First wait while the API server's graph of nodes and pods does not have our pod yet: it learns
/// of it some milliseconds after we did.
const EARLY_FIRST: Duration = Duration::from_millis(20);
/// Longest such wait.
const EARLY_MAX: Duration = Duration::from_secs(2);
/// After so many of them, some ten seconds, it is not the graph that is slow: the pod is gone there.
const EARLY_TRIES: u32 = 11;
/// First wait after any other failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest one; a server that comes back is found within it.
const MAX: Duration = Duration::from_secs(10);
/// Longest wait that a server may ask for.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// Waits that grow while calls fail.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    early: u32,
    other: u32,
}

impl Backoff {
    /// After a success.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// How long to wait after this failure: twice as long as the time before, up to a fifth less
    /// by chance, so that watches that broke together do not all come back together.
    pub(super) fn next(&mut self, error: &ReadError) -> Duration {
        let wait = if error.is_early() {
            self.early = self.early.saturating_add(1);
            let most = if self.early <= EARLY_TRIES { EARLY_MAX } else { MAX };
            doubled(EARLY_FIRST, self.early - 1, most)
        } else {
            self.other = self.other.saturating_add(1);
            doubled(FIRST, self.other - 1, MAX)
        };
        let asked = error.retry_after().unwrap_or_default().min(ASKED_MAX);
        (wait - random_below(wait / 5)).max(asked)
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}

/// A random time that is shorter than this one.
pub(super) fn random_below(most: Duration) -> Duration {
    // The standard library's hash keys are random: enough to spread calls in time.
    let part = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0);
    most.mul_f64(f64::from(part) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, retry_after: Option<u64>) -> ReadError {
        ReadError::Status {
            code,
            kind: String::new(),
            message: message.into(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_what_a_server_asks_for_counts() {
        let mut backoff = Backoff::default();
        let unrelated = status(
            403,
            "secrets \"s\" is forbidden: User \"system:node:n\" cannot list resource: no \
             relationship found between node 'n' and this object",
            None,
        );
        let quick: Vec<_> = (0..EARLY_TRIES).map(|_| backoff.next(&unrelated)).collect();
        assert!(quick[0] <= EARLY_FIRST && quick[0] >= EARLY_FIRST / 2, "{quick:?}");
        assert!(quick[9] <= EARLY_MAX && quick[9] > EARLY_MAX / 2, "{quick:?}");
        let total: Duration = quick.iter().sum();
        // 10.54 s, and up to a fifth less.
        assert!(total > Duration::from_secs(8) && total < Duration::from_secs(11), "{total:?}");
        assert!(backoff.next(&unrelated) > MAX / 2, "the pod is gone");
        assert!(backoff.next(&ReadError::Timeout) >= FIRST * 4 / 5, "its own count");
        for _ in 0..100 {
            assert!(backoff.next(&ReadError::Timeout) <= MAX);
        }
        assert_eq!(backoff.next(&status(429, "", Some(20))), Duration::from_secs(20));
        assert_eq!(backoff.next(&status(429, "", Some(3600))), ASKED_MAX);
        backoff.reset();
        assert!(backoff.next(&ReadError::Timeout) <= FIRST);
    }
}
