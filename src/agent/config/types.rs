//! `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1` as a file has it: every field of
//! upstream's type (`k8s.io/kubelet/config/v1beta1`, v0.36), by its name there; what is not given,
//! or `null`, is `None`. Durations are Go's texts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use super::duration::GoDuration;

/// The `apiVersion` of the file.
pub(super) const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// The `kind` of the file.
pub(super) const KIND: &str = "KubeletConfiguration";

type Texts = BTreeMap<String, String>;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct KubeletConfiguration {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) enable_server: Option<bool>,
    pub(super) static_pod_path: Option<String>,
    pub(super) pod_logs_dir: Option<String>,
    pub(super) sync_frequency: Option<GoDuration>,
    pub(super) file_check_frequency: Option<GoDuration>,
    pub(super) http_check_frequency: Option<GoDuration>,
    #[serde(rename = "staticPodURL")]
    pub(super) static_pod_url: Option<String>,
    #[serde(rename = "staticPodURLHeader")]
    pub(super) static_pod_url_header: Option<BTreeMap<String, Vec<String>>>,
    pub(super) address: Option<String>,
    pub(super) port: Option<i32>,
    pub(super) read_only_port: Option<i32>,
    pub(super) tls_cert_file: Option<String>,
    pub(super) tls_private_key_file: Option<String>,
    pub(super) tls_cipher_suites: Option<Vec<String>>,
    pub(super) tls_curve_preferences: Option<Vec<i32>>,
    pub(super) tls_min_version: Option<String>,
    pub(super) rotate_certificates: Option<bool>,
    #[serde(rename = "serverTLSBootstrap")]
    pub(super) server_tls_bootstrap: Option<bool>,
    pub(super) authentication: Option<Authentication>,
    pub(super) authorization: Option<Authorization>,
    #[serde(rename = "registryPullQPS")]
    pub(super) registry_pull_qps: Option<i32>,
    pub(super) registry_burst: Option<i32>,
    pub(super) image_pull_credentials_verification_policy: Option<String>,
    pub(super) preloaded_images_verification_allowlist: Option<Vec<String>>,
    #[serde(rename = "eventRecordQPS")]
    pub(super) event_record_qps: Option<i32>,
    pub(super) event_burst: Option<i32>,
    pub(super) enable_debugging_handlers: Option<bool>,
    pub(super) enable_contention_profiling: Option<bool>,
    pub(super) healthz_port: Option<i32>,
    pub(super) healthz_bind_address: Option<String>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    pub(super) cluster_dns: Option<Vec<String>>,
    pub(super) streaming_connection_idle_timeout: Option<GoDuration>,
    pub(super) node_status_update_frequency: Option<GoDuration>,
    pub(super) node_status_report_frequency: Option<GoDuration>,
    pub(super) node_lease_duration_seconds: Option<i32>,
    #[serde(rename = "imageMinimumGCAge")]
    pub(super) image_minimum_gc_age: Option<GoDuration>,
    #[serde(rename = "imageMaximumGCAge")]
    pub(super) image_maximum_gc_age: Option<GoDuration>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub(super) image_gc_high_threshold_percent: Option<i32>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub(super) image_gc_low_threshold_percent: Option<i32>,
    pub(super) volume_stats_agg_period: Option<GoDuration>,
    pub(super) kubelet_cgroups: Option<String>,
    pub(super) system_cgroups: Option<String>,
    pub(super) cgroup_root: Option<String>,
    #[serde(rename = "cgroupsPerQOS")]
    pub(super) cgroups_per_qos: Option<bool>,
    pub(super) cgroup_driver: Option<String>,
    pub(super) cpu_manager_policy: Option<String>,
    #[serde(rename = "singleProcessOOMKill")]
    pub(super) single_process_oom_kill: Option<bool>,
    pub(super) cpu_manager_policy_options: Option<Texts>,
    pub(super) cpu_manager_reconcile_period: Option<GoDuration>,
    pub(super) memory_manager_policy: Option<String>,
    pub(super) topology_manager_policy: Option<String>,
    pub(super) topology_manager_scope: Option<String>,
    pub(super) topology_manager_policy_options: Option<Texts>,
    pub(super) qos_reserved: Option<Texts>,
    pub(super) runtime_request_timeout: Option<GoDuration>,
    pub(super) hairpin_mode: Option<String>,
    pub(super) max_pods: Option<i32>,
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    pub(super) pod_pids_limit: Option<i64>,
    pub(super) resolv_conf: Option<String>,
    pub(super) run_once: Option<bool>,
    #[serde(rename = "cpuCFSQuota")]
    pub(super) cpu_cfs_quota: Option<bool>,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub(super) cpu_cfs_quota_period: Option<GoDuration>,
    pub(super) node_status_max_images: Option<i32>,
    pub(super) max_open_files: Option<i64>,
    pub(super) content_type: Option<String>,
    #[serde(rename = "kubeAPIQPS")]
    pub(super) kube_api_qps: Option<i32>,
    #[serde(rename = "kubeAPIBurst")]
    pub(super) kube_api_burst: Option<i32>,
    pub(super) serialize_image_pulls: Option<bool>,
    pub(super) max_parallel_image_pulls: Option<i32>,
    pub(super) eviction_hard: Option<Texts>,
    pub(super) eviction_soft: Option<Texts>,
    pub(super) eviction_soft_grace_period: Option<Texts>,
    pub(super) eviction_pressure_transition_period: Option<GoDuration>,
    pub(super) eviction_max_pod_grace_period: Option<i32>,
    pub(super) eviction_minimum_reclaim: Option<Texts>,
    pub(super) merge_default_eviction_settings: Option<bool>,
    pub(super) pods_per_core: Option<i32>,
    pub(super) enable_controller_attach_detach: Option<bool>,
    pub(super) protect_kernel_defaults: Option<bool>,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub(super) make_iptables_util_chains: Option<bool>,
    pub(super) iptables_masquerade_bit: Option<i32>,
    pub(super) iptables_drop_bit: Option<i32>,
    pub(super) feature_gates: Option<BTreeMap<String, bool>>,
    pub(super) fail_swap_on: Option<bool>,
    pub(super) memory_swap: Option<MemorySwap>,
    pub(super) container_log_max_size: Option<String>,
    pub(super) container_log_max_files: Option<i32>,
    pub(super) container_log_max_workers: Option<i32>,
    pub(super) container_log_monitor_interval: Option<GoDuration>,
    pub(super) config_map_and_secret_change_detection_strategy: Option<String>,
    pub(super) system_reserved: Option<Texts>,
    pub(super) kube_reserved: Option<Texts>,
    #[serde(rename = "reservedSystemCPUs")]
    pub(super) reserved_system_cpus: Option<String>,
    pub(super) show_hidden_metrics_for_version: Option<String>,
    pub(super) system_reserved_cgroup: Option<String>,
    pub(super) kube_reserved_cgroup: Option<String>,
    pub(super) enforce_node_allocatable: Option<Vec<String>>,
    pub(super) allowed_unsafe_sysctls: Option<Vec<String>>,
    pub(super) volume_plugin_dir: Option<String>,
    #[serde(rename = "providerID")]
    pub(super) provider_id: Option<String>,
    pub(super) kernel_memcg_notification: Option<bool>,
    pub(super) logging: Option<Logging>,
    pub(super) enable_system_log_handler: Option<bool>,
    pub(super) enable_system_log_query: Option<bool>,
    pub(super) shutdown_grace_period: Option<GoDuration>,
    pub(super) shutdown_grace_period_critical_pods: Option<GoDuration>,
    pub(super) shutdown_grace_period_by_pod_priority: Option<Vec<PriorityGrace>>,
    pub(super) crash_loop_back_off: Option<CrashLoopBackOff>,
    pub(super) reserved_memory: Option<Vec<MemoryReservation>>,
    pub(super) enable_profiling_handler: Option<bool>,
    pub(super) enable_debug_flags_handler: Option<bool>,
    pub(super) seccomp_default: Option<bool>,
    pub(super) memory_throttling_factor: Option<f64>,
    pub(super) memory_reservation_policy: Option<String>,
    pub(super) register_with_taints: Option<Vec<Taint>>,
    pub(super) register_node: Option<bool>,
    pub(super) tracing: Option<Tracing>,
    pub(super) local_storage_capacity_isolation: Option<bool>,
    pub(super) container_runtime_endpoint: Option<String>,
    pub(super) image_service_endpoint: Option<String>,
    pub(super) fail_cgroup_v1: Option<bool>,
    pub(super) user_namespaces: Option<UserNamespaces>,
}

