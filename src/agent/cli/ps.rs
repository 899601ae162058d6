//! `copepod ps`: the pods of all runs.

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};
use clap::ValueEnum;
use console::{Color, Style};
use jiff::Timestamp;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::api::{self, Found};
use super::{find, print, text};
use crate::server::URL_PREFIX;

/// The process that runs a pod, told beside its JSON.
const PID: &str = "copepod.dev/pid";

/// List the pods of every copepod run.
///
/// The exit code is 1 if nothing runs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    namespace: find::Namespace,
    /// What to print: a table, a wider one, pod/NAME lines, or a PodList in JSON
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Name,
    Json,
}

/// Runs the command.
///
/// # Errors
/// Nothing runs, or an output that cannot be written.
pub(super) async fn run(args: Args) -> Result<u8> {
    let runs = api::runs().await?;
    let namespace = args.namespace.namespace.as_deref();
    let pods = find::all(&runs, namespace);
    if pods.is_empty() {
        bail!(find::nothing_runs(namespace));
    }
    let text = match args.output {
        Output::Table | Output::Wide => table(&pods, args.output == Output::Wide, Timestamp::now()),
        Output::Name => pods.iter().map(|found| format!("pod/{}\n", found.name())).collect(),
        Output::Json => {
            let items = pods.iter().map(with_pid).collect();
            serde_json::to_string_pretty(&List::<Pod> { items, ..List::default() })? + "\n"
        }
    };
    print(text.as_bytes())?;
    Ok(0)
}

fn with_pid(found: &Found<'_>) -> Pod {
    let mut pod = found.pod.clone();
    if let Some(pid) = found.run.pid {
        pod.metadata.annotations.get_or_insert_default().insert(PID.into(), pid.to_string());
    }
    pod
}

