//! The state of one pod: all that the decisions rest on.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

use crate::{
    Failure, Now, PodAddresses, Record, SetUpDone,
    admission::PREEMPTING,
    backoff::{MAX, Wake, Work},
    condition::Transitions,
    container::{Container, Role},
    life::{self, Policy},
    phase::{self, Phase},
    record,
    resize::Resizing,
    sandbox::Sandbox,
    status::{self, whole_seconds},
    step::age,
};

/// The grace of a pod whose spec names none, in seconds (upstream:
/// `DefaultTerminationGracePeriodSeconds`).
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// The least grace of a deleted pod, in seconds (upstream: `calculateEffectiveGracePeriod`).
const MIN_DELETION_GRACE_SECONDS: i64 = 1;

/// The grace of an evicted pod, in seconds (upstream: `immediateEvictionGracePeriodSeconds`).
const EVICTION_GRACE_SECONDS: i64 = 1;

/// Why a pod ends as Failed.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) why: Failure,
    /// When this node disrupted it for another pod, if that is why (condition `DisruptionTarget`).
    pub(crate) disrupted: Option<Timestamp>,
}

/// What a node says to each of its pods.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its addresses, which every status shows.
    pub ips: Vec<IpAddr>,
    /// The longest wait between restarts (upstream: `crashLoopBackOff.maxContainerRestartPeriod`).
    pub restart_max: Duration,
}

impl Default for Host {
    /// No address, and upstream's five minutes.
    fn default() -> Host {
        Host { ips: Vec::new(), restart_max: MAX }
    }
}

/// Everything that is known of one pod. Changed only by [`step`](crate::step).
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) pod: Arc<Pod>,
    pub(crate) host: Host,
    /// The first look at the runtime was had: nothing is decided before it.
    pub(crate) observed: bool,
    /// This step brought it.
    pub(crate) is_first_look: bool,
    /// The pod is to end: when the last of its grace is used up (monotonic). Only ever shrinks.
    pub(crate) deadline: Option<Duration>,
    /// Whether what is left of the grace is no matter: a kill without any.
    pub(crate) is_at_once: bool,
    /// Why the pod ends as Failed whatever its containers say, if it does.
    pub(crate) cause: Option<Cause>,
    /// The terminal phase, once nothing runs any more. Never changes again.
    pub(crate) ended: Option<Phase>,
    pub(crate) set_up: Work<SetUpDone>,
    /// What the last set-up gave: shown until the next one gives others.
    pub(crate) addresses: Option<PodAddresses>,
    pub(crate) sandbox: Sandbox,
    /// The volumes' files are to be brought up to date.
    pub(crate) stale: bool,
    pub(crate) refresh: Work<()>,
    pub(crate) tear_down: Work<()>,
    /// Init containers in the spec's order, then the main ones, then, as they came, the ephemeral
    /// ones and those not in the spec.
    pub(crate) containers: Vec<Container>,
    pub(crate) resize: Resizing,
    pub(crate) start_time: Option<Timestamp>,
    /// A moment (monotonic), and how long before it the pod began.
    pub(crate) begun: Option<(Duration, Duration)>,
    pub(crate) transitions: Transitions,
    pub(crate) wake: Wake,
    /// What people are to be told; empty between steps, from the first look on.
    pub(crate) records: Vec<Record>,
}

impl State {
    /// The state of a pod of which only its object is known. The set of its init and main containers
    /// is taken from this first object: Kubernetes lets nobody change it.
    pub fn new(pod: Arc<Pod>) -> State {
        let spec = pod.spec.iter().flat_map(life::all);
        let containers = spec.map(|(name, role, life)| Container::new(name, role, life)).collect();
        let status = pod.status.as_ref();
        State {
            observed: false,
            is_first_look: false,
            deadline: None,
            is_at_once: false,
            cause: None,
            ended: None,
            set_up: Work::default(),
            addresses: None,
            sandbox: Sandbox::default(),
            stale: false,
            refresh: Work::default(),
            tear_down: Work::default(),
            containers,
            begun: None,
            resize: Resizing::of(status),
            start_time: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            transitions: Transitions::of(status),
            wake: Wake::default(),
            records: Vec::new(),
            pod,
            host: Host::default(),
        }
    }

