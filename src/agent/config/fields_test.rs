//! Every field that there is.

use super::*;

/// Each field of the file at a value that is not its default. Sub-fields follow their field.
const FIELDS: &[(&str, &str)] = &[
    ("enableServer", "false"),
    ("staticPodPath", "/etc/kubernetes/manifests"),
    ("podLogsDir", "/data/logs"),
    ("syncFrequency", "2m"),
    ("fileCheckFrequency", "5s"),
    ("httpCheckFrequency", "5s"),
    ("staticPodURL", "http://a/pods"),
    ("staticPodURLHeader", "{X-A: [b]}"),
    ("address", "10.0.0.1"),
    ("port", "10260"),
    ("readOnlyPort", "10255"),
    ("tlsCertFile", "a.crt\ntlsPrivateKeyFile: a.key"),
    ("tlsPrivateKeyFile", "a.key\ntlsCertFile: a.crt"),
    ("tlsCipherSuites", "[TLS_AES_128_GCM_SHA256]"),
    ("tlsCurvePreferences", "[29]"),
    ("tlsMinVersion", "VersionTLS13"),
    ("rotateCertificates", "true"),
    ("serverTLSBootstrap", "true"),
    ("authentication", "{anonymous: {enabled: true}}"),
    ("authentication", "{webhook: {enabled: false}}"),
    ("authentication", "{webhook: {cacheTTL: 1s}}"),
    ("authentication", "{x509: {clientCAFile: /a}}"),
    ("authorization", "{mode: AlwaysAllow}"),
    ("authorization", "{webhook: {cacheAuthorizedTTL: 1s}}"),
    ("authorization", "{webhook: {cacheUnauthorizedTTL: 1s}}"),
    ("registryPullQPS", "0"),
    ("registryBurst", "7"),
    ("imagePullCredentialsVerificationPolicy", "AlwaysVerify"),
    (
        "preloadedImagesVerificationAllowlist",
        "[a/b]\nimagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages",
    ),
    ("eventRecordQPS", "0"),
    ("eventBurst", "7"),
    ("enableDebuggingHandlers", "false"),
    ("enableContentionProfiling", "true"),
    ("healthzPort", "0"),
    ("healthzBindAddress", "0.0.0.0"),
    ("oomScoreAdj", "0"),
    ("clusterDomain", "cluster.local"),
    ("clusterDNS", "[10.96.0.10]"),
    ("streamingConnectionIdleTimeout", "1h"),
    ("nodeStatusUpdateFrequency", "20s"),
    ("nodeStatusReportFrequency", "1m"),
    ("nodeLeaseDurationSeconds", "20"),
    ("imageMinimumGCAge", "1m"),
    ("imageMaximumGCAge", "24h"),
    ("imageGCHighThresholdPercent", "90"),
    ("imageGCLowThresholdPercent", "70"),
    ("volumeStatsAggPeriod", "2m"),
    ("kubeletCgroups", "/a"),
    ("systemCgroups", "/a\ncgroupRoot: /b"),
    ("cgroupRoot", "/b"),
    ("cgroupsPerQOS", "false\nenforceNodeAllocatable: [none]"),
    ("cgroupDriver", "systemd"),
    ("cpuManagerPolicy", "static"),
    ("singleProcessOOMKill", "true"),
    ("cpuManagerPolicyOptions", "{a: b}"),
    ("cpuManagerReconcilePeriod", "1s"),
    ("memoryManagerPolicy", "Static"),
    ("topologyManagerPolicy", "restricted"),
    ("topologyManagerScope", "pod"),
    ("topologyManagerPolicyOptions", "{a: b}"),
    ("qosReserved", "{memory: 50%}"),
    ("runtimeRequestTimeout", "3m"),
    ("hairpinMode", "none"),
    ("maxPods", "64"),
    ("podCIDR", "10.0.0.0/24"),
    ("podPidsLimit", "100"),
    ("resolvConf", "/run/systemd/resolve/resolv.conf"),
    ("cpuCFSQuota", "false"),
    ("cpuCFSQuotaPeriod", "10ms"),
    ("nodeStatusMaxImages", "-1"),
    ("maxOpenFiles", "1024"),
    ("contentType", "application/json"),
    ("kubeAPIQPS", "5"),
    ("kubeAPIBurst", "5"),
    ("serializeImagePulls", "false"),
    ("maxParallelImagePulls", "2\nserializeImagePulls: false"),
    ("evictionHard", "{memory.available: 200Mi}"),
    ("evictionSoft", "{memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1m}"),
    ("evictionSoftGracePeriod", "{memory.available: 1m}"),
    ("evictionPressureTransitionPeriod", "1m"),
    ("evictionMaxPodGracePeriod", "60"),
    ("evictionMinimumReclaim", "{memory.available: 5%}"),
    ("mergeDefaultEvictionSettings", "true\nevictionHard: {pid.available: 5%}"),
    ("podsPerCore", "4"),
    ("enableControllerAttachDetach", "false"),
    ("protectKernelDefaults", "true"),
    ("iptablesMasqueradeBit", "13"),
    ("iptablesDropBit", "13"),
    ("featureGates", "{NodeSwap: true}"),
    ("memorySwap", "{swapBehavior: LimitedSwap}"),
    ("containerLogMaxSize", "5Mi"),
    ("containerLogMaxFiles", "2"),
    ("containerLogMaxWorkers", "2"),
    ("containerLogMonitorInterval", "5s"),
    ("configMapAndSecretChangeDetectionStrategy", "Cache"),
    ("systemReserved", "{cpu: 200m, memory: 150M}"),
    ("kubeReserved", "{ephemeral-storage: 1Gi, pid: '1000'}"),
    ("reservedSystemCPUs", "0-1"),
    ("showHiddenMetricsForVersion", "'1.35'"),
    ("systemReservedCgroup", "/s\nenforceNodeAllocatable: [pods, system-reserved]"),
    ("kubeReservedCgroup", "/k\nenforceNodeAllocatable: [pods, kube-reserved-compressible]"),
    ("enforceNodeAllocatable", "[]"),
    ("enforceNodeAllocatable", "[pods, system-reserved]\nsystemReservedCgroup: /s"),
    ("allowedUnsafeSysctls", "['net.core.*', kernel.msgmax]"),
    ("volumePluginDir", "/a"),
    ("providerID", "aws:///eu/i-1"),
    ("kernelMemcgNotification", "true"),
    ("logging", "{verbosity: 4}"),
    ("logging", "{format: json}"),
    ("logging", "{flushFrequency: 1s}"),
    ("logging", "{flushFrequency: 1000}"),
    ("logging", "{vmodule: [{filePattern: a, verbosity: 3}]}"),
    ("logging", "{options: {json: {splitStream: true}}}"),
    ("logging", "{options: {text: {infoBufferSize: 1Ki}}}"),
    ("enableSystemLogQuery", "true"),
    ("shutdownGracePeriod", "30s"),
    ("shutdownGracePeriodCriticalPods", "10s\nshutdownGracePeriod: 30s"),
    ("shutdownGracePeriodByPodPriority", "[{priority: 1000, shutdownGracePeriodSeconds: 10}]"),
    ("crashLoopBackOff", "{maxContainerRestartPeriod: 10s}"),
    ("reservedMemory", "[{numaNode: 0, limits: {memory: 1Gi}}]"),
    ("seccompDefault", "true"),
    ("memoryThrottlingFactor", "0.5"),
    ("memoryReservationPolicy", "TieredReservation"),
    ("registerWithTaints", "[{key: wasm, value: only, effect: NoSchedule}]"),
    ("registerNode", "false"),
    ("tracing", "{endpoint: 'localhost:4317'}"),
    ("tracing", "{samplingRatePerMillion: 100}"),
    ("localStorageCapacityIsolation", "false"),
    ("containerRuntimeEndpoint", "unix:///run/crio/crio.sock"),
    ("imageServiceEndpoint", "unix:///run/crio/crio.sock"),
    ("userNamespaces", "{idsPerPod: 131072}"),
];

