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
        let (text, warnings) = resolv_conf(&pod(spec.clone()), Some(&cluster()), OF_HOST);
        assert_eq!((text.as_str(), warnings), (expected, Vec::new()), "{spec}");
    }
    let (text, warnings) = resolv_conf(&pod(json!({})), None, OF_HOST);
    let missing = "pod: \"web-0_ns(u-1)\". kubelet does not have ClusterDNS IP configured and \
                   cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" \
                   policy.";
    assert_eq!((text.as_str(), warnings), (host, vec![missing.to_owned()]));
}

#[test]
fn what_is_too_much_is_left_out_and_said() {
    let resolve = |config: Value| {
        resolv_conf(&pod(json!({"dnsPolicy": "None", "dnsConfig": config})), None, "")
    };
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
}
