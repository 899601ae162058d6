//! What upstream refuses in fields that end in no part of our own configuration, too: a file that a
//! kubelet refuses is refused here, whether or not the field is honoured
//! (`pkg/kubelet/apis/config/validation`, gates at their defaults of 1.36).

use super::duration::GoDuration;
use super::findings::Findings;
use super::machine::Machine;
use super::types::KubeletConfiguration;
use super::{quantity, reserve};

/// Shortest wait between two looks at logs.
const MIN_LOG_MONITOR: GoDuration = GoDuration::seconds(3);
/// `crashLoopBackOff` may not be longer.
const MAX_BACK_OFF: GoDuration = GoDuration::seconds(300);
/// What `enforceNodeAllocatable` may name, and the field that each needs.
const ENFORCEMENTS: [(&str, &str); 6] = [
    ("none", ""),
    ("pods", ""),
    ("system-reserved", "systemReservedCgroup"),
    ("system-reserved-compressible", "systemReservedCgroup"),
    ("kube-reserved", "kubeReservedCgroup"),
    ("kube-reserved-compressible", "kubeReservedCgroup"),
];
/// Ids of a user namespace come in such blocks.
const ID_BLOCK: i64 = 65536;

/// Finds what is wrong.
pub(super) fn check(file: &KubeletConfiguration, machine: &Machine, findings: &mut Findings) {
    numbers(file, findings);
    choices(file, findings);
    images(file, findings);
    durations(file, findings);
    eviction(file, findings);
    enforcement(file, findings);
    paths(file, findings);
    kernel(file, machine, findings);
}

fn numbers(file: &KubeletConfiguration, findings: &mut Findings) {
    for (field, value) in [
        ("registryPullQPS", file.registry_pull_qps),
        ("registryBurst", file.registry_burst),
        ("kubeAPIQPS", file.kube_api_qps),
        ("kubeAPIBurst", file.kube_api_burst),
    ] {
        findings.count(field, value.unwrap_or_default());
    }
    if let Some(number) = file.max_open_files.filter(|number| *number < 0) {
        findings.field("maxOpenFiles", format!("{number} must not be a negative number"));
    }
    for (field, value, least, most) in [
        ("readOnlyPort", file.read_only_port, 0, 65535),
        ("oomScoreAdj", file.oom_score_adj, -1000, 1000),
        ("iptablesMasqueradeBit", file.iptables_masquerade_bit, 0, 31),
        ("iptablesDropBit", file.iptables_drop_bit, 0, 31),
        ("imageGCHighThresholdPercent", file.image_gc_high_threshold_percent, 0, 100),
        ("imageGCLowThresholdPercent", file.image_gc_low_threshold_percent, 0, 100),
    ] {
        if let Some(number) = value.filter(|number| !(least..=most).contains(number)) {
            let text = format!("{number} must be between {least} and {most}, inclusive");
            findings.field(field, text);
        }
    }
    if file.container_log_max_workers.is_some_and(|workers| workers < 1) {
        findings.field("containerLogMaxWorkers", "must be greater than or equal to 1");
    }
    if let Some(factor) = file.memory_throttling_factor.filter(|f| !(*f > 0.0 && *f <= 1.0)) {
        let text = format!("{factor} must be greater than 0 and less than or equal to 1.0");
        findings.field("memoryThrottlingFactor", text);
    }
    if file.run_once == Some(true) {
        let text = "true, Runonce mode has been deprecated and should not be set";
        findings.field("runOnce", text);
    }
}

