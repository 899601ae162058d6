//! A node of a cluster, beside the kubelet of the same version with containerd and runc: how long a
//! pod takes from its creation until a client that watches sees it Ready, what that costs the API
//! server, and what the agent costs by itself.
//!
//! One control plane serves all nodes. They are measured one after the other, each alone: with
//! pods of the host's network and with addresses of a bridge. Ours is measured twice, with Wasm pods
//! and, with a containerd as the kubelet's, with the kubelet's own pods.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use copepod_tests::cluster::api::Watch;
use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::kubelet::Kubelet;
use copepod_tests::cluster::metrics::Metrics;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Api, Build, ControlPlane, Node, NodeOptions, Options};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest, holds_within};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::measure::Sample;
use crate::program::Programs;
use crate::report::{Aim, Report, Row};

/// Pods before those that count, one after another, and at once.
const WARM_UP: usize = 3;
const IN_TURN: usize = 20;
const AT_ONCE: usize = 40;
/// Clients that make those at once: one alone would be slower than a node.
const CLIENTS: usize = 4;
/// Longest time for anything here.
pub(crate) const LONG: Duration = Duration::from_secs(180);
/// How long an agent that has nothing to do is looked at.
const IDLE: Duration = Duration::from_secs(20);
/// How long it is left alone before that, for what it does after its last pod.
const REST: Duration = Duration::from_secs(5);
/// Between two looks at the API server for what is not measured.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Where the pods are.
const NAMESPACE: &str = "default";

const MIB: f64 = 1024.0;

/// A node that is measured.
enum Side<'a> {
    /// Ours with Wasm pods of this image.
    Wasm {
        node: Node<'a>,
        image: String,
    },
    /// Ours with busybox pods.
    Ordinary(Node<'a>),
    Kubelet(Kubelet),
}

impl Side<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Wasm { node, .. } | Self::Ordinary(node) => node.name(),
            Self::Kubelet(kubelet) => kubelet.name(),
        }
    }

    /// What the node is made of, without its pods: its agent, and its containerd if it has one.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Wasm { node, .. } => vec![raw(node.pid())],
            Self::Ordinary(node) => vec![raw(node.pid()), raw(node.containerd().pid())],
            Self::Kubelet(kubelet) => kubelet.pids().into(),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Wasm { node, .. } | Self::Ordinary(node) => node.log(),
            Self::Kubelet(kubelet) => kubelet.log(),
        }
    }

    /// A pod that does nothing, of the kind that this node is for.
    fn pod(&self, name: &str, host_network: bool) -> Value {
        let container = match self {
            Self::Wasm { image, .. } => {
                json!({"name": "main", "image": image, "args": ["--every", "3600000"]})
            }
            Self::Kubelet(_) | Self::Ordinary(_) => {
                json!({"name": "main", "image": BUSYBOX, "command": ["sleep", "3600"]})
            }
        };
        json!({
            "metadata": {"name": name, "labels": {"bench": "node"}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": self.name()},
                "hostNetwork": host_network,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        })
    }
}

/// What one node was measured to be.
#[derive(Default)]
struct Figures {
    /// Milliseconds from creation to Ready, of pods one after another; and from the moment they
    /// were bound to the node.
    ready: Vec<f64>,
    bound: Vec<f64>,
    /// Seconds until the last of those at once was Ready.
    all: f64,
    /// Writes to the API server for each pod, from creation to deletion.
    writes: f64,
}

/// The rows of this part.
pub(crate) fn measure(_: &Programs, report: &mut Report) -> Result<()> {
    let plane = ControlPlane::start(&Options::default());
    let registry = Registry::start();
    let image = format!("{}/hello:1", registry.host());
    let home = Home::with_empty_cache();
    let file = guest("hello");
    let file = file.to_str().context("a path in UTF-8")?;
    let output = home.copepod(["image", "push", file, &image]).output(LONG);
    ensure!(output.status.success(), "{output:?}");

    let account = || plane.api().get("configmaps", NAMESPACE, "kube-root-ca.crt").is_some();
    ensure!(within(LONG, account), "no pod could start");
    let kubelet = one_node(&plane, &Side::Kubelet(Kubelet::start(&plane, "kubelet", |_| ())))
        .context("the kubelet")?;
    let containerd = Some(Build::Usual);
    let node = Node::start(&plane, NodeOptions { containerd, ..NodeOptions::default() });
    let ordinary = copepod_node(&plane, Side::Ordinary(node)).context("ordinary pods")?;
    let node = Node::start(&plane, NodeOptions::default());
    let wasm = copepod_node(&plane, Side::Wasm { node, image }).context("Wasm pods")?;
    show(report, &wasm, &kubelet);
    show_ordinary(report, &ordinary, &kubelet);
    plane.finish();
    Ok(())
}

/// Measures a node of ours, of which nothing may be left.
fn copepod_node(plane: &ControlPlane, side: Side<'_>) -> Result<Whole> {
    // Said here: what is left of a node whose measurement failed is the louder failure.
    let whole = one_node(plane, &side).inspect_err(|error| eprintln!("{error:?}"))?;
    match side {
        Side::Wasm { node, .. } | Side::Ordinary(node) => node.finish(),
        Side::Kubelet(_) => {}
    }
    Ok(whole)
}