fn table(pods: &[Found<'_>], wide: bool, now: Timestamp) -> String {
    let mut titles =
        vec!["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "PORTS", "PID"];
    if wide {
        titles.extend(["UID", "IMAGES"]);
    }
    let mut rows = vec![titles.into_iter().map(String::from).collect::<Vec<_>>()];
    rows.extend(pods.iter().map(|found| row(found, wide, now)));
    let colour = io::stdout().is_terminal();
    text::columns(&rows, |y, x, cell| match (colour, y, x) {
        (false, _, _) => cell,
        (true, 0, _) => Style::new().dim().apply_to(cell).to_string(),
        (true, _, STATUS) => Style::new().fg(colour_of(cell.trim_end())).apply_to(cell).to_string(),
        (true, _, _) => cell,
    })
}

/// The column of a pod's status.
const STATUS: usize = 3;

fn colour_of(status: &str) -> Color {
    match status {
        "Running" => Color::Green,
        "Completed" | "Succeeded" => Color::Blue,
        "Pending" | "ContainerCreating" | "PodInitializing" | "NotReady" => Color::Yellow,
        initializing if initializing.starts_with("Init:") && initializing.contains('/') => {
            Color::Yellow
        }
        _ => Color::Red,
    }
}

fn row(found: &Found<'_>, wide: bool, now: Timestamp) -> Vec<String> {
    let pod = found.pod;
    let main = containers(pod);
    let count = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = main.iter().filter(|status| status.ready).count();
    let init = init_containers(pod);
    let restarts: i32 = init.iter().chain(main).map(|status| status.restart_count).sum();
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let since = started.or(pod.metadata.creation_timestamp.as_ref());
    let mut cells = vec![
        found.namespace().to_owned(),
        found.name().to_owned(),
        format!("{ready}/{count}"),
        status(pod),
        restarts.to_string(),
        since.map(|time| text::age(time, now)).unwrap_or_default(),
        ports(pod),
        found.run.pid.map(|pid| pid.to_string()).unwrap_or_default(),
    ];
    if wide {
        let spec = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let images = spec.iter().filter_map(|container| container.image.clone());
        cells.extend([found.uid().to_owned(), images.collect::<Vec<_>>().join(",")]);
    }
    for cell in cells.iter_mut().filter(|cell| cell.is_empty()) {
        cell.push_str("<none>");
    }
    cells
}

fn containers(pod: &Pod) -> &[ContainerStatus] {
    let status = pod.status.as_ref();
    status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

fn init_containers(pod: &Pod) -> &[ContainerStatus] {
    let status = pod.status.as_ref();
    status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default()
}

/// Where its servers answer; beside them the ports that it declares.
fn ports(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.iter().flatten();
    let urls: Vec<&str> = annotations
        .filter(|(key, _)| key.starts_with(URL_PREFIX))
        .map(|(_, url)| url.as_str())
        .collect();
    let served = |port: i32| urls.iter().any(|url| url.ends_with(&format!(":{port}")));
    let spec = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let declared = spec.iter().flat_map(|container| container.ports.iter().flatten());
    let declared = declared.filter(|port| !served(port.container_port)).map(|port| {
        format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP"))
    });
    urls.iter().map(|url| (*url).to_owned()).chain(declared).collect::<Vec<_>>().join(",")
}

/// What a pod does in one word, as kubectl has it (upstream's `printPod`).
fn status(pod: &Pod) -> String {
    let of_pod = pod.status.clone().unwrap_or_default();
    let mut text = of_pod.reason.or(of_pod.phase).unwrap_or_else(|| "Unknown".into());
    let init = init_containers(pod);
    for (passed, status) in init.iter().enumerate() {
        let state = status.state.clone().unwrap_or_default();
        if let Some(end) = state.terminated {
            if end.exit_code == 0 {
                continue;
            }
            let why = end.reason.unwrap_or_else(|| format!("ExitCode:{}", end.exit_code));
            return format!("Init:{why}");
        }
        let waits = state.waiting.and_then(|waiting| waiting.reason);
        return match waits.filter(|reason| reason != "PodInitializing") {
            Some(reason) => format!("Init:{reason}"),
            None => format!("Init:{passed}/{}", init.len()),
        };
    }
    let mut runs = false;
    for status in containers(pod).iter().rev() {
        let state = status.state.clone().unwrap_or_default();
        match (state.waiting.and_then(|waiting| waiting.reason), state.terminated) {
            (Some(reason), _) => text = reason,
            (None, Some(end)) => {
                text = end.reason.unwrap_or_else(|| format!("ExitCode:{}", end.exit_code));
            }
            (None, None) => runs |= status.ready && state.running.is_some(),
        }
    }
    if text == "Completed" && runs {
        let conditions = of_pod.conditions.unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        text = if ready { "Running" } else { "NotReady" }.into();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]},
                {"name": "b"},
            ]},
            "status": status,
        }))
        .expect("a pod")
    }

    fn container(state: &serde_json::Value) -> serde_json::Value {
        let ready = state.get("running").is_some();
        json!({"name": "a", "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state})
    }

    #[test]
    fn statuses_are_kubectls() {
        let ended = |code: i32, reason: &str| {
            container(&json!({"terminated": {"exitCode": code, "reason": reason}}))
        };
        let unnamed = container(&json!({"terminated": {"exitCode": 7}}));
        let waits = |reason: &str| container(&json!({"waiting": {"reason": reason}}));
        let runs = container(&json!({"running": {}}));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for (expected, init, main, conditions) in [
            ("Pending", json!([]), json!([]), json!([])),
            ("Running", json!([]), json!([ended(0, "Completed"), runs]), ready),
            ("NotReady", json!([]), json!([ended(0, "Completed"), runs]), json!([])),
            ("Completed", json!([]), json!([ended(0, "Completed")]), json!([])),
            ("Error", json!([]), json!([ended(3, "Error"), waits("X")]), json!([])),
            ("ExitCode:7", json!([]), json!([unnamed]), json!([])),
            ("CrashLoopBackOff", json!([]), json!([waits("CrashLoopBackOff"), runs]), json!([])),
            ("Init:0/2", json!([runs, waits("PodInitializing")]), json!([]), json!([])),
            ("Init:1/2", json!([ended(0, "Completed"), runs]), json!([]), json!([])),
            ("Init:Error", json!([ended(1, "Error")]), json!([]), json!([])),
            ("Init:ExitCode:7", json!([unnamed]), json!([]), json!([])),
            ("Init:ErrImagePull", json!([waits("ErrImagePull")]), json!([]), json!([])),
        ] {
            let pod = pod(&json!({
                "phase": "Pending", "initContainerStatuses": init, "containerStatuses": main,
                "conditions": conditions,
            }));
            assert_eq!(status(&pod), expected);
        }
        assert_eq!(status(&pod(&json!({"phase": "Failed", "reason": "Evicted"}))), "Evicted");
    }

    #[test]
    fn ports_are_where_something_answers() {
        let mut pod = pod(&json!({}));
        assert_eq!(ports(&pod), "80/TCP,53/UDP");
        let url = (format!("{URL_PREFIX}a"), "http://localhost:80".to_owned());
        pod.metadata.annotations = Some([url].into());
        assert_eq!(ports(&pod), "http://localhost:80,53/UDP");
    }
}
