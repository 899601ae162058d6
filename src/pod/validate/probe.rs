//! Probes and hooks: what they do and when.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Errors;
use super::name::port_name;

/// What a pod says that its containers' probes and hooks are checked against.
#[derive(Clone, Copy)]
pub(super) struct OfPod {
    /// `terminationGracePeriodSeconds`.
    pub(super) grace: Option<i64>,
    /// `os` is given, by which the names of signals go.
    pub(super) has_os: bool,
}

/// What a probe or a hook does: one of these.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// Checks all of a container that runs beside others: hooks, then probes.
pub(super) fn of_container(errors: &mut Errors, path: &str, one: &Container, of_pod: OfPod) {
    if let Some(lifecycle) = &one.lifecycle {
        let path = format!("{path}.lifecycle");
        for (field, hook) in
            [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)]
        {
            if let Some(hook) = hook {
                handler(errors, &format!("{path}.{field}"), &of_hook(hook), of_pod.grace);
            }
        }
        if lifecycle.stop_signal.is_some() && !of_pod.has_os {
            let text = "may not be set for containers with empty `spec.os.name`";
            errors.forbidden(&format!("{path}.stopSignal"), text);
        }
    }
    if let Some(liveness) = &one.liveness_probe {
        let path = format!("{path}.livenessProbe");
        probe(errors, &path, liveness, of_pod.grace);
        one_success(errors, &path, liveness);
    }
    if let Some(readiness) = &one.readiness_probe {
        let path = format!("{path}.readinessProbe");
        probe(errors, &path, readiness, of_pod.grace);
        if let Some(seconds) = readiness.termination_grace_period_seconds {
            let text = format!("Invalid value: {seconds}: must not be set for readinessProbes");
            errors.add(&format!("{path}.terminationGracePeriodSeconds"), text);
        }
    }
    if let Some(startup) = &one.startup_probe {
        let path = format!("{path}.startupProbe");
        probe(errors, &path, startup, of_pod.grace);
        one_success(errors, &path, startup);
    }
}

fn one_success(errors: &mut Errors, path: &str, probe: &Probe) {
    let threshold = probe.success_threshold.unwrap_or_default();
    if threshold != 1 {
        let text = format!("Invalid value: {threshold}: must be 1");
        errors.add(&format!("{path}.successThreshold"), text);
    }
}

fn probe(errors: &mut Errors, path: &str, probe: &Probe, grace: Option<i64>) {
    let does = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler(errors, path, &does, grace);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(value) = value.filter(|value| *value < 0) {
            errors.not_negative(&format!("{path}.{field}"), value);
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let text = format!("Invalid value: {seconds}: must be greater than 0");
        errors.add(&format!("{path}.terminationGracePeriodSeconds"), text);
    }
}

fn of_hook(hook: &LifecycleHandler) -> Handler<'_> {
    Handler {
        exec: hook.exec.as_ref(),
        http_get: hook.http_get.as_ref(),
        tcp_socket: hook.tcp_socket.as_ref(),
        grpc: None,
        sleep: hook.sleep.as_ref(),
    }
}

/// Exactly one, and that a good one; of more than one only the first is looked at.
fn handler(errors: &mut Errors, path: &str, does: &Handler<'_>, grace: Option<i64>) {
    let mut first = true;
    let mut turn = |errors: &mut Errors, field: &str, is_set: bool| {
        if is_set && !first {
            let text = "may not specify more than 1 handler type";
            errors.forbidden(&format!("{path}.{field}"), text);
        }
        let is_first = is_set && first;
        first &= !is_set;
        is_first
    };
    if let Some(exec) = does.exec
        && turn(errors, "exec", true)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.required(&format!("{path}.exec.command"), "");
    }
    if let Some(get) = does.http_get
        && turn(errors, "httpGet", true)
    {
        http_get(errors, &format!("{path}.httpGet"), get);
    }
    if let Some(socket) = does.tcp_socket
        && turn(errors, "tcpSocket", true)
    {
        port(errors, &format!("{path}.tcpSocket.port"), &socket.port);
    }
    if let Some(grpc) = does.grpc
        && turn(errors, "grpc", true)
    {
        errors.in_range(&format!("{path}.grpc.port"), grpc.port.into(), 1, 65535);
    }
    if let Some(sleep) = does.sleep
        && turn(errors, "sleep", true)
        && let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&sleep.seconds))
    {
        let seconds = sleep.seconds;
        let text = format!(
            "Invalid value: {seconds}: must be non-negative and less than \
             terminationGracePeriodSeconds ({grace})"
        );
        errors.add(&format!("{path}.sleep"), text);
    }
    if first {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(errors: &mut Errors, path: &str, get: &HTTPGetAction) {
    if get.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(&format!("{path}.path"), "");
    }
    port(errors, &format!("{path}.port"), &get.port);
    errors.one_of(&format!("{path}.scheme"), get.scheme.as_deref(), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if header.name.is_empty() || !header.name.bytes().all(is_good) {
            let text = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                        'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.invalid(&format!("{path}.httpHeaders"), &header.name, text);
        }
    }
}

fn port(errors: &mut Errors, path: &str, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => errors.in_range(path, (*number).into(), 1, 65535),
        IntOrString::String(name) => errors.check(path, name, port_name),
    }
}
