//! The pod's conditions (upstream: `pkg/kubelet/status/generate.go`).

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    admission::PREEMPTED,
    container::{Container, Role},
    phase::Phase,
    resize::Resizing,
    state::{Cause, State},
    status::whole_seconds,
};

/// The conditions that the node writes; all others are somebody else's and are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ReadyToStartContainers,
    Initialized,
    Ready,
    ContainersReady,
    Scheduled,
    /// Of pods with such a rule alone.
    AllContainersRestarting,
}

/// In the order in which upstream lists them.
const KINDS: [Kind; 6] = [
    Kind::ReadyToStartContainers,
    Kind::Initialized,
    Kind::Ready,
    Kind::ContainersReady,
    Kind::Scheduled,
    Kind::AllContainersRestarting,
];

/// The condition that names whoever disrupted the pod.
const DISRUPTION: &str = "DisruptionTarget";

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::ReadyToStartContainers => "PodReadyToStartContainers",
            Kind::Initialized => "Initialized",
            Kind::Ready => "Ready",
            Kind::ContainersReady => "ContainersReady",
            Kind::Scheduled => "PodScheduled",
            Kind::AllContainersRestarting => "AllContainersRestarting",
        }
    }

    /// Whether the pod has it at all (upstream: `AllContainersCouldRestart`).
    fn is_of(self, state: &State) -> bool {
        match self {
            Kind::AllContainersRestarting => {
                state.containers.iter().any(|container| container.life.may_restart_all())
            }
            Kind::ReadyToStartContainers
            | Kind::Initialized
            | Kind::Ready
            | Kind::ContainersReady
            | Kind::Scheduled => true,
        }
    }

    /// Whether it says which generation of the pod it is of (upstream:
    /// `GenerateAllContainersRestartingCondition` does not).
    fn is_observed(self) -> bool {
        self != Kind::AllContainersRestarting
    }

    /// Whether it holds, from the state alone.
    pub(crate) fn holds(self, state: &State) -> bool {
        match self {
            // An adopted process shows that the set-up of an earlier agent stands.
            Kind::ReadyToStartContainers => {
                let generation = state.generation();
                let is_adopted = |c: &Container| c.is_running() && c.has_run_in(generation);
                state.tear_down.done.is_none()
                    && (state.set_up.done.is_some() || state.containers.iter().any(is_adopted))
            }
            // Init containers that run again in a new sandbox do not take it back (upstream:
            // `HasAnyRegularContainerStarted`).
            Kind::Initialized => {
                state.ended == Some(Phase::Succeeded)
                    || state.of_role(Role::Main).any(Container::has_appeared)
                    || !(0..).zip(&state.containers).any(|(index, one)| is_open(state, index, one))
            }
            Kind::Ready => {
                Kind::ContainersReady.holds(state) && gate_complaints(&state.pod).is_empty()
            }
            Kind::ContainersReady => {
                state.ended.is_none() && state.lasting().all(Container::is_ready)
            }
            Kind::Scheduled => true,
            Kind::AllContainersRestarting => {
                let is_past = |container: &Container| {
                    container.role.is_work()
                        && container.newest().is_some_and(|(_, newest)| newest.is_past)
                };
                state.ended.is_none() && state.containers.iter().any(is_past)
            }
        }
    }

    /// Reason and message; empty where there is none.
    fn why(self, state: &State, holds: bool) -> (&'static str, String) {
        match (self, holds, state.ended) {
            (Kind::ReadyToStartContainers | Kind::Scheduled, _, _) => ("", String::new()),
            (Kind::AllContainersRestarting, true, _) => {
                let message = "container exited with restart policy rule".to_owned();
                ("RestartAllContainersStarted", message)
            }
            (Kind::Initialized, true, Some(Phase::Succeeded))
            | (
                Kind::Ready | Kind::ContainersReady | Kind::AllContainersRestarting,
                false,
                Some(Phase::Succeeded),
            ) => ("PodCompleted", String::new()),
            (
                Kind::Ready | Kind::ContainersReady | Kind::AllContainersRestarting,
                false,
                Some(Phase::Failed),
            ) => ("PodFailed", String::new()),
            (Kind::AllContainersRestarting, false, _) => ("", String::new()),
            (Kind::Initialized | Kind::Ready | Kind::ContainersReady, true, _) => {
                ("", String::new())
            }
            (Kind::Initialized, false, _) => {
                let open = names(state, |index, one| is_open(state, index, one));
                ("ContainersNotInitialized", format!("containers with incomplete status: {open}"))
            }
            (Kind::Ready, false, _) if Kind::ContainersReady.holds(state) => {
                ("ReadinessGatesNotReady", gate_complaints(&state.pod).join(", "))
            }
            (Kind::Ready | Kind::ContainersReady, false, _) => {
                let unready = names(state, |_, one| one.role.is_lasting() && !one.is_ready());
                ("ContainersNotReady", format!("containers with unready status: {unready}"))
            }
        }
    }
}

