//! Flags and file into one [`Config`]; each wrong value is found and stands as its default, since
//! nobody gets a configuration with an error.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use copepod_pod::admission::SysctlAllowList;
use copepod_pod::resources::{QUOTA_PERIOD_US, QuotaPolicy};
use k8s_openapi::api::core::v1::Taint;

use super::duration::GoDuration;
use super::findings::{Findings, absolute};
use super::flags::NodeFlags;
use super::machine::Machine;
use super::types::KubeletConfiguration;
use super::{
    CgroupConfig, CgroupDriver, Config, Dirs, DnsConfig, LogConfig, NodeConfig, PodLimits, Rate,
    ReservedGroup, RuntimeConfig, images, labels, non_zero, quantity, reserve, server, static_pods,
};

/// Upstream's defaults (`SetDefaults_KubeletConfiguration`).
const POD_LOGS_DIR: &str = "/var/log/pods";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_PODS: i32 = 110;
const IDS_PER_POD: u32 = 65536;
const RUNTIME_PATIENCE: Duration = Duration::from_secs(120);
const STATUS_UPDATE: Duration = Duration::from_secs(10);
const STATUS_REPORT: Duration = Duration::from_secs(5 * 60);
const LEASE_SECONDS: i32 = 40;
const MAX_IMAGES: i32 = 50;
const SYNC_EVERY: Duration = Duration::from_secs(60);
const OOM_SCORE_ADJ: i32 = -999;
const EVENT_QPS: i32 = 50;
const EVENT_BURST: i32 = 100;
const LOG_MAX_SIZE: &str = "10Mi";
const LOG_MAX_FILES: i32 = 5;
/// The default of `enforceNodeAllocatable`, and what it takes to keep pods in bounds.
const ENFORCE_PODS: &str = "pods";
/// klog's most verbose level that anybody uses.
const MAX_VERBOSITY: u32 = 10;
/// The taint that a cloud's controller takes off (`k8s.io/cloud-provider/api`).
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Joins them.
pub(super) fn resolve(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    machine: &Machine,
    findings: &mut Findings,
) -> Config {
    let path = |path: &PathBuf| absolute(path);
    let pod_logs = findings.path(file.pod_logs_dir.as_deref());
    Config {
        kubeconfig: flags.kubeconfig.as_ref().map(path).unwrap_or_default(),
        node: node(flags, file, machine, findings),
        dirs: Dirs {
            root: path(&flags.root_dir),
            cert: path(&flags.certificates()),
            run: path(&flags.run_dir),
            cache: flags.cache_dir.as_ref().map(path),
            pod_logs: pod_logs.unwrap_or_else(|| POD_LOGS_DIR.into()),
            cni_conf: path(&flags.cni_conf_dir),
            cni_bins: flags.cni_bins().iter().map(path).collect(),
        },
        sandbox: flags.sandbox.as_ref().map(path),
        server: server::server(file, findings),
        runtime: runtime(flags, file, findings),
        dns: dns(file, findings),
        pods: pods(file, findings),
        reserved: reserve::reserved(file, findings),
        cgroups: cgroups(file),
        logs: logs(file, findings),
        images: images::images(flags, file, findings),
        static_pods: static_pods::static_pods(flags, file, findings),
        events: Rate {
            per_second: findings
                .count("eventRecordQPS", file.event_record_qps.unwrap_or(EVENT_QPS)),
            burst: findings.count("eventBurst", non_zero(file.event_burst, EVENT_BURST)),
        },
        oom_score_adj: file.oom_score_adj.unwrap_or(OOM_SCORE_ADJ),
        verbosity: verbosity(flags, file, findings),
    }
}

/// The runtime of ordinary images.
fn runtime(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    findings: &mut Findings,
) -> RuntimeConfig {
    let given = |flag: &Option<String>, field: &Option<String>| {
        flag.clone().or_else(|| field.clone()).filter(|endpoint| !endpoint.is_empty())
    };
    let endpoint = given(&flags.container_runtime_endpoint, &file.container_runtime_endpoint);
    let images = given(&flags.image_service_endpoint, &file.image_service_endpoint);
    for (flag, field, value) in [
        ("--container-runtime-endpoint", "containerRuntimeEndpoint", &endpoint),
        ("--image-service-endpoint", "imageServiceEndpoint", &images),
    ] {
        let is_socket = |value: &String| value.starts_with("unix:///");
        if let Some(value) = value.as_ref().filter(|value| !is_socket(value)) {
            let text = format!("{value:?}: expected unix:///PATH");
            match flags.has_endpoint(flag) {
                true => findings.flag(flag, text),
                false => findings.field(field, text),
            }
        }
    }
    let patience = file.runtime_request_timeout.filter(|time| !time.is_zero());
    let patience = findings.duration("runtimeRequestTimeout", patience, RUNTIME_PATIENCE);
    RuntimeConfig { endpoint, images, patience }
}

