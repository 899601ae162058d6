//! What is worth a line when a pod's status changes, and the exit code of all.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

/// Lines for what went wrong between two statuses of the pod `name`: a container that ended with
/// an error, one that waits for a reason worth telling, a pod that was ended as a whole.
pub(super) fn news(name: &str, old: &PodStatus, new: &PodStatus) -> Vec<String> {
    let mut lines = Vec::new();
    // The pod as a whole: evicted, later rejected or past its deadline.
    if let Some(reason) = new.reason.as_ref().filter(|_| old.reason != new.reason) {
        let message = new.message.as_deref().unwrap_or_default().trim_end();
        lines.push(format!("{name}: {reason}: {message}"));
    }
    for status in statuses(new) {
        let before = statuses(old).find(|old| old.name == status.name);
        for text in trouble(before, status) {
            lines.push(format!("{name}/{}: {text}", status.name));
        }
    }
    lines
}

/// Of all containers, init containers first.
fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    init.iter().chain(status.container_statuses.as_deref().unwrap_or_default())
}

fn trouble(before: Option<&ContainerStatus>, now: &ContainerStatus) -> Vec<String> {
    let ends = |status: &ContainerStatus| {
        let of = |state: &Option<ContainerState>| {
            state.as_ref().and_then(|state| state.terminated.clone())
        };
        [of(&status.state), of(&status.last_state)]
    };
    let known = before.map(ends).unwrap_or_default();
    let mut lines = Vec::new();
    // The newest end, wherever it stands now: a restart moves it from `state` to `lastState`.
    let newest = ends(now).into_iter().flatten().next();
    if let Some(end) = newest.filter(|end| !known.iter().flatten().any(|k| k == end))
        && end.exit_code != 0
    {
        let reason = end.reason.as_deref().unwrap_or("Error");
        let message = end.message.as_deref().map(str::trim_end).filter(|text| !text.is_empty());
        let message = message.map(|text| format!(": {text}")).unwrap_or_default();
        lines.push(format!("{reason}, exit code {}{message}", end.exit_code));
    }
    let waiting =
        |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.waiting.clone());
    if let Some(wait) = waiting(now)
        && let Some(message) = &wait.message
        && before.and_then(waiting).as_ref() != Some(&wait)
    {
        lines.push(format!("{}: {message}", wait.reason.as_deref().unwrap_or("waiting")));
    }
    lines
}

/// What a container's state is in one word for the table, with its exit code where it has one.
pub(super) fn state_text(status: &ContainerStatus) -> String {
    let Some(state) = &status.state else { return "Unknown".into() };
    let reason = |reason: &Option<String>, or: &str| reason.clone().unwrap_or_else(|| or.into());
    if let Some(end) = &state.terminated {
        return match end.exit_code {
            0 => reason(&end.reason, "Completed"),
            code => format!("{} ({code})", reason(&end.reason, "Error")),
        };
    }
    match &state.waiting {
        Some(wait) => reason(&wait.reason, "Waiting"),
        None if state.running.is_some() => "Running".into(),
        None => "Unknown".into(),
    }
}

/// The first exit code that is not 0, in the order of the specs; 1 where a pod failed without one.
pub(super) fn exit_code<'a>(pods: impl Iterator<Item = (&'a Pod, &'a PodStatus)>) -> u8 {
    let mut failed = 0;
    for (pod, status) in pods {
        if status.phase.as_deref() == Some("Failed") {
            failed = 1;
        }
        if let Some(code) = in_order(pod, status).find(|code| *code != 0) {
            // What does not fit is still not 0.
            return u8::try_from(code & 0xff).ok().filter(|code| *code != 0).unwrap_or(1);
        }
    }
    failed
}

/// The last exit code of each container that has one, in the order of the spec.
fn in_order(pod: &Pod, status: &PodStatus) -> impl Iterator<Item = i32> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    init.iter().chain(main).filter_map(|container| {
        let status = statuses(status).find(|status| status.name == container.name)?;
        Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        Container, ContainerStateTerminated, ContainerStateWaiting, PodSpec,
    };

    use super::*;

    fn ended(name: &str, code: i32) -> ContainerStatus {
        let terminated = ContainerStateTerminated {
            exit_code: code,
            reason: Some(if code == 0 { "Completed" } else { "Error" }.into()),
            message: Some("wasm trap\n".into()),
            ..ContainerStateTerminated::default()
        };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        ContainerStatus { name: name.into(), state: Some(state), ..ContainerStatus::default() }
    }

    fn waiting(name: &str, reason: &str, message: Option<&str>) -> ContainerStatus {
        let waiting =
            ContainerStateWaiting { reason: Some(reason.into()), message: message.map(Into::into) };
        let state = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
        ContainerStatus { name: name.into(), state: Some(state), ..ContainerStatus::default() }
    }

    fn status(phase: &str, statuses: Vec<ContainerStatus>) -> PodStatus {
        PodStatus {
            phase: Some(phase.into()),
            container_statuses: Some(statuses),
            ..PodStatus::default()
        }
    }

    fn pod(names: &[&str]) -> Pod {
        let containers = names
            .iter()
            .map(|name| Container { name: (*name).into(), ..Container::default() })
            .collect();
        let spec = PodSpec { containers, ..PodSpec::default() };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    #[test]
    fn the_first_code_in_the_specs_order_counts() {
        let pod = pod(&["b", "a"]);
        // Statuses are sorted by name, the spec is not.
        let both = status("Failed", vec![ended("a", 1), ended("b", 7)]);
        let fine = status("Succeeded", vec![ended("a", 0), ended("b", 0)]);
        assert_eq!(exit_code([(&pod, &fine), (&pod, &both)].into_iter()), 7);
        assert_eq!(exit_code([(&pod, &fine)].into_iter()), 0);
        let never = status("Failed", vec![waiting("a", "ContainerCreating", None)]);
        assert_eq!(exit_code([(&pod, &never)].into_iter()), 1);
        let large = status("Failed", vec![ended("a", 256)]);
        assert_eq!(exit_code([(&pod, &large)].into_iter()), 1);
    }

    #[test]
    fn trouble_is_told_once() {
        let before = status("Running", vec![waiting("a", "ContainerCreating", None)]);
        let after = status("Failed", vec![ended("a", 134)]);
        assert_eq!(news("p", &before, &after), ["p/a: Error, exit code 134: wasm trap"]);
        assert!(news("p", &after, &after).is_empty());
        assert!(news("p", &before, &status("Succeeded", vec![ended("a", 0)])).is_empty());

        let mut back_off = waiting("a", "CrashLoopBackOff", Some("back-off 10s"));
        back_off.last_state = ended("a", 134).state;
        let back_off = status("Running", vec![back_off]);
        assert_eq!(news("p", &after, &back_off), ["p/a: CrashLoopBackOff: back-off 10s"]);
        assert!(news("p", &back_off, &back_off).is_empty());
    }

    #[test]
    fn states_have_a_word() {
        assert_eq!(state_text(&ended("a", 0)), "Completed");
        assert_eq!(state_text(&ended("a", 3)), "Error (3)");
        assert_eq!(state_text(&waiting("a", "ContainerCreating", None)), "ContainerCreating");
    }
}
