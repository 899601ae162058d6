//! Many probed pods on one node of ours: what 500 Wasm pods with a probe each second cost the agent,
//! how late the probes come, and whether any fails that should not.
//!
//! Each pod's readiness is asked of its own guest, over its own port of the host's network. Of every
//! tenth one the liveness is asked of a server here, which sees when each request comes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::{Api, ControlPlane, Node, NodeOptions, Options};
use copepod_tests::registry::Registry;
use copepod_tests::{Home, guest};
use serde_json::{Value, json};

use crate::node::{LONG, delete, is_ready, processor_ms, pss, raw, within};
use crate::program::Programs;
use crate::report::{Aim, Report, Row};

const PODS: usize = 500;
/// Each so many have a probe that the server here sees.
const SEEN: usize = 10;
/// Clients that make the pods.
const CLIENTS: usize = 4;
/// The first pod's port; each has the next.
const FIRST_PORT: usize = 21_000;
/// How long the node is looked at.
const WATCHED: Duration = Duration::from_secs(60);
/// How long it is left alone before that.
const REST: Duration = Duration::from_secs(10);
/// For the making and the deletion of so many pods.
const ALL: Duration = Duration::from_secs(600);
/// How long a client of the server here may say nothing.
const SILENT: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_secs(1);
const NAMESPACE: &str = "default";

/// When each pod's probe came, by its path.
type Arrivals = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// The rows of this part.
pub(crate) fn measure(_: &Programs, report: &mut Report) -> Result<()> {
    let plane = ControlPlane::start(&Options::default());
    let registry = Registry::start();
    let image = format!("{}/http:1", registry.host());
    let home = Home::with_empty_cache();
    let file = guest("http");
    let file = file.to_str().context("a path in UTF-8")?;
    let output = home.copepod(["image", "push", file, &image]).output(LONG);
    ensure!(output.status.success(), "{output:?}");
    let config = json!({"maxPods": PODS + 50});
    let node = Node::start(&plane, NodeOptions { config, ..NodeOptions::default() });
    let measured = probed(&plane, &node, &image, report).with_context(|| node.log());
    // Said here: what is left of a node whose measurement failed is the louder failure.
    measured.inspect_err(|error| eprintln!("{error:?}"))?;
    node.finish();
    plane.finish();
    Ok(())
}

fn probed(plane: &ControlPlane, node: &Node<'_>, image: &str, report: &mut Report) -> Result<()> {
    let api = plane.api();
    let account = || api.get("configmaps", NAMESPACE, "kube-root-ca.crt").is_some();
    ensure!(within(LONG, account), "no pod could start");
    node.wait_ready(LONG);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let arrivals = Arrivals::default();
    thread::spawn({
        let arrivals = Arc::clone(&arrivals);
        move || serve(&listener, &arrivals)
    });
    let begin = Instant::now();
    create(api, node.name(), image, port);
    let all_ready = || {
        let pods = api.list("pods", NAMESPACE);
        pods.len() == PODS && pods.iter().all(is_ready)
    };
    ensure!(within(ALL, all_ready), "not all pods are Ready");
    let took = begin.elapsed().as_secs_f64();
    thread::park_timeout(REST);
    let pids = [raw(node.pid())];
    let (before, failed) = (processor_ms(&pids)?, failures(api));
    arrivals.lock().expect("no panic").clear();
    thread::park_timeout(WATCHED);
    let cost = (processor_ms(&pids)? - before) / WATCHED.as_secs_f64();
    let late = lateness(&arrivals);
    let memory = pss(&pids)?;
    let failed = failures(api) - failed;
    report.head("500 Wasm pods with a probe each second");
    let mut alone = |what, unit, value, aim| report.row(Row::alone(what, unit, value, aim));
    alone("created and Ready", "pods/s", PODS as f64 / took, Aim::None);
    alone("the agent's processor time", "ms/s", cost, Aim::None);
    alone("the agent's memory", "MiB", memory, Aim::None);
    alone("a probe's lateness, median", "ms", at(&late, 0.5), Aim::None);
    alone("a probe's lateness, 99 of 100", "ms", at(&late, 0.99), Aim::None);
    alone("probes that failed and should not have", "", failed, Aim::AtMost(0.0));
    delete(api, ALL)
}

fn create(api: &Api, node: &str, image: &str, port: u16) {
    let all: Vec<Value> = (0..PODS).map(|n| pod(n, node, image, port)).collect();
    thread::scope(|scope| {
        for part in all.chunks(PODS.div_ceil(CLIENTS)) {
            scope.spawn(|| part.iter().for_each(|pod| drop(api.create("pods", NAMESPACE, pod))));
        }
    });
}

fn pod(n: usize, node: &str, image: &str, port: u16) -> Value {
    let own = FIRST_PORT + n;
    let get = json!({"port": own, "path": "/healthz"});
    let mut container = json!({
        "name": "main", "image": image, "ports": [{"containerPort": own}],
        "readinessProbe": {"httpGet": get, "periodSeconds": 1, "failureThreshold": 1},
    });
    if n.is_multiple_of(SEEN) {
        let get = json!({"host": "127.0.0.1", "port": port, "path": format!("/{n}")});
        container["livenessProbe"] = json!({"httpGet": get, "periodSeconds": 1});
    }
    json!({
        "metadata": {"name": format!("probed-{n}")},
        "spec": {
            "nodeName": node,
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    })
}

/// Answers every request with nothing and notes when it came.
fn serve(listener: &TcpListener, arrivals: &Arrivals) {
    for stream in listener.incoming().flatten() {
        let at = Instant::now();
        if let Some(path) = answer(&stream) {
            arrivals.lock().expect("no panic").entry(path).or_default().push(at);
        }
    }
}

fn answer(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(SILENT)).ok()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    first.split(' ').nth(1).map(str::to_owned)
}

/// Milliseconds by which each probe came later than a period after the one before.
fn lateness(arrivals: &Arrivals) -> Vec<f64> {
    let arrivals = arrivals.lock().expect("no panic");
    let pairs = arrivals.values().flat_map(|times| times.windows(2));
    let late = |pair: &[Instant]| (pair[1] - pair[0]).saturating_sub(PERIOD).as_secs_f64() * 1000.0;
    let mut all: Vec<f64> = pairs.map(late).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The value below which that share of all lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// How many probes the node said to have failed, and containers to be restarted.
fn failures(api: &Api) -> f64 {
    let events = api.list("events", NAMESPACE);
    let unhealthy = events.iter().filter(|event| event["reason"] == "Unhealthy");
    let said: f64 = unhealthy.map(|event| event["count"].as_f64().unwrap_or(1.0)).sum();
    let pods = api.list("pods", NAMESPACE);
    let restarts = pods
        .iter()
        .filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_f64());
    said + restarts.sum::<f64>()
}
