//! One attempt of a container: how far it is, and what is done beside it while it lives.

use std::time::Duration;

use crate::{
    Attempt, AttemptState, Exit, ImageNames, User,
    life::{HookSpec, Life},
    probe::Probes,
};

/// A hook of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// It is to be done.
    Due,
    /// It is under way: until a time, or until its answer comes.
    Doing(Option<Duration>),
    /// It is done, was cut short, or there is none.
    Done,
    /// It failed, with these words.
    Failed(String),
}

impl Hook {
    pub(crate) fn of(spec: Option<HookSpec>) -> Hook {
        if spec.is_some() { Hook::Due } else { Hook::Done }
    }

    /// Whether it is still to be waited for.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Hook::Due | Hook::Doing(_) => true,
            Hook::Done | Hook::Failed(_) => false,
        }
    }
}

/// An attempt that is to end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// When its grace is used up (monotonic); only ever shrinks.
    pub(crate) deadline: Duration,
    pub(crate) pre_stop: Hook,
    /// When its SIGKILL is due (monotonic), once a `Stop` was given.
    pub(crate) kill_at: Option<Duration>,
}

/// One attempt as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The generation of the pod's sandbox that it was made in.
    pub(crate) sandbox: u32,
    pub(crate) id: String,
    /// What it was made from, where that is known.
    pub(crate) definition: Option<u32>,
    /// As whom it began, where that is known.
    pub(crate) user: Option<User>,
    /// What it was made from, where the runtime tells.
    pub(crate) image: Option<ImageNames>,
    pub(crate) state: AttemptState,
    /// When its end was heard of (monotonic); meaningful once it has exited.
    pub(crate) ended: Duration,
    /// The whole pod was begun anew after it.
    pub(crate) is_past: bool,
    /// The runtime knows nothing of it, nor of its sandbox: the pod's object does.
    pub(crate) is_forgotten: bool,
    pub(crate) post_start: Hook,
    /// Its probes, from when it was heard to run.
    pub(crate) probes: Option<Probes>,
    pub(crate) ending: Option<Ending>,
    /// `Remove` was given and the runtime has not been seen without it.
    pub(crate) removing: bool,
}

impl Known {
    /// An attempt that is first heard of. What follows a start is done for it only if it is new.
    pub(crate) fn new(attempt: Attempt, now: Duration) -> Known {
        let Attempt { container: _, attempt: _, sandbox, id, definition, user, image, state } =
            attempt;
        Known {
            sandbox,
            id,
            definition,
            user,
            image,
            state,
            ended: now,
            is_past: false,
            is_forgotten: false,
            post_start: Hook::Done,
            probes: None,
            ending: None,
            removing: false,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        match self.state {
            AttemptState::Starting | AttemptState::Running { .. } => true,
            AttemptState::Exited(_) => false,
        }
    }

    /// Whether its guest runs now.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, AttemptState::Running { .. })
    }

    /// Whether the guest ever ran.
    pub(crate) fn is_launched(&self) -> bool {
        rank(&self.state) > rank(&AttemptState::Starting)
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.state {
            AttemptState::Starting | AttemptState::Running { .. } => None,
            AttemptState::Exited(exit) => Some(exit),
        }
    }

    /// Whether it belongs to what the pod was before: to a sandbox that stands no more or is forgotten,
    /// or to before it was begun anew.
    pub(crate) fn is_old(&self, generation: u32) -> bool {
        self.is_past || self.is_forgotten || self.sandbox < generation
    }

    /// Whether it has started: it runs, what is done after its start is done, and its startup probe
    /// has passed (upstream: `isContainerStarted`).
    pub(crate) fn has_started(&self, life: &Life) -> bool {
        self.is_running()
            && self.post_start == Hook::Done
            && self.probes.as_ref().is_none_or(|probes| probes.has_started(life))
    }

    /// Whether it is ready: started, and its readiness probe says so.
    pub(crate) fn is_ready(&self, life: &Life) -> bool {
        self.has_started(life) && self.probes.as_ref().is_none_or(|probes| probes.is_ready(life))
    }
}

/// Where a state stands in the one order an attempt can go.
pub(crate) fn rank(state: &AttemptState) -> u8 {
    match state {
        AttemptState::Starting => 0,
        AttemptState::Running { .. } => 1,
        AttemptState::Exited(_) => 2,
    }
}
