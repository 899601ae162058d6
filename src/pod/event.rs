//! What goes into the state machine and what comes out: the words that the agent and the core share.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::Actuated;

/// Both clocks of one moment: `wall` for what is shown, `mono` (the time since any fixed start of
/// this process) for every wait, so that a jumping wall clock moves no deadline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock; never goes back.
    pub mono: Duration,
}

/// One thing that has happened to the pod.
///
/// Answers of actions ([`SetUp`](Event::SetUp), [`Refreshed`](Event::Refreshed),
/// [`Image`](Event::Image), [`StartFailed`](Event::StartFailed), [`TornDown`](Event::TornDown)) come
/// exactly once for each
/// action, however late, also when the agent cuts the work short. An [`Attempt`](Event::Attempt)
/// may be lost, doubled, late or out of order: an [`Observed`](Event::Observed) repairs that.
#[derive(Clone, Debug)]
pub enum Event {
    /// A newer object of the same uid: spec, deletion, foreign conditions. Its spec has the resources
    /// that are allocated to the pod.
    Desired(Arc<Pod>),
    /// The node has decided on what the pod's object asks for beyond its allocation.
    Resize(ResizeNews),
    /// What earlier agents made or resized attempts with: container, attempt, resources. Given before
    /// the first `Observed`.
    Actuated(Vec<(String, u32, Actuated)>),
    /// The answer of [`Action::Resize`]; why not, in upstream's words.
    Resized(Result<(), String>),
    /// The agent's own wish to end the pod (Ctrl-C, later eviction). The grace only ever shrinks;
    /// zero kills at once.
    Kill {
        /// What the containers get between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// The pod is evicted: it ends `Failed` with this reason and message, its containers within the
    /// grace of an eviction. Nothing keeps it over a restart of the agent: the next measurement
    /// finds it again.
    Evict(Failure),
    /// The definition of a container was changed in place (its image; upstream:
    /// `containerChanged`). A main container's attempt that runs or is about to is stopped with
    /// the pod's grace, and the next one starts whatever the restart policy, with no back-off; for
    /// one that waits for its start the waits are over. In each case the image is prepared anew.
    /// Nothing of a pod that is to end, nor of a container that is not to run again, is started.
    ///
    /// Given before the first `Observed`, or lost with the agent, it is to be given again while the
    /// old definition runs.
    Replace {
        /// The container.
        container: String,
    },
    /// The runtime's whole truth about this pod: the first look and each relist. It was read after
    /// every event that was given before it.
    Observed(Vec<Attempt>),
    /// One attempt has changed.
    Attempt(Attempt),
    /// The answer of [`Action::SetUp`]: what stands now; one that failed for want of an image is an
    /// [`Event::NoImage`] instead. A generation that is newer than what the pod's
    /// attempts were made in means the same as [`SandboxChanged`](Event::SandboxChanged) of theirs.
    SetUp(Result<SetUpDone, Failure>),
    /// The answer of [`Action::SetUp`] where the image of a container was not to be had, by which the
    /// set-up has to go (which runtime it is for): the container shows why, and the set-up is asked for
    /// again when another pull would be.
    NoImage {
        /// The container.
        container: String,
        /// Why.
        failure: Failure,
    },
    /// The runtime saw that this generation of the pod's sandbox does not stand any more: it is not
    /// ready or gone, or its network is. All that lives in it is stopped, then the pod is set up
    /// again and runs from its first init container on (upstream: `PodSandboxChanged`,
    /// `computePodActions`). One too many, of an older generation and before the first `Observed`
    /// does no harm; of a pod whose runtime has no sandboxes there is none.
    SandboxChanged {
        /// The generation.
        sandbox: u32,
    },
    /// What the pod's volumes are made of may have changed: an object that it names, a token. A
    /// set-up, refresh or start that waits after a failure is tried again at once.
    Changed,
    /// The answer of [`Action::Refresh`].
    Refreshed(Result<(), Failure>),
    /// The image that was asked for comes from a registry now.
    Pulling {
        /// The container whose image it is.
        container: String,
    },
    /// The answer of [`Action::PrepareImage`].
    Image {
        /// The container whose image it is.
        container: String,
        /// What the image is, or why it cannot be had.
        result: Result<ImageRef, Failure>,
    },
    /// The attempt never ran (a failure on the agent's side, or killed before its launch): the same
    /// attempt starts again after a back-off. Not given after an `Observed` that already lacks the
    /// attempt, unless it answers an [`Action::Start`].
    StartFailed {
        /// The container.
        container: String,
        /// The attempt that did not run.
        attempt: u32,
        /// Why; its reason is the container's waiting reason.
        failure: Failure,
    },
    /// The answer of [`Action::Probe`].
    Probed {
        /// The container.
        container: String,
        /// The id of the attempt that was probed: what is said of another one counts for nothing.
        id: String,
        /// Which of its probes.
        probe: ProbeKind,
        /// What came of it.
        outcome: ProbeOutcome,
    },
    /// The answer of [`Action::Hook`], also of one that was cut short.
    Hooked {
        /// The container.
        container: String,
        /// The id of its attempt.
        id: String,
        /// Which of its hooks.
        hook: HookKind,
        /// How it failed, in words for a container's status.
        result: Result<(), String>,
    },
    /// The answer of [`Action::TearDown`].
    TornDown(Result<(), Failure>),
    /// The time that [`State::wake_at`](crate::State::wake_at) asked for has come. One too early or
    /// too many does no harm.
    Timer,
}

/// What becomes of a resize that the pod's object asks for.
#[derive(Clone, Debug)]
pub enum ResizeNews {
    /// It asks for none, or for none any more.
    None,
    /// It is allocated: the pod with its new resources.
    Allocated(Arc<Pod>),
    /// It is not allocated now.
    Pending {
        /// The pod as it is asked for.
        desired: Arc<Pod>,
        /// Why: a reason of admission, or `Infeasible`.
        reason: String,
        /// For people.
        message: String,
    },
}

/// One of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// `startupProbe`: until it has succeeded once the others are held.
    Startup,
    /// `livenessProbe`: the container is stopped when it fails.
    Liveness,
    /// `readinessProbe`: the container is ready while it succeeds.
    Readiness,
}

