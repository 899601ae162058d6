//! Sandboxes, field by field.

use copepod_cri::{
    DnsConfig, IdMapping, LinuxContainerResources, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, SeLinuxOption, SecurityProfile, UserNamespace,
};
use copepod_pod::{ClusterDns, Facts, Resolver};
use serde_json::{Value, json};

use super::test_pods::{node, of, pod, sandbox_of};
use super::*;

fn linux(spec: Value) -> LinuxPodSandboxConfig {
    sandbox_of(&pod(spec)).expect("has one").linux.expect("is Linux")
}

fn context(spec: Value) -> LinuxSandboxSecurityContext {
    linux(spec).security_context.expect("has one")
}

#[test]
fn a_plain_pod() {
    let mut pod = pod(json!({"securityContext": {}}));
    let annotations = serde_json::json!({"note": "x"});
    pod.metadata.annotations = serde_json::from_value(annotations).expect("texts");
    let found = sandbox_of(&pod).expect("has one");
    let host_ids = UserNamespace { mode: NamespaceMode::Node.into(), ..UserNamespace::default() };
    let expected = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web-0".into(),
            uid: "u-1".into(),
            namespace: "ns".into(),
            attempt: 0,
        }),
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/ns_web-0_u-1".into(),
        dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..DnsConfig::default() }),
        port_mappings: Vec::new(),
        labels: labels::of_pod(&pod),
        annotations: [("note".to_owned(), "x".to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/besteffort/podu-1".into(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    userns_options: Some(host_ids),
                    ..NamespaceOption::default()
                }),
                // RuntimeDefault.
                seccomp: Some(SecurityProfile::default()),
                ..LinuxSandboxSecurityContext::default()
            }),
            sysctls: [].into(),
            overhead: Some(LinuxContainerResources::default()),
            resources: Some(LinuxContainerResources {
                cpu_shares: 2,
                cpu_period: 100_000,
                ..LinuxContainerResources::default()
            }),
        }),
        windows: None,
    };
    assert_eq!(found, expected);
}

#[test]
fn names_attempts_and_resolvers() {
    let cluster = ClusterDns { servers: Vec::new(), domain: "cluster.local".into() };
    let facts = Facts { cluster_dns: Some(cluster), node_name: "node".into(), ..Facts::default() };
    let resolver = Resolver {
        servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        searches: vec!["ns.svc".into()],
        options: vec!["ndots:5".into()],
    };
    let make = |spec: Value| {
        sandbox(&SandboxInput {
            of: of(&pod(spec), &node()),
            attempt: 3,
            facts: &facts,
            resolver: &resolver,
            log_dir: "/logs".as_ref(),
            cgroup_parent: "kubepods-podu_1.slice",
        })
    };
    let full = json!({"subdomain": "s", "setHostnameAsFQDN": true});
    let found = make(full).expect("has one");
    assert_eq!(found.hostname, "web-0.s.ns.svc.cluster.local");
    assert_eq!(found.metadata.expect("has it").attempt, 3);
    let DnsConfig { servers, searches, options } = found.dns_config.expect("has it");
    assert_eq!(Resolver { servers, searches, options }, resolver);
    assert_eq!(make(json!({"hostNetwork": true})).expect("has one").hostname, "");
    let long = json!({"subdomain": "s".repeat(50), "setHostnameAsFQDN": true});
    let error = make(long).expect_err("is too long").to_string();
    assert!(error.starts_with("failed to construct FQDN from pod hostname and cluster domain"));
}

