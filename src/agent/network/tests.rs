//! The network with the real plugins: bridge, host-local, portmap of the distribution.
//!
//! Each test is a node of its own: a network namespace in which the plugins run, so that bridge,
//! packet filter and ports of this machine are not touched, and all of it goes with the test.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::linux::network;
use crate::telemetry::chain;

/// Longer than anything here takes.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// A node: its directories, and the namespace that its plugins run in.
pub(super) struct Node {
    home: TempDir,
}

impl Node {
    pub(super) fn new() -> Self {
        let node = Self { home: tempfile::tempdir().expect("a directory") };
        fs::create_dir(node.path("conf")).expect("makes");
        fs::create_dir(node.path("bin")).expect("makes");
        fs::File::create(node.path("host")).expect("makes");
        network::hold_new(&node.path("host"), || Ok(())).expect("makes");
        node
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(super) fn options(&self) -> NetworkOptions {
        NetworkOptions {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("bin"), "/usr/lib/cni".into()],
            run_dir: self.path("run"),
            state_dir: self.path("state"),
        }
    }

    /// Runs a test as the agent's one thread on this node.
    pub(super) fn run<T: Send>(&self, test: impl AsyncFnOnce() -> T + Send) -> T {
        let run = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            Ok(runtime.enable_all().build()?.block_on(test()))
        };
        network::inside(&self.path("host"), run).expect("runs")
    }

    /// Runs a program on this node: what it printed.
    fn output(&self, program: &str, arguments: &[&str]) -> String {
        let run = || Command::new(program).args(arguments).output();
        let output = network::inside(&self.path("host"), run).expect("runs");
        String::from_utf8(output.stdout).expect("is text")
    }

    pub(super) fn configure(&self, conf: &Value) {
        // As whoever installs one should do it.
        fs::write(self.path("new"), conf.to_string()).expect("writes");
        fs::rename(self.path("new"), self.path("conf/10-test.conflist")).expect("renames");
    }

    /// A bridge with addresses of its own.
    fn bridge(&self, version: &str) {
        self.bridge_with(version, true);
    }

    /// The same, whose pods are seen with their own addresses beyond it, or not.
    fn bridge_with(&self, version: &str, hides_pods: bool) {
        let ranges = json!([[{"subnet": "10.213.7.0/24"}], [{"subnet": "fd00:213::/64"}]]);
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes,
            "dataDir": self.path("leases")});
        self.configure(&json!({"name": "test", "cniVersion": version, "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
             "ipMasq": hides_pods, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]}));
    }

    /// Files of host-local's addresses in use.
    fn leases(&self) -> usize {
        let files = fs::read_dir(self.path("leases/test")).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names.filter(|name| name.starts_with("10.") || name.starts_with("fd00")).count()
    }

    /// Interfaces on the bridge.
    fn on_bridge(&self) -> usize {
        self.output("ip", &["-o", "link", "show", "master", "cni0"]).lines().count()
    }

    /// Nothing is left of any pod.
    pub(super) fn is_clean(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(&*self.path("run").to_string_lossy()), "{mounts}");
        for dir in ["run/netns", "state"] {
            let files = fs::read_dir(self.path(dir)).into_iter().flatten();
            assert_eq!(files.count(), 0, "{dir}");
        }
        // The kernel takes a namespace's interfaces down a moment after its end.
        let end = std::time::Instant::now() + SETTLED;
        while self.on_bridge() > 0 && std::time::Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        assert_eq!((self.leases(), self.on_bridge()), (0, 0));
        let rules = self.output("iptables-save", &[]);
        assert!(!rules.contains("10.213.7."), "{rules}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever a failed test left, too.
        for uid in Namespaces::new(&self.path("run")).uids() {
            let _ = Namespaces::new(&self.path("run")).remove(&uid);
        }
        network::release(&self.path("host")).expect("releases");
    }
}

/// How long the kernel may take to remove what belonged to a namespace.
const SETTLED: Duration = Duration::from_secs(10);

pub(super) fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{uid}"), "namespace": "ns", "uid": uid},
        "spec": {"containers": [{"name": "a"}]},
    }))
    .expect("a pod")
}

/// A line goes from one place to an address and comes back.
fn echo(server: &Path, at: SocketAddr, client: &Path, to: SocketAddr) {
    let listener = network::inside(server, || TcpListener::bind(at)).expect("listens");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).expect("reads");
            stream.write_all(&bytes).expect("writes");
        });
        let mut stream =
            network::inside(client, || TcpStream::connect_timeout(&to, SOON)).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("sets");
        stream.write_all(b"hello").expect("writes");
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).expect("reads");
        assert_eq!(&bytes, b"hello");
    });
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.expect("in time")
}

