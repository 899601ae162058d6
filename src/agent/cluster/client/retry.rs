//! When to ask again.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Longest wait that the server can ask for: a node that is silent longer is taken for dead.
const ASKED_MAX: Duration = Duration::from_secs(30);

/// Waits that double up to a maximum. Each is cut by a random part of up to a half, so that a
/// thousand nodes do not come back in one moment.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// How long to wait after one more failure; at least what the server asked for.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.next.mul_f64(1.0 - random() / 2.0);
        self.next = self.next.saturating_mul(2).min(self.max);
        match asked {
            Some(asked) => asked.min(ASKED_MAX) + own,
            None => own,
        }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number in 0.0..1.0 for spreading waits; not for secrets.
pub(crate) fn random() -> f64 {
    // The keys of std's hash maps: from the system, then counted on.
    let bits = RandomState::new().hash_one(()) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
    let (bits, all) = (bits as f64, (1_u64 << 53) as f64);
    bits / all
}

/// How long the server wants us to wait before we ask again: `Retry-After`, which our transport
/// puts into the details of the refusal where the server did not.
pub(crate) fn retry_after(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else { return None };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// An error and its causes in one line. kube repeats the cause of some of its errors in their own
/// text: it is told once.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    // kube's name for what our own transport says.
    text.replace("ServiceError: ", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_maximum_and_are_cut_by_at_most_a_half() {
        let [first, max] = [100, 5_000].map(Duration::from_millis);
        let mut backoff = Backoff::new(first, max);
        for whole in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let wait = backoff.wait(None).as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        backoff.reset();
        assert!(backoff.wait(None) <= first);
    }

    #[test]
    fn what_the_server_asks_for_is_kept_to_within_reason() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(Duration::from_millis(100), seconds(5));
        let asked = backoff.wait(Some(seconds(3)));
        assert!(asked > seconds(3) && asked < seconds(4), "{asked:?}");
        assert!(backoff.wait(Some(seconds(3600))) < ASKED_MAX + seconds(5));
    }

    #[test]
    fn random_numbers_differ_and_stay_in_range() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n >= 0.5));
    }

    #[test]
    fn a_cause_is_told_once() {
        let refused = std::io::Error::other("refused");
        let address = "127.0.0.1:1".parse().unwrap();
        let dial = super::super::DialError::Connect { address, source: refused };
        let client = super::super::ClientError::Dial(std::sync::Arc::new(dial));
        let error = kube::Error::Service(Box::new(client));
        let expected = "cannot connect to the API server: cannot connect to 127.0.0.1:1: refused";
        assert_eq!(told(&error), expected);
    }
}