fn node(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    machine: &Machine,
    findings: &mut Findings,
) -> NodeConfig {
    let given = flags.hostname_override.as_deref();
    let name = labels::node_name(given, &machine.hostname).unwrap_or_else(|error| {
        findings.flag("--hostname-override", error);
        String::new()
    });
    let ips = labels::node_ips(flags.node_ip.as_deref().unwrap_or_default());
    let ips = ips.unwrap_or_else(|error| {
        findings.flag("--node-ip", error);
        Vec::new()
    });
    let own = labels::labels(&flags.node_labels);
    for error in labels::wrong_labels(&own) {
        findings.flag("--node-labels", error);
    }
    let external_cloud = flags.cloud_provider.as_deref() == Some("external");
    let update = file.node_status_update_frequency.filter(|update| !update.is_zero());
    let status_update = findings.duration("nodeStatusUpdateFrequency", update, STATUS_UPDATE);
    // For those who set the first before there was the second.
    let report = if update.is_some() { status_update } else { STATUS_REPORT };
    let report =
        findings.duration("nodeStatusReportFrequency", file.node_status_report_frequency, report);
    let lease = non_zero(file.node_lease_duration_seconds, LEASE_SECONDS);
    let lease = u64::try_from(lease).unwrap_or_else(|_| {
        findings.field("nodeLeaseDurationSeconds", "must be greater than 0");
        0
    });
    let images = file.node_status_max_images.unwrap_or(MAX_IMAGES);
    if images < -1 {
        findings.field("nodeStatusMaxImages", format!("{images} must be -1 or greater"));
    }
    let provider = flags.provider_id.clone().or_else(|| file.provider_id.clone());
    NodeConfig {
        name,
        ips,
        labels: own,
        taints: taints(flags, file, external_cloud, findings),
        register: register(flags, file, findings),
        provider_id: provider.unwrap_or_default(),
        external_cloud,
        controller_attach_detach: file.enable_controller_attach_detach != Some(false),
        status_update,
        status_report: report,
        lease: Duration::from_secs(lease),
        max_images: usize::try_from(images).ok(),
    }
}

fn register(flags: &NodeFlags, file: &KubeletConfiguration, findings: &mut Findings) -> bool {
    let given = flags.register_node.as_deref().map(labels::boolean);
    match given {
        Some(Ok(register)) => register,
        Some(Err(error)) => {
            findings.flag("--register-node", error);
            true
        }
        None => file.register_node != Some(false),
    }
}