/// `authentication`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Authentication {
    pub(super) x509: Option<X509>,
    pub(super) webhook: Option<WebhookAuthentication>,
    pub(super) anonymous: Option<Anonymous>,
}

/// `authentication.x509`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, expecting = "an object")]
pub(super) struct X509 {
    #[serde(rename = "clientCAFile")]
    pub(super) client_ca_file: Option<String>,
}

/// `authentication.webhook`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct WebhookAuthentication {
    pub(super) enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    pub(super) cache_ttl: Option<GoDuration>,
}

/// `authentication.anonymous`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Anonymous {
    pub(super) enabled: Option<bool>,
}

/// `authorization`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Authorization {
    pub(super) mode: Option<String>,
    pub(super) webhook: Option<WebhookAuthorization>,
}

/// `authorization.webhook`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, expecting = "an object")]
pub(super) struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub(super) cache_authorized_ttl: Option<GoDuration>,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub(super) cache_unauthorized_ttl: Option<GoDuration>,
}

/// `memorySwap`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct MemorySwap {
    pub(super) swap_behavior: Option<String>,
}

/// `logging` (`k8s.io/component-base/logs/api/v1`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Logging {
    pub(super) format: Option<String>,
    pub(super) flush_frequency: Option<FlushFrequency>,
    pub(super) verbosity: Option<u32>,
    pub(super) vmodule: Option<Vec<Vmodule>>,
    pub(super) options: Option<LoggingOptions>,
}