/// Fields whose other value says what is the case here anyway: no handler, no chains, no check.
const SO_ANYWAY: &[(&str, &str)] = &[
    ("makeIPTablesUtilChains", "false"),
    ("enableSystemLogHandler", "false"),
    ("enableProfilingHandler", "false"),
    ("enableDebugFlagsHandler", "false"),
    ("failSwapOn", "false"),
    ("failCgroupV1", "false"),
];

#[test]
fn every_field_ends_in_the_configuration_or_in_a_warning_with_its_name() {
    let (plain, warnings) = good("");
    assert_eq!(warnings, [""; 0]);
    for (field, value) in FIELDS {
        let (config, warnings) = good(&format!("{field}: {value}"));
        let named = warnings.iter().any(|warning| warning.starts_with(field));
        assert!(config != plain || named, "{field}: {value}: {warnings:?}");
    }
    for (field, value) in SO_ANYWAY {
        let (config, warnings) = good(&format!("{field}: {value}"));
        assert_eq!((config, warnings), (plain.clone(), Vec::new()), "{field}");
    }
}

/// Hands over the names of a struct's fields and stops.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("names only"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("names only"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[test]
fn the_table_above_has_every_field() {
    let mut names: &[&str] = &[];
    KubeletConfiguration::deserialize(Names(&mut names)).unwrap_err();
    let known: BTreeSet<&str> = names.iter().copied().collect();
    let rest = ["apiVersion", "kind", "runOnce"];
    let tested: BTreeSet<&str> =
        FIELDS.iter().chain(SO_ANYWAY).map(|(field, _)| *field).chain(rest).collect();
    assert_eq!(known.len(), 127, "fields of upstream's type in 1.36, with its apiVersion and kind");
    assert_eq!(known, tested);
}
