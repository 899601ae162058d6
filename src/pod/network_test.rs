//! Hostname, hosts file, resolver.

use serde_json::{Value, json};

use super::*;
use crate::PodAddresses;

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([]);
    let meta = json!({"name": "web-0", "namespace": "ns", "uid": "u-1"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn facts() -> Facts {
    let pod_ips = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec();
    let addresses = PodAddresses { host_ips: Vec::new(), pod_ips };
    Facts { node_name: "node".to_owned(), addresses, ..Facts::default() }
}

#[test]
fn hostnames() {
    for (spec, expected) in [
        (json!({}), "web-0"),
        (json!({"hostname": "db"}), "db"),
        (json!({"hostname": "db", "subdomain": "s"}), "db"),
        (json!({"setHostnameAsFQDN": true}), "web-0"),
        (json!({"subdomain": "s", "setHostnameAsFQDN": true}), "web-0.s.ns.svc"),
        (json!({"hostNetwork": true}), "node"),
        (json!({"hostname": "db", "hostnameOverride": "mine.example"}), "mine.example"),
    ] {
        assert_eq!(hostname(&pod(spec.clone()), &facts()), expected, "{spec}");
    }
    let mut long = pod(json!({}));
    long.metadata.name = Some(format!("{}-.-{}", "x".repeat(60), "y".repeat(60)));
    assert_eq!(hostname(&long, &facts()), "x".repeat(60));
    long.metadata.name = Some("é".repeat(60));
    assert_eq!(hostname(&long, &facts()), "é".repeat(31));
}

#[test]
fn names_below_the_clusters_domain() {
    let facts = Facts { cluster_dns: Some(cluster()), ..facts() };
    let full = json!({"subdomain": "s", "setHostnameAsFQDN": true});
    assert_eq!(hostname(&pod(full.clone()), &facts), "web-0.s.ns.svc.cluster.local");
    let hosts = hosts_file(&pod(json!({"subdomain": "s"})), &facts, "");
    assert!(hosts.ends_with("fd00::2\tweb-0.s.ns.svc.cluster.local\tweb-0\n"), "{hosts}");
    assert_eq!(check_hostname(&pod(full), &facts), Ok(()));
    let long = "x".repeat(40);
    let long = |spec: Value| {
        let mut pod = pod(spec);
        pod.metadata.name = Some(long.clone());
        pod
    };
    assert_eq!(check_hostname(&long(json!({"subdomain": "s"})), &facts), Ok(()));
    let most = json!({"subdomain": "su", "setHostnameAsFQDN": true});
    assert_eq!(check_hostname(&long(most), &facts), Ok(()), "64 characters");
    let full = json!({"subdomain": "sub", "setHostnameAsFQDN": true});
    let error = check_hostname(&long(full), &facts).expect_err("is too long");
    let fqdn = format!("{}.sub.ns.svc.cluster.local", "x".repeat(40));
    assert_eq!(
        error.to_string(),
        format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too \
             long (64 characters is the max, 65 characters requested)"
        )
    );
    let own = json!({"hostnameOverride": "y".repeat(64), "hostNetwork": true});
    assert_eq!(hostname(&pod(own), &facts), "y".repeat(63));
    let most = json!({"hostnameOverride": "y".repeat(63), "hostNetwork": true});
    assert_eq!(hostname(&pod(most), &facts), "y".repeat(63));
}

#[test]
fn hosts_files() {
    let head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
    let text = |spec: Value| hosts_file(&pod(spec), &facts(), "10.9.9.9\thost\n");
    assert_eq!(text(json!({})), format!("{head}10.0.0.2\tweb-0\nfd00::2\tweb-0\n"));
    assert_eq!(
        text(json!({"subdomain": "s"})),
        format!("{head}10.0.0.2\tweb-0.s.ns.svc\tweb-0\nfd00::2\tweb-0.s.ns.svc\tweb-0\n")
    );
    let aliases =
        json!([{"ip": "1.2.3.4", "hostnames": ["a", "b"]}, {"ip": "::5", "hostnames": ["c"]}]);
    let added = "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n::5\tc\n";
    assert_eq!(
        text(json!({"hostAliases": aliases})),
        format!("{head}10.0.0.2\tweb-0\nfd00::2\tweb-0\n{added}")
    );
    assert_eq!(
        text(json!({"hostAliases": aliases, "hostNetwork": true})),
        format!("# Kubernetes-managed hosts file (host network).\n10.9.9.9\thost\n{added}")
    );
}

const OF_HOST: &str = "# a comment\nnameserver 192.0.2.53\nsearch old\nsearch example.com. svc.cluster.local\n\
                       options edns0 timeout:2\nnameserver\n";

fn cluster() -> ClusterDns {
    ClusterDns { servers: vec!["10.96.0.10".to_owned()], domain: "cluster.local".to_owned() }
}

#[test]
fn resolvers() {
    let host =
        "search example.com svc.cluster.local\nnameserver 192.0.2.53\noptions edns0 timeout:2\n";
    let of_cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\n\
                      nameserver 10.96.0.10\noptions ndots:5\n";
    let config = json!({"nameservers": ["192.0.2.53", "9.9.9.9"], "searches": ["old", "example.com"],
        "options": [{"name": "timeout", "value": "5"}, {"name": "rotate"}]});
    for (spec, expected) in [
        (json!({}), of_cluster),
        (json!({"dnsPolicy": "ClusterFirst"}), of_cluster),
        (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), host),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), of_cluster),
        (json!({"dnsPolicy": "Default"}), host),
        (json!({"dnsPolicy": "None"}), ""),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}}),
            "nameserver 9.9.9.9\n",
        ),
        (
            json!({"dnsPolicy": "Default", "dnsConfig": config}),
            "search example.com svc.cluster.local old\nnameserver 192.0.2.53\nnameserver 9.9.9.9\n\
             options edns0 timeout:5 rotate\n",
        ),
    ] {
        let facts = Facts { cluster_dns: Some(cluster()), ..facts() };
        let (text, warnings) = resolv_conf(&pod(spec.clone()), &facts, OF_HOST);
        assert_eq!((text.as_str(), warnings), (expected, Vec::new()), "{spec}");
    }
    let alone = resolv_conf(&pod(json!({})), &facts(), OF_HOST);
    assert_eq!(alone, (host.to_owned(), Vec::new()), "no cluster, no warning");
    let facts = Facts { cluster_dns: Some(ClusterDns::default()), ..facts() };
    let message = "pod: \"web-0_ns(u-1)\". kubelet does not have ClusterDNS IP configured and \
                   cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" \
                   policy.";
    let missing = Failure { reason: "MissingClusterDNS".to_owned(), message: message.to_owned() };
    let found = resolv_conf(&pod(json!({})), &facts, OF_HOST);
    assert_eq!(found, (host.to_owned(), vec![missing]));
}

