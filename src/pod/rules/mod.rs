//! One test per rule, each a short story told to the state machine.

mod adopt;
mod change;
mod end;
mod ephemeral;
mod hook;
mod probe;
mod record;
mod resize;
mod restart;
mod sandbox;
mod show;
mod sidecar;
mod start;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition, PodStatus};
use serde_json::{Value, json};

use crate::{
    Action, Attempt, AttemptState, Event, Exit, Failure, HookKind, Host, ImageNames, ImageRef, Now,
    PodAddresses, ProbeKind, ProbeOutcome, Record, SetUpDone, State, step,
};

/// A machine with a clock. Both clocks run together from a wall time with a broken second.
struct Rig {
    state: State,
    /// The generation of the sandbox that stands.
    sandbox: u32,
    now: Now,
    /// The actions since they were last taken.
    actions: Vec<Action>,
    /// What people were told since that was last taken, a line each.
    records: Vec<String>,
    /// What each set-up leaves out.
    warnings: Vec<Failure>,
}

fn wall(secs: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_700 + secs * 1000).unwrap()
}

/// A pod with the given fields merged over `{"spec": {"containers": [...]}}` of the named mains.
fn pod_with(mains: &[&str], spec: &Value, meta: &Value) -> Pod {
    let container = |name: &&str| json!({"name": name, "image": format!("{name}.wasm")});
    let containers: Vec<Value> = mains.iter().map(container).collect();
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1", "generation": 3},
        "spec": {"containers": containers},
    });
    for (field, over) in [("spec", spec), ("metadata", meta)] {
        for (key, value) in over.as_object().into_iter().flatten() {
            pod[field][key] = value.clone();
        }
    }
    serde_json::from_value(pod).unwrap()
}

/// A pod with these main containers and this restart policy.
fn pod(mains: &[&str], policy: &str) -> Pod {
    pod_with(mains, &json!({"restartPolicy": policy}), &json!({}))
}

/// The same with init containers.
fn pod_inits(inits: &[&str], mains: &[&str], policy: &str) -> Pod {
    let inits: Vec<Value> = inits.iter().map(|name| json!({"name": name})).collect();
    pod_with(mains, &json!({"restartPolicy": policy, "initContainers": inits}), &json!({}))
}

fn id(container: &str, attempt: u32) -> String {
    let name = format!("{container}{attempt}");
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("wasm://{hex}")
}

fn attempt(container: &str, attempt: u32, state: AttemptState) -> Attempt {
    let (id, container) = (id(container, attempt), container.to_owned());
    Attempt { container, attempt, sandbox: 0, id, definition: None, user: None, image: None, state }
}

fn failure(reason: &str) -> Failure {
    Failure { reason: reason.to_owned(), message: "no luck".to_owned() }
}

fn exit(code: i32, secs: i64) -> Exit {
    let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    let finished_at = wall(secs);
    Exit { started_at: Some(finished_at), finished_at, code, reason, message: String::new() }
}

fn start(container: &str, attempt: u32) -> Action {
    Action::Start { container: container.to_owned(), attempt }
}

fn prepare(container: &str) -> Action {
    Action::PrepareImage { container: container.to_owned() }
}

fn stop(container: &str, attempt: u32, grace_secs: u64) -> Action {
    let grace = Duration::from_secs(grace_secs);
    Action::Stop { container: container.to_owned(), attempt, id: id(container, attempt), grace }
}

fn probe_of(container: &str, attempt: u32, probe: ProbeKind) -> Action {
    Action::Probe { container: container.to_owned(), id: id(container, attempt), probe }
}

fn hook_of(container: &str, attempt: u32, hook: HookKind) -> Action {
    Action::Hook { container: container.to_owned(), id: id(container, attempt), hook }
}

impl Rig {
    fn new(pod: Pod) -> Rig {
        let now = Now { wall: wall(0), mono: Duration::from_secs(5) };
        let (state, actions, records) = (State::new(Arc::new(pod)), Vec::new(), Vec::new());
        Rig { state, sandbox: 0, now, actions, records, warnings: Vec::new() }
    }

    /// A pod that is set up, with nothing started.
    fn up(pod: Pod) -> Rig {
        let mut rig = Rig::new(pod);
        assert_eq!(rig.feed(Event::Observed(Vec::new())), [Action::SetUp]);
        rig.set_up();
        rig
    }

    /// A pod in which every main container runs.
    fn running(pod: Pod) -> Rig {
        let mut rig = Rig::up(pod);
        for container in rig.mains() {
            rig.image(&container);
            rig.run(&container, 0);
        }
        rig.actions.clear();
        rig
    }

