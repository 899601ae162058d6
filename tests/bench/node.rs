//! A node of a cluster, beside the kubelet of the same version with containerd and runc: how long a
//! pod takes from its creation until a client that watches sees it Ready, what that costs the API
//! server, and what the agent costs by itself.
//!
//! One control plane serves both nodes. They are measured one after the other, each alone: with
//! pods of the host's network and with addresses of a bridge.

mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use copepod_tests::cluster::api::Watch;
use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::metrics::Metrics;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Api, ControlPlane, Node, NodeOptions, Options};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest, holds_within};
use serde_json::{Value, json};

use crate::measure::Sample;
use crate::program::Programs;
use crate::report::{Aim, Report, Row};
use reference::Kubelet;

/// Pods before those that count, one after another, and at once.
const WARM_UP: usize = 3;
const IN_TURN: usize = 20;
const AT_ONCE: usize = 40;
/// Clients that make those at once: one alone would be slower than a node.
const CLIENTS: usize = 4;
/// Longest time for anything here.
const LONG: Duration = Duration::from_secs(180);
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
    Copepod { node: Node<'a>, image: String },
    Kubelet(Kubelet),
}

impl Side<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Copepod { node, .. } => node.name(),
            Self::Kubelet(kubelet) => &kubelet.name,
        }
    }

    /// What the node is made of, without its pods.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Copepod { node, .. } => {
                vec![node.pid().as_raw_nonzero().get().cast_unsigned()]
            }
            Self::Kubelet(kubelet) => kubelet.pids().into(),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Copepod { node, .. } => node.log(),
            Self::Kubelet(kubelet) => kubelet.log(),
        }
    }

    /// A pod that does nothing, of the kind that this node is for.
    fn pod(&self, name: &str, host_network: bool) -> Value {
        let container = match self {
            Self::Copepod { image, .. } => {
                json!({"name": "main", "image": image, "args": ["--every", "3600000"]})
            }
            Self::Kubelet(_) => {
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
    let kubelet =
        one_node(&plane, &Side::Kubelet(Kubelet::start(&plane, 1)?)).context("the kubelet")?;
    let copepod = copepod_node(&plane, image).context("copepod node")?;
    show(report, copepod, kubelet);
    plane.finish();
    Ok(())
}

/// Measures a node of ours, of which nothing may be left.
fn copepod_node(plane: &ControlPlane, image: String) -> Result<Whole> {
    let side = Side::Copepod { node: Node::start(plane, NodeOptions::default()), image };
    // Said here: what is left of a node whose measurement failed is the louder failure.
    let whole = one_node(plane, &side).inspect_err(|error| eprintln!("{error:?}"))?;
    if let Side::Copepod { node, .. } = side {
        node.finish();
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
    let before = processor_ms(&side.pids())?;
    thread::park_timeout(IDLE);
    let idle = (processor_ms(&side.pids())? - before) / IDLE.as_secs_f64();
    delete(api)?;
    Ok(Whole { host, bridge, empty, full, idle })
}

fn within(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
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
    delete(api)?;
    let before = api.metrics();
    for (ready, bound) in in_turn(api, side, host_network, IN_TURN)? {
        figures.ready.push(ready);
        figures.bound.push(bound);
    }
    delete(api)?;
    figures.writes = writes(&before, &api.metrics()) / IN_TURN as f64;
    figures.all = at_once(api, side, host_network, "at-once")?;
    delete(api)?;
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
                if ready(&object) {
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
            seen.insert(object["metadata"]["uid"].to_string(), ready(&object));
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

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// Deletes all pods and waits until they are gone.
fn delete(api: &Api) -> Result<()> {
    api.delete_all("pods", NAMESPACE);
    ensure!(within(LONG, || api.list("pods", NAMESPACE).is_empty()), "pods are not deleted");
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
fn pss(pids: &[u32]) -> Result<f64> {
    let each = pids.iter().map(|pid| {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).context(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / MIB)
    });
    each.sum()
}

/// Milliseconds of processor time that processes have used.
fn processor_ms(pids: &[u32]) -> Result<f64> {
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

fn show(report: &mut Report, copepod: Whole, kubelet: Whole) {
    let row = |report: &mut Report, what: &str, unit, ours: Vec<f64>, other: Vec<f64>, aim| {
        let (copepod, other) = (Sample::new(ours), Some(Sample::new(other)));
        report.row(Row { what: what.into(), unit, copepod, other, aim });
    };
    for (network, ours, other, tenth) in [
        ("the host's network", copepod.host, kubelet.host, Aim::RatioAtMost(0.1)),
        ("a bridge", copepod.bridge, kubelet.bridge, Aim::None),
    ] {
        report.head_beside(&format!("pods with {network}"), "kubelet");
        let most = |all: &[f64]| vec![all.iter().copied().fold(0.0, f64::max)];
        let (our_most, other_most) = (most(&ours.ready), most(&other.ready));
        row(report, "create to Ready, median of 20", "ms", ours.ready, other.ready, tenth);
        row(report, "create to Ready, longest", "ms", our_most, other_most, Aim::None);
        row(report, "bound to Ready", "ms", ours.bound, other.bound, Aim::None);
        let rate = |all: f64| vec![AT_ONCE as f64 / all];
        let (our_rate, other_rate) = (rate(ours.all), rate(other.all));
        let aim = if tenth.is_some() { Aim::RatioAtLeast(20.0) } else { Aim::None };
        row(report, "40 at once", "pods/s", our_rate, other_rate, aim);
        let (ours, other) = (vec![ours.writes], vec![other.writes]);
        row(report, "API writes a pod", "", ours, other, Aim::NotMore);
    }
    report.head_beside("the agent (kubelet: with containerd)", "kubelet");
    let one = |value: f64| vec![value];
    row(report, "memory, no pod", "MiB", one(copepod.empty), one(kubelet.empty), Aim::None);
    let (ours, other) = (one(copepod.full), one(kubelet.full));
    row(report, "memory, 40 pods", "MiB", ours, other, Aim::AtMost(25.0));
    let (ours, other) = (one(copepod.idle), one(kubelet.idle));
    row(report, "processor time, 40 idle pods", "ms/s", ours, other, Aim::NotMore);
}
