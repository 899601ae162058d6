//! A node of a cluster: which pods are run here, from the API server's word to their workers and
//! back.
//!
//! Owns: the start of everything that a node has ([`run`], in the order of [`build`]), the loop that
//! hands out pods ([`agent`]), static pods ([`static_pods`]), what belongs to no pod ([`orphans`]), what pods are told of the node
//! ([`standing`]), the table of the pods that are here ([`board`]), and which of them the
//! node takes ([`admit`]; those that wait for that are in [`waiting`]), and what each of them has
//! ([`allocation`]). In: a [`Config`]. Out: the node, until it is told to end; containers go on
//! without it. Starts one task for each pod that is cleaned away, beside those of the rooms that it
//! joins.
//! Decides nothing about containers: that is [`copepod_pod::step`]'s, and admission is
//! [`copepod_pod::admit`]'s.

mod admit;
mod agent;
mod allocation;
mod board;
mod build;
mod classes;
mod enforce;
mod error;
mod images;
mod orphans;
mod outlet;
mod standing;
mod static_pods;
mod supply;
mod user_ids;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::Facts;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

pub(crate) use error::NodeError;

use self::admit::Admission;
use self::agent::Agent;
use self::allocation::Allocations;
use self::board::Board;
use self::images::Images;
use self::outlet::News;
use self::standing::Standing;
use self::static_pods::Statics;
use self::supply::ClusterSupplier;
use self::waiting::Waiting;
use crate::cluster::client::{self, connect};
use crate::cluster::events::Recorder;
use crate::cluster::kubeconfig::Kubeconfig;
use crate::cluster::mirror::{self, Mirrors};
use crate::cluster::objects::ObjectStore;
use crate::cluster::reviews::Reviews;
use crate::cluster::status::StatusWriter;
use crate::cluster::{node, node::NodeHandle, status};
use crate::config::Config;
use crate::image;
use crate::ledger::Ledger;
use crate::linux;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::runtime::Happening;
use crate::runtime::both::Both;
use crate::runtime::cri::Cri;
use crate::runtime::wasm::Wasm;
use crate::server::Server;
use crate::telemetry::chain;
use crate::worker::{Host, PodCgroups, Shared, Workers};

/// How long static pods wait at an agent's start for the node that the API server has: what it costs a
/// board without a link.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long they wait for its pods where it has just told of the node.
const PATIENCE_WITH_PODS: Duration = Duration::from_secs(5);

/// Runs the node until it is told to end (SIGTERM, SIGINT). Containers outlive it.
///
/// # Errors
/// [`NodeError`]: what keeps the node from starting.
pub(crate) async fn run(config: Config, sandbox: std::path::PathBuf) -> Result<(), NodeError> {
    let mut end = End::new().map_err(NodeError::Signals)?;
    guard(&config);
    let kubeconfig = Kubeconfig::read(&config.kubeconfig, &config.node.name, Timestamp::now())?;
    if let Some(expires) = kubeconfig.expires {
        tracing::info!(%expires, "the node's client certificate is good until then");
    }
    let ledger = Arc::new(build::ledger(&config)?);
    let network = Network::open(build::network(&config));
    // What runs already is taken over first, whether or not there is an API server.
    let Runtimes { runtime, happenings, images, cgroups } =
        runtimes(&config, sandbox, &ledger).await?;

    let client = connect(&kubeconfig, client::Options::default());
    let rate = config.events;
    let name = &config.node.name;
    let recorder = Recorder::start(client.clone(), name, rate.per_second, rate.burst);
    let handle = node::start(client.clone(), build::node(&config), recorder.clone());
    let board = Board::new(Arc::clone(&ledger), config.pods.sync_every);
    let health = match config.server.healthz {
        Some(address) => Some(Server::start_health(address, board.clone()).await?),
        None => None,
    };

    // No pod is looked at before the node is there: pods read its addresses, admission its labels.
    // Static pods run without an API server, and wait for it a moment only.
    let patience = config.static_pods.is_any().then_some(PATIENCE);
    let mut standing = standing::follow(handle.clone(), patience);
    let Standing { node: object, is_registered } = tokio::select! {
        first = standing::first(&mut standing) => first,
        () = end.wait() => return Ok(()),
    };
    let fixed = build::fixed_facts(&config);
    let (facts, of_host) = watch::channel(build::facts(&object, &fixed));
    for said in enforce::enforce(&config, cgroups.as_ref(), &object) {
        handle.enforced(said);
    }
    let user_ids = user_ids::open(&config, &ledger).await?;
    let host = Host { user_ids, ..build::host(&config, of_host, cgroups, network.clone()) };
    let shared = Arc::new(Shared { runtime, images, ledger, host, metrics: Metrics::new()? });
    board.serve(Arc::clone(&shared));
    let server = serve(&config, &client, &board, &shared).await?;
    // Ready only now: who is told so may ask for logs at once. With a container runtime, once that
    // has said how it is: the loop hears of it.
    if shared.runtime.cri.is_none() {
        handle.set_problems(build::problems(&network, None));
    }
    let images = Images { shared: Arc::clone(&shared), board: board.clone(), node: handle.clone() };
    let _images = images.start(build::image_policy(&config), name, recorder.clone());
    let statics = Statics::start(
        &config,
        kept_pods(&shared.ledger).await,
        Mirrors::start(client.clone(), handle.node(), mirror::Times::default()),
        is_registered.then(|| Instant::now() + PATIENCE_WITH_PODS),
    );
    let parts = Parts {
        happenings,
        object,
        statics,
        client,
        shared,
        board,
        recorder,
        node: handle,
        network,
        facts,
        fixed,
    };
    let agent = parts.agent(&config);
    agent.run(standing, end).await;
    for server in [health, server].into_iter().flatten() {
        server.end().await;
    }
    Ok(())
}