/// Whether an init container has not done its part (upstream: `isInitContainerInitialized`): a sidecar
/// that has ended lacks it again.
fn is_open(state: &State, index: usize, one: &Container) -> bool {
    match one.role {
        Role::Init => !(one.has_succeeded() || state.is_passed(index)),
        Role::Sidecar => !one.has_started(),
        Role::Main | Role::Ephemeral | Role::Unwanted => false,
    }
}

/// The names of the chosen containers, as Go prints a list: `[a b]`.
fn names(state: &State, chosen: impl Fn(usize, &Container) -> bool) -> String {
    let all = state.containers.iter().enumerate();
    let chosen = all.filter(|(index, container)| chosen(*index, container));
    let names: Vec<&str> = chosen.map(|(_, container)| container.name.as_str()).collect();
    format!("[{}]", names.join(" "))
}

/// What upstream says of each readiness gate that is not True.
fn gate_complaints(pod: &Pod) -> Vec<String> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let found = |kind: &str| given(pod.status.as_ref()).find(|condition| condition.type_ == kind);
    gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let Some(condition) = found(kind) else {
                return Some(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                ));
            };
            let status = &condition.status;
            (status != "True").then(|| {
                format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {status}")
            })
        })
        .collect()
}

fn given(status: Option<&PodStatus>) -> impl Iterator<Item = &PodCondition> {
    status.into_iter().flat_map(|status| status.conditions.iter().flatten())
}

/// For each of [`KINDS`]: whether it held when last looked at, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transitions([Option<(bool, Timestamp)>; KINDS.len()]);

impl Transitions {
    /// What the pod's object remembers, so that the times outlive the agent.
    pub(crate) fn of(status: Option<&PodStatus>) -> Transitions {
        Transitions(KINDS.map(|kind| {
            let condition = given(status).find(|condition| condition.type_ == kind.as_str())?;
            let since = condition.last_transition_time.as_ref()?;
            Some((condition.status == "True", since.0))
        }))
    }

    /// Whether the pod was initialised at any time.
    pub(crate) fn was_initialised(&self) -> bool {
        let mut all = KINDS.into_iter().zip(self.0);
        all.any(|(kind, slot)| kind == Kind::Initialized && slot.is_some_and(|(held, _)| held))
    }

    /// Notes which conditions have changed by now. A pod that was initialised stays so (upstream:
    /// `RestartAllContainersOnContainerExits`).
    pub(crate) fn update(&mut self, state: &State, wall: Timestamp) {
        for (slot, kind) in self.0.iter_mut().zip(KINDS) {
            let is_kept = kind == Kind::Initialized && slot.is_some_and(|(held, _)| held);
            let holds = is_kept || kind.holds(state);
            if slot.is_none_or(|(held, _)| held != holds) {
                *slot = Some((holds, whole_seconds(wall)));
            }
        }
    }
}

/// All conditions: the foreign ones as they were given, then the node's own.
pub(crate) fn list(state: &State) -> Vec<PodCondition> {
    let is_own = |condition: &PodCondition| KINDS.iter().any(|k| k.as_str() == condition.type_);
    let evicted = disruption(state);
    let is_evicted = evicted.is_some();
    let is_given = |condition: &&PodCondition| {
        !(is_own(condition)
            || Resizing::is_own(&condition.type_)
            || is_evicted && condition.type_ == DISRUPTION)
    };
    let foreign = given(state.pod.status.as_ref()).filter(is_given).cloned();
    let own = KINDS.into_iter().zip(state.transitions.0).filter(|(kind, _)| kind.is_of(state));
    let own = own.map(|(kind, since)| {
        let holds = since.map_or_else(|| kind.holds(state), |(holds, _)| holds);
        let (reason, message) = kind.why(state, holds);
        PodCondition {
            type_: kind.as_str().to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()).filter(|text| !text.is_empty()),
            message: Some(message).filter(|text| !text.is_empty()),
            last_transition_time: since.map(|(_, at)| Time(at)),
            last_probe_time: None,
            observed_generation: state.pod.metadata.generation.filter(|_| kind.is_observed()),
        }
    });
    foreign.chain(state.resize.conditions()).chain(evicted).chain(own).collect()
}

/// The condition of a pod that went for another one, shown with its end. Of others it is somebody
/// else's.
fn disruption(state: &State) -> Option<PodCondition> {
    let Cause { why: _, disrupted } = state.shown_cause()?;
    let since = disrupted.as_ref()?;
    Some(PodCondition {
        type_: DISRUPTION.to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(PREEMPTED.to_owned()),
        last_transition_time: Some(Time(whole_seconds(*since))),
        last_probe_time: None,
        observed_generation: state.pod.metadata.generation,
    })
}
