//! The waits between tries: upstream's exponential back-off of restarts and image pulls, and the
//! plain one for the agent's own steps.

use std::time::Duration;

/// The first wait between restarts, and between pulls (upstream: `backOffPeriod`).
pub(crate) const FIRST: Duration = Duration::from_secs(10);
/// The longest (upstream: `MaxContainerBackOff`).
pub(crate) const MAX: Duration = Duration::from_secs(300);
/// After so long a time without one the count begins anew: twice the longest wait (upstream:
/// client-go `Backoff.hasExpired`).
pub(crate) const RESET: Duration = Duration::from_secs(600);
/// The wait after a failure that upstream only meets again with its next sync
/// (`backOffPeriod` of the pod workers).
pub(crate) const SYNC_AGAIN: Duration = Duration::from_secs(10);
/// The first wait after one of the agent's own steps failed: most such failures are short, and a
/// local step is cheap to try.
pub(crate) const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait: upstream tries again with its next sync.
pub(crate) const RETRY_MAX: Duration = SYNC_AGAIN;

/// One entry of upstream's `flowcontrol.Backoff`. Times are monotonic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    /// How long to wait after the event.
    pub(crate) delay: Duration,
    /// When `delay` was last raised.
    updated_at: Duration,
}

impl Backoff {
    /// The entry after one more try, for an event (an exit, a failed pull) of time `event`, with `max`
    /// as the longest wait (upstream: `Backoff.Next`).
    pub(crate) fn next(
        entry: Option<Backoff>,
        event: Duration,
        now: Duration,
        max: Duration,
    ) -> Backoff {
        let delay = match entry {
            Some(entry) if !entry.is_over(event) && !entry.is_over(now) => entry.delay * 2,
            Some(_) | None => FIRST,
        };
        let delay = delay.min(max);
        Backoff { delay, updated_at: now }
    }

    /// Until when a try must wait after the event, if that is still to come (upstream:
    /// `IsInBackOffSince`). Nobody waits for an entry that is forgotten (upstream: `Backoff.GC` with
    /// each `HandlePodCleanups`).
    pub(crate) fn until(
        entry: Option<Backoff>,
        event: Duration,
        now: Duration,
    ) -> Option<Duration> {
        let entry = entry.filter(|entry| !entry.is_over(event))?;
        let forgotten = entry.updated_at.saturating_add(RESET);
        Some((event + entry.delay).min(forgotten)).filter(|until| *until > now)
    }

    fn is_over(self, moment: Duration) -> bool {
        moment.saturating_sub(self.updated_at) >= RESET
    }
}

/// A step of the agent that is asked for, answered, and asked for again after a failure.
#[derive(Clone, Debug)]
pub(crate) struct Work<T> {
    /// Asked for and not answered yet.
    pub(crate) doing: bool,
    /// What it gave.
    pub(crate) done: Option<T>,
    retry: Option<Retry>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    delay: Duration,
    at: Duration,
}

impl<T> Default for Work<T> {
    fn default() -> Work<T> {
        Work { doing: false, done: None, retry: None }
    }
}

impl<T> Work<T> {
    /// Whether it may be asked for now; marks it as asked for if so. A wait is told to `wake`.
    pub(crate) fn ask(&mut self, now: Duration, wake: &mut Wake) -> bool {
        if self.doing || self.done.is_some() || self.waits(now, wake) {
            return false;
        }
        self.doing = true;
        true
    }

    /// Whether the back-off of a failure still holds; tells `wake` until when.
    pub(crate) fn waits(&self, now: Duration, wake: &mut Wake) -> bool {
        match self.retry {
            Some(retry) if retry.at > now => {
                wake.at(retry.at);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes the answer; one that nobody waits for changes nothing.
    pub(crate) fn answer<E>(&mut self, result: Result<T, E>, now: Duration) {
        if !self.doing {
            return;
        }
        match result {
            Ok(done) => *self = Work { doing: false, done: Some(done), retry: None },
            Err(_) => self.fail(now),
        }
    }

    /// What was in its way may be gone: it waits no longer.
    pub(crate) fn hurry(&mut self) {
        self.retry = None;
    }

    /// It failed: the wait until it may be asked for again begins.
    pub(crate) fn fail(&mut self, now: Duration) {
        self.doing = false;
        let delay = self.retry.map_or(RETRY_FIRST, |retry| (retry.delay * 2).min(RETRY_MAX));
        self.retry = Some(Retry { delay, at: now + delay });
    }
}

/// The earliest moment at which something waits to be looked at again (monotonic).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wake(pub(crate) Option<Duration>);

impl Wake {
    /// Asks for a look at `moment`.
    pub(crate) fn at(&mut self, moment: Duration) {
        self.0 = Some(self.0.map_or(moment, |already| already.min(moment)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut entry = None;
        let mut delays = Vec::new();
        for now in (0..3000).step_by(400) {
            entry = Some(Backoff::next(entry, s(now), s(now), MAX));
            delays.push(crate::go_duration(entry.unwrap().delay));
        }
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s", "5m0s"]);
    }

    #[test]
    fn a_wait_is_measured_from_the_event_and_not_from_the_update() {
        let entry = Some(Backoff::next(None, s(0), s(5), MAX));
        assert_eq!(Backoff::until(entry, s(100), s(109)), Some(s(110)));
        assert_eq!(Backoff::until(entry, s(100), s(110)), None);
        assert_eq!(Backoff::until(None, s(100), s(100)), None);
    }

    #[test]
    fn an_entry_is_forgotten_ten_minutes_after_its_update_also_by_who_waits() {
        let entry = Some(Backoff { delay: s(160), updated_at: s(1000) });
        assert_eq!(Backoff::until(entry, s(1400), s(1400)), Some(s(1560)));
        assert_eq!(Backoff::until(entry, s(1500), s(1500)), Some(s(1600)));
        assert_eq!(Backoff::until(entry, s(1500), s(1600)), None);
        assert_eq!(Backoff::next(entry, s(1400), s(1599), MAX).delay, s(300));
        assert_eq!(Backoff::next(entry, s(1500), s(1600), MAX).delay, FIRST);
        assert_eq!(Backoff::until(entry, s(1600), s(1600)), None);
        assert_eq!(Backoff::next(entry, s(1600), s(1600), MAX).delay, FIRST);
    }

    #[test]
    fn a_step_is_asked_once_and_again_after_a_growing_bounded_wait() {
        let (mut work, mut now) = (Work::<()>::default(), s(7));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let mut wake = Wake::default();
            assert!(work.ask(now, &mut wake), "due at {now:?}");
            assert!(!work.ask(now, &mut wake), "asked twice");
            work.answer(Err(()), now);
            assert!(!work.ask(now, &mut wake));
            let at = wake.0.unwrap();
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10, 10, 10, 10]);
        assert!(work.ask(now, &mut Wake::default()));
        work.answer::<()>(Ok(()), now);
        assert!(!work.ask(now + s(999), &mut Wake::default()), "done is done");
    }
    #[test]
    fn the_longest_wait_may_be_shorter_than_the_first() {
        let next = |entry, max| Backoff::next(entry, s(0), s(0), s(max));
        assert_eq!(next(None, 4).delay, s(4));
        assert_eq!(next(Some(next(None, 15)), 15).delay, s(15));
    }
}