#[test]
fn a_node_may_have_no_resolver() {
    let mut facts = Facts { resolv_conf: Some(String::new()), ..facts() };
    let default = pod(json!({"dnsPolicy": "Default"}));
    let text = |pod: &Pod, facts: &Facts| resolv_conf(pod, facts, OF_HOST).0;
    assert_eq!(text(&default, &facts), "search .\nnameserver 127.0.0.1\n");
    facts.addresses.host_ips = vec!["fd00::1".parse().unwrap()];
    assert_eq!(text(&default, &facts), "search .\nnameserver ::1\n");
    facts.cluster_dns = Some(cluster());
    assert_eq!(
        text(&pod(json!({})), &facts),
        "search ns.svc.cluster.local svc.cluster.local cluster.local\n\
         nameserver 10.96.0.10\noptions ndots:5\n"
    );
}

#[test]
fn a_nodes_resolver_is_parsed_as_upstream_does() {
    let of_host = "options timeout:1 edns0\noptions timeout:3\nsearch . a.\n";
    let text = resolv_conf(&pod(json!({})), &facts(), of_host).0;
    assert_eq!(text, "search a\noptions timeout:3 edns0\n");
    let limits = |of_host: &str, domain| resolv_conf_limits("/r", of_host, domain);
    let many: Vec<String> = (0..30).map(|i| format!("s{i}")).collect();
    let many = format!("search {}", many.join(" "));
    assert_eq!(limits(&many, ""), None);
    let row = |count: usize, bytes: usize| vec!["x".repeat(bytes); count].join(" ");
    // As much as there may be of each.
    for most in [row(29, 1), row(1, 253), format!("{} {}", row(8, 227), row(1, 224))] {
        assert_eq!(limits(&format!("search {most}"), "cluster.local"), None, "{most}");
    }
    for (of_host, message) in [
        (many, "Resolv.conf file '/r' contains search line consisting of more than 29 domains!"),
        (
            format!("search {}", "x".repeat(254)),
            "Resolv.conf file \"/r\" contains a search path which length is more than allowed 253 chars!",
        ),
        (
            format!("search {} {}", row(8, 227), row(1, 225)),
            "Resolv.conf file '/r' contains search line which length is more than allowed 2048 chars!",
        ),
    ] {
        assert_eq!(limits(&of_host, "cluster.local").as_deref(), Some(message));
    }
}

#[test]
fn what_is_too_much_is_left_out_and_said() {
    let resolve = |config: Value| {
        let pod = pod(json!({"dnsPolicy": "None", "dnsConfig": config}));
        let (text, warnings) = resolv_conf(&pod, &facts(), "");
        assert!(warnings.iter().all(|warning| warning.reason == "DNSConfigForming"));
        (text, warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>())
    };
    let (_, warnings) = resolve(json!({"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"]}));
    assert_eq!(warnings, [""; 0]);
    let (text, warnings) =
        resolve(json!({"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]}));
    assert_eq!(text, "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n");
    assert_eq!(
        warnings,
        ["Nameserver limits were exceeded, some nameservers have been omitted, the applied \
          nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"]
    );
    let many: Vec<String> = (0..33).map(|i| format!("s{i}")).collect();
    let long = ["a".repeat(254), "b".to_owned()];
    let wide: Vec<String> = (0..20).map(|i| format!("{i:0>120}")).collect();
    for (searches, kept) in [(&many[..], 0..32), (&long[..], 1..2), (&wide[..], 0..16)] {
        let (text, warnings) = resolve(json!({"searches": searches}));
        let line = searches[kept].join(" ");
        assert_eq!(text, format!("search {line}\n"));
        assert_eq!(
            warnings,
            [format!(
                "Search Line limits were exceeded, some search paths have been omitted, the \
                 applied search line is: {line}"
            )]
        );
    }
    let exact = ["x".repeat(252), "y".repeat(252)].map(|s| s.clone() + " " + &s).join(" ");
    let exact: Vec<&str> = exact.split(' ').collect();
    let (_, warnings) = resolve(json!({"searches": exact}));
    assert_eq!(warnings, [""; 0]);
    // 2048 characters with the spaces between, and some more.
    let mut all: Vec<String> = (0..9).map(|i| format!("{i}{}", "x".repeat(226))).collect();
    all[8].truncate(224);
    let most = format!("search {}\n", all.join(" "));
    let (text, warnings) = resolve(json!({"searches": all}));
    assert_eq!((text, warnings.len()), (most.clone(), 0));
    all.push("zz".to_owned());
    let (text, warnings) = resolve(json!({"searches": all}));
    assert_eq!((text, warnings.len()), (most, 1));
}