/// Nanoseconds, or a duration.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, expecting = "a duration (a string) or a number of nanoseconds")]
pub(super) enum FlushFrequency {
    Nanoseconds(i64),
    Text(GoDuration),
}

/// One of `logging.vmodule`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Vmodule {
    pub(super) file_pattern: Option<String>,
    pub(super) verbosity: Option<u32>,
}

/// `logging.options`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct LoggingOptions {
    pub(super) text: Option<LoggingOutput>,
    pub(super) json: Option<LoggingOutput>,
}

/// `logging.options.text` and `.json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct LoggingOutput {
    pub(super) split_stream: Option<bool>,
    pub(super) info_buffer_size: Option<Quantity>,
}

/// One of `shutdownGracePeriodByPodPriority`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct PriorityGrace {
    pub(super) priority: Option<i32>,
    pub(super) shutdown_grace_period_seconds: Option<i64>,
}

/// `crashLoopBackOff`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct CrashLoopBackOff {
    pub(super) max_container_restart_period: Option<GoDuration>,
}

/// One of `reservedMemory`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct MemoryReservation {
    pub(super) numa_node: Option<i32>,
    pub(super) limits: Option<BTreeMap<String, Quantity>>,
}

/// `tracing` (`k8s.io/component-base/tracing/api/v1`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct Tracing {
    pub(super) endpoint: Option<String>,
    pub(super) sampling_rate_per_million: Option<i32>,
}

/// `userNamespaces`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase", expecting = "an object")]
pub(super) struct UserNamespaces {
    pub(super) ids_per_pod: Option<i64>,
}
