//! The file and the flags, as an operator writes them.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn machine() -> Machine {
    Machine { hostname: "Edge-7".into(), cgroup_v1: false, swap: false }
}

/// Flags and the text of a file, joined on a machine.
fn on(machine: &Machine, flags: &NodeFlags, text: &str) -> Result<(Config, Vec<Warning>), String> {
    let mut flags = flags.clone();
    flags.config = Some("/etc/node/config.yaml".into());
    let file = decode("config.yaml", &format!("{HEAD}{text}")).map_err(|e| e.to_string())?;
    join(&flags, &file, machine).map_err(|e| e.to_string())
}

fn loaded(text: &str) -> Result<(Config, Vec<Warning>), String> {
    on(&machine(), &NodeFlags::for_test(), text)
}

fn good(text: &str) -> (Config, Vec<String>) {
    let (config, warnings) = loaded(text).unwrap();
    (config, warnings.iter().map(ToString::to_string).collect())
}

fn wrong(text: &str) -> String {
    loaded(text).unwrap_err()
}

#[path = "fields_test.rs"]
mod fields;

#[test]
fn defaults_are_upstreams_for_a_file() {
    let (config, _) = good("");
    assert_eq!(config.node.name, "edge-7");
    assert_eq!(config.server.listen, Some("0.0.0.0:10250".parse().unwrap()));
    assert_eq!(config.server.healthz, Some("127.0.0.1:10248".parse().unwrap()));
    assert!(!config.server.anonymous);
    assert_eq!(config.server.tokens, Some(Duration::from_secs(120)));
    let (authorized, unauthorized) = (Duration::from_secs(300), Duration::from_secs(30));
    assert_eq!(config.server.authorization, Authorization::Webhook { authorized, unauthorized });
    assert_eq!((config.pods.max_pods, config.pods.pods_per_core), (110, 0));
    assert_eq!(config.pods.pids, None);
    assert_eq!(config.node.status_report, Duration::from_secs(300));
    assert_eq!(config.node.lease, Duration::from_secs(40));
    assert_eq!(config.dirs.cert, Path::new("/var/lib/kubelet/pki"));
    assert_eq!(config.dns.resolv_conf.as_deref(), Some(Path::new("/etc/resolv.conf")));
    assert_eq!(config.logs, LogConfig { max_size: Some(10 << 20), max_files: 5 });
    assert!(config.cgroups.enforce_pods);
    let hard = &config.reserved.eviction_hard;
    assert_eq!(hard[&Signal::MemoryAvailable], Threshold::Quantity(quantity("100Mi").unwrap()));
    assert_eq!(hard[&Signal::NodeFsAvailable], Threshold::Part(0.1));
    assert_eq!(hard.len(), 5);
}

#[test]
fn zeroes_and_other_values_are_read_as_upstream_reads_them() {
    let (config, _) = good(
        "port: 0\nmaxPods: 0\nnodeStatusUpdateFrequency: 30s\npodPidsLimit: -5\nresolvConf: ''\n\
         podsPerCore: 3\nevictionHard: {}\ncontainerLogMaxSize: '-1'\nnodeStatusMaxImages: 0\n\
         enforceNodeAllocatable: [none]\naddress: '::'\ncgroupRoot: null",
    );
    assert_eq!(config.server.listen, Some("[::]:10250".parse().unwrap()));
    assert_eq!((config.pods.max_pods, config.pods.pods_per_core), (110, 3));
    assert_eq!(config.node.status_report, Duration::from_secs(30), "as the update's");
    assert_eq!(config.pods.pids, None);
    assert_eq!(config.dns.resolv_conf, None);
    assert!(config.reserved.eviction_hard.is_empty());
    assert_eq!(config.logs.max_size, None);
    assert_eq!(config.node.max_images, Some(0));
    assert!(!config.cgroups.enforce_pods);
    let (config, _) = good("mergeDefaultEvictionSettings: true\nevictionHard: {pid.available: 5%}");
    assert_eq!(config.reserved.eviction_hard.len(), 6);
    let (config, _) = good("evictionHard: {memory.available: 100%, nodefs.available: 0%}");
    assert!(config.reserved.eviction_hard.is_empty());
    let (config, _) = good("tlsCertFile: pki/a.crt\ntlsPrivateKeyFile: /b.key");
    let pair = ("/etc/node/pki/a.crt".into(), "/b.key".into());
    assert_eq!(config.server.certificate, Some(pair), "from the file's own directory");
}

