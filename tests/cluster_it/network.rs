//! Addresses of pods, and a node without a network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use copepod_tests::cluster::free_port;
use copepod_tests::cluster::node::condition;
use copepod_tests::cluster::{Build, NodeOptions};
use serde_json::{Value, json};

use crate::place::{Place, ready};
use crate::{SOON, World};

/// What upstream's node says without a network configuration.
const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false \
                          reason:NetworkPluginNotReady message:Network plugin returns error: cni \
                          plugin not initialized";

/// The body of `GET http://ADDRESS/PATH`, once it is answered with 200.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, SOON).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    // 1.0 has no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.0 200")
        .then(|| text.split_once("\r\n\r\n").map(|(_, body)| body.into()))?
}

fn address(pod: &Value) -> Ipv4Addr {
    pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address")
}

fn with_port(mut pod: Value, port: u16) -> Value {
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]);
    pod
}

pub(crate) fn each_pod_has_an_address_and_its_own_low_port(world: &World) {
    let place = Place::new(world);
    for name in ["one", "two"] {
        place.create(&with_port(place.pod(name, "http", &[]), 80));
    }
    let [one, two] = ["one", "two"].map(|name| place.wait_ready(name));
    assert_ne!(address(&one), address(&two));
    for pod in [&one, &two] {
        let ip = address(pod);
        assert!(place.node.network().has(ip), "{ip}");
        assert_eq!(pod["status"]["podIPs"], json!([{"ip": ip.to_string()}]));
        assert_eq!(pod["status"]["hostIP"], place.node.network().gateway().to_string());
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let env = place
            .node
            .wait(SOON, "port 80 is answered", || get(SocketAddr::new(IpAddr::V4(ip), 80), "/env"));
        assert!(env.contains(&format!("HOSTNAME={name}")), "{env}");
        let hosts = get(SocketAddr::new(IpAddr::V4(ip), 80), "/files/etc/hosts").expect("a file");
        assert!(hosts.lines().any(|line| line == format!("{ip}\t{name}")), "{hosts}");
    }
    assert_eq!(place.node.network().leased().len(), 2);
    place.api().delete("pods", &place.namespace, "one");
    place.node.wait(SOON, "its address is given back", || {
        (place.node.network().leased() == [address(&two).to_string()]).then_some(())
    });
    place.finish();
}

pub(crate) fn a_pod_keeps_its_address_over_restarts_of_container_and_agent(world: &World) {
    let mut place = Place::new(world);
    place.create(&with_port(place.pod("web", "http", &[]), 80));
    let before = place.wait_ready("web");
    let at = SocketAddr::new(address(&before).into(), 80);
    place.node.kill9();
    assert_eq!(get(at, "/healthz").as_deref(), Some("ok\n"), "the guest serves by itself");
    place.node.run();
    place.node.wait(SOON, "the agent is back", || TcpStream::connect(place.node.healthz()).ok());
    let after = place.wait_ready("web");
    assert_eq!(address(&after), address(&before));
    assert_eq!(get(at, "/healthz").as_deref(), Some("ok\n"));
    place.finish();
}

pub(crate) fn a_pod_of_the_hosts_network_has_the_nodes_address(world: &World) {
    let place = Place::new(world);
    let gateway = place.node.network().gateway();
    let port = free_port(gateway.into());
    let mut pod = with_port(place.pod("host", "http", &[]), port);
    pod["spec"]["hostNetwork"] = json!(true);
    place.create(&pod);
    let pod = place.wait_ready("host");
    assert_eq!(address(&pod), gateway);
    let body = place
        .node
        .wait(SOON, "it is answered", || get(SocketAddr::new(gateway.into(), port), "/healthz"));
    assert_eq!(body, "ok\n");
    assert!(place.node.network().leased().is_empty());
    place.finish();
}

pub(crate) fn without_a_network_the_node_is_not_ready_and_host_pods_run(world: &World) {
    let options = NodeOptions { network: false, ..NodeOptions::default() };
    let place = Place::with(world, options);
    let why = || {
        let node = place.api().get("nodes", "", place.node.name())?;
        let ready = condition(&node, "Ready")?;
        ready["message"].as_str()?.contains(NO_NETWORK).then(|| ready.clone())
    };
    let not = place.node.wait(SOON, "the node says that it has no network", why);
    assert_eq!((&not["status"], &not["reason"]), (&json!("False"), &json!("KubeletNotReady")));

    let tolerations = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    let mut host = place.pod("host", "hello", &["--every", "100"]);
    host["spec"]["hostNetwork"] = json!(true);
    host["spec"]["tolerations"] = tolerations.clone();
    place.create(&host);
    let mut own = place.pod("own", "hello", &["--every", "100"]);
    own["spec"]["tolerations"] = tolerations;
    place.create(&own);
    place.wait_ready("host");
    place.node.wait(SOON, "an event says why the other waits", || {
        let events = place.api().list("events", &place.namespace);
        let told = |event: &Value| {
            event["reason"] == "NetworkNotReady" && event["involvedObject"]["name"] == "own"
        };
        events.iter().any(told).then_some(())
    });
    let waits = place.api().get("pods", &place.namespace, "own").expect("it is there");
    assert!(!ready(&waits), "{waits}");

    place.node.network().configure();
    place.node.wait_ready(SOON);
    let pod = place.wait_ready("own");
    assert!(place.node.network().has(address(&pod)));
    place.finish();
}

pub(crate) fn an_ordinary_pod_waits_for_its_runtimes_network(world: &World) {
    let containerd = Some(Build::Second);
    let place =
        Place::with(world, NodeOptions { network: false, containerd, ..NodeOptions::default() });
    place.node.wait(SOON, "the node says that it has no network", || {
        let node = place.api().get("nodes", "", place.node.name())?;
        condition(&node, "Ready")?["message"].as_str()?.contains(NO_NETWORK).then_some(())
    });
    let mut own = place.shell("own", "exec sleep 1000");
    own["spec"]["tolerations"] =
        json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    place.create(&own);
    let told = |reason: &str| {
        let events = place.api().list("events", &place.namespace);
        events.into_iter().find(|event| event["reason"] == reason)
    };
    let why = place.node.wait(SOON, "an event says why it waits", || told("NetworkNotReady"));
    assert_eq!(why["message"], format!("network is not ready: {NO_NETWORK}"));
    assert_eq!(told("FailedCreatePodSandBox"), None, "the runtime was not asked");

    place.node.network().configure();
    place.node.wait_ready(SOON);
    assert!(place.node.network().has(address(&place.wait_ready("own"))));
    place.finish();
}
