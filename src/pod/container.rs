//! What is known of one container: its attempts, and the steps towards its next start.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Attempt, AttemptState, Exit, Failure, ImageRef,
    backoff::{Backoff, SYNC_AGAIN, Work},
    record,
};

/// The failures of an image that upstream backs off from by name; the others keep their own reason
/// while they wait (upstream: `EnsureImageExists`).
const PULL_FAILURES: [&str; 3] =
    ["ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed"];

/// How an attempt has ended that was made and could not be started (containerd, and `wasm` as well).
const START_ERROR: &str = "StartError";
/// The waiting reason of an attempt that was not started (upstream: `ErrRunContainer`).
pub(crate) const RUN_ERROR: &str = "RunContainerError";

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A regular init container: to run once to exit 0, in its turn.
    Init,
    /// A main container.
    Main,
    /// An ephemeral container: to run once, from whenever it was added, and whatever becomes of it.
    Ephemeral,
    /// The runtime has it and the spec has not: it is stopped.
    Unwanted,
}

impl Role {
    /// Whether it is a part of what the pod is for.
    pub(crate) fn is_work(self) -> bool {
        match self {
            Role::Init | Role::Main => true,
            Role::Ephemeral | Role::Unwanted => false,
        }
    }
}

/// The pod's restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// One attempt as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The generation of the pod's sandbox that it was made in.
    pub(crate) sandbox: u32,
    pub(crate) id: String,
    /// What it was made from, where that is known.
    pub(crate) definition: Option<u32>,
    pub(crate) state: AttemptState,
    /// When its end was heard of (monotonic); meaningful once it has exited.
    pub(crate) ended: Duration,
    /// When its SIGKILL is due (monotonic), once a `Stop` was given.
    pub(crate) kill_at: Option<Duration>,
    /// `Remove` was given and the runtime has not been seen without it.
    pub(crate) removing: bool,
}

impl Known {
    pub(crate) fn new(attempt: Attempt, now: Duration) -> Known {
        let Attempt { container: _, attempt: _, sandbox, id, definition, state } = attempt;
        Known { sandbox, id, definition, state, ended: now, kill_at: None, removing: false }
    }

    pub(crate) fn is_alive(&self) -> bool {
        match self.state {
            AttemptState::Starting | AttemptState::Running { .. } => true,
            AttemptState::Exited(_) => false,
        }
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
}

/// Where a state stands in the one order an attempt can go.
fn rank(state: &AttemptState) -> u8 {
    match state {
        AttemptState::Starting => 0,
        AttemptState::Running { .. } => 1,
        AttemptState::Exited(_) => 2,
    }
}

/// The image of a container's next start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// Asked for and not answered yet.
    pub(crate) asked: bool,
    /// What was asked for is of an old definition: the answer counts for nothing.
    pub(crate) stale: bool,
    /// It may be started from.
    pub(crate) ready: bool,
    /// Why the last try failed, and when.
    pub(crate) failed: Option<(Failure, Duration)>,
    pub(crate) backoff: Option<Backoff>,
    /// What the last good answer said.
    pub(crate) known: Option<ImageRef>,
}

impl Image {
    /// The image was not to be had: the next try waits, after a failed pull longer each time.
    pub(crate) fn fail(&mut self, failure: Failure, now: Duration) {
        if is_pull(&failure) {
            self.backoff = Some(Backoff::next(self.backoff, now, now));
        }
        self.failed = Some((failure, now));
    }

    /// Until when the next try waits, whether for a pull, and since when; `None` if it may be now.
    pub(crate) fn waits(&self, now: Duration) -> Option<ImageWait> {
        let (failure, since) = self.failed.as_ref()?;
        let (since, is_pull) = (*since, is_pull(failure));
        let until = if is_pull {
            Backoff::until(self.backoff, since, now)
        } else {
            Some(since + SYNC_AGAIN).filter(|until| *until > now)
        };
        until.map(|until| ImageWait { until, is_pull, since })
    }