    fn mains(&self) -> Vec<String> {
        self.state.pod().spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).collect()
    }

    /// Tells one event; gives what followed from it alone.
    fn feed(&mut self, event: Event) -> Vec<Action> {
        let (state, all) = step(self.state.clone(), event, self.now);
        self.state = state;
        let mut actions = Vec::new();
        for action in all {
            if let Action::Record(record) = &action {
                self.records.push(told(record));
            } else {
                actions.push(action);
            }
        }
        self.actions.extend(actions.iter().cloned());
        assert!(self.state.wake_at().is_none_or(|at| at > self.now.mono), "a timer in the past");
        actions
    }

    fn set_up(&mut self) -> Vec<Action> {
        let host = "192.0.2.7".parse().unwrap();
        let pod = format!("10.0.0.{}", 9 + self.sandbox).parse().unwrap();
        let addresses = PodAddresses { host_ips: vec![host], pod_ips: vec![pod] };
        self.feed(Event::SetUp(Ok(SetUpDone {
            addresses,
            sandbox: self.sandbox,
            recursive_read_only: true,
            warnings: self.warnings.clone(),
        })))
    }

    /// The attempt, as one of the sandbox that stands.
    fn attempt(&self, container: &str, number: u32, state: AttemptState) -> Event {
        let attempt = attempt(container, number, state);
        Event::Attempt(Attempt { sandbox: self.sandbox, ..attempt })
    }

    fn image(&mut self, container: &str) -> Vec<Action> {
        let image = format!("file:///{container}.wasm");
        let image = ImageRef { image, image_id: "sha256:abc".to_owned(), pulled: None };
        self.feed(Event::Image { container: container.to_owned(), result: Ok(image) })
    }

    fn no_image(&mut self, container: &str, reason: &str) -> Vec<Action> {
        let result = Err(failure(reason));
        self.feed(Event::Image { container: container.to_owned(), result })
    }

    fn start_failed(&mut self, container: &str, attempt: u32) -> Vec<Action> {
        let failure = failure("RunContainerError");
        self.feed(Event::StartFailed { container: container.to_owned(), attempt, failure })
    }

    fn run(&mut self, container: &str, number: u32) -> Vec<Action> {
        let state = AttemptState::Running { started_at: self.now.wall };
        self.feed(self.attempt(container, number, state))
    }

    fn exit(&mut self, container: &str, number: u32, code: i32) -> Vec<Action> {
        let mut exit = exit(code, 0);
        exit.finished_at = self.now.wall;
        self.feed(self.attempt(container, number, AttemptState::Exited(exit)))
    }

    /// Tells what came of a probe.
    fn outcome(
        &mut self,
        container: &str,
        attempt: u32,
        probe: ProbeKind,
        outcome: ProbeOutcome,
    ) -> Vec<Action> {
        let (id, container) = (id(container, attempt), container.to_owned());
        self.feed(Event::Probed { container, id, probe, outcome })
    }

    fn probed(
        &mut self,
        container: &str,
        attempt: u32,
        probe: ProbeKind,
        is_success: bool,
    ) -> Vec<Action> {
        let failure = || ProbeOutcome::Failure("no luck".to_owned());
        let outcome = if is_success { ProbeOutcome::Success } else { failure() };
        self.outcome(container, attempt, probe, outcome)
    }

    fn hooked(
        &mut self,
        container: &str,
        attempt: u32,
        hook: HookKind,
        result: Result<(), &str>,
    ) -> Vec<Action> {
        let (id, container) = (id(container, attempt), container.to_owned());
        self.feed(Event::Hooked { container, id, hook, result: result.map_err(str::to_owned) })
    }

    /// Lets time pass without telling the machine.
    fn pass(&mut self, secs: u64) {
        self.now.mono += Duration::from_secs(secs);
        self.now.wall += Duration::from_secs(secs);
    }

    /// Lets time pass until the machine's timer, and gives how long that was and what followed.
    fn timer(&mut self) -> (u64, Vec<Action>) {
        let wait = self.state.wake_at().unwrap() - self.now.mono;
        assert_eq!(wait.subsec_nanos(), 0);
        self.pass(wait.as_secs());
        (wait.as_secs(), self.feed(Event::Timer))
    }

    /// Lets time pass until the machine's timer, and gives the milliseconds and what followed.
    fn wake(&mut self) -> (u128, Vec<Action>) {
        let wait = self.state.wake_at().unwrap() - self.now.mono;
        self.now.mono += wait;
        self.now.wall += wait;
        (wait.as_millis(), self.feed(Event::Timer))
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    fn status(&self) -> PodStatus {
        self.state.status()
    }

    fn shown(&self, container: &str) -> ContainerStatus {
        let status = self.status();
        let mains = status.container_statuses.into_iter().flatten();
        let all = mains.chain(status.init_container_statuses.into_iter().flatten());
        let mut all = all.chain(status.ephemeral_container_statuses.into_iter().flatten());
        all.find(|status| status.name == container).unwrap()
    }

    /// The container's state in one line.
    fn brief(&self, container: &str) -> String {
        brief(&self.shown(container).state.unwrap())
    }

    fn condition(&self, kind: &str) -> PodCondition {
        let conditions = self.status().conditions.unwrap();
        conditions.into_iter().find(|condition| condition.type_ == kind).unwrap()
    }

    /// A condition in one line: status, reason, message.
    fn cond(&self, kind: &str) -> String {
        let PodCondition { status, reason, message, .. } = self.condition(kind);
        [Some(status), reason, message].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// An event in one line.
fn told(record: &Record) -> String {
    let Record { warning, reason, message, container } = record;
    let kind = if *warning { "W" } else { "N" };
    let about = container.as_deref().unwrap_or("-");
    format!("{kind} {about} {reason}: {message}")
}

/// A container's state in one line: `running`, `waiting REASON: MESSAGE`, `CODE REASON`.
fn brief(state: &ContainerState) -> String {
    match (&state.running, &state.waiting, &state.terminated) {
        (Some(_), None, None) => "running".to_owned(),
        (None, Some(waiting), None) => {
            let reason = waiting.reason.clone().unwrap();
            let message = waiting.message.iter().map(|message| format!(": {message}"));
            format!("waiting {reason}{}", message.collect::<String>())
        }
        (None, None, Some(end)) => {
            format!("{} {}", end.exit_code, end.reason.clone().unwrap_or_default())
        }
        other => panic!("not one state: {other:?}"),
    }
}
