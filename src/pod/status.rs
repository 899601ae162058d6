//! The pod's status as the API shows it (upstream: `convertToAPIContainerStatuses`,
//! `generateAPIPodStatus`, `TerminatePod`).

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container as ContainerSpec, ContainerState, ContainerStateRunning,
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
        EphemeralContainer, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    AttemptState, Exit, PodAddresses, User, condition,
    container::{Container, Role, Waiting},
    container_named,
    go::go_duration,
    known::Known,
    message::share,
    phase::Phase,
    probe::Before,
    qos, resize,
    state::State,
    step::{LOST_CODE, LOST_MESSAGE, LOST_REASON},
};

/// Upstream's text for an init container whose record is gone after it did its part.
const INIT_GONE: &str = "Unable to get init container status from container runtime and pod has been \
                         initialized, treat it as exited normally";

/// Why a container waits that ran before its pod was begun anew (upstream: `kubelet_pods.go`).
const RESTARTING_ALL: &str = "RestartingAllContainers";
/// See [`RESTARTING_ALL`].
const RESTARTING_ALL_MESSAGE: &str =
    "The container is removed because RestartAllContainers in place";

/// The time without its part below a second: the API has no more, and a comparison with what was
/// read back must not differ.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    let nanos = time.as_nanosecond();
    let whole = nanos - nanos.rem_euclid(1_000_000_000);
    Timestamp::from_nanosecond(whole).unwrap_or(time)
}

fn api_time(time: Timestamp) -> Time {
    Time(whole_seconds(time))
}