    /// The definition is another one: what is known of the old one's image is void.
    fn renew(&mut self) {
        let known = self.known.take();
        *self = Image { asked: self.asked, stale: self.asked, known, ..Image::default() };
    }
}

/// The wait for the next try of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageWait {
    pub(crate) until: Duration,
    /// A pull has failed, so that the wait has a name of its own.
    pub(crate) is_pull: bool,
    /// When the last try failed.
    pub(crate) since: Duration,
}

pub(crate) fn is_pull(failure: &Failure) -> bool {
    PULL_FAILURES.contains(&failure.reason.as_str())
}

/// Why a container that should run does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Its restart back-off of this length holds, or was served just now and it has not started.
    CrashLoop(Duration),
    /// Its image was not to be had just now.
    Image,
    /// The same, and the back-off of the next try holds.
    ImageBackOff,
    /// Its start failed before it ran.
    Start,
}

/// One container and all that the machine remembers of it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attempts: BTreeMap<u32, Known>,
    pub(crate) image: Image,
    /// The attempt whose `Start` is not answered yet.
    pub(crate) starting: Option<u32>,
    /// The wait after a failed start.
    pub(crate) start: Work<()>,
    pub(crate) start_failure: Option<Failure>,
    pub(crate) crash: Option<Backoff>,
    /// The attempt that has served its restart back-off, so that it serves it only once.
    pub(crate) served: Option<u32>,
    pub(crate) waiting: Option<Waiting>,
    /// The attempt of an old definition: it is stopped, and its end calls for another start.
    pub(crate) replacing: Option<u32>,
    /// It is the resources that are others.
    pub(crate) is_resized: bool,
}

impl Container {
    pub(crate) fn new(name: &str, role: Role) -> Container {
        Container {
            name: name.to_owned(),
            role,
            attempts: BTreeMap::new(),
            image: Image::default(),
            starting: None,
            start: Work::default(),
            start_failure: None,
            crash: None,
            served: None,
            waiting: None,
            replacing: None,
            is_resized: false,
        }
    }

    /// The attempts that ran, newest first.
    pub(crate) fn launched(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.attempts.iter().rev().filter(|(_, known)| known.is_launched()).map(|(n, k)| (*n, k))
    }

    /// The newest attempt that ran.
    pub(crate) fn newest(&self) -> Option<(u32, &Known)> {
        self.launched().next()
    }

