//! How many images are pulled at a time, and how often: one gate for all images of a node, of
//! whatever kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

/// How images may be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullLimits {
    /// So many at a time; `None`: all (upstream `serializeImagePulls`, `maxParallelImagePulls`).
    pub(crate) at_once: Option<usize>,
    /// So many begin in a second on average; 0: no bound (`registryPullQPS`).
    pub(crate) per_second: u32,
    /// So many may begin at once (`registryBurst`).
    pub(crate) burst: u32,
}

impl Default for PullLimits {
    /// One after the other, as often as wanted.
    fn default() -> Self {
        Self { at_once: Some(1), per_second: 0, burst: 0 }
    }
}

/// More pulls were begun than may be (upstream's text).
#[derive(Debug, Error)]
#[error("pull QPS exceeded")]
pub(crate) struct TooOften;

/// What every pull goes through.
#[derive(Debug)]
pub(crate) struct Gate {
    turns: Option<Semaphore>,
    limits: PullLimits,
    bucket: Mutex<Bucket>,
    /// One pull of an image at a time: who comes second finds it there. Those that wait are few.
    images: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Tokens that are left, as of a time.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Takes a token, if there is one.
    fn take(&mut self, limits: PullLimits, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let most = f64::from(limits.burst);
        self.tokens = (self.tokens + passed * f64::from(limits.per_second)).min(most);
        self.at = now;
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

/// The turn of one pull.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _turn: Option<SemaphorePermit<'a>>,
    _image: OwnedMutexGuard<()>,
}

impl Gate {
    /// Open, with all tokens.
    pub(crate) fn new(limits: PullLimits) -> Self {
        let tokens = f64::from(limits.burst);
        Self {
            turns: limits.at_once.map(|most| Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))),
            limits,
            bucket: Mutex::new(Bucket { tokens, at: Instant::now() }),
            images: Mutex::default(),
        }
    }

    /// Waits for the turn of an image.
    pub(crate) async fn turn(&self, image: &str) -> Turn<'_> {
        let image = {
            let mut images = lock(&self.images);
            // Nobody waits for those.
            images.retain(|_, one| Arc::strong_count(one) > 1);
            Arc::clone(images.entry(image.to_owned()).or_default())
        };
        let image = image.lock_owned().await;
        let turn = match &self.turns {
            // It is never closed.
            Some(turns) => turns.acquire().await.ok(),
            None => None,
        };
        Turn { _turn: turn, _image: image }
    }

    /// Counts a pull that begins now.
    ///
    /// # Errors
    /// [`TooOften`].
    pub(crate) fn begin(&self) -> Result<(), TooOften> {
        let bounded = self.limits.per_second > 0;
        match !bounded || lock(&self.bucket).take(self.limits, Instant::now()) {
            true => Ok(()),
            false => Err(TooOften),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves it whole: each change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let limits = PullLimits { at_once: None, per_second: 5, burst: 10 };
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 10.0, at: start };
        let taken = |bucket: &mut Bucket, after: u64| {
            let now = start + Duration::from_millis(after);
            (0..100).filter(|_| bucket.take(limits, now)).count()
        };
        assert_eq!(taken(&mut bucket, 0), 10);
        assert_eq!(taken(&mut bucket, 100), 0);
        assert_eq!(taken(&mut bucket, 401), 2);
        assert_eq!(taken(&mut bucket, 1_000_000), 10, "no more than a burst");
    }

    #[test]
    fn no_rate_is_no_bound() {
        let gate = Gate::new(PullLimits { at_once: None, per_second: 0, burst: 0 });
        assert!((0..100).all(|_| gate.begin().is_ok()));
        let gate = Gate::new(PullLimits { at_once: None, per_second: 1, burst: 2 });
        let begun = (0..5).filter(|_| gate.begin().is_ok()).count();
        assert_eq!(begun, 2);
        assert_eq!(TooOften.to_string(), "pull QPS exceeded");
    }

    #[test]
    fn so_many_at_a_time_and_one_of_an_image() {
        let gate = Gate::new(PullLimits { at_once: Some(2), ..PullLimits::default() });
        let now = |image: &str| gate.turn(image).now_or_never();
        let a = now("a").expect("free");
        assert!(now("a").is_none(), "it is being pulled");
        let b = now("b").expect("free");
        assert!(now("c").is_none(), "two already");
        drop(a);
        let c = now("c").expect("free again");
        drop((b, c));
        let gate = Gate::new(PullLimits { at_once: None, ..PullLimits::default() });
        let all: Vec<_> = (0..9).map(|n| gate.turn(&n.to_string()).now_or_never()).collect();
        assert!(all.iter().all(Option::is_some));
        drop(all);
        let _again = gate.turn("x").now_or_never();
        assert_eq!(lock(&gate.images).len(), 1, "none is remembered for nothing");
    }
}