fn non_empty(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The whole status.
pub(crate) fn of(state: &State) -> PodStatus {
    let given = state.pod.status.as_ref();
    let qos_class = Some(qos::qos_class(&state.pod).to_owned());
    if !state.observed {
        let mut status = given.cloned().unwrap_or_default();
        status.phase.get_or_insert(Phase::Pending.as_str().to_owned());
        return PodStatus { qos_class, ..status };
    }
    let told = given.filter(|_| state.reported_end().is_some());
    let of = |chosen: fn(Role) -> bool| {
        let all = state.containers.iter().filter(|container| chosen(container.role));
        all.map(|container| container_status(state, container)).collect::<Vec<ContainerStatus>>()
    };
    let (mut inits, mut mains) = (of(Role::is_init), of(|role| role == Role::Main));
    let mut ephemeral = of(|role| role == Role::Ephemeral);
    if state.ended.is_some() {
        mark_lost(state, &mut inits, &mut mains);
    }
    for sorted in [&mut mains, &mut ephemeral] {
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
    }
    share_messages([&mut inits, &mut mains, &mut ephemeral]);
    let cause = state.shown_cause().map(|cause| &cause.why);
    let mut status = PodStatus {
        phase: Some(state.phase().as_str().to_owned()),
        reason: told
            .and_then(|status| status.reason.clone())
            .or_else(|| cause.and_then(|why| non_empty(&why.reason))),
        message: told
            .and_then(|status| status.message.clone())
            .or_else(|| cause.and_then(|why| non_empty(&why.message))),
        conditions: Some(condition::list(state)),
        container_statuses: Some(mains),
        init_container_statuses: Some(inits).filter(|inits| !inits.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|all| !all.is_empty()),
        observed_generation: state.pod.metadata.generation,
        qos_class,
        start_time: state.start_time.map(api_time),
        ..PodStatus::default()
    };
    resize::show_pod(state, &mut status);
    match (&state.addresses, given) {
        (Some(addresses), _) => set_addresses(&mut status, addresses),
        // An earlier agent set it up: its addresses stay, also after the end.
        (None, Some(given)) => {
            status.host_ip.clone_from(&given.host_ip);
            status.host_ips.clone_from(&given.host_ips);
            status.pod_ip.clone_from(&given.pod_ip);
            status.pod_ips.clone_from(&given.pod_ips);
        }
        (None, None) => {}
    }
    show_host(state, &mut status);
    status
}

/// The node's addresses are shown from the first, and are those of a pod in its network (upstream:
/// `generateAPIPodStatus`).
fn show_host(state: &State, status: &mut PodStatus) {
    let Some(first) = state.host.ips.first().map(ToString::to_string) else { return };
    if status.host_ip.is_none() {
        let all = state.host.ips.iter().map(|ip| HostIP { ip: ip.to_string() });
        (status.host_ip, status.host_ips) = (Some(first.clone()), Some(all.collect()));
    }
    let in_its_network = state.spec().is_some_and(|spec| spec.host_network == Some(true));
    if in_its_network && status.pod_ip.is_none() {
        let all = state.host.ips.iter().map(|ip| PodIP { ip: ip.to_string() });
        (status.pod_ip, status.pod_ips) = (Some(first), Some(all.collect()));
    }
}

/// Cuts each termination message to its share.
fn share_messages(mut all: [&mut [ContainerStatus]; 3]) {
    let containers = all.iter().map(|list| list.len()).sum();
    for status in all.iter_mut().flat_map(|list| list.iter_mut()) {
        let states = [status.state.as_mut(), status.last_state.as_mut()].into_iter().flatten();
        for end in states.filter_map(|state| state.terminated.as_mut()) {
            end.message = end.message.as_deref().map(|text| share(text, containers).to_owned());
        }
    }
}

fn set_addresses(status: &mut PodStatus, addresses: &PodAddresses) {
    let hosts: Vec<String> = addresses.host_ips.iter().map(ToString::to_string).collect();
    let pods: Vec<String> = addresses.pod_ips.iter().map(ToString::to_string).collect();
    status.host_ip = hosts.first().cloned();
    status.pod_ip = pods.first().cloned();
    let hosts: Vec<HostIP> = hosts.into_iter().map(|ip| HostIP { ip }).collect();
    let pods: Vec<PodIP> = pods.into_iter().map(|ip| PodIP { ip }).collect();
    status.host_ips = Some(hosts).filter(|ips| !ips.is_empty());
    status.pod_ips = Some(pods).filter(|ips| !ips.is_empty());
}

fn container_status(state: &State, container: &Container) -> ContainerStatus {
    let before = status_before(&state.pod, container);
    let mut launched = container.launched();
    let newest = launched.next();
    let mut last = launched.find_map(|(_, known)| terminated(known));
    let waiting = container.waiting.filter(|_| state.deadline.is_none());
    let is_to_run = container.is_wanted(state.generation());
    let current = match newest {
        // Nothing is known of it and the pod's object says that it is over: it knows better.
        None if before.is_some() && state.reported_end().is_some() => {
            return before.cloned().unwrap_or_default();
        }
        None if container.role == Role::Init && is_passed(state, container) => init_gone(),
        None => waiting_state(state, container, container.waiting),
        Some((_, known)) => match (&known.state, waiting) {
            (AttemptState::Exited(_), Some(waiting)) if is_to_run => {
                last = terminated(known);
                waiting_state(state, container, Some(waiting))
            }
            (AttemptState::Exited(_), None)
                if is_to_run && known.is_past && state.deadline.is_none() =>
            {
                last = terminated(known);
                waiting_for(RESTARTING_ALL, RESTARTING_ALL_MESSAGE)
            }
            (AttemptState::Exited(_), _) => {
                ContainerState { terminated: terminated(known), ..ContainerState::default() }
            }
            // Upstream shows nothing of it before what follows its start is done.
            (AttemptState::Starting | AttemptState::Running { .. }, _)
                if container.shown_running().is_none() =>
            {
                waiting_state(state, container, waiting)
            }
            (AttemptState::Starting | AttemptState::Running { .. }, _) => running(known),
        },
    };
    // A pod that is begun anew counts its restarts at once (upstream: `convertToAPIContainerStatuses`).
    let is_anew = newest.is_some_and(|(_, known)| known.is_past && known.exit().is_some());
    let is_counted = is_anew && is_to_run && state.deadline.is_none();
    let restarts = newest.map_or(0, |(attempt, _)| attempt.saturating_add(u32::from(is_counted)));
    let id = newest.map(|(_, known)| known.id.clone());
    // After a restart of the agent only the pod's object knows what an adopted process runs.
    let same = before.filter(|before| before.container_id.is_some() && before.container_id == id);
    // But for one whose start it never heard of.
    let told = newest.and_then(|(_, known)| known.image.as_ref());
    let (image, image_id) = match (&container.image.known, same, told) {
        (Some(known), _, _) => (known.image.clone(), known.image_id.clone()),
        (None, Some(same), _) => (same.image.clone(), same.image_id.clone()),
        (None, None, Some(told)) => (told.image.clone(), told.image_id.clone()),
        (None, None, None) => (spec_image(&state.pod, &container.name).to_owned(), String::new()),
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image,
        image_id,
        container_id: id,
        restart_count: i32::try_from(restarts).unwrap_or(i32::MAX),
        // Of ephemeral ones upstream says neither.
        started: Some(container.has_started()).filter(|_| container.role != Role::Ephemeral),
        ready: match container.role {
            // One that succeeded in an old sandbox is ready until it runs again.
            Role::Init => container.has_succeeded() || is_passed(state, container),
            Role::Sidecar | Role::Main | Role::Unwanted => container.is_ready(),
            Role::Ephemeral => false,
        },
        state: Some(current),
        volume_mounts: volume_mounts(state, &container.name),
        user: newest.and_then(|(_, known)| known.user.as_ref()).map(shown_user),
        last_state: last
            .or_else(|| same.and_then(|same| same.last_state.clone()?.terminated))
            .map(|last| ContainerState { terminated: Some(last), ..ContainerState::default() }),
        ..ContainerStatus::default()
    };
    resize::show_container(state, container, newest, &mut status);
    status
}

fn shown_user(user: &User) -> ContainerUser {
    let linux = LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
    };
    ContainerUser { linux: Some(linux) }
}