/// What `kubeadm init` of 1.36 writes.
const KUBEADM: &str = r#"
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"#;

#[test]
fn the_file_that_kubeadm_writes_is_read_with_few_warnings() {
    let file = decode("config.yaml", KUBEADM).unwrap();
    let mut flags = NodeFlags::for_test();
    flags.config = Some("/var/lib/kubelet/config.yaml".into());
    let (config, warnings) = join(&flags, &file, &machine()).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["rotateCertificates: not yet honoured"]);
    assert_eq!(config.static_pods.path.as_deref(), Some(Path::new("/etc/kubernetes/manifests")));
    assert_eq!(config.server.client_ca.as_deref(), Some(Path::new("/etc/kubernetes/pki/ca.crt")));
    assert_eq!(config.server.tokens, Some(Duration::from_secs(120)));
    assert_eq!(config.node.status_update, Duration::from_secs(10));
    assert_eq!(config.dns.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.dns.domain, "cluster.local");
    // The same as JSON.
    let json = r#"{"kind": "KubeletConfiguration", "port": 1234,
                   "apiVersion": "kubelet.config.k8s.io/v1beta1"}"#;
    assert_eq!(decode("a.json", json).unwrap().port, Some(1234));
}

#[test]
fn decoding_is_strict_and_names_line_and_field() {
    for (text, error) in [
        ("maxPod: 5", "config.yaml, line 3: unknown field \"maxPod\", did you mean \"maxPods\"?"),
        (
            "authentication:\n  webhook:\n    cacheTtl: 1s",
            "config.yaml, line 5: unknown field \"authentication.webhook.cacheTtl\", did you mean \
             \"cacheTTL\"?",
        ),
        ("port: 1\nport: 2", "config.yaml, line 4: duplicate field \"port\""),
        (
            "port: \"10250\"",
            "config.yaml, line 3: port: expected an integer, found a string \"10250\"",
        ),
        (
            "port: 4294967296",
            "config.yaml, line 3: port: expected an integer of 32 bits, found the number 4294967296",
        ),
        (
            "syncFrequency: 60",
            "config.yaml, line 3: syncFrequency: expected a duration (a string such as \"1m30s\"), \
             found the number 60",
        ),
        (
            "syncFrequency: 1 minute",
            "config.yaml, line 3: syncFrequency: time: unknown unit \" minute\" in duration \
             \"1 minute\"",
        ),
        (
            "authentication: 5",
            "config.yaml, line 3: authentication: expected an object, found the number 5",
        ),
        ("clusterDNS: a", "config.yaml, line 3: clusterDNS: expected a list, found a string \"a\""),
        (
            "registerWithTaints: [{key: a, efect: b}]",
            "config.yaml, line 3: unknown field \"registerWithTaints[0].efect\", did you mean \
             \"effect\"?",
        ),
    ] {
        assert!(wrong(text).starts_with(error), "{text}: {}", wrong(text));
    }
    let all = wrong("maxPod: 5\nport: a\nsyncFrequency: x\nclusterDns: []");
    assert_eq!(all.lines().count(), 4, "{all}");
}

#[test]
fn what_is_no_such_object_is_refused() {
    for (text, error) in [
        ("", "a: empty: expected one object of apiVersion"),
        (
            "apiVersion: v1\nkind: Pod",
            "a, line 1: found apiVersion \"v1\" and kind \"Pod\": expected",
        ),
        ("kind: KubeletConfiguration", "a, line 1: found apiVersion none and kind"),
        ("[]", "a, line 1: found apiVersion none and kind none: expected"),
        (&format!("{HEAD}---\n{HEAD}"), "a: 2 documents: expected one object"),
        ("a: [", "a: not usable as YAML"),
    ] {
        let error_is = decode("a", text).unwrap_err().to_string();
        assert!(error_is.starts_with(error), "{text}: {error_is}");
    }
}

