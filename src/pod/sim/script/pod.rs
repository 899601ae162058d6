//! The pod's object: as it was first given, and after each change to it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, EphemeralContainer,
        ExecAction, Lifecycle, LifecycleHandler, Pod, PodSpec, PodStatus, Probe, SleepAction,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::{HookSpec, Kind, Part, Policy, ProbeSpec, Script};

fn policy_text(policy: Policy) -> Option<String> {
    let text = match policy {
        Policy::Always => "Always",
        Policy::OnFailure => "OnFailure",
        Policy::Never => "Never",
    };
    Some(text.to_owned())
}

fn exec() -> Option<ExecAction> {
    Some(ExecAction { command: Some(vec!["true".to_owned()]) })
}

fn probe(spec: ProbeSpec) -> Probe {
    let secs = |secs: u64| i32::try_from(secs).ok();
    Probe {
        exec: exec(),
        initial_delay_seconds: secs(spec.initial),
        period_seconds: secs(spec.period),
        timeout_seconds: Some(1),
        success_threshold: i32::try_from(spec.successes).ok(),
        failure_threshold: i32::try_from(spec.failures).ok(),
        termination_grace_period_seconds: spec.grace.and_then(|grace| i64::try_from(grace).ok()),
        ..Probe::default()
    }
}

fn hook(spec: HookSpec) -> LifecycleHandler {
    match spec {
        HookSpec::Exec => LifecycleHandler { exec: exec(), ..LifecycleHandler::default() },
        HookSpec::Sleep(secs) => LifecycleHandler {
            sleep: Some(SleepAction { seconds: i64::try_from(secs).unwrap() }),
            ..LifecycleHandler::default()
        },
    }
}

fn container(part: &Part) -> Container {
    let [startup, liveness, readiness] = part.probes.map(|spec| spec.map(probe));
    let has_hooks = part.post_start.is_some() || part.pre_stop.is_some();
    let rule = part.rule.map(|rule| ContainerRestartRule {
        action: if rule.all { "RestartAllContainers" } else { "Restart" }.to_owned(),
        exit_codes: Some(ContainerRestartRuleOnExitCodes {
            operator: if rule.is_in { "In" } else { "NotIn" }.to_owned(),
            values: Some(rule.codes.to_vec()),
        }),
    });
    Container {
        name: part.name.to_owned(),
        image: Some("image:0".to_owned()),
        restart_policy: match part.kind {
            Kind::Sidecar => policy_text(Policy::Always),
            Kind::Init | Kind::Main | Kind::Ephemeral => part.policy.and_then(policy_text),
        },
        restart_policy_rules: rule.map(|rule| vec![rule]),
        startup_probe: startup,
        liveness_probe: liveness,
        readiness_probe: readiness,
        lifecycle: has_hooks.then(|| Lifecycle {
            post_start: part.post_start.map(hook),
            pre_stop: part.pre_stop.map(hook),
            stop_signal: None,
        }),
        ..Container::default()
    }
}

/// The pod's object, as it was first given: nobody has added anything yet.
pub(in crate::sim) fn first(script: &Script) -> Arc<Pod> {
    let chosen = |chosen: fn(Kind) -> bool| -> Vec<Container> {
        script.parts.iter().filter(|part| chosen(part.kind)).map(container).collect()
    };
    let spec = PodSpec {
        containers: chosen(|kind| kind == Kind::Main),
        init_containers: Some(chosen(Kind::is_init)).filter(|inits| !inits.is_empty()),
        restart_policy: policy_text(script.policy),
        termination_grace_period_seconds: i64::try_from(script.spec_grace).ok(),
        active_deadline_seconds: script.active.and_then(|secs| i64::try_from(secs).ok()),
        ..PodSpec::default()
    };
    let metadata = ObjectMeta { uid: Some("u".to_owned()), ..ObjectMeta::default() };
    Arc::new(Pod { metadata, spec: Some(spec), status: None })
}

/// The object after a deletion with this grace, in seconds: a later one can only shorten it, as
/// in the API server.
pub(in crate::sim) fn deleted(pod: &Pod, grace: u64, wall: Timestamp) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(Time(wall));
    let given = pod.metadata.deletion_grace_period_seconds.take().into_iter();
    pod.metadata.deletion_grace_period_seconds = given.chain(i64::try_from(grace).ok()).min();
    Arc::new(pod)
}

/// The object after an ephemeral container was added.
pub(in crate::sim) fn with_ephemeral(pod: &Pod, name: &str) -> Arc<Pod> {
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let all = spec.ephemeral_containers.get_or_insert_default();
    if all.iter().all(|container| container.name != name) {
        let name = name.to_owned();
        all.push(EphemeralContainer { name, ..EphemeralContainer::default() });
    }
    Arc::new(pod)
}

/// The object after the image of a container was changed.
pub(in crate::sim) fn with_image(pod: &Pod, name: &str, number: u32) -> Arc<Pod> {
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in all.filter(|container| container.name == name) {
        container.image = Some(format!("image:{number}"));
    }
    Arc::new(pod)
}

/// The object after its active deadline was set or shortened: the API server lets nobody lengthen
/// it.
pub(in crate::sim) fn with_deadline(pod: &Pod, secs: u64) -> Arc<Pod> {
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let given = spec.active_deadline_seconds.into_iter();
    spec.active_deadline_seconds = given.chain(i64::try_from(secs).ok()).min();
    Arc::new(pod)
}

/// The object with a status that was reported.
pub(in crate::sim) fn reported(pod: &Pod, status: PodStatus) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.status = Some(status);
    Arc::new(pod)
}
