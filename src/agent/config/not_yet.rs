//! Fields that are known and not honoured, or not wholly: each that is set to something else than
//! its default is named in a warning. A value that says what is the case anyway (no swap for pods,
//! no handler for profiles) needs none.

use super::duration::GoDuration;
use super::findings::Findings;
use super::machine::Machine;
use super::types::{FlushFrequency, KubeletConfiguration};

/// What is said of a field that nothing looks at.
const NOT_YET: &str = "not yet honoured";

/// The defaults of 1.36 (`SetDefaults_KubeletConfiguration`).
const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
const VOLUME_PLUGINS: &str = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/";

/// Names them.
pub(super) fn name(file: &KubeletConfiguration, machine: &Machine, findings: &mut Findings) {
    let mut notes = Notes(findings);
    durations(file, &mut notes);
    numbers(file, &mut notes);
    flags(file, &mut notes);
    texts(file, &mut notes);
    lists(file, &mut notes);
    logging(file, &mut notes);
    partly(file, machine, &mut notes);
}

struct Notes<'a>(&'a mut Findings);

impl Notes<'_> {
    /// A field, where it is not its default.
    fn unless<T: PartialEq + ?Sized>(&mut self, field: &str, value: Option<&T>, default: &T) {
        if value.is_some_and(|value| value != default) {
            self.0.warn(field, NOT_YET);
        }
    }

    /// A field, where it holds anything.
    fn if_any(&mut self, field: &str, any: bool) {
        if any {
            self.0.warn(field, NOT_YET);
        }
    }
}

fn durations(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    for (field, value, default) in [
        ("syncFrequency", file.sync_frequency, 60),
        ("volumeStatsAggPeriod", file.volume_stats_agg_period, 60),
        ("cpuManagerReconcilePeriod", file.cpu_manager_reconcile_period, 10),
        ("evictionPressureTransitionPeriod", file.eviction_pressure_transition_period, 300),
        ("shutdownGracePeriod", file.shutdown_grace_period, 0),
        ("shutdownGracePeriodCriticalPods", file.shutdown_grace_period_critical_pods, 0),
        ("containerLogMonitorInterval", file.container_log_monitor_interval, 10),
    ] {
        // Zero stands for the default.
        let value = value.filter(|value| !value.is_zero());
        notes.unless(field, value.as_ref(), &GoDuration::seconds(default));
    }
}

fn numbers(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    let non_zero = |value: Option<i32>| value.filter(|value| *value != 0);
    for (field, value, default) in [
        ("kubeAPIQPS", file.kube_api_qps, 50),
        ("kubeAPIBurst", non_zero(file.kube_api_burst), 100),
        ("evictionMaxPodGracePeriod", file.eviction_max_pod_grace_period, 0),
        ("containerLogMaxWorkers", file.container_log_max_workers, 1),
        ("iptablesMasqueradeBit", file.iptables_masquerade_bit, 14),
        ("iptablesDropBit", file.iptables_drop_bit, 15),
    ] {
        notes.unless(field, value.as_ref(), &default);
    }
    let open = file.max_open_files.filter(|number| *number != 0);
    notes.unless("maxOpenFiles", open.as_ref(), &1_000_000);
    notes.unless("memoryThrottlingFactor", file.memory_throttling_factor.as_ref(), &0.9);
    if file.read_only_port.is_some_and(|port| port != 0) {
        notes.0.warn("readOnlyPort", "not served: requests without a name are never answered");
    }
}

fn flags(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    for (field, value, default) in [
        ("rotateCertificates", file.rotate_certificates, false),
        ("serverTLSBootstrap", file.server_tls_bootstrap, false),
        ("enableContentionProfiling", file.enable_contention_profiling, false),
        ("protectKernelDefaults", file.protect_kernel_defaults, false),
        ("kernelMemcgNotification", file.kernel_memcg_notification, false),
        ("enableSystemLogQuery", file.enable_system_log_query, false),
        ("localStorageCapacityIsolation", file.local_storage_capacity_isolation, true),
    ] {
        notes.unless(field, value.as_ref(), &default);
    }
}

