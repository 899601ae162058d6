//! What is known of one container: its attempts, and the steps towards its next start.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Attempt, AttemptState, Exit, Failure, ImageRef,
    backoff::{Backoff, MAX, SYNC_AGAIN, Work},
    known::{Hook, Known, rank},
    life::Life,
    probe::Probes,
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
/// The waiting reason after a postStart hook failed (upstream: `ErrPostStartHook`).
const POST_START_ERROR: &str = "PostStartHookError";

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A regular init container: to run once to exit 0, in its turn.
    Init,
    /// An init container that is restarted always: from its turn on it runs beside all others.
    Sidecar,
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
            Role::Init | Role::Sidecar | Role::Main => true,
            Role::Ephemeral | Role::Unwanted => false,
        }
    }

    /// Whether it stands among the pod's init containers.
    pub(crate) fn is_init(self) -> bool {
        match self {
            Role::Init | Role::Sidecar => true,
            Role::Main | Role::Ephemeral | Role::Unwanted => false,
        }
    }

    /// Whether it is to run as long as its pod does: its readiness counts for the pod's.
    pub(crate) fn is_lasting(self) -> bool {
        match self {
            Role::Sidecar | Role::Main => true,
            Role::Init | Role::Ephemeral | Role::Unwanted => false,
        }
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
            self.backoff = Some(Backoff::next(self.backoff, now, now, MAX));
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

/// An attempt that was stopped because of its probes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Culled {
    pub(crate) attempt: u32,
    /// Its back-off is still to be looked at for the first time.
    pub(crate) is_new: bool,
}

/// One container and all that the machine remembers of it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) life: Life,
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
    pub(crate) culled: Option<Culled>,
}