/// What a whole node was measured to be.
struct Whole {
    /// With the host's network, and with the bridge.
    host: Figures,
    bridge: Figures,
    /// MiB without pods and with [`AT_ONCE`], and milliseconds of processor time a second with so many.
    empty: f64,
    full: f64,
    idle: f64,
    /// MiB with [`AT_ONCE`] of its agent alone.
    agent: f64,
}

fn one_node(plane: &ControlPlane, side: &Side<'_>) -> Result<Whole> {
    let api = plane.api();
    let ready = || {
        let node = api.get("nodes", "", side.name());
        node.is_some_and(|n| condition(&n, "Ready").is_some_and(|c| c["status"] == "True"))
    };
    ensure!(within(LONG, ready), "the node is not Ready:\n{}", side.log());
    let empty = pss(&side.pids())?;
    let host = pods(api, side, true).with_context(|| side.log())?;
    let bridge = pods(api, side, false).with_context(|| side.log())?;
    at_once(api, side, false, "idle").with_context(|| side.log())?;
    thread::park_timeout(REST);
    let full = pss(&side.pids())?;
    let agent = pss(&side.pids()[..1])?;
    let before = processor_ms(&side.pids())?;
    thread::park_timeout(IDLE);
    let idle = (processor_ms(&side.pids())? - before) / IDLE.as_secs_f64();
    delete(api, LONG)?;
    Ok(Whole { host, bridge, empty, full, idle, agent })
}

/// A process's number.
pub(crate) fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

pub(crate) fn within(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
    holds_within(time, || {
        let held = holds();
        if !held {
            thread::park_timeout(ASK_EVERY);
        }
        held
    })
}

/// Pods of one network.
fn pods(api: &Api, side: &Side<'_>, host_network: bool) -> Result<Figures> {
    let mut figures = Figures::default();
    in_turn(api, side, host_network, WARM_UP)?;
    delete(api, LONG)?;
    let before = api.metrics();
    for (ready, bound) in in_turn(api, side, host_network, IN_TURN)? {
        figures.ready.push(ready);
        figures.bound.push(bound);
    }
    delete(api, LONG)?;
    figures.writes = writes(&before, &api.metrics()) / IN_TURN as f64;
    figures.all = at_once(api, side, host_network, "at-once")?;
    delete(api, LONG)?;
    Ok(figures)
}

/// Makes pods, each once the one before is Ready: milliseconds from creation and from the binding.
fn in_turn(api: &Api, side: &Side<'_>, host: bool, count: usize) -> Result<Vec<(f64, f64)>> {
    let mut watch = api.watch("pods", NAMESPACE);
    (0..count)
        .map(|n| {
            let pod = side.pod(&format!("in-turn-{n}"), host);
            let begin = Instant::now();
            let uid = api.create("pods", NAMESPACE, &pod)["metadata"]["uid"].clone();
            let mut bound = None;
            loop {
                let (object, seen) = next(&mut watch)?;
                if object["metadata"]["uid"] != uid {
                    continue;
                }
                if bound.is_none() && object["spec"]["nodeName"].is_string() {
                    bound = Some(seen);
                }
                if is_ready(&object) {
                    let ms = |since: Instant| (seen - since).as_secs_f64() * 1000.0;
                    return Ok((ms(begin), ms(bound.unwrap_or(begin))));
                }
            }
        })
        .collect()
}

/// Makes [`AT_ONCE`] pods as fast as it goes: seconds until the last is Ready.
fn at_once(api: &Api, side: &Side<'_>, host: bool, name: &str) -> Result<f64> {
    let mut watch = api.watch("pods", NAMESPACE);
    let all: Vec<Value> = (0..AT_ONCE).map(|n| side.pod(&format!("{name}-{n}"), host)).collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        for part in all.chunks(AT_ONCE.div_ceil(CLIENTS)) {
            scope.spawn(|| part.iter().for_each(|pod| drop(api.create("pods", NAMESPACE, pod))));
        }
        let mut seen: BTreeMap<String, bool> = BTreeMap::new();
        loop {
            let (object, at) = next(&mut watch)?;
            seen.insert(object["metadata"]["uid"].to_string(), is_ready(&object));
            if seen.len() == AT_ONCE && seen.values().all(|ready| *ready) {
                return Ok((at - begin).as_secs_f64());
            }
        }
    })
}