#[test]
fn pods_reach_each_other_and_leave_nothing() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let network = Network::open(node.options());
        assert_eq!(network.status(), Ok(()));
        let (a, b) = (soon(network.attach(&pod("a"))).await, soon(network.attach(&pod("b"))).await);
        let (a, b) = (a.expect("attaches"), b.expect("attaches"));
        let places = [&a, &b].map(|at| at.netns.clone().expect("has one"));
        assert_eq!(places[0], node.path("run/netns/a"));
        assert!(a.pod_ips[0].is_ipv4() && a.pod_ips[1].is_ipv6() && a.pod_ips.len() == 2);
        assert_ne!(a.pod_ips, b.pod_ips);
        // A low port, without more than any process has.
        let server = SocketAddr::new(a.pod_ips[0], 80);
        echo(&places[0], server, &places[1], server);
        echo(&places[0], server, &node.path("host"), server);
        let ping = || Command::new("ping").args(["-c1", "-W5", &a.pod_ips[0].to_string()]).output();
        if let Ok(output) = network::inside(&places[1], ping) {
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!((node.leases(), node.on_bridge()), (4, 2));
        assert_eq!(network.attached(), ["a", "b"]);
        for uid in ["a", "b", "a", "none"] {
            soon(network.detach(uid)).await.expect("detaches");
        }
        assert!(network.attached().is_empty());
    });
    node.is_clean();
}

#[test]
fn older_versions_attach_too() {
    for version in ["0.3.1", "0.4.0"] {
        let node = Node::new();
        node.bridge(version);
        node.run(async || {
            let network = Network::open(node.options());
            let attached = soon(network.attach(&pod("a"))).await.expect("attaches");
            assert_eq!(attached.pod_ips.len(), 2, "{version}");
            soon(network.detach("a")).await.expect("detaches");
        });
        node.is_clean();
    }
}

#[test]
fn a_port_of_the_host_leads_into_the_pod() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let network = Network::open(node.options());
        let mut with_port = pod("a");
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        let container = &mut with_port.spec.as_mut().expect("has one").containers[0];
        container.ports = serde_json::from_value(ports).expect("ports");
        let server = soon(network.attach(&with_port)).await.expect("attaches");
        let client = soon(network.attach(&pod("b"))).await.expect("attaches");
        let rules = node.output("iptables-save", &[]);
        assert!(rules.contains(&format!("{}:80", server.pod_ips[0])), "{rules}");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("of this node");
        let gateway = SocketAddr::new("10.213.7.1".parse().expect("is one"), 8080);
        let at = SocketAddr::new(server.pod_ips[0], 80);
        let places = [server, client].map(|at| at.netns.expect("has one"));
        echo(&places[0], at, &places[1], gateway);
        for uid in ["a", "b"] {
            soon(network.detach(uid)).await.expect("detaches");
        }
    });
    node.is_clean();
}

#[test]
fn an_agent_that_starts_again_runs_no_plugin() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let first = Network::open(node.options());
        let attached = soon(first.attach(&pod("a"))).await.expect("attaches");
        drop(first);
        // No plugin, and no configuration either.
        fs::remove_file(node.path("conf/10-test.conflist")).expect("removes");
        let options = NetworkOptions { bin_dirs: Vec::new(), ..node.options() };
        let second = Network::open(options);
        assert!(second.status().is_err());
        assert_eq!(second.attached(), ["a"]);
        assert_eq!(soon(second.attach(&pod("a"))).await.expect("attaches"), attached);
        let third = Network::open(node.options());
        soon(third.detach("a")).await.expect("detaches by the record");
    });
    node.is_clean();
}

#[test]
fn what_a_crash_or_a_boot_left_is_given_back() {
    let node = Node::new();
    // The plugin leaves its rules to the boot where it finds no namespace, and here is none.
    node.bridge_with("1.0.0", false);
    node.run(async || {
        let network = Network::open(node.options());
        let attach = async || soon(network.attach(&pod("a"))).await.expect("attaches");
        let before = attach().await;
        let path = node.path("state/a.json");
        // Killed between the plugins and the record of their result.
        let mut record: Value =
            serde_json::from_slice(&fs::read(&path).expect("reads")).expect("is");
        record["result"] = Value::Null;
        record["ips"] = json!([]);
        fs::write(&path, record.to_string()).expect("writes");
        let after = attach().await;
        assert_ne!(after.pod_ips, before.pod_ips, "a new address");
        assert_eq!((node.leases(), node.on_bridge()), (2, 1));
        // A boot: the run directory is empty, the leases are not.
        network.inner.namespaces.remove("a").expect("removes");
        let booted = attach().await;
        assert_ne!(booted.pod_ips, after.pod_ips);
        assert_eq!(node.leases(), 2);
        // Gone, and not wanted any more.
        network.inner.namespaces.remove("a").expect("removes");
        soon(network.detach("a")).await.expect("detaches");
        assert_eq!(node.leases(), 0);
        // Killed before anything but the record was there; a record that was not written whole.
        record["container_id"] = "0".repeat(64).into();
        fs::write(&path, record.to_string()).expect("writes");
        soon(network.detach("a")).await.expect("detaches");
        fs::write(&path, "{\"container_id\": \"0").expect("writes");
        attach().await;
        soon(network.detach("a")).await.expect("detaches");
    });
    node.is_clean();
}