    /// The same on a node that says this.
    #[must_use]
    pub fn on(self, host: Host) -> State {
        State { host, ..self }
    }

    /// The newest object of the pod that was given.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// The monotonic time of the next [`Event::Timer`](crate::Event::Timer) it wants; none if it
    /// waits for no time.
    pub fn wake_at(&self) -> Option<Duration> {
        self.wake.0
    }

    /// Whether the pod is over: its phase is terminal, nothing runs, the set-up is undone. No
    /// action follows any more.
    pub fn is_terminated(&self) -> bool {
        self.ended.is_some() && self.tear_down.done.is_some()
    }

    /// The pod's status as it follows from the state. Before the first look that is what the pod's
    /// object says.
    pub fn status(&self) -> PodStatus {
        status::of(self)
    }

    pub(crate) fn phase(&self) -> Phase {
        phase::of(self)
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::of(self.spec().and_then(|spec| spec.restart_policy.as_deref()))
    }

    pub(crate) fn container(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.name == name)
    }

    pub(crate) fn of_role(&self, role: Role) -> impl DoubleEndedIterator<Item = &Container> {
        self.containers.iter().filter(move |container| container.role == role)
    }

    /// Whether the init container has done its part for the sandbox that stands: it succeeded (a
    /// sidecar: has started), or something after it has run (its own record may be gone by then).
    pub(crate) fn is_passed(&self, index: usize) -> bool {
        let generation = self.generation();
        let mut later = self.containers.iter().skip(index + 1);
        let is_done = self.containers.get(index).is_some_and(|init| {
            let is_done = match init.role {
                Role::Sidecar => init.has_started(),
                Role::Init | Role::Main | Role::Ephemeral | Role::Unwanted => init.has_succeeded(),
            };
            is_done && init.has_run_in(generation)
        });
        is_done || later.any(|c| c.role.is_work() && c.has_run_in(generation))
    }

    /// Whether main containers wait, though their turn was: none of them runs, and the last init
    /// container is a sidecar that is not up (upstream: `computeInitContainerActions`).
    pub(crate) fn waits_for_last_sidecar(&self, generation: u32) -> bool {
        let lives = |main: &Container| {
            main.newest().is_some_and(|(_, newest)| newest.is_alive() && !newest.is_old(generation))
        };
        let last = self.containers.iter().rfind(|container| container.role.is_init());
        let is_down = last.is_some_and(|one| one.role == Role::Sidecar && !one.has_started());
        is_down && !self.of_role(Role::Main).any(lives)
    }

    /// Those that run as long as the pod does.
    pub(crate) fn lasting(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.role.is_lasting())
    }

    /// The index of the init container whose turn it is, if not all have done their part.
    pub(crate) fn current_init(&self) -> Option<usize> {
        let inits = self.containers.iter().take_while(|container| container.role.is_init()).count();
        (0..inits).find(|index| !self.is_passed(*index))
    }

    /// Whether all init containers have done their part, if only for a sandbox before this one (a
    /// sidecar that was the last is down by the pod's end).
    pub(crate) fn was_initialised(&self) -> bool {
        self.current_init().is_none() || self.transitions.was_initialised()
    }

    /// Whether any process of the pod may live.
    pub(crate) fn is_busy(&self) -> bool {
        self.containers.iter().any(Container::is_busy)
    }

    /// The terminal phase that the pod's object already has: it wins over everything.
    pub(crate) fn reported_end(&self) -> Option<Phase> {
        Phase::terminal(self.pod.status.as_ref()?.phase.as_deref()?)
    }

    /// The grace that the spec gives.
    pub(crate) fn spec_grace(&self) -> Duration {
        spec_grace(&self.pod)
    }

    /// The grace that the deletion gives, if the pod is deleted.
    pub(crate) fn deletion_grace(&self) -> Option<Duration> {
        self.pod.metadata.deletion_timestamp.as_ref()?;
        Some(removal_grace(&self.pod))
    }

    /// The pod is evicted; what has ended already stays as it is, and of two reasons the first
    /// holds.
    pub(crate) fn evict(&mut self, why: Failure, now: Now) {
        if self.ended.is_some() {
            return;
        }
        // Who goes for another has the time that its own spec gives it (upstream: `killPodNow`), and
        // whoever decided that tells of it. Who has used too much is no target of a disruption.
        let is_preempted = why.reason == PREEMPTING;
        let grace =
            if is_preempted { self.spec_grace() } else { seconds_of(EVICTION_GRACE_SECONDS) };
        if self.cause.is_none() {
            self.records.extend((!is_preempted).then(|| record::evicted(&why)));
            let disrupted = is_preempted.then_some(now.wall);
            self.cause = Some(Cause { why, disrupted });
        }
        self.end_within(grace, now.mono);
    }

    /// Why the pod has failed, once it is to be shown: with the terminal phase (upstream:
    /// `mergePodStatus`).
    pub(crate) fn shown_cause(&self) -> Option<&Cause> {
        self.cause.as_ref().filter(|_| self.ended.is_some() && self.reported_end().is_none())
    }

    /// The pod is seen for the first time, or is seen again by a new agent: its time runs by the
    /// monotonic clock from here on.
    pub(crate) fn begin(&mut self, now: Now) {
        // A kubelet sets it when it first sees the pod.
        let start = *self.start_time.get_or_insert(whole_seconds(now.wall));
        if fault!(DeadlineByWallClock) {
            self.begun = None;
        }
        self.begun.get_or_insert_with(|| (now.mono, age(start, now.wall)));
    }

    /// When the pod's `activeDeadlineSeconds` are over (monotonic); none if it has none.
    pub(crate) fn active_deadline(&self) -> Option<Duration> {
        let limit = seconds_of(self.spec()?.active_deadline_seconds?);
        let (moment, age) = self.begun?;
        Some(moment.saturating_add(limit.saturating_sub(age)))
    }

    /// Whether a container of a pod that is over ended after the pod's `activeDeadlineSeconds`, by the
    /// wall clock: of what an earlier agent did nothing else tells.
    pub(crate) fn ended_late(&self) -> bool {
        let limit = self.spec().and_then(|spec| spec.active_deadline_seconds);
        let Some((limit, start)) = limit.zip(self.start_time) else { return false };
        if self.reported_end().is_some() {
            return false;
        }
        let limit = start.saturating_add(seconds_of(limit)).unwrap_or(Timestamp::MAX);
        let mut exits = self.of_role(Role::Main).filter_map(Container::exit);
        exits.any(|exit| exit.finished_at >= limit)
    }

    /// A number that is the pod's own, to spread what would come at once.
    pub(crate) fn seed(&self) -> u64 {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// The pod is to end within `grace`: an earlier decision can only be shortened.
    pub(crate) fn end_within(&mut self, grace: Duration, now: Duration) {
        let deadline = now.saturating_add(grace);
        let decided = self.deadline.filter(|_| !fault!(GraceGrows));
        self.deadline = Some(decided.map_or(deadline, |decided| decided.min(deadline)));
    }
}

/// The time that the pod's spec gives its containers to end.
#[must_use]
pub fn spec_grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds_of(seconds.unwrap_or(DEFAULT_GRACE_SECONDS))
}

/// The time that a pod which is deleted, or gone from the API server, has to end: its deletion's, else
/// its spec's, at least a second (upstream: `calculateEffectiveGracePeriod`).
#[must_use]
pub fn removal_grace(pod: &Pod) -> Duration {
    let given = pod.metadata.deletion_grace_period_seconds;
    let grace = given.map_or_else(|| spec_grace(pod), seconds_of);
    grace.max(seconds_of(MIN_DELETION_GRACE_SECONDS))
}

/// So many seconds; none if negative.
pub(crate) fn seconds_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