/// What came of one probe, after the tries that an error gets (upstream: `maxProbeRetries`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It succeeded.
    Success,
    /// It counts as a success, and this is to be told (a redirect to another host).
    Warning(String),
    /// It failed: the output, for people.
    Failure(String),
    /// It could not be made: it counts for nothing, and this is to be told.
    Error(String),
    /// The same of an answer that broke off, which upstream tells in other words (`probe.Failure` with
    /// an error).
    Broken(String),
}

/// One of a container's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// `lifecycle.postStart`: until it is done the container has not started.
    PostStart,
    /// `lifecycle.preStop`: before SIGTERM, within the grace.
    PreStop,
}

/// What the runtime knows of one attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The container's name.
    pub container: String,
    /// Which start of it: 0 is the first.
    pub attempt: u32,
    /// The generation of the pod's sandbox that it was made in, from 0; always 0 where the runtime
    /// has no sandboxes.
    pub sandbox: u32,
    /// The container id as the status shows it, `RUNTIME://ID`: a new one for each process.
    pub id: String,
    /// The [`definition`](crate::definition) that it was made from; `None` where that is not known.
    pub definition: Option<u32>,
    /// As whom it began, where the runtime tells.
    pub user: Option<User>,
    /// What it was made from, where the runtime tells.
    pub image: Option<ImageNames>,
    /// How far it is.
    pub state: AttemptState,
}

/// The names of an image, as a container's status shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageNames {
    /// Its name.
    pub image: String,
    /// Its digest.
    pub image_id: String,
}

/// The identities that a container's first process began with (CRI: `LinuxContainerUser`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: i64,
    /// The primary group.
    pub gid: i64,
    /// The other groups, as the runtime lists them.
    pub groups: Vec<i64>,
}

/// How far an attempt is: it only ever goes down this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Its process is made and the guest is not launched yet: whether it ever ran is open.
    Starting,
    /// The guest runs.
    Running {
        /// When it was launched.
        started_at: Timestamp,
    },
    /// The guest ran and has ended.
    Exited(Exit),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When it was launched, where that is known.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// The termination message; may be empty.
    pub message: String,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason: `ErrImagePull`, `InvalidImageName`, `CreateContainerError`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The addresses that a pod got from its set-up; the first of each is the main one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses {
    /// The host's.
    pub host_ips: Vec<IpAddr>,
    /// The pod's own.
    pub pod_ips: Vec<IpAddr>,
}