/// The next change of a pod that is not its end.
fn next(watch: &mut Watch) -> Result<(Value, Instant)> {
    loop {
        let (kind, object, seen) = watch.next(LONG).context("no pod changed any more")?;
        if object["status"]["phase"] == "Failed" {
            bail!("a pod failed: {}", object["status"]);
        }
        if kind != "DELETED" {
            return Ok((object, seen));
        }
    }
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// Deletes all pods and waits until they are gone.
pub(crate) fn delete(api: &Api, within_time: Duration) -> Result<()> {
    api.delete_all("pods", NAMESPACE);
    ensure!(within(within_time, || api.list("pods", NAMESPACE).is_empty()), "pods are not deleted");
    Ok(())
}

/// What a node writes for its pods: statuses, tokens, events but the scheduler's one a pod, and the
/// last word of a deletion. Each is an answer of the API server, whatever it was.
fn writes(before: &Metrics, after: &Metrics) -> f64 {
    let count = |labels: &[(&str, &str)]| after.requests(labels) - before.requests(labels);
    let statuses = count(&[("verb", "PATCH"), ("resource", "pods"), ("subresource", "status")]);
    let tokens = count(&[("resource", "serviceaccounts"), ("subresource", "token")]);
    let events = count(&[("verb", "POST"), ("resource", "events")])
        + count(&[("verb", "PATCH"), ("resource", "events")]);
    let scheduled = count(&[("resource", "pods"), ("subresource", "binding")]);
    let deletions = count(&[("verb", "DELETE"), ("resource", "pods")]);
    statuses + tokens + events - scheduled + deletions
}

/// MiB of processes, what they share with others divided among all of them.
pub(crate) fn pss(pids: &[u32]) -> Result<f64> {
    let each = pids.iter().map(|pid| {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).context(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / MIB)
    });
    each.sum()
}

/// Milliseconds of processor time that processes have used.
pub(crate) fn processor_ms(pids: &[u32]) -> Result<f64> {
    let tick = 1000.0 / rustix::param::clock_ticks_per_second() as f64;
    let each = pids.iter().map(|pid| {
        let file = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&file).context(file)?;
        let (_, after) = text.rsplit_once(')').context("no name")?;
        let ticks = after.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>);
        anyhow::Ok(ticks.sum::<f64>() * tick)
    });
    each.sum()
}

/// A row beside the kubelet's.
fn row(
    report: &mut Report,
    (what, unit): (&str, &'static str),
    ours: &[f64],
    other: &[f64],
    aim: Aim,
) {
    let (copepod, other) = (Sample::new(ours.to_vec()), Some(Sample::new(other.to_vec())));
    report.row(Row { what: what.into(), unit, copepod, other, aim });
}

/// The rows about pods of one network.
fn show_pods(report: &mut Report, ours: &Figures, other: &Figures, ready: Aim, at_once: Aim) {
    let longest = |all: &[f64]| [all.iter().copied().fold(0.0, f64::max)];
    let rate = |figures: &Figures| [AT_ONCE as f64 / figures.all];
    row(report, ("create to Ready, median of 20", "ms"), &ours.ready, &other.ready, ready);
    let (our_longest, other_longest) = (longest(&ours.ready), longest(&other.ready));
    row(report, ("create to Ready, longest", "ms"), &our_longest, &other_longest, Aim::None);
    row(report, ("bound to Ready", "ms"), &ours.bound, &other.bound, Aim::None);
    row(report, ("40 at once", "pods/s"), &rate(ours), &rate(other), at_once);
    row(report, ("API writes a pod", ""), &[ours.writes], &[other.writes], Aim::NotMore);
}

fn show(report: &mut Report, ours: &Whole, other: &Whole) {
    report.head_beside("Wasm pods with the host's network", "kubelet");
    let (ready, at_once) = (Aim::RatioAtMost(0.1), Aim::RatioAtLeast(20.0));
    show_pods(report, &ours.host, &other.host, ready, at_once);
    report.head_beside("Wasm pods with a bridge", "kubelet");
    show_pods(report, &ours.bridge, &other.bridge, Aim::None, Aim::None);
    report.head_beside("the agent (kubelet: with containerd)", "kubelet");
    row(report, ("memory, no pod", "MiB"), &[ours.empty], &[other.empty], Aim::None);
    let at_most = Aim::AtMost(25.0);
    row(report, ("memory, 40 pods", "MiB"), &[ours.full], &[other.full], at_most);
    let idle = ("processor time, 40 idle pods", "ms/s");
    row(report, idle, &[ours.idle], &[other.idle], Aim::NotMore);
}

/// The same pods on the same containerd.
fn show_ordinary(report: &mut Report, ours: &Whole, other: &Whole) {
    let (ready, at_once) = (Aim::RatioAtMost(0.6), Aim::RatioAtLeast(1.0 / 0.6));
    for (network, ours, other) in
        [("the host's network", &ours.host, &other.host), ("a bridge", &ours.bridge, &other.bridge)]
    {
        report.head_beside(&format!("busybox pods with {network}"), "kubelet");
        show_pods(report, ours, other, ready, at_once);
    }
    report.head_beside("the agent with busybox pods", "kubelet");
    let memory = ("memory of the agent alone, 40 pods", "MiB");
    row(report, memory, &[ours.agent], &[other.agent], Aim::RatioAtMost(0.6));
    row(report, ("with containerd", "MiB"), &[ours.full], &[other.full], Aim::None);
    let idle = ("processor time with containerd, 40 idle pods", "ms/s");
    row(report, idle, &[ours.idle], &[other.idle], Aim::NotMore);
}