/// Fields that take one of a few words; the empty one is the default.
fn choices(file: &KubeletConfiguration, findings: &mut Findings) {
    let swap = file.memory_swap.as_ref().and_then(|swap| swap.swap_behavior.as_ref());
    let pull = file.image_pull_credentials_verification_policy.as_ref();
    let strategy = file.config_map_and_secret_change_detection_strategy.as_ref();
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    let hairpins = ["promiscuous-bridge", "hairpin-veth", "none"];
    let pulls = [
        "NeverVerify",
        "NeverVerifyPreloadedImages",
        "NeverVerifyAllowlistedImages",
        "AlwaysVerify",
    ];
    let format = file.logging.as_ref().and_then(|logging| logging.format.as_ref());
    let choices: [(&str, Option<&String>, &[&str]); 11] = [
        ("cgroupDriver", file.cgroup_driver.as_ref(), &["cgroupfs", "systemd"]),
        ("cpuManagerPolicy", file.cpu_manager_policy.as_ref(), &["none", "static"]),
        ("memoryManagerPolicy", file.memory_manager_policy.as_ref(), &["None", "Static"]),
        ("topologyManagerPolicy", file.topology_manager_policy.as_ref(), &policies),
        ("topologyManagerScope", file.topology_manager_scope.as_ref(), &["container", "pod"]),
        ("hairpinMode", file.hairpin_mode.as_ref(), &hairpins),
        ("memorySwap.swapBehavior", swap, &["NoSwap", "LimitedSwap"]),
        (
            "memoryReservationPolicy",
            file.memory_reservation_policy.as_ref(),
            &["None", "TieredReservation"],
        ),
        ("imagePullCredentialsVerificationPolicy", pull, &pulls),
        ("configMapAndSecretChangeDetectionStrategy", strategy, &["Get", "Cache", "Watch"]),
        ("logging.format", format, &["text", "json"]),
    ];
    for (field, value, words) in choices {
        let Some(word) = value.filter(|word| !word.is_empty()) else { continue };
        if !words.contains(&word.as_str()) {
            let text = format!("option {word:?} specified: expected one of {}", words.join(", "));
            findings.field(field, text);
        }
    }
}

fn images(file: &KubeletConfiguration, findings: &mut Findings) {
    let high = file.image_gc_high_threshold_percent.unwrap_or(85);
    let low = file.image_gc_low_threshold_percent.unwrap_or(80);
    if low >= high {
        let text = format!("{low} must be less than imageGCHighThresholdPercent {high}");
        findings.field("imageGCLowThresholdPercent", text);
    }
    let parallel = file.max_parallel_image_pulls;
    if let Some(number) = parallel.filter(|number| *number < 1) {
        findings.field("maxParallelImagePulls", format!("{number} must be a positive number"));
    }
    if file.serialize_image_pulls == Some(true) && parallel.is_some_and(|number| number > 1) {
        let text = "cannot be larger than 1 unless SerializeImagePulls is set to false";
        findings.field("maxParallelImagePulls", text);
    }
    let policy = file.image_pull_credentials_verification_policy.as_deref();
    let listed = file.preloaded_images_verification_allowlist.as_ref();
    if listed.is_some_and(|list| !list.is_empty()) && policy != Some("NeverVerifyAllowlistedImages")
    {
        findings.field(
            "preloadedImagesVerificationAllowlist",
            "can't be set if imagePullCredentialsVerificationPolicy is not \
             \"NeverVerifyAllowlistedImages\"",
        );
    }
}