/// What the status says of a container's mounts (upstream: `convertToAPIContainerStatuses`): of one that
/// is read-only also whether all below it is.
fn volume_mounts(state: &State, container: &str) -> Option<Vec<VolumeMountStatus>> {
    let spec = container_named(&state.pod, container)?;
    let is_served = state.set_up.done.as_ref().is_some_and(|done| done.recursive_read_only);
    let all = spec.volume_mounts.iter().flatten().map(|mount| {
        let read_only = mount.read_only.filter(|read_only| *read_only);
        let is_whole = is_served
            && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
            && mount.mount_propagation.as_deref().is_none_or(|mode| mode == "None");
        let mode = if is_whole { "Enabled" } else { "Disabled" };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| mode.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    Some(all.collect::<Vec<_>>()).filter(|all| !all.is_empty())
}

fn is_passed(state: &State, container: &Container) -> bool {
    let index = state.containers.iter().position(|other| other.name == container.name);
    index.is_some_and(|index| state.is_passed(index))
}

/// The status that the pod's object has of the container.
pub(crate) fn status_before<'a>(
    pod: &'a Pod,
    container: &Container,
) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let of_role = match container.role {
        Role::Init | Role::Sidecar => status.init_container_statuses.as_ref(),
        Role::Main | Role::Unwanted => status.container_statuses.as_ref(),
        Role::Ephemeral => status.ephemeral_container_statuses.as_ref(),
    };
    of_role?.iter().find(|status| status.name == container.name)
}

/// What the pod's object says of the container's attempts, by their ids.
pub(crate) fn before(pod: &Pod, container: &Container) -> BTreeMap<String, Before> {
    let Some(status) = status_before(pod, container) else { return BTreeMap::new() };
    let said = Before { started: status.started == Some(true), ready: status.ready };
    status.container_id.iter().map(|id| (id.clone(), said)).collect()
}

/// The image that the spec gives a container.
pub(crate) fn spec_image<'a>(pod: &'a Pod, container: &str) -> &'a str {
    let Some(spec) = &pod.spec else { return "" };
    let of_container = |spec: &'a ContainerSpec| (spec.name.as_str(), &spec.image);
    let of_ephemeral = |spec: &'a EphemeralContainer| (spec.name.as_str(), &spec.image);
    let all = spec.init_containers.iter().flatten().chain(&spec.containers).map(of_container);
    let mut all = all.chain(spec.ephemeral_containers.iter().flatten().map(of_ephemeral));
    all.find(|(name, _)| *name == container).and_then(|(_, image)| image.as_deref()).unwrap_or("")
}

