//! From a node's configuration to the options of the rooms that it joins.

use std::net::IpAddr;
use std::sync::Arc;

use copepod_pod::quantity::Quantity;
use copepod_pod::resources::Amounts;
use copepod_pod::{ClusterDns, Facts, PodAddresses};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, watch};

use super::NodeError;
use super::allocation::FEATURES;
use crate::cluster::node::{Handler, NodeOptions, RuntimeReport, Threshold};
use crate::config::{self, CgroupDriver, Config, Signal};
use crate::image::credentials::plugin::PluginOptions;
use crate::image::credentials::{Keyring, NodeFiles};
use crate::image::gate::{Gate, PullLimits};
use crate::image::gc::Policy;
use crate::image::{ImageError, Images, RegistryOptions};
use crate::ledger::{Ledger, LedgerError, LogDirs, home};
use crate::linux;
use crate::linux::cgroup::{Cgroups, Driver, Options};
use crate::linux::machine::Machine;
use crate::network::{Network, NetworkOptions};
use crate::runtime::cri::config::NodeOptions as OrdinaryOptions;
use crate::runtime::cri::{self, Client, Cri, CriError, Health};
use crate::runtime::{Happening, LogLimits};
use crate::server::{
    AuthenticationOptions, AuthorizationMode, ServerOptions, ServingCertificate, TlsOptions,
    TlsVersion,
};
use crate::telemetry::chain;
use crate::worker::{Host, NO_NETWORK, PodCgroups, WASM_HANDLER};

/// Where log shippers look for links to containers' logs (upstream `legacyContainerLogsDir`).
const LOG_LINKS: &str = "/var/log/containers";

/// What a container runtime is that never said so.
const CONTAINERD: &str = "containerd";

/// The node's directories, locked.
///
/// # Errors
/// [`LedgerError`].
pub(super) fn ledger(config: &Config) -> Result<Ledger, LedgerError> {
    let dirs = &config.dirs;
    let logs = LogDirs { logs: dirs.pod_logs.clone(), links: LOG_LINKS.into() };
    Ledger::of_node(&dirs.root, &dirs.run, logs)
}

/// The node's credentials for registries.
pub(super) fn keyring(config: &Config) -> Arc<Keyring> {
    let plugins = config.images.providers.iter().cloned().map(|provider| PluginOptions {
        name: provider.name,
        program: provider.program,
        api_version: provider.api_version,
        match_images: provider.match_images,
        default_cache: provider.default_cache,
        args: provider.args,
        env: provider.env,
    });
    Arc::new(Keyring::new(NodeFiles::of_node(&config.dirs.root), plugins.collect()))
}

/// How images are pulled on the node, of either kind.
pub(super) fn gate(config: &Config) -> Arc<Gate> {
    let images = &config.images;
    Arc::new(Gate::new(PullLimits {
        at_once: images.at_once,
        per_second: images.pulls.per_second,
        burst: images.pulls.burst,
    }))
}

/// When images go.
pub(super) fn image_policy(config: &Config) -> Policy {
    let images = &config.images;
    Policy {
        high: images.high_percent,
        low: images.low_percent,
        min_age: images.min_age,
        max_age: images.max_age,
    }
}

/// The images of the node.
///
/// # Errors
/// [`ImageError`].
pub(super) fn images(
    config: &Config,
    keyring: Arc<Keyring>,
    gate: Arc<Gate>,
) -> Result<Images, ImageError> {
    let dir = config.dirs.cache.clone().unwrap_or_else(home::cache);
    let images = Images::open(dir, "/proc/self/exe".into())?.with_gate(gate);
    let options = RegistryOptions { keyring: Some(keyring), ..RegistryOptions::default() };
    Ok(images.with_registries(options).wasm_only())
}

/// The way to the container runtime, if one is configured.
///
/// # Errors
/// [`CriError::Endpoint`].
pub(super) fn runtime_client(config: &Config) -> Result<Option<Client>, CriError> {
    let runtime = &config.runtime;
    let Some(endpoint) = &runtime.endpoint else { return Ok(None) };
    Client::new(endpoint, runtime.images.as_deref(), runtime.patience).map(Some)
}

/// Who makes control groups: as the container runtime has it, which has to be the same, else as the
/// configuration has it.
///
/// # Errors
/// [`NodeError::Driver`].
pub(super) async fn cgroup_driver(
    config: &Config,
    client: Option<&Client>,
) -> Result<Driver, NodeError> {
    let configured = match config.cgroups.driver {
        CgroupDriver::Cgroupfs => Driver::Cgroupfs,
        CgroupDriver::Systemd => Driver::Systemd,
    };
    let told = match client {
        Some(client) => cri::health::cgroup_driver(client).await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the runtime does not say who makes groups");
            None
        }),
        None => None,
    };
    Ok(Driver::choose(configured, told)?)
}