#[test]
fn host_ports() {
    let containers = json!([
        {"name": "a", "ports": [
            {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.2"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 81}]},
        {"name": "b", "ports": [
            {"name": "x", "containerPort": 5, "hostPort": 5, "protocol": "SCTP"},
            {"name": "x", "containerPort": 6, "hostPort": 6}]}]);
    let mapping = |protocol: Protocol, container_port, host_port, host_ip: &str| PortMapping {
        protocol: protocol.into(),
        container_port,
        host_port,
        host_ip: host_ip.into(),
    };
    let found = sandbox_of(&pod(json!({"containers": containers}))).expect("has one");
    let expected = [
        mapping(Protocol::Tcp, 80, 8080, ""),
        mapping(Protocol::Udp, 53, 53, "127.0.0.1"),
        mapping(Protocol::Udp, 53, 53, "127.0.0.2"),
        mapping(Protocol::Sctp, 5, 5, ""),
    ];
    assert_eq!(found.port_mappings, expected);
    let on_host = pod(json!({"containers": containers, "hostNetwork": true}));
    assert_eq!(sandbox_of(&on_host).expect("has one").port_mappings, []);
}

#[test]
fn namespaces() {
    use NamespaceMode::{Container, Node, Pod};
    for (spec, (network, pid, ipc)) in [
        (json!({"hostNetwork": true}), (Node, Container, Pod)),
        (json!({"hostPID": true, "shareProcessNamespace": true}), (Pod, Node, Pod)),
        (json!({"shareProcessNamespace": true}), (Pod, Pod, Pod)),
        (json!({"shareProcessNamespace": false, "hostIPC": true}), (Pod, Container, Node)),
    ] {
        let found = context(spec.clone()).namespace_options.expect("has them");
        assert_eq!((found.network(), found.pid(), found.ipc()), (network, pid, ipc), "{spec}");
    }
}

#[test]
fn user_namespaces() {
    let range = IdMapping { host_id: 65536, container_id: 0, length: 65536 };
    let own = UserNamespace { mode: 0, uids: vec![range], gids: vec![range] };
    let given = IdRange { first: 65536, length: 65536 };
    let (apart, shared) = (pod(json!({"hostUsers": false})), pod(json!({"hostUsers": true})));
    let node = node();
    let with = |pod, handler, user_namespace| {
        security::user_namespace(PodInput { handler, user_namespace, ..of(pod, &node) })
    };
    assert_eq!(with(&apart, "", Some(given)), Ok(own));
    let of_host = with(&shared, "", Some(given)).expect("needs none");
    assert_eq!((of_host.mode(), of_host.uids), (NamespaceMode::Node, Vec::new()));
    for (handler, expected) in [
        ("", "can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
        (
            "kata",
            "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support \
             user namespaces",
        ),
    ] {
        assert_eq!(with(&apart, handler, None).expect_err("has none").to_string(), expected);
    }
    assert_eq!(sandbox_of(&apart), Err(ConfigError::UserNamespace));
}

#[test]
fn security_contexts() {
    let found = context(json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 2000,
        "fsGroup": 3000, "supplementalGroups": [4000, 5000], "supplementalGroupsPolicy": "Strict",
        "seccompProfile": {"type": "Unconfined"}, "sysctls": [],
        "seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "l"}}}));
    assert_eq!(found.run_as_user.map(|id| id.value), Some(1000));
    assert_eq!(found.run_as_group.map(|id| id.value), Some(2000));
    assert_eq!(found.supplemental_groups, [3000, 4000, 5000]);
    assert_eq!(found.supplemental_groups_policy().as_str_name(), "Strict");
    assert_eq!(found.seccomp, Some(SecurityProfile::default()), "whatever the pod says");
    let labels = ["u", "r", "t", "l"].map(str::to_owned);
    let [user, role, kind, level] = labels;
    assert_eq!(found.selinux_options, Some(SeLinuxOption { user, role, r#type: kind, level }));
    let policy = json!({"securityContext": {"supplementalGroupsPolicy": "Other"}});
    let error = sandbox_of(&pod(policy)).expect_err("is none");
    assert_eq!(error.to_string(), "unsupported supplementalGroupsPolicy: Other");
}

#[test]
fn one_privileged_container_makes_the_sandbox_so() {
    let it = |name: &str, privileged: bool| json!([{"name": name, "securityContext": {"privileged": privileged}}]);
    for (spec, expected) in [
        (json!({}), false),
        (json!({"containers": it("c", false)}), false),
        (json!({"containers": it("c", true)}), true),
        (json!({"initContainers": it("i", true)}), true),
        (json!({"ephemeralContainers": it("e", true)}), true),
    ] {
        assert_eq!(context(spec.clone()).privileged, expected, "{spec}");
    }
}

#[test]
fn sysctls() {
    let all = json!([{"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"},
        {"name": "kernel.shm_rmid_forced", "value": "1"}]);
    let found = linux(json!({"securityContext": {"sysctls": all}})).sysctls;
    let expected = [
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ("net.ipv4.ip_local_port_range".to_owned(), "1024 65535".to_owned()),
    ];
    assert_eq!(found, expected.into());
}