fn running(known: &Known) -> ContainerState {
    let started_at = match &known.state {
        AttemptState::Running { started_at } => Some(api_time(*started_at)),
        AttemptState::Starting | AttemptState::Exited(_) => None,
    };
    ContainerState {
        running: Some(ContainerStateRunning { started_at }),
        ..ContainerState::default()
    }
}

fn terminated(known: &Known) -> Option<ContainerStateTerminated> {
    let Exit { started_at, finished_at, code, reason, message } = known.exit()?;
    Some(ContainerStateTerminated {
        container_id: Some(known.id.clone()),
        exit_code: *code,
        finished_at: Some(api_time(*finished_at)),
        message: non_empty(message),
        reason: non_empty(reason),
        signal: None,
        started_at: started_at.map(api_time),
    })
}

/// The waiting state: why it waits, or the reason every container has before its first start.
fn waiting_state(state: &State, container: &Container, waiting: Option<Waiting>) -> ContainerState {
    let (reason, message) = match (waiting, &container.image.failed, &container.start_failure) {
        (Some(Waiting::CrashLoop(delay)), _, _) => {
            ("CrashLoopBackOff".to_owned(), crash_message(state, container, delay))
        }
        (Some(Waiting::Image), Some((failure, _)), _)
        | (Some(Waiting::Start), _, Some(failure)) => {
            (failure.reason.clone(), failure.message.clone())
        }
        (Some(Waiting::ImageBackOff), Some((failure, _)), _) => {
            let image = spec_image(&state.pod, &container.name);
            let cause = format!("{}: {}", failure.reason, failure.message);
            let message = format!("Back-off pulling image \"{image}\": {cause}");
            ("ImagePullBackOff".to_owned(), message)
        }
        (None | Some(Waiting::Image | Waiting::ImageBackOff | Waiting::Start), _, _) => {
            let has_inits = state.containers.iter().any(|container| container.role.is_init());
            let reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
            (reason.to_owned(), String::new())
        }
    };
    waiting_for(&reason, &message)
}

fn waiting_for(reason: &str, message: &str) -> ContainerState {
    let waiting =
        ContainerStateWaiting { reason: Some(reason.to_owned()), message: non_empty(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn crash_message(state: &State, container: &Container, delay: Duration) -> String {
    let (delay, pod) = (go_duration(delay), full_name(&state.pod));
    let container = &container.name;
    format!("back-off {delay} restarting failed container={container} pod={pod}")
}

/// A pod's name for people: `NAME_NAMESPACE(UID)` (upstream: `format.Pod`).
pub(crate) fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let [name, namespace, uid] =
        [&meta.name, &meta.namespace, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    format!("{name}_{namespace}({uid})")
}

/// An init container that did its part and of which nothing is left.
fn init_gone() -> ContainerState {
    let terminated = ContainerStateTerminated {
        reason: Some("Completed".to_owned()),
        message: Some(INIT_GONE.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// At the end, what should have run and left no evidence is shown as lost: the main containers of a
/// pod that was initialised, and of the init containers those before the last that ran (if none did,
/// the first).
fn mark_lost(state: &State, inits: &mut [ContainerStatus], mains: &mut [ContainerStatus]) {
    let is_waiting = |status: &ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.waiting.is_some())
    };
    let passed = inits.iter().rposition(|status| !is_waiting(status)).unwrap_or(1);
    let lost_mains = if state.was_initialised() { mains.len() } else { 0 };
    let lost = inits.iter_mut().take(passed).chain(mains.iter_mut().take(lost_mains));
    for status in lost.filter(|status| is_waiting(status)) {
        let terminated = ContainerStateTerminated {
            exit_code: LOST_CODE,
            reason: Some(LOST_REASON.to_owned()),
            message: Some(LOST_MESSAGE.to_owned()),
            ..ContainerStateTerminated::default()
        };
        status.state =
            Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
    }
}