/// The control groups of pods, made by `driver`; none, with a warning, where the host has none that
/// can be used.
pub(super) fn cgroups(config: &Config, driver: Driver) -> Option<PodCgroups> {
    let options = Options {
        driver,
        cgroup_root: config.cgroups.root.clone(),
        per_class: config.cgroups.per_class,
        oom_kills_all: config.cgroups.oom_kills_all,
    };
    let cgroups = match Cgroups::open(&options) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            tracing::warn!(error = chain(&error), "no control groups: pods have no limits");
            return None;
        }
    };
    for controller in cgroups.missing() {
        tracing::warn!(%controller, "this host has no such controller: it limits no pod");
    }
    let (cgroups, quota) = (Arc::new(cgroups), config.cgroups.quota);
    Some(PodCgroups { cgroups, quota, pod_pids: config.pods.pids })
}

/// Where the node's network is configured.
pub(super) fn network(config: &Config) -> NetworkOptions {
    let dirs = &config.dirs;
    NetworkOptions {
        conf_dir: dirs.cni_conf.clone(),
        bin_dirs: dirs.cni_bins.clone(),
        run_dir: dirs.run.clone(),
        state_dir: dirs.root.join("cni"),
    }
}

/// What keeps the node from being ready: its network, and the container runtime if there is one.
pub(super) fn problems(network: &Network, health: Option<&Health>) -> Vec<String> {
    let why = network.status().err();
    let mut problems: Vec<String> =
        why.into_iter().map(|text| format!("{NO_NETWORK}{text}")).collect();
    for problem in health.iter().flat_map(|health| &health.problems) {
        // Both look at one configuration of the network.
        if !problems.contains(problem) {
            problems.push(problem.clone());
        }
    }
    problems
}

/// The container runtime, if one is configured; its tasks are started. One that does not answer now
/// is taken to be what it last was.
///
/// # Errors
/// [`NodeError`].
pub(super) async fn cri(
    config: &Config,
    client: Option<Client>,
    (keyring, gate): (Arc<Keyring>, Arc<Gate>),
    ledger: &Arc<Ledger>,
    happenings: mpsc::Sender<Happening>,
) -> Result<Option<Cri>, NodeError> {
    let Some(client) = client else { return Ok(None) };
    let name = match cri::health::version(&client).await {
        Ok((name, version)) => {
            tracing::info!(version, "the container runtime");
            ledger.keep_runtime(&name)?;
            name
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "the container runtime does not answer");
            ledger.runtime().unwrap_or_else(|| CONTAINERD.into())
        }
    };
    let options = cri::Options {
        log_limits: log_limits(config),
        log_links: LOG_LINKS.into(),
        ledger: Arc::clone(ledger),
    };
    let images = cri::images::Images::new(client.images(), keyring, gate, client.patience());
    Ok(Some(Cri::start(client, images, name, options, happenings)))
}

/// What the container runtime says of itself, for the node's object.
pub(super) fn report(health: &Health) -> RuntimeReport {
    let handlers = health.handlers.iter().map(|handler| Handler {
        name: handler.name.clone(),
        recursive_read_only_mounts: handler
            .features
            .is_some_and(|features| features.recursive_read_only_mounts),
        user_namespaces: handler.features.is_some_and(|features| features.user_namespaces),
    });
    RuntimeReport {
        version: health.version.clone(),
        handlers: handlers.collect(),
        supplemental_groups_policy: health.supplemental_groups_policy,
    }
}

fn log_limits(config: &Config) -> LogLimits {
    // None is no bound.
    LogLimits { bytes: config.logs.max_size.unwrap_or(u64::MAX), files: config.logs.max_files }
}

/// The node's object.
pub(super) fn node(config: &Config) -> NodeOptions {
    let node = &config.node;
    let reserved = &config.reserved;
    let threshold = |threshold: &config::Threshold| match threshold {
        config::Threshold::Quantity(quantity) => Threshold::Amount(*quantity),
        config::Threshold::Part(part) => Threshold::Share(*part),
    };
    let hard = |(signal, resource): (Signal, &str)| {
        let found = reserved.eviction_hard.get(&signal)?;
        Some((resource.to_owned(), threshold(found)))
    };
    NodeOptions {
        register: node.register,
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        node_ips: node.ips.clone(),
        provider_id: Some(node.provider_id.clone()).filter(|id| !id.is_empty()),
        external_cloud_provider: node.external_cloud,
        controller_attach_detach: node.controller_attach_detach,
        max_pods: config.pods.max_pods,
        pods_per_core: config.pods.pods_per_core,
        kubelet_port: config.server.port,
        system_reserved: reserved.system.clone(),
        kube_reserved: reserved.kube.clone(),
        hard_eviction: [
            (Signal::MemoryAvailable, "memory"),
            (Signal::NodeFsAvailable, "ephemeral-storage"),
        ]
        .into_iter()
        .filter_map(hard)
        .collect(),
        runtime_handlers: vec![WASM_HANDLER.into()],
        supplemental_groups_policy: true,
        declared_features: FEATURES.map(str::to_owned).into(),
        max_images: node.max_images,
        update_every: node.status_update,
        report_every: node.status_report,
        lease_seconds: u32::try_from(node.lease.as_secs()).unwrap_or(u32::MAX),
        ..NodeOptions::new(node.name.clone(), config.dirs.root.clone())
    }
}