    /// How the newest attempt that ran has ended, if it has.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.newest().and_then(|(_, known)| known.exit())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.newest().is_some_and(|(_, known)| known.is_alive())
    }

    /// How far the attempt is, if it is known.
    pub(crate) fn progress(&self, number: u32) -> Option<u8> {
        self.attempts.get(&number).map(|known| rank(&known.state))
    }

    /// Whether a process of it may live now.
    pub(crate) fn is_busy(&self) -> bool {
        self.starting.is_some() || self.attempts.values().any(Known::is_alive)
    }

    /// The number of the next attempt. One that never ran does not count: it starts again.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.newest().map_or(0, |(attempt, _)| attempt.saturating_add(1))
    }

    /// Whether its newest attempt that ran did so in this generation of the sandbox or a newer one.
    pub(crate) fn has_run_in(&self, generation: u32) -> bool {
        self.newest().is_some_and(|(_, known)| known.sandbox >= generation)
    }

    /// Whether its end, if it has ended, calls for another start in the sandbox of this generation
    /// (upstream: `ShouldContainerBeRestarted`, `computeInitContainerActions`).
    pub(crate) fn is_wanted(&self, policy: Policy, generation: u32) -> bool {
        let Some((number, newest)) = self.newest() else { return self.role != Role::Unwanted };
        let Some(exit) = newest.exit() else { return false };
        if self.replacing == Some(number) {
            return true;
        }
        match (self.role, policy) {
            (Role::Ephemeral | Role::Unwanted, _) | (_, Policy::Never) => false,
            (Role::Main, Policy::Always) => true,
            (Role::Main, Policy::OnFailure) => exit.code != 0,
            (Role::Init, Policy::Always | Policy::OnFailure) => {
                exit.code != 0 || newest.sandbox < generation
            }
        }
    }

    /// Whether it has run to success.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.exit().is_some_and(|exit| exit.code == 0)
    }

    /// Takes what the runtime says of one attempt: an attempt only ever goes forward, and what
    /// speaks of an older attempt or of another process is dropped. `listed` is for an entry of the
    /// runtime's whole truth, which may also tell of old attempts.
    pub(crate) fn merge(&mut self, attempt: Attempt, listed: bool, now: Duration) {
        let number = attempt.attempt;
        let launched = rank(&attempt.state) > rank(&AttemptState::Starting);
        match self.attempts.get_mut(&number) {
            Some(known) if known.id == attempt.id => {
                if rank(&attempt.state) <= rank(&known.state) {
                    return;
                }
                known.state = attempt.state;
                known.ended = now;
            }
            // Only a launch binds an attempt to its id: before it, the start may have been tried
            // again with another process.
            Some(known) if !known.is_launched() && (launched || listed) => {
                *known = Known::new(attempt, now);
            }
            Some(_) => return,
            None => {
                let current = number >= self.next_attempt();
                let asked = launched || self.starting == Some(number);
                if !(listed || current && asked) {
                    return;
                }
                self.attempts.insert(number, Known::new(attempt, now));
            }
        }
        if launched {
            self.launch(number);
        }
    }

    /// An attempt ran: whatever was in the way of its start is over.
    fn launch(&mut self, number: u32) {
        if self.starting == Some(number) {
            self.starting = None;
        }
        if self.newest().is_some_and(|(newest, _)| newest == number) {
            self.start = Work::default();
            self.start_failure = None;
            self.waiting = None;
            if let Some(failure) = self.start_error(number) {
                self.start_failure = Some(failure);
                self.waiting = Some(Waiting::Start);
            }
        }
    }

    /// Why the attempt did not start, if the runtime made it and could not start it: it counts as one
    /// that ran (upstream: `ErrRunContainer`).
    pub(crate) fn start_error(&self, number: u32) -> Option<Failure> {
        let exit = self.attempts.get(&number)?.exit().filter(|exit| exit.reason == START_ERROR)?;
        Some(Failure { reason: RUN_ERROR.to_owned(), message: exit.message.clone() })
    }

    /// Its definition is another one (see [`Event::Replace`](crate::Event::Replace)). An init
    /// container that runs is left alone, as upstream does.
    pub(crate) fn replace(&mut self) {
        if self.role == Role::Main && self.is_busy() {
            let alive = self.attempts.iter().rev().find(|(_, known)| known.is_alive());
            self.replacing = self.starting.or(alive.map(|(number, _)| *number));
        }
        if !self.is_busy() {
            // The keys of both back-offs have the image in them.
            self.crash = None;
            self.served = None;
            self.start = Work::default();
            self.waiting = None;
        }
        self.is_resized = false;
        self.image.renew();
    }

    /// Its resources are others, which it gets by a restart alone.
    pub(crate) fn restart_for_resize(&mut self, attempt: u32) {
        self.replacing = Some(attempt);
        self.is_resized = true;
    }

    /// What people are told of an attempt that is replaced.
    pub(crate) fn replaced_for(&self) -> record::Why {
        if self.is_resized { record::RESIZED } else { record::CHANGED }
    }

    /// An attempt did not run and is gone; it starts again after a back-off. Said of an attempt
    /// that ran or is not known, it is stale. Gives whether it counts.
    pub(crate) fn start_failed(&mut self, number: u32, failure: Failure, now: Duration) -> bool {
        let unlaunched = self.attempts.get(&number).is_some_and(|known| !known.is_launched());
        if unlaunched {
            self.attempts.remove(&number);
        } else if self.starting != Some(number) {
            return false;
        }
        self.starting = self.starting.filter(|starting| *starting != number);
        // It starts again under its number, with the new definition.
        self.replacing = self.replacing.filter(|replaced| *replaced != number);
        self.start.fail(now);
        self.start_failure = Some(failure);
        self.waiting = Some(Waiting::Start);
        true
    }
}