fn durations(file: &KubeletConfiguration, findings: &mut Findings) {
    let zero = GoDuration::default();
    for (field, value) in [
        ("syncFrequency", file.sync_frequency),
        ("fileCheckFrequency", file.file_check_frequency),
        ("httpCheckFrequency", file.http_check_frequency),
        ("imageMinimumGCAge", file.image_minimum_gc_age),
        ("imageMaximumGCAge", file.image_maximum_gc_age),
        ("volumeStatsAggPeriod", file.volume_stats_agg_period),
        ("cpuManagerReconcilePeriod", file.cpu_manager_reconcile_period),
        ("runtimeRequestTimeout", file.runtime_request_timeout),
        ("evictionPressureTransitionPeriod", file.eviction_pressure_transition_period),
        ("shutdownGracePeriod", file.shutdown_grace_period),
        ("shutdownGracePeriodCriticalPods", file.shutdown_grace_period_critical_pods),
    ] {
        if value.is_some_and(|value| value < zero) {
            findings.field(field, "must not be negative");
        }
    }
    let grace = file.shutdown_grace_period.unwrap_or_default();
    let critical = file.shutdown_grace_period_critical_pods.unwrap_or_default();
    if critical > grace {
        findings.field("shutdownGracePeriodCriticalPods", "must be <= shutdownGracePeriod");
    }
    for (field, value) in
        [("shutdownGracePeriod", grace), ("shutdownGracePeriodCriticalPods", critical)]
    {
        if value > zero && value < GoDuration::seconds(1) {
            findings.field(field, "must be either zero or otherwise >= 1 sec");
        }
    }
    let by_priority = file.shutdown_grace_period_by_pod_priority.as_ref();
    if by_priority.is_some_and(|list| !list.is_empty()) && (grace > zero || critical > zero) {
        findings.field(
            "shutdownGracePeriodByPodPriority",
            "cannot be specified together with shutdownGracePeriod",
        );
    }
    if file.container_log_monitor_interval.is_some_and(|wait| wait < MIN_LOG_MONITOR) {
        let text = "must be a positive time duration greater than or equal to 3s";
        findings.field("containerLogMonitorInterval", text);
    }
    let restart = file.crash_loop_back_off.as_ref().and_then(|b| b.max_container_restart_period);
    let bounds = GoDuration::seconds(1)..=MAX_BACK_OFF;
    if restart.is_some_and(|period| !bounds.contains(&period)) {
        let text = "must be set between 1s and 300s";
        findings.field("crashLoopBackOff.maxContainerRestartPeriod", text);
    }
    let quota = file.cpu_cfs_quota_period;
    let bounds = GoDuration(1_000_000)..=GoDuration::seconds(1);
    if quota.is_some_and(|period| !bounds.contains(&period)) {
        findings.field("cpuCFSQuotaPeriod", "must be between 1ms and 1sec, inclusive");
    }
    let maximum = file.image_maximum_gc_age.unwrap_or_default();
    let minimum = file.image_minimum_gc_age.unwrap_or(GoDuration::seconds(120));
    if maximum > zero && maximum <= minimum {
        findings.field("imageMaximumGCAge", "must be greater than imageMinimumGCAge");
    }
}

/// Soft thresholds and what belongs to them; the hard ones are read where they count.
fn eviction(file: &KubeletConfiguration, findings: &mut Findings) {
    let soft = file.eviction_soft.clone().unwrap_or_default();
    reserve::thresholds("evictionSoft", &soft, findings);
    let graces = file.eviction_soft_grace_period.clone().unwrap_or_default();
    for signal in soft.keys().filter(|signal| !graces.contains_key(*signal)) {
        let text = format!(
            "grace period must be specified for the soft eviction threshold {signal}: expected it \
             in evictionSoftGracePeriod"
        );
        findings.field(&format!("evictionSoft.{signal}"), text);
    }
    for (signal, text) in &graces {
        let at = format!("evictionSoftGracePeriod.{signal}");
        if reserve::Signal::parse(signal).is_none() {
            findings.field(&at, format!("unsupported eviction signal {signal}"));
        }
        match GoDuration::parse(text) {
            Ok(grace) if grace < GoDuration::default() => {
                let text = format!(
                    "invalid eviction grace period specified: {text}, must be a positive value"
                );
                findings.field(&at, text);
            }
            Ok(_) => {}
            Err(error) => findings.field(&at, error),
        }
    }
    for (signal, text) in file.eviction_minimum_reclaim.iter().flatten() {
        let at = format!("evictionMinimumReclaim.{signal}");
        if reserve::Signal::parse(signal).is_none() {
            findings.field(&at, format!("unsupported eviction signal {signal}"));
        }
        match reserve::percentage(text) {
            Ok(Some(part)) if part > 0.0 => {}
            Ok(Some(_)) => {
                let text = format!(
                    "eviction percentage minimum reclaim {signal} must be positive: {text}"
                );
                findings.field(&at, text);
            }
            Ok(None) => match quantity(text) {
                Ok(amount) if amount.is_negative() => {
                    let text = format!("negative eviction minimum reclaim specified for {signal}");
                    findings.field(&at, text);
                }
                Ok(_) => {}
                Err(error) => findings.field(&at, error),
            },
            Err(error) => findings.field(&at, error),
        }
    }
}