/// What of a node's object the node's own resources are.
fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let all = status.into_iter().flatten();
    all.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
}

/// What pods may ask of the node, as its object is now; `fixed` is what does not change.
pub(super) fn facts(node: &Node, fixed: &Facts) -> Facts {
    let allocatable = allocatable(node);
    let value = |name: &str| allocatable.get(name).map_or(0, Quantity::value);
    let millis = allocatable.get("cpu").map_or(0, Quantity::milli_value);
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|one| one.type_ == "InternalIP");
    let host_ips: Vec<IpAddr> = internal.filter_map(|one| one.address.parse().ok()).collect();
    Facts {
        addresses: PodAddresses { host_ips: host_ips.clone(), pod_ips: host_ips },
        allocatable_cpu_millis: u64::try_from(millis).unwrap_or(0),
        allocatable_memory_bytes: u64::try_from(value("memory")).unwrap_or(0),
        allocatable_storage_bytes: u64::try_from(value("ephemeral-storage")).unwrap_or(0),
        ..fixed.clone()
    }
}

/// What this machine does for pods.
pub(super) fn host(
    config: &Config,
    facts: watch::Receiver<Facts>,
    cgroups: Option<PodCgroups>,
    network: Network,
) -> Host {
    Host {
        facts,
        changes_user: true,
        mounts: linux::can_mount(),
        die_with_agent: false,
        ordinary: Arc::new(ordinary(config, cgroups.as_ref())),
        user_ids: None,
        cgroups,
        network: Some(network),
        log_limits: log_limits(config),
        restart_max: config.pods.restart_max,
    }
}

/// What ordinary containers have in common here.
fn ordinary(config: &Config, cgroups: Option<&PodCgroups>) -> OrdinaryOptions {
    let machine = Machine::read(&config.dirs.root);
    OrdinaryOptions {
        seccomp_root: config.dirs.root.join("seccomp"),
        seccomp_default: config.pods.seccomp_default,
        memory_bytes: machine.memory_bytes,
        huge_page_bytes: machine.huge_pages.iter().map(|(size, _)| *size).collect(),
        masked_paths: linux::machine::thermal_paths(),
        cgroup_v2: cgroups.is_some_and(|cgroups| cgroups.cgroups.is_v2()),
        oom_kills_all: config.cgroups.oom_kills_all,
        quota: cgroups.map(|cgroups| cgroups.quota).unwrap_or_default(),
        ..OrdinaryOptions::default()
    }
}

/// The part of the facts that does not change: the node's name, how pods look up names.
pub(super) fn fixed_facts(config: &Config) -> Facts {
    let dns = &config.dns;
    Facts {
        node_name: config.node.name.clone(),
        cluster_dns: Some(ClusterDns {
            servers: dns.servers.iter().map(ToString::to_string).collect(),
            domain: dns.domain.clone(),
        }),
        resolv_conf: Some(
            dns.resolv_conf.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        ),
        ..Facts::default()
    }
}

/// The node's server.
pub(super) fn server(config: &Config, host: &Host) -> ServerOptions {
    let server = &config.server;
    let certificate = match &server.certificate {
        Some((certificate, key)) => {
            ServingCertificate::Files { certificate: certificate.clone(), key: key.clone() }
        }
        None => ServingCertificate::SelfSigned {
            dir: config.dirs.cert.clone(),
            host: config.node.name.clone(),
            addresses: host.facts().addresses.host_ips,
        },
    };
    ServerOptions {
        node_name: config.node.name.clone(),
        tls: TlsOptions {
            certificate,
            min_version: match server.min_tls {
                config::TlsVersion::V12 => TlsVersion::V12,
                config::TlsVersion::V13 => TlsVersion::V13,
            },
            cipher_suites: Vec::new(),
        },
        authentication: AuthenticationOptions {
            anonymous: server.anonymous,
            token_ttl: server.tokens,
            client_ca_file: server.client_ca.clone(),
        },
        authorization: match server.authorization {
            config::Authorization::AlwaysAllow => AuthorizationMode::AlwaysAllow,
            config::Authorization::Webhook { authorized, unauthorized } => {
                AuthorizationMode::Webhook { allowed_ttl: authorized, denied_ttl: unauthorized }
            }
        },
        debugging_handlers: server.debugging_handlers,
        stream_idle: server.stream_idle,
    }
}