fn taints(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    external_cloud: bool,
    findings: &mut Findings,
) -> Vec<Taint> {
    let mut taints = match flags.register_with_taints.as_deref().map(labels::taints) {
        Some(Ok(taints)) => taints,
        Some(Err(errors)) => {
            for error in errors {
                findings.flag("--register-with-taints", error);
            }
            Vec::new()
        }
        None => {
            let given = file.register_with_taints.clone().unwrap_or_default();
            for (i, taint) in given.iter().enumerate() {
                let at = format!("registerWithTaints[{i}]");
                if let Some(error) = labels::wrong_taint(taint) {
                    findings.field(&at, error);
                }
                if taint.time_added.is_some() {
                    findings.field(&at, "taint.TimeAdded is not nil: expected no timeAdded");
                }
            }
            given
        }
    };
    if external_cloud {
        taints.push(Taint {
            key: UNINITIALIZED.into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    taints
}

fn dns(file: &KubeletConfiguration, findings: &mut Findings) -> DnsConfig {
    let mut servers: Vec<IpAddr> = Vec::new();
    for (i, text) in file.cluster_dns.iter().flatten().enumerate() {
        match text.parse() {
            Ok(server) => servers.push(server),
            Err(_) => {
                let text = format!("{text:?} is not a valid IP address");
                findings.field(&format!("clusterDNS[{i}]"), text);
            }
        }
    }
    let resolv_conf = findings.path(file.resolv_conf.as_deref());
    DnsConfig {
        servers,
        domain: file.cluster_domain.clone().unwrap_or_default(),
        // Given and empty, it is none.
        resolv_conf: match &file.resolv_conf {
            Some(_) => resolv_conf,
            None => Some(RESOLV_CONF.into()),
        },
    }
}

fn pods(file: &KubeletConfiguration, findings: &mut Findings) -> PodLimits {
    // Below zero it is no bound of a pod's own; zero is one that nothing can start in.
    let pids = file.pod_pids_limit.and_then(|limit| u64::try_from(limit).ok());
    let unsafe_sysctls = file.allowed_unsafe_sysctls.clone().unwrap_or_default();
    for (i, pattern) in unsafe_sysctls.iter().enumerate() {
        if let Err(error) = SysctlAllowList::new((0, 0), std::slice::from_ref(pattern)) {
            findings.field(&format!("allowedUnsafeSysctls[{i}]"), error.to_string());
        }
    }
    let ids = file.user_namespaces.as_ref().and_then(|spaces| spaces.ids_per_pod);
    // Whether it is negative is looked at elsewhere.
    let sync = file.sync_frequency.filter(|every| !every.is_zero()).and_then(GoDuration::to_std);
    let back_off = file.crash_loop_back_off.as_ref();
    let longest =
        back_off.and_then(|b| b.max_container_restart_period).and_then(GoDuration::to_std);
    PodLimits {
        restart_max: longest.unwrap_or(copepod_pod::Host::default().restart_max),
        sync_every: sync.unwrap_or(SYNC_EVERY),
        max_pods: findings.count("maxPods", non_zero(file.max_pods, MAX_PODS)),
        pods_per_core: findings.count("podsPerCore", file.pods_per_core.unwrap_or_default()),
        pids,
        // Its bounds are looked at elsewhere.
        ids_per_pod: ids.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(IDS_PER_POD),
        seccomp_default: file.seccomp_default == Some(true),
        unsafe_sysctls,
    }
}

fn cgroups(file: &KubeletConfiguration) -> CgroupConfig {
    let root = file.cgroup_root.clone().filter(|root| !root.is_empty());
    let enforced = |what: &str| {
        file.enforce_node_allocatable.iter().flatten().any(|enforced| enforced == what)
    };
    let reserved = |what: &str, group: &Option<String>| {
        let compressible = enforced(&format!("{what}-compressible"));
        let name = group.clone().filter(|_| compressible || enforced(what))?;
        Some(ReservedGroup { name, compressible })
    };
    let period = file.cpu_cfs_quota_period.and_then(GoDuration::to_std);
    let period_us = period.and_then(|period| u64::try_from(period.as_micros()).ok());
    let period_us = period_us.filter(|period| *period > 0).unwrap_or(QUOTA_PERIOD_US);
    CgroupConfig {
        driver: match file.cgroup_driver.as_deref() {
            Some("systemd") => CgroupDriver::Systemd,
            // No other was let through.
            Some(_) | None => CgroupDriver::Cgroupfs,
        },
        root: root.unwrap_or_else(|| "/".into()),
        per_class: file.cgroups_per_qos.unwrap_or(true),
        quota: QuotaPolicy { enforced: file.cpu_cfs_quota.unwrap_or(true), period_us },
        oom_kills_all: !file.single_process_oom_kill.unwrap_or_default(),
        enforce_pods: file.enforce_node_allocatable.is_none() || enforced(ENFORCE_PODS),
        system: reserved("system-reserved", &file.system_reserved_cgroup),
        kube: reserved("kube-reserved", &file.kube_reserved_cgroup),
    }
}

fn logs(file: &KubeletConfiguration, findings: &mut Findings) -> LogConfig {
    let size = file.container_log_max_size.as_deref().filter(|size| !size.is_empty());
    let size = size.unwrap_or(LOG_MAX_SIZE);
    let max_size = match quantity(size) {
        Ok(size) => u64::try_from(size.value()).ok(),
        Err(error) => {
            findings.field("containerLogMaxSize", error);
            None
        }
    };
    if max_size == Some(0) {
        findings.field("containerLogMaxSize", "must not be 0: expected bytes, such as 10Mi");
    }
    let files = file.container_log_max_files.unwrap_or(LOG_MAX_FILES);
    if files <= 1 {
        findings.field("containerLogMaxFiles", "must be greater than 1");
    }
    LogConfig { max_size, max_files: u32::try_from(files).unwrap_or_default() }
}

fn verbosity(flags: &NodeFlags, file: &KubeletConfiguration, findings: &mut Findings) -> u8 {
    let of_file = file.logging.as_ref().and_then(|logging| logging.verbosity);
    let level = match flags.v.as_deref().map(str::parse::<u32>) {
        Some(Ok(level)) if level <= MAX_VERBOSITY => Some(level),
        Some(_) => {
            let given = flags.v.as_deref().unwrap_or_default();
            findings.flag("--v", format!("{given:?}: expected a number from 0 to {MAX_VERBOSITY}"));
            None
        }
        None => of_file.map(|level| level.min(MAX_VERBOSITY)),
    };
    level.and_then(|level| u8::try_from(level).ok()).unwrap_or(0)
}