fn enforcement(file: &KubeletConfiguration, findings: &mut Findings) {
    const FIELD: &str = "enforceNodeAllocatable";
    let Some(given) = &file.enforce_node_allocatable else { return };
    let groups = |field: &str| match field {
        "systemReservedCgroup" => file.system_reserved_cgroup.as_deref(),
        _ => file.kube_reserved_cgroup.as_deref(),
    };
    for (i, what) in given.iter().enumerate() {
        if given[..i].contains(what) {
            findings.field(FIELD, format!("duplicated enforcements {what:?}"));
            continue;
        }
        let Some((_, needs)) = ENFORCEMENTS.iter().find(|(name, _)| name == what) else {
            let all = ENFORCEMENTS.map(|(name, _)| name).join(", ");
            findings.field(FIELD, format!("option {what:?} specified: expected one of {all}"));
            continue;
        };
        if what == "none" {
            if given.len() > 1 {
                let text = "may not contain additional enforcements when \"none\" is specified";
                findings.field(FIELD, text);
            }
            continue;
        }
        if !needs.is_empty() && groups(needs).unwrap_or_default().is_empty() {
            let text = format!("{needs} must be specified when {what:?} is included");
            findings.field(FIELD, text);
        }
        if file.cgroups_per_qos == Some(false) {
            let text = format!("cgroupsPerQOS must be set to true when {what:?} is contained");
            findings.field(FIELD, text);
        }
        let compressible = format!("{what}-compressible");
        if given.contains(&compressible) {
            let text = format!("both {what:?} and {compressible:?} cannot be specified together");
            findings.field(FIELD, text);
        }
    }
}

fn paths(file: &KubeletConfiguration, findings: &mut Findings) {
    let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
    if set(&file.system_cgroups) && !set(&file.cgroup_root) {
        findings.field("systemCgroups", "was specified and cgroupRoot was not specified");
    }
    if let Some(path) = file.pod_logs_dir.as_deref() {
        if path.split('/').any(|part| part == "." || part == "..") || path.contains("//") {
            findings.field("podLogsDir", format!("pod logs path {path:?} must be normalized"));
        }
        if !path.is_ascii() {
            let text = format!("pod logs path {path:?} must contain ASCII characters only");
            findings.field("podLogsDir", text);
        }
    }
    if set(&file.reserved_system_cpus)
        && (set(&file.system_reserved_cgroup) || set(&file.kube_reserved_cgroup))
    {
        findings.field(
            "reservedSystemCPUs",
            "can't be used with systemReservedCgroup or kubeReservedCgroup",
        );
    }
    if file.enable_system_log_query == Some(true) && file.enable_system_log_handler == Some(false) {
        let text = "enableSystemLogHandler is required for enableSystemLogQuery";
        findings.field("enableSystemLogQuery", text);
    }
}

fn kernel(file: &KubeletConfiguration, machine: &Machine, findings: &mut Findings) {
    if file.fail_cgroup_v1 == Some(true) && machine.cgroup_v1 {
        findings.machine(
            "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is \
             unsupported and will be removed in a future release",
        );
    }
    if file.single_process_oom_kill == Some(false) && machine.cgroup_v1 {
        let text = "must not be explicitly set to false when using cgroup v1";
        findings.field("singleProcessOOMKill", text);
    }
    let ids = file.user_namespaces.as_ref().and_then(|spaces| spaces.ids_per_pod);
    let text = match ids {
        Some(ids) if ids < ID_BLOCK => format!("must not be less than {ID_BLOCK}"),
        Some(ids) if ids % ID_BLOCK != 0 => format!("must be a multiple of {ID_BLOCK}"),
        Some(ids) if ids > i64::from(u32::MAX) => format!("must not be more than {}", u32::MAX),
        Some(_) | None => return,
    };
    findings.field("userNamespaces.idsPerPod", text);
}