/// Has the kernel spare the agent where memory is short, and tells of what it does not guard.
fn guard(config: &Config) {
    let score = config.oom_score_adj;
    if let Err(error) = linux::set_oom_score_adj(score) {
        tracing::warn!(score, %error, "the agent keeps the OOM score that it was started with");
    }
    if !linux::has_landlock() {
        tracing::warn!("this kernel has no landlock: wasmtime and seccomp alone guard files");
    }
}

/// What the loop over all pods is made of, once the node is there.
struct Parts {
    happenings: mpsc::Receiver<Happening>,
    object: Arc<Node>,
    statics: Statics,
    client: kube::Client,
    shared: Arc<Shared<Both>>,
    board: Board,
    recorder: Recorder,
    node: NodeHandle,
    network: Network,
    facts: watch::Sender<Facts>,
    fixed: Facts,
}

impl Parts {
    fn agent(self, config: &Config) -> Agent {
        let Self { happenings, object, statics, client, shared, board, recorder, .. } = self;
        let objects = ObjectStore::start(client.clone());
        let news = Arc::new(News::new(recorder.clone()));
        let (admitting, admission) = watch::channel(Some(object));
        let supplier = ClusterSupplier::new(objects.clone(), client.clone(), &config.dirs.root);
        Agent {
            workers: Workers::new(Arc::clone(&shared), happenings, news.clone()),
            statics,
            supplier: Arc::new(supplier),
            status: StatusWriter::start(client.clone(), status::Times::default()),
            admission: Admission::new(
                config,
                admission,
                shared.runtime.cri.as_ref().map(Cri::health),
            ),
            allocations: Allocations::default(),
            waiting: Waiting::new(client.clone(), &config.node.name),
            admitting,
            is_synced: false,
            unread: BTreeSet::new(),
            client,
            shared,
            board,
            objects,
            recorder,
            node: self.node,
            network: self.network,
            facts: self.facts,
            fixed: self.fixed,
            news,
            cleaning: JoinSet::new(),
            collecting: JoinSet::new(),
        }
    }
}

/// What runs containers, and what that needs.
struct Runtimes {
    runtime: Both,
    happenings: mpsc::Receiver<Happening>,
    images: image::Images,
    cgroups: Option<PodCgroups>,
}

/// Both runtimes, with what they run already taken over.
async fn runtimes(
    config: &Config,
    sandbox: std::path::PathBuf,
    ledger: &Arc<Ledger>,
) -> Result<Runtimes, NodeError> {
    let (keyring, gate) = (build::keyring(config), build::gate(config));
    let images = build::images(config, Arc::clone(&keyring), Arc::clone(&gate))?;
    let client = build::runtime_client(config)?;
    let driver = build::cgroup_driver(config, client.as_ref()).await?;
    let cgroups = build::cgroups(config, driver);
    let (wasm, happenings) = Wasm::open(Arc::clone(ledger), sandbox);
    wasm.adopt(cgroups.as_ref().map(|cgroups| &*cgroups.cgroups), &images).await?;
    let cri = build::cri(config, client, (keyring, gate), ledger, wasm.happenings()).await?;
    Ok(Runtimes { runtime: Both { wasm, cri }, happenings, images, cgroups })
}

/// The pods that an earlier agent has left.
async fn kept_pods(ledger: &Arc<Ledger>) -> Vec<Pod> {
    let ledger = Arc::clone(ledger);
    let kept = spawn_blocking(move || ledger.kept_pods()).await;
    kept.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "cannot look for what an earlier agent has left");
        Vec::new()
    })
}

/// The node's own server, if it is to have one.
async fn serve(
    config: &Config,
    client: &kube::Client,
    board: &Board,
    shared: &Shared<Both>,
) -> Result<Option<Server>, NodeError> {
    let Some(address) = config.server.listen else { return Ok(None) };
    let reviews = Arc::new(Reviews::new(client.clone()));
    let options = build::server(config, &shared.host);
    let metrics = Arc::clone(&shared.metrics);
    Ok(Some(Server::start_tls(address, board.clone(), reviews, options, metrics).await?))
}

/// What tells the agent to end.
struct End([Signal; 2]);

impl End {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    async fn wait(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod groups_test;