/// Values that are wrong, and how what is said of them begins.
const WRONG: &[(&str, &str)] = &[
    ("port: 70000", "port: 70000 must be between 1 and 65535, inclusive"),
    ("healthzPort: -1", "healthzPort: -1 must be between 1 and 65535, inclusive"),
    ("readOnlyPort: -1", "readOnlyPort: -1 must be between 0 and 65535, inclusive"),
    ("address: localhost", "address: \"localhost\" is not a valid IP address"),
    ("clusterDNS: [10.0.0.1, x]", "clusterDNS[1]: \"x\" is not a valid IP address"),
    ("maxPods: -1", "maxPods: -1 must not be a negative number"),
    ("eventBurst: -1", "eventBurst: -1 must not be a negative number"),
    ("kubeAPIQPS: -1", "kubeAPIQPS: -1 must not be a negative number"),
    ("nodeLeaseDurationSeconds: -1", "nodeLeaseDurationSeconds: must be greater than 0"),
    ("nodeStatusUpdateFrequency: -1s", "nodeStatusUpdateFrequency: must not be negative"),
    ("nodeStatusMaxImages: -2", "nodeStatusMaxImages: -2 must be -1 or greater"),
    ("oomScoreAdj: -2000", "oomScoreAdj: -2000 must be between -1000 and 1000, inclusive"),
    (
        "imageGCHighThresholdPercent: 101",
        "imageGCHighThresholdPercent: 101 must be between 0 and 100, inclusive",
    ),
    (
        "imageGCLowThresholdPercent: 85",
        "imageGCLowThresholdPercent: 85 must be less than imageGCHighThresholdPercent 85",
    ),
    ("runOnce: true", "runOnce: true, Runonce mode has been deprecated and should not be set"),
    ("tlsCertFile: /a", "tlsPrivateKeyFile: missing: expected the key of tlsCertFile"),
    ("tlsPrivateKeyFile: /a", "tlsCertFile: missing: expected the chain of tlsPrivateKeyFile"),
    ("tlsMinVersion: TLS13", "tlsMinVersion: unknown tls version \"TLS13\": expected"),
    ("authorization: {mode: RBAC}", "authorization.mode: unknown authorization mode RBAC"),
    ("cgroupDriver: other", "cgroupDriver: option \"other\" specified: expected one of"),
    ("hairpinMode: yes-please", "hairpinMode: option \"yes-please\" specified"),
    (
        "systemReserved: {cpu: 1x}",
        "systemReserved.cpu: \"1x\" is no quantity: quantities must match",
    ),
    ("kubeReserved: {gpu: '1'}", "kubeReserved.gpu: cannot reserve \"gpu\" resource"),
    (
        "systemReserved: {memory: '-1'}",
        "systemReserved.memory: resource quantity for \"memory\" cannot be negative: -1",
    ),
    ("evictionHard: {memory: 1Gi}", "evictionHard.memory: unsupported eviction signal memory"),
    (
        "evictionHard: {memory.available: 120%}",
        "evictionHard.memory.available: eviction percentage threshold memory.available must be \
         <= 100%: 120%",
    ),
    (
        "evictionHard: {memory.available: '0'}",
        "evictionHard.memory.available: eviction threshold memory.available must be positive: 0",
    ),
    (
        "evictionSoft: {memory.available: 1Gi}",
        "evictionSoft.memory.available: grace period must be specified for the soft eviction \
         threshold memory.available",
    ),
    ("containerLogMaxFiles: 1", "containerLogMaxFiles: must be greater than 1"),
    ("containerLogMaxSize: much", "containerLogMaxSize: \"much\" is no quantity"),
    ("enforceNodeAllocatable: [all]", "enforceNodeAllocatable: option \"all\" specified"),
    (
        "enforceNodeAllocatable: [none, pods]",
        "enforceNodeAllocatable: may not contain additional enforcements",
    ),
    (
        "cgroupsPerQOS: false\nenforceNodeAllocatable: [pods]",
        "enforceNodeAllocatable: cgroupsPerQOS must be set to true when \"pods\" is contained",
    ),
    (
        "registerWithTaints: [{key: a b, effect: NoSchedule}]",
        "registerWithTaints[0]: invalid taint key: name part must consist of",
    ),
    ("podLogsDir: /a/../b", "podLogsDir: pod logs path \"/a/../b\" must be normalized"),
    (
        "allowedUnsafeSysctls: [net.a, vm.b]",
        "allowedUnsafeSysctls[1]: the sysctls \"vm.b\" are not known to be namespaced",
    ),
    ("userNamespaces: {idsPerPod: 5}", "userNamespaces.idsPerPod: must not be less than 65536"),
    (
        "crashLoopBackOff: {maxContainerRestartPeriod: 0.5s}",
        "crashLoopBackOff.maxContainerRestartPeriod: must be set between 1s and 300s",
    ),
];