#[test]
fn twenty_at_once_and_one_pod_at_a_time() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let network = Network::open(node.options());
        let attach = |uid: usize| {
            let network = network.clone();
            // Each pod twice: one of the two finds it attached.
            tokio::spawn(async move { network.attach(&pod(&format!("p{}", uid / 2))).await })
        };
        let jobs: Vec<_> = (0..40).map(attach).collect();
        let mut ips = BTreeSet::new();
        for job in jobs {
            let attached = timeout(2 * SOON, job).await.expect("in time").expect("no panic");
            ips.insert(attached.expect("attaches").pod_ips);
        }
        assert_eq!((ips.len(), node.leases(), node.on_bridge()), (20, 40, 20));
        let uids = network.attached();
        assert_eq!(uids.len(), 20);
        let detach = |uid: String| {
            let network = network.clone();
            tokio::spawn(async move { network.detach(&uid).await })
        };
        for job in uids.into_iter().map(detach).collect::<Vec<_>>() {
            timeout(2 * SOON, job).await.expect("in time").expect("no panic").expect("detaches");
        }
    });
    node.is_clean();
}

#[test]
fn whoever_asked_may_be_gone() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let network = Network::open(node.options());
        let of_pod = pod("a");
        let mut asked = Box::pin(network.attach(&of_pod));
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(asked.as_mut().poll(context).is_pending())
        });
        assert!(polled.await);
        drop(asked);
        soon(network.detach("a")).await.expect("after the attachment");
    });
    node.is_clean();
}

#[test]
fn sysctls_and_the_hosts_network() {
    let node = Node::new();
    node.bridge("1.0.0");
    node.run(async || {
        let network = Network::open(node.options());
        let with = |spec: Value| {
            let mut pod = pod("a");
            let mut all = serde_json::to_value(&pod.spec).expect("is one");
            all.as_object_mut().expect("is one").extend(spec.as_object().expect("is one").clone());
            pod.spec = serde_json::from_value(all).expect("a spec");
            pod
        };
        let sysctl = |name: &str| {
            with(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
        };
        let attached = soon(network.attach(&sysctl("net.ipv4.tcp_syncookies"))).await;
        let netns = attached.expect("attaches").netns.expect("has one");
        let read = || fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies");
        assert_eq!(network::inside(&netns, read).expect("reads"), "1\n");
        soon(network.detach("a")).await.expect("detaches");
        let error = soon(network.attach(&sysctl("net.ipv4.none"))).await.expect_err("no such one");
        let text = chain(&error);
        assert!(
            text.contains(": failed to apply sysctls: write sysctl key net.ipv4.none: "),
            "{text}"
        );
        let of_host = with(json!({"hostNetwork": true}));
        let attached = soon(network.attach(&of_host)).await.expect("attaches");
        assert_eq!(attached, Attachment::default());
        for uid in ["", "..", "a/b", "x\0", &"u".repeat(200)] {
            assert!(matches!(network.detach(uid).await, Err(NetworkError::Uid(_))), "{uid:?}");
        }
    });
    node.is_clean();
}

#[test]
fn a_configuration_may_come_and_go() {
    let node = Node::new();
    let dir = node.path("etc/cni/net.d");
    node.run(async || {
        let options = NetworkOptions { conf_dir: dir.clone(), ..node.options() };
        let network = Network::open(options);
        assert_eq!(network.status(), Err("cni plugin not initialized".to_owned()));
        let error = soon(network.attach(&pod("a"))).await.expect_err("no network");
        let text = chain(&error);
        assert!(text.starts_with("failed to setup network for sandbox \""), "{text}");
        assert!(text.ends_with("\": cni plugin not initialized"), "{text}");
        let mut changes = network.changes();
        let conf = r#"{"name": "x", "type": "bridge"}"#;
        for _ in 0..2 {
            fs::create_dir_all(&dir).expect("makes");
            fs::write(dir.join("1.conf"), conf).expect("writes");
            soon(changes.wait_for(Result::is_ok)).await.expect("is told");
            fs::write(dir.join("0.conf"), "{").expect("writes");
            let is_bad = |status: &Result<(), String>| {
                status.as_ref().is_err_and(|why| why.contains("0.conf"))
            };
            soon(changes.wait_for(is_bad)).await.expect("is told");
            fs::remove_file(dir.join("0.conf")).expect("removes");
            soon(changes.wait_for(Result::is_ok)).await.expect("is told");
            fs::remove_dir_all(node.path("etc")).expect("removes");
            let is_none = |status: &Result<(), String>| {
                status.as_ref().is_err_and(|why| why == "cni plugin not initialized")
            };
            soon(changes.wait_for(is_none)).await.expect("is told");
        }
    });
    node.is_clean();
}