/// A pod that is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetUpDone {
    /// Its addresses and its host's.
    pub addresses: PodAddresses,
    /// The generation of its sandbox that stands now, from 0 (CRI: `metadata.attempt`): it rises with
    /// each new sandbox, and one that is dead is not given again. Always 0 where the runtime has no
    /// sandboxes.
    pub sandbox: u32,
    /// Whether its runtime makes read-only mounts so with all that is mounted below them.
    pub recursive_read_only: bool,
    /// What its containers do without: told with the first set-up of a sandbox (upstream: `GetPodDNS`).
    pub warnings: Vec<Failure>,
}

/// An image that is ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Its name, as the container's status shows it.
    pub image: String,
    /// Its digest, as the container's status shows it.
    pub image_id: String,
    /// What its pull took; `None` if it was here.
    pub pulled: Option<Pulled>,
}

/// The pull of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The time of the pull itself.
    pub took: Duration,
    /// The same with the wait before it.
    pub waited: Duration,
    /// Bytes that its registry holds of it.
    pub bytes: u64,
}

/// Something for people to read beside the status: an event of the API, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whether it is a `Warning`, else `Normal`.
    pub warning: bool,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// The container that it is about; the pod as a whole if none.
    pub container: Option<String>,
}

/// A running container that is given other resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Its name.
    pub container: String,
    /// The attempt that runs.
    pub attempt: u32,
    /// The id of that.
    pub id: String,
}

/// What the agent shall do. None is given again before its answer came, except `Stop` (see there)
/// and a `Remove` of which the runtime still lists the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's directories, volumes, cgroup, sandbox and network. Idempotent: it is given
    /// again after a restart of the agent, and what stands is left alone; a sandbox that is dead is
    /// made anew as the next generation. Answered by [`Event::SetUp`].
    SetUp,
    /// Bring the files of the pod's volumes up to date with what they are made of. Answered by
    /// [`Event::Refreshed`].
    Refresh,
    /// Tell people. Not answered.
    Record(Record),
    /// Resolve, pull and compile the image; may take minutes. Answered by [`Event::Image`].
    PrepareImage {
        /// The container whose image it is.
        container: String,
    },
    /// Create and start; answered by [`Event::Attempt`] or [`Event::StartFailed`].
    Start {
        /// The container.
        container: String,
        /// Which start of it.
        attempt: u32,
    },
    /// Run the probe once, within its `timeoutSeconds`. Answered by [`Event::Probed`].
    Probe {
        /// The container.
        container: String,
        /// The id of the attempt.
        id: String,
        /// Which of its probes.
        probe: ProbeKind,
    },
    /// Run the hook (`exec` or `httpGet`; the machine itself waits for a `sleep`). It has no limit of
    /// its own: it is cut short by a `Stop` or another `Hook` of the same id, and by the end of the
    /// attempt. Answered by [`Event::Hooked`].
    Hook {
        /// The container.
        container: String,
        /// The id of the attempt.
        id: String,
        /// Which of its hooks.
        hook: HookKind,
    },
    /// SIGTERM now and SIGKILL after the grace. A second one with a shorter grace shortens; nothing
    /// happens where no such process is.
    Stop {
        /// The container.
        container: String,
        /// The attempt.
        attempt: u32,
        /// Its id.
        id: String,
        /// The time between the signals; zero kills at once.
        grace: Duration,
    },
    /// Bring the pod's control group and these running containers to the resources that the pod's
    /// spec has now, in an order in which no container may have more than its pod. Idempotent.
    /// Answered by [`Event::Resized`].
    Resize {
        /// Them.
        containers: Vec<Resized>,
    },
    /// Forget an old dead attempt. The newest and the one before it (its logs are the previous
    /// ones) are kept.
    Remove {
        /// The container.
        container: String,
        /// The attempt.
        attempt: u32,
        /// Its id.
        id: String,
    },
    /// Undo the set-up: nothing runs any more. Idempotent. Answered by [`Event::TornDown`].
    TearDown,
}