impl Container {
    pub(crate) fn new(name: &str, role: Role, life: Life) -> Container {
        Container {
            name: name.to_owned(),
            role,
            life,
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
            culled: None,
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

    /// Whether its newest attempt has ended under its postStart hook, which is yet to say how: upstream
    /// looks at the container no sooner.
    pub(crate) fn awaits_hook(&self) -> bool {
        self.newest().is_some_and(|(_, known)| {
            !known.is_alive() && known.ending.is_none() && known.post_start == Hook::Doing(None)
        })
    }

    /// The number of the next attempt. One that never ran does not count: it starts again.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.newest().map_or(0, |(attempt, _)| attempt.saturating_add(1))
    }

    /// Whether its newest attempt that ran did so in this generation of the sandbox or a newer one, and
    /// since the pod was last begun anew.
    pub(crate) fn has_run_in(&self, generation: u32) -> bool {
        self.newest().is_some_and(|(_, known)| !known.is_old(generation))
    }

    /// Whether it is shown to have run: what follows the start of its first attempt is done (upstream
    /// shows nothing of a container before that).
    pub(crate) fn has_appeared(&self) -> bool {
        self.launched().any(|(_, known)| !known.is_alive() || known.post_start == Hook::Done)
    }

    /// The attempt that is shown to run.
    pub(crate) fn shown_running(&self) -> Option<&Known> {
        let (_, newest) = self.newest()?;
        Some(newest).filter(|known| known.is_alive() && known.post_start == Hook::Done)
    }

    /// Whether it runs and has started (see [`Known::has_started`]).
    pub(crate) fn has_started(&self) -> bool {
        self.newest().is_some_and(|(_, known)| known.has_started(&self.life))
    }

    /// Whether it is ready (see [`Known::is_ready`]).
    pub(crate) fn is_ready(&self) -> bool {
        self.newest().is_some_and(|(_, known)| known.is_ready(&self.life))
    }

    /// Whether the attempt was stopped for its probes.
    pub(crate) fn is_culled(&self, number: u32) -> bool {
        self.culled.is_some_and(|culled| culled.attempt == number)
    }

    /// Whether its end, if it has ended, calls for another start in the sandbox of this generation
    /// (upstream: `ShouldContainerBeRestarted`, `computeInitContainerActions`).
    pub(crate) fn is_wanted(&self, generation: u32) -> bool {
        let Some((number, newest)) = self.newest() else { return self.role != Role::Unwanted };
        let Some(exit) = newest.exit() else { return false };
        if self.replacing == Some(number) || newest.is_past && self.role.is_work() {
            return true;
        }
        if self.role == Role::Init && newest.is_old(generation) {
            return true;
        }
        // Upstream starts it again in one go with the stop, by the policy alone; if not, its next look
        // sees an end like any other.
        self.is_culled(number) && self.life.restarts_after_probe(self.role)
            || self.life.restarts(self.role, exit.code)
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
        let mut is_own = self.starting == Some(number);
        match self.attempts.get_mut(&number) {
            Some(known) if known.id == attempt.id => {
                if rank(&attempt.state) <= rank(&known.state) {
                    return;
                }
                is_own |= !known.is_launched();
                known.state = attempt.state;
                known.user = attempt.user.or(known.user.take());
                known.image = attempt.image.or(known.image.take());
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
            self.launch(number, is_own, now);
        }
    }

    /// An attempt ran: whatever was in the way of its start is over.
    /// `is_own`: this agent has started it, so that what follows a start is its to do.
    fn launch(&mut self, number: u32, is_own: bool, now: Duration) {
        if self.starting == Some(number) {
            self.starting = None;
        }
        let life = &self.life;
        if let Some(known) = self.attempts.get_mut(&number)
            && is_own
            && known.is_running()
            && known.probes.is_none()
        {
            known.post_start = Hook::of(life.post_start);
            known.probes = Some(Probes::new(life, now));
        }
        self.replacing = self.replacing.filter(|replaced| *replaced >= number);
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

    /// Why the attempt did not start, if the runtime made it and could not start it, or what follows
    /// its start failed: it counts as one that ran (upstream: `ErrRunContainer`,
    /// `ErrPostStartHook`).
    pub(crate) fn start_error(&self, number: u32) -> Option<Failure> {
        let known = self.attempts.get(&number)?;
        if let Hook::Failed(message) = &known.post_start {
            let (reason, message) = (POST_START_ERROR.to_owned(), message.clone());
            return Some(Failure { reason, message });
        }
        let exit = known.exit().filter(|exit| exit.reason == START_ERROR)?;
        Some(Failure { reason: RUN_ERROR.to_owned(), message: exit.message.clone() })
    }

    /// Its definition is another one (see [`Event::Replace`](crate::Event::Replace)). An init
    /// container that runs is left alone, as upstream does.
    pub(crate) fn replace(&mut self) {
        if self.role.is_lasting() && self.is_busy() {
            let alive = self.attempts.iter().rev().find(|(_, known)| known.is_alive());
            self.replacing = self.starting.or(alive.map(|(number, _)| *number));
        }
        if !self.is_busy() {
            // The keys of both back-offs have the image in them.
            self.forget_crashes();
            self.start = Work::default();
        }
        self.is_resized = false;
        self.image.renew();
    }

    /// Its back-off begins anew.
    pub(crate) fn forget_crashes(&mut self) {
        self.crash = None;
        if !self.is_busy() {
            self.served = None;
            self.waiting = None;
        }
    }

    /// Its resources are others, which it gets by a restart alone.
    pub(crate) fn restart_for_resize(&mut self, attempt: u32) {
        self.replacing = Some(attempt);
        self.is_resized = true;
    }

    /// What people are told of an attempt that is replaced.
    pub(crate) fn replaced_for(&self) -> record::Why {
        if self.is_resized { record::RESIZED } else { record::changed(self.role) }
    }

    /// Takes the answer of the postStart hook of an attempt: one that failed has it stopped. Whether it
    /// has.
    pub(crate) fn take_post_start(&mut self, id: &str, result: Result<(), String>) -> bool {
        let newest = self.attempts.keys().next_back().copied();
        let Some((number, known)) = self.attempts.iter_mut().find(|(_, known)| known.id == id)
        else {
            return false;
        };
        let number = *number;
        if known.post_start != Hook::Doing(None) {
            return false;
        }
        // One that is cut short by the end has neither failed nor is it done.
        if known.ending.is_some() {
            return false;
        }
        let has_failed = result.is_err();
        known.post_start = result.map_or_else(Hook::Failed, |()| Hook::Done);
        // Of one that has ended before nothing more is heard.
        if !known.is_alive()
            && newest == Some(number)
            && let Some(failure) = self.start_error(number)
        {
            self.start_failure = Some(failure);
            self.waiting = Some(Waiting::Start);
        }
        has_failed
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
