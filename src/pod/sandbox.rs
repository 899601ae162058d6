//! The generations of the pod's sandbox (upstream: `PodSandboxChanged`, and what `computePodActions`
//! makes of it). One that is dead takes all that runs in it down, and its init containers count no
//! more; the set-up gives the next.

use std::time::Duration;

use crate::{
    AttemptState, Failure, SetUpDone, backoff::Work, container::Role, known::Known, life::Policy,
    state::State,
};

/// What is known of sandboxes that stand no more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sandbox {
    /// The newest generation that is known to be dead.
    dead: Option<u32>,
    /// People are to be told that the pod gets another one, if it goes on.
    pub(crate) is_news: bool,
}

impl State {
    /// The generation in which the pod runs, or will once it is set up.
    pub(crate) fn generation(&self) -> u32 {
        let least = || self.sandbox.dead.map_or(0, |dead| dead.saturating_add(1));
        let used = || self.used_generation().map_or_else(least, |used| used.max(least()));
        self.set_up.done.as_ref().map_or_else(used, |done| done.sandbox)
    }

    /// The newest generation in which anything was made.
    fn used_generation(&self) -> Option<u32> {
        let known = self.containers.iter().flat_map(|container| container.attempts.values());
        known.map(|known| known.sandbox).max()
    }

    /// Whether anything lives in a generation that stands no more.
    pub(crate) fn has_old(&self) -> bool {
        let generation = self.generation();
        let is_old = |known: &Known| known.is_alive() && known.is_old(generation);
        self.containers.iter().any(|container| container.attempts.values().any(is_old))
    }

    /// Whether the set-up may be asked for: nothing lives in an old generation or is about to, and
    /// nobody writes the volumes.
    pub(crate) fn may_set_up(&self) -> bool {
        let is_starting = self.containers.iter().any(|container| container.starting.is_some());
        !(is_starting || self.refresh.doing || self.has_old())
    }

    /// Whether the pod ends with its sandbox: what has run is not to run again, so that it gets no
    /// other one.
    pub(crate) fn ends_with_sandbox(&self) -> bool {
        if self.policy() != Policy::Never {
            return false;
        }
        let generation = self.generation();
        let mut work = self.containers.iter().filter(|container| container.role.is_work());
        let is_in = |known: &Known| !known.is_forgotten && known.sandbox >= generation;
        // What somebody has removed the dead of still stands while anything lives in it.
        let stands = work
            .clone()
            .any(|one| one.attempts.values().any(|known| known.is_alive() && is_in(known)));
        let was_in = |known: &Known| {
            if known.is_forgotten { !stands } else { known.sandbox < generation }
        };
        work.any(|one| one.launched().any(|(_, known)| was_in(known)))
    }

    /// The sandbox of this generation stands no more.
    pub(crate) fn lose_sandbox(&mut self, sandbox: u32) {
        let is_past = self.set_up.done.as_ref().is_some_and(|done| sandbox < done.sandbox)
            || self.sandbox.dead.is_some_and(|dead| sandbox <= dead);
        if is_past {
            return;
        }
        self.sandbox.dead = Some(sandbox);
        if self.set_up.done.is_some() {
            self.set_up = Work::default();
        }
        self.change_sandbox();
    }

    /// Takes the answer of the set-up. One that tells of a sandbox which has died since is void.
    pub(crate) fn take_set_up(&mut self, result: Result<SetUpDone, Failure>, now: Duration) {
        self.record_failure(&result);
        if !self.set_up.doing {
            return;
        }
        let dead = self.sandbox.dead;
        match result {
            Ok(done) if dead.is_none_or(|dead| dead < done.sandbox) => {
                let used = self.used_generation().filter(|used| *used < done.sandbox);
                // The agent that heard of its death is not this one.
                if used.is_some_and(|used| dead.is_none_or(|dead| dead < used)) {
                    self.change_sandbox();
                }
                if used.is_some() || self.used_generation().is_none() {
                    self.record_warnings(&done.warnings);
                }
                self.addresses = Some(done.addresses.clone());
                self.set_up.answer::<Failure>(Ok(done), now);
            }
            Ok(_) | Err(_) => self.set_up.fail(now),
        }
    }

    /// What the change means for the next starts. Upstream reads the back-offs from the pod's status
    /// as it was before the change: what is stopped for it has not crashed (`doBackOff`). Main
    /// containers behind init containers start by a later status, which has their ends.
    fn change_sandbox(&mut self) {
        self.sandbox.is_news = true;
        if self.containers.iter().any(|container| container.role.is_init()) {
            return;
        }
        for container in &mut self.containers {
            if container.role == Role::Main && container.is_running() {
                container.served = Some(container.next_attempt());
            }
        }
    }

    /// Whether the news of an attempt come from a generation before the one that stands, in which it
    /// never ran.
    pub(crate) fn is_stale(&self, sandbox: u32, state: &AttemptState) -> bool {
        let is_old = self.set_up.done.as_ref().is_some_and(|done| sandbox < done.sandbox);
        is_old && *state == AttemptState::Starting
    }
}