fn texts(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    let strategy = &file.config_map_and_secret_change_detection_strategy;
    let pulls = &file.image_pull_credentials_verification_policy;
    for (field, value, default) in [
        ("kubeletCgroups", &file.kubelet_cgroups, ""),
        ("systemCgroups", &file.system_cgroups, ""),
        ("cpuManagerPolicy", &file.cpu_manager_policy, "none"),
        ("memoryManagerPolicy", &file.memory_manager_policy, "None"),
        ("topologyManagerPolicy", &file.topology_manager_policy, "none"),
        ("topologyManagerScope", &file.topology_manager_scope, "container"),
        ("hairpinMode", &file.hairpin_mode, "promiscuous-bridge"),
        ("podCIDR", &file.pod_cidr, ""),
        ("contentType", &file.content_type, CONTENT_TYPE),
        ("configMapAndSecretChangeDetectionStrategy", strategy, "Watch"),
        ("reservedSystemCPUs", &file.reserved_system_cpus, ""),
        ("showHiddenMetricsForVersion", &file.show_hidden_metrics_for_version, ""),
        ("volumePluginDir", &file.volume_plugin_dir, VOLUME_PLUGINS),
        ("memoryReservationPolicy", &file.memory_reservation_policy, "None"),
        ("imagePullCredentialsVerificationPolicy", pulls, "NeverVerifyPreloadedImages"),
    ] {
        notes.unless(field, value.as_deref().filter(|value| !value.is_empty()), default);
    }
    let swap = file.memory_swap.as_ref().and_then(|swap| swap.swap_behavior.as_deref());
    // No swap is what pods get.
    notes.unless("memorySwap.swapBehavior", swap.filter(|swap| !swap.is_empty()), "NoSwap");
}

fn lists(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    macro_rules! any {
        ($($field:literal $value:ident),* $(,)?) => {
            $(notes.if_any($field, file.$value.as_ref().is_some_and(|list| !list.is_empty()));)*
        };
    }
    any!(
        "tlsCipherSuites" tls_cipher_suites,
        "tlsCurvePreferences" tls_curve_preferences,
        "preloadedImagesVerificationAllowlist" preloaded_images_verification_allowlist,
        "cpuManagerPolicyOptions" cpu_manager_policy_options,
        "topologyManagerPolicyOptions" topology_manager_policy_options,
        "qosReserved" qos_reserved,
        "evictionSoft" eviction_soft,
        "evictionSoftGracePeriod" eviction_soft_grace_period,
        "evictionMinimumReclaim" eviction_minimum_reclaim,
        "shutdownGracePeriodByPodPriority" shutdown_grace_period_by_pod_priority,
        "reservedMemory" reserved_memory,
    );
    for gate in file.feature_gates.iter().flatten().map(|(gate, _)| gate) {
        notes.0.warn(&format!("featureGates.{gate}"), "unknown: there are no feature gates");
    }
    let tracing = file.tracing.clone().unwrap_or_default();
    notes.if_any("tracing.endpoint", tracing.endpoint.is_some());
    let sampled = tracing.sampling_rate_per_million;
    notes.unless("tracing.samplingRatePerMillion", sampled.as_ref(), &0);
}

fn logging(file: &KubeletConfiguration, notes: &mut Notes<'_>) {
    let Some(logging) = &file.logging else { return };
    let format = logging.format.as_deref().filter(|format| !format.is_empty());
    notes.unless("logging.format", format, "text");
    let flush = logging.flush_frequency.as_ref().map(|flush| match flush {
        FlushFrequency::Nanoseconds(nanos) => GoDuration(*nanos),
        FlushFrequency::Text(duration) => *duration,
    });
    let flush = flush.filter(|flush| !flush.is_zero());
    notes.unless("logging.flushFrequency", flush.as_ref(), &GoDuration::seconds(5));
    let modules = logging.vmodule.as_ref();
    notes.if_any("logging.vmodule", modules.is_some_and(|modules| !modules.is_empty()));
    let options = logging.options.clone().unwrap_or_default();
    for (field, output) in [("text", options.text), ("json", options.json)] {
        let output = output.unwrap_or_default();
        let field = format!("logging.options.{field}");
        let split = output.split_stream;
        notes.unless(&format!("{field}.splitStream"), split.as_ref(), &false);
        let buffer = output.info_buffer_size.filter(|size| size.0 != "0");
        notes.if_any(&format!("{field}.infoBufferSize"), buffer.is_some());
    }
}

/// What is done otherwise than it is written.
fn partly(file: &KubeletConfiguration, machine: &Machine, notes: &mut Notes<'_>) {
    let findings = &mut *notes.0;
    if file.eviction_hard.is_some() {
        let text = "kept out of what is allocatable; no pod is evicted yet";
        findings.warn("evictionHard", text);
    }
    if file.fail_swap_on != Some(false) && machine.swap {
        let text = "swap is on, and a kubelet would not start: pods get none where control groups \
                    can say so";
        findings.warn("failSwapOn", text);
    }
    if file.fail_cgroup_v1.is_none() && machine.cgroup_v1 {
        let text = "not set, and this machine has cgroup v1: a kubelet of 1.35 would not start";
        findings.warn("failCgroupV1", text);
    }
}