#[test]
fn wrong_values_are_named_with_what_was_expected() {
    for (text, error) in WRONG {
        let error_is = wrong(text);
        let error = format!("/etc/node/config.yaml: {error}");
        assert!(error_is.starts_with(&error), "{text}: {error_is}");
        assert_eq!(error_is.lines().count(), 1, "{text}: {error_is}");
    }
}

fn flags(change: impl FnOnce(&mut NodeFlags)) -> NodeFlags {
    let mut flags = NodeFlags::for_test();
    change(&mut flags);
    flags
}

#[test]
fn all_errors_of_flags_and_file_come_at_once() {
    let flags = flags(|flags| {
        flags.kubeconfig = None;
        flags.bootstrap_kubeconfig = Some("/b".into());
        flags.config_dir = Some("/c".into());
        flags.hostname_override = Some("a_b".into());
        flags.node_ip = Some("10.0.0.1,10.0.0.2".into());
        flags.node_labels = vec!["kubernetes.io/role=edge,a=b c".into()];
        flags.register_with_taints = Some("wasm=only,x:Never".into());
        flags.register_node = Some("maybe".into());
        flags.cloud_provider = Some("aws".into());
        flags.v = Some("high".into());
    });
    let text = on(&machine(), &flags, "port: 0\nhealthzPort: 70000\nmaxPods: -3").unwrap_err();
    for part in [
        "--kubeconfig: missing",
        "--bootstrap-kubeconfig: TLS bootstrap is a later step",
        "--config-dir: drop-in files are a later step",
        "--hostname-override: \"a_b\" cannot name a node: a lowercase RFC 1123 subdomain",
        "--node-ip: must contain either a single IP or a dual-stack pair of IPs",
        "--node-labels: unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: \
         [kubernetes.io/role]",
        "--node-labels: invalid node labels: 'b c' - a valid label must be",
        "--register-with-taints: invalid taint spec: wasm=only, expected key=value:Effect",
        "--register-with-taints: invalid taint spec: x:Never, invalid taint effect: Never",
        "--register-node: \"maybe\" is no boolean",
        "--cloud-provider: \"aws\" is none",
        "--v: \"high\": expected a number from 0 to 10",
        "config.yaml: healthzPort: 70000 must be",
        "config.yaml: maxPods: -3 must not be",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let flags = flags(|flags| {
        flags.hostname_override = Some(" Node-A ".into());
        flags.node_ip = Some("10.0.0.1, fd00::1".into());
        flags.node_labels = vec![
            "a=b,node.kubernetes.io/pool=wasm".into(),
            "a=c,topology.kubernetes.io/zone=1".into(),
        ];
        flags.register_with_taints = Some("wasm=only:NoSchedule,x:NoExecute".into());
        flags.register_node = Some("false".into());
        flags.provider_id = Some("mine".into());
        flags.cloud_provider = Some("external".into());
        flags.v = Some("5".into());
        flags.root_dir = "/data".into();
        flags.container_runtime_endpoint = Some("unix:///a".into());
        flags.pod_infra_container_image = Some("pause".into());
    });
    let file = "registerWithTaints: [{key: other, effect: NoSchedule}]\nproviderID: theirs\n\
                registerNode: true\nlogging: {verbosity: 2}";
    let (config, warnings) = on(&machine(), &flags, file).unwrap();
    assert_eq!(config.node.name, "node-a");
    assert_eq!(config.node.ips.len(), 2);
    let labels: Vec<_> = config.node.labels.into_iter().collect();
    assert_eq!(labels.len(), 3);
    assert_eq!(labels[0], ("a".to_owned(), "c".to_owned()));
    let taints: Vec<String> = config
        .node
        .taints
        .iter()
        .map(|t| format!("{}={}:{}", t.key, t.value.as_deref().unwrap_or_default(), t.effect))
        .collect();
    let cloud = "node.cloudprovider.kubernetes.io/uninitialized=true:NoSchedule";
    assert_eq!(taints, ["wasm=only:NoSchedule", "x=:NoExecute", cloud]);
    assert!(!config.node.register && config.node.external_cloud);
    assert_eq!(config.node.provider_id, "mine");
    assert_eq!(config.verbosity, 5);
    assert_eq!(config.dirs.root, Path::new("/data"));
    assert_eq!(config.dirs.cert, Path::new("/data/pki"));
    assert_eq!(config.dirs.cni_bins.len(), 2);
    let names: Vec<&str> = warnings.iter().map(|warning| warning.name.as_str()).collect();
    assert_eq!(names, ["--pod-infra-container-image"]);
    let runtime = config.runtime;
    assert_eq!((runtime.endpoint.as_deref(), runtime.patience.as_secs()), (Some("unix:///a"), 120));
}

#[test]
fn the_machine_is_minded_as_upstream_says() {
    let old = Machine { cgroup_v1: true, swap: true, ..machine() };
    let flags = NodeFlags::for_test();
    let error = on(&old, &flags, "failCgroupV1: true").unwrap_err();
    assert!(error.starts_with("kubelet is configured to not run on a host using cgroup v1."));
    let (_, warnings) = on(&old, &flags, "").unwrap();
    let names: Vec<&str> = warnings.iter().map(|warning| warning.name.as_str()).collect();
    assert_eq!(names, ["failSwapOn", "failCgroupV1"]);
    let (_, warnings) = on(&old, &flags, "failCgroupV1: false\nfailSwapOn: false").unwrap();
    assert_eq!(warnings, []);
}

#[test]
fn files_are_found_bounded_and_text() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str| {
        let flags = flags(|flags| {
            flags.config = Some(dir.path().join(name));
            flags.v = Some("x".into());
            flags.hostname_override = Some("a".into());
        });
        Config::load(&flags).unwrap_err().to_string()
    };
    assert!(load("none").contains("none cannot be read: No such file"));
    assert!(load("none").contains("--v: "), "the flags' errors too: {}", load("none"));
    fs::write(dir.path().join("long"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(load("long").contains("longer than 1 MiB"));
    fs::write(dir.path().join("bytes"), b"\xff\xfe").unwrap();
    assert!(load("bytes").contains("is not UTF-8 text"));
    fs::write(dir.path().join("typo"), format!("{HEAD}prot: 1")).unwrap();
    assert!(load("typo").contains("unknown field \"prot\", did you mean \"port\"?"));
}

#[test]
fn without_a_file_the_defaults_are_secure_and_that_is_said() {
    let flags = flags(|flags| flags.hostname_override = Some("a".into()));
    let (config, warnings) = Config::load(&flags).unwrap();
    assert!(!config.server.anonymous);
    assert!(matches!(config.server.authorization, Authorization::Webhook { .. }));
    assert_eq!(warnings[0].name, "--config");
}

#[test]
fn the_configuration_to_start_from_is_good_and_wholly_honoured() {
    let file = decode("kubelet-config.yaml", include_str!("../../../deploy/kubelet-config.yaml"));
    let mut flags = NodeFlags::for_test();
    flags.config = Some("/var/lib/kubelet/config.yaml".into());
    let (_, warnings) = join(&flags, &file.unwrap(), &machine()).unwrap();
    assert_eq!(warnings, []);
}
