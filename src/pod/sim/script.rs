//! What one lifetime is made of: the pod, and how nasty its world is.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::rng::Rng;
use crate::{container::Role, life::Policy};

/// Names of the init containers, of the main ones, and of the ephemeral ones that may be added.
const INITS: [&str; 2] = ["i0", "i1"];
const MAINS: [&str; 3] = ["m0", "m1", "m2"];
const EPHEMERAL: [&str; 2] = ["e0", "e1"];

/// The chance of each fault, in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) step_fails: u64,
    pub(super) start_fails: u64,
    pub(super) dies_unlaunched: u64,
    pub(super) ignores_term: u64,
    pub(super) event_lost: u64,
    pub(super) event_doubled: u64,
    pub(super) event_late: u64,
    pub(super) stop_lost: u64,
    pub(super) agent_dies_at_step: u64,
}

pub(super) const HEALED: Faults = Faults {
    step_fails: 0,
    start_fails: 0,
    dies_unlaunched: 0,
    ignores_term: 0,
    event_lost: 0,
    event_doubled: 0,
    event_late: 0,
    stop_lost: 0,
    agent_dies_at_step: 0,
};

/// One container of the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) role: Role,
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) policy: Policy,
    /// Its runtime has sandboxes, which can die.
    pub(super) has_sandbox: bool,
    pub(super) parts: Vec<Part>,
    pub(super) faults: Faults,
    /// An API server keeps the pod's terminal phase over a restart of the agent.
    pub(super) has_api: bool,
    /// When the faults end.
    pub(super) heal_at: Duration,
    pub(super) spec_grace: u64,
}

impl Script {
    pub(super) fn draw(rng: &mut Rng) -> Script {
        let inits = INITS.iter().take(rng.pick(&[0, 0, 1, 2]));
        let mains = MAINS.iter().take(rng.pick(&[1, 1, 2, 3]));
        let part = |role| move |name: &&'static str| Part { name, role };
        let ephemeral = EPHEMERAL.iter().take(rng.pick(&[0, 0, 1, 2]));
        let parts = inits.map(part(Role::Init)).chain(mains.map(part(Role::Main)));
        let parts = parts.chain(ephemeral.map(part(Role::Ephemeral))).collect();
        // Each fault is absent in some lifetimes, so that none always hides another.
        let mut chance = |most: &[u64]| rng.pick(most);
        let faults = Faults {
            step_fails: chance(&[0, 10, 40]),
            start_fails: chance(&[0, 10, 30]),
            dies_unlaunched: chance(&[0, 10, 30]),
            ignores_term: chance(&[0, 30, 100]),
            event_lost: chance(&[0, 10, 50]),
            event_doubled: chance(&[0, 20, 50]),
            event_late: chance(&[0, 20, 60]),
            stop_lost: chance(&[0, 10, 40]),
            agent_dies_at_step: chance(&[0, 2, 10]),
        };
        Script {
            policy: rng.pick(&[Policy::Always, Policy::OnFailure, Policy::Never]),
            has_sandbox: rng.percent(60),
            parts,
            faults,
            has_api: rng.percent(50),
            heal_at: rng.secs(5, 300),
            spec_grace: rng.pick(&[0, 1, 5, 30, 60]),
        }
    }

    pub(super) fn index(&self, name: &str) -> usize {
        self.parts.iter().position(|part| part.name == name).unwrap()
    }

    /// The places of the containers of a role.
    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = usize> {
        let parts = self.parts.iter().enumerate();
        parts.filter(move |(_, part)| part.role == role).map(|(at, _)| at)
    }

    /// The pod's object, as it was first given: nobody has added anything yet.
    pub(super) fn pod(&self) -> Arc<Pod> {
        let of_role = |role| -> Vec<Container> {
            let parts = self.parts.iter().filter(|part| part.role == role);
            parts
                .map(|part| Container { name: part.name.to_owned(), ..Container::default() })
                .collect()
        };
        let policy = match self.policy {
            Policy::Always => "Always",
            Policy::OnFailure => "OnFailure",
            Policy::Never => "Never",
        };
        let spec = PodSpec {
            containers: of_role(Role::Main),
            init_containers: Some(of_role(Role::Init)),
            restart_policy: Some(policy.to_owned()),
            termination_grace_period_seconds: i64::try_from(self.spec_grace).ok(),
            ..PodSpec::default()
        };
        let metadata = ObjectMeta { uid: Some("u".to_owned()), ..ObjectMeta::default() };
        Arc::new(Pod { metadata, spec: Some(spec), status: None })
    }
}

/// The object after a deletion with this grace, in seconds: a later one can only shorten it, as
/// in the API server.
pub(super) fn deleted(pod: &Pod, grace: u64, wall: Timestamp) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(Time(wall));
    let given = pod.metadata.deletion_grace_period_seconds.take().into_iter();
    pod.metadata.deletion_grace_period_seconds = given.chain(i64::try_from(grace).ok()).min();
    Arc::new(pod)
}

/// The object after an ephemeral container was added.
pub(super) fn with_ephemeral(pod: &Pod, name: &str) -> Arc<Pod> {
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let all = spec.ephemeral_containers.get_or_insert_default();
    if all.iter().all(|container| container.name != name) {
        let name = name.to_owned();
        all.push(EphemeralContainer { name, ..EphemeralContainer::default() });
    }
    Arc::new(pod)
}

/// The object after the API server was told of a phase.
pub(super) fn reported(pod: &Pod, phase: &str) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.status = Some(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() });
    Arc::new(pod)
}
