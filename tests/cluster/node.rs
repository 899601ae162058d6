//! A node: `copepod node` with directories, ports, a network and a control group of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::cluster::containerd::{Build, Containerd};
use crate::cluster::network::{Network, PLUGINS};
use crate::cluster::program::{Program, tail};
use crate::cluster::{ControlPlane, free_port, leaks, rules};
use crate::https::{Client, Identity};
use crate::{Run, copepod, sandbox};

/// How long an agent may take to end when asked: it leaves its pods alone.
const STOPPED: Duration = Duration::from_secs(20);

/// How a node differs from the usual one.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Another name than the next free one.
    pub name: Option<String>,
    /// Merged into its KubeletConfiguration.
    pub config: Value,
    /// More arguments.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Whether it finds a network configuration when it starts.
    pub network: bool,
    /// Another kubeconfig than the node's own.
    pub kubeconfig: Option<PathBuf>,
    /// The containerd for its ordinary images; without one, it runs Wasm alone.
    pub containerd: Option<Build>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            name: None,
            config: json!({}),
            args: Vec::new(),
            env: Vec::new(),
            network: true,
            kubeconfig: None,
            containerd: None,
        }
    }
}

/// A node of the cluster. When this value ends, so does all that is left of it; what is left though
/// nothing should be fails the test.
#[derive(Debug)]
pub struct Node<'a> {
    plane: &'a ControlPlane,
    name: String,
    cgroup: String,
    dir: PathBuf,
    network: Network,
    port: u16,
    healthz_port: u16,
    args: Vec<String>,
    env: Vec<(String, String)>,
    agent: Option<Program>,
    containerd: Option<Containerd>,
    finished: bool,
}

impl<'a> Node<'a> {
    /// Makes what a node needs and starts its agent; does not wait for anything.
    #[track_caller]
    pub fn start(plane: &'a ControlPlane, options: NodeOptions) -> Self {
        let mut node = Self::prepare(plane, options);
        node.run();
        node
    }

    /// Makes what a node needs; [`Node::run`] starts its agent.
    #[track_caller]
    pub fn prepare(plane: &'a ControlPlane, options: NodeOptions) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = options.name.unwrap_or_else(|| format!("node-{number}"));
        let cgroup = format!("{}{number}", leaks::prefix());
        // Of one width, so that no name is the beginning of another.
        let dir = plane.dir().join(format!("n{number:03}"));
        fs::create_dir(&dir).expect("made");
        let network = Network::new(&cgroup, number, &dir);
        if options.network {
            network.configure();
        }
        leaks::make_cgroups(&cgroup);
        let containerd = options.containerd.map(|build| {
            // Its own directory: what is left of it is looked for in other ways.
            let its = plane.dir().join(format!("c{number:03}"));
            Containerd::start(&its, &plane.dir().join("images"), &network, build)
        });
        let ip = IpAddr::V4(network.gateway());
        let port = free_port(ip);
        let healthz_port = free_port(Ipv4Addr::LOCALHOST.into());
        let mut node = Self {
            plane,
            name,
            cgroup,
            dir,
            network,
            port,
            healthz_port,
            args: options.args,
            env: options.env,
            agent: None,
            containerd,
            finished: false,
        };
        let mut config = node.configuration();
        merge(&mut config, &options.config);
        fs::write(node.file("config.yaml"), config.to_string()).expect("written");
        let kubeconfig = options.kubeconfig.unwrap_or_else(|| plane.node_kubeconfig(&node.name));
        let args = node.arguments(&kubeconfig);
        node.args.splice(..0, args);
        if let Some(containerd) = &node.containerd {
            let endpoint = containerd.endpoint();
            node.set_endpoint(&endpoint);
        }
        node
    }

    /// Lets its agent, at its next start, find its runtime elsewhere than at its containerd itself.
    pub fn set_endpoint(&mut self, endpoint: &str) {
        const FLAG: &str = "--container-runtime-endpoint=";
        self.args.retain(|arg| !arg.starts_with(FLAG));
        self.args.push(format!("{FLAG}{endpoint}"));
    }

    fn configuration(&self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.network.gateway(),
            "port": self.port,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": self.healthz_port,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.plane.dir().join("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "failSwapOn": false,
            "failCgroupV1": false,
            "clusterDomain": "cluster.local",
            "clusterDNS": ["10.96.0.10"],
            "maxPods": 250,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": self.logs(),
        })
    }

    fn arguments(&self, kubeconfig: &Path) -> Vec<String> {
        let at = |name: &str| self.file(name).display().to_string();
        let pairs = [
            ("--kubeconfig", kubeconfig.display().to_string()),
            ("--config", at("config.yaml")),
            ("--hostname-override", self.name.clone()),
            ("--node-ip", self.network.gateway().to_string()),
            ("--root-dir", at("root")),
            ("--run-dir", at("run")),
            ("--cert-dir", at("pki")),
            ("--cache-dir", at("cache")),
            ("--sandbox", sandbox().display().to_string()),
            ("--cni-conf-dir", self.network.conf().display().to_string()),
            ("--cni-bin-dir", PLUGINS.into()),
            ("--v", "2".into()),
        ];
        let pairs = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once("node".to_owned()).chain(pairs).collect()
    }

    /// Starts its agent, which must not run already.
    #[track_caller]
    pub fn run(&mut self) {
        assert!(self.agent.as_mut().is_none_or(|agent| agent.ended().is_some()), "it runs");
        let mut env = vec![
            ("HOME".to_owned(), self.file("home").display().to_string()),
            ("RUST_BACKTRACE".to_owned(), "1".to_owned()),
        ];
        env.extend(self.env.iter().cloned());
        let log = self.file("agent.log");
        self.agent = Some(Program::start(&self.name, &copepod(), &self.args, &env, &log));
    }

    /// A second agent with the same arguments, beside the first.
    pub fn second(&self) -> Run {
        let mut command = Command::new(copepod());
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(&self.dir);
        Run::spawn(command)
    }

    /// Sets a variable of its agent's environment, or takes it out, from the next start on.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(other, _)| other != name);
        self.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Waits until nothing of its pods is left, or the time is over that this may take.
    pub fn settle(&mut self) {
        leaks::settled(|| self.pod_leaks());
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file or folder of its own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where its containers' logs are.
    pub fn logs(&self) -> PathBuf {
        self.file("logs")
    }

    /// Its pod network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its containerd, which it was started with.
    #[track_caller]
    pub fn containerd(&self) -> &Containerd {
        self.containerd.as_ref().expect("a node with a containerd")
    }

    /// The same, to be ended and started.
    #[track_caller]
    pub fn containerd_mut(&mut self) -> &mut Containerd {
        self.containerd.as_mut().expect("a node with a containerd")
    }

    /// The control group below which its pods' are.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Where its server is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.network.gateway().into(), self.port)
    }

    /// Where it tells its health without TLS.
    pub fn healthz(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.healthz_port)
    }

    /// A client of its server, which may show any certificate.
    pub fn server(&self, identity: Option<&Identity>) -> Client {
        Client::new(self.address(), None, identity)
    }

    /// Its agent's process.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        self.agent.as_ref().expect("it was started").pid()
    }

    /// How its agent ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.agent.as_mut()?.ended()
    }

    /// Waits for the end of its agent, which nobody asks for.
    #[track_caller]
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let ended = self.agent.as_mut().expect("it was started").wait(within);
        ended.unwrap_or_else(|| panic!("it did not end within {within:?}\n{}", self.log()))
    }

    /// Kills its agent, as the kernel or a person would, and waits for its death alone.
    #[track_caller]
    pub fn kill9(&mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "it ended by itself: {ended:?}\n{}", self.log());
        self.agent.as_mut().expect("it was started").kill();
    }

    /// Its machine goes down and comes up again: all that runs is killed, what is mounted and what lies
    /// in memory is gone, and its containerd and its agent are started.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.kill9();
        if let Some(containerd) = &mut self.containerd {
            containerd.go_down();
        }
        leaks::remove_cgroups(&self.cgroup);
        leaks::remove_below(&self.dir);
        rules::remove(self.network.name());
        fs::remove_dir_all(self.file("run")).expect("removed");
        leaks::make_cgroups(&self.cgroup);
        if let Some(containerd) = &mut self.containerd {
            containerd.run();
        }
        self.run();
    }

    /// Ends its agent by SIGTERM; pods stay.
    #[track_caller]
    pub fn stop(&mut self) {
        let agent = self.agent.as_mut().expect("it was started");
        let asked = agent.stop(STOPPED);
        assert!(asked, "the agent did not end when asked\n{}", self.log());
    }

    /// Sends its agent a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.agent.as_mut().expect("it was started").signal(signal);
    }

    /// The end of its agent's log.
    pub fn log(&self) -> String {
        tail(&self.file("agent.log"))
    }

    /// All of its agent's log.
    pub fn whole_log(&self) -> String {
        let bytes = fs::read(self.file("agent.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The pods that are bound to it, as the API server has them.
    #[track_caller]
    pub fn pods(&self) -> Vec<Value> {
        let query = format!("fieldSelector=spec.nodeName%3D{}", self.name);
        self.plane.api().select("pods", "", &query)
    }

    /// Waits until `found` gives something; a failure shows the cluster and the agent's log.
    #[track_caller]
    pub fn wait<T>(&self, within: Duration, what: &str, found: impl FnMut() -> Option<T>) -> T {
        self.plane.wait(within, what, || self.shown(), found)
    }

    /// Waits until the cluster calls it Ready.
    #[track_caller]
    pub fn wait_ready(&self, within: Duration) {
        self.wait(within, "the node is Ready", || {
            let node = self.plane.api().get("nodes", "", &self.name)?;
            (condition(&node, "Ready")?["status"] == "True").then_some(())
        });
    }

    fn shown(&self) -> String {
        let mut text = String::new();
        // The API server may be away.
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let answer = self.plane.api().client().get(&path).map(|(_, body)| body);
        let list = answer.ok().and_then(|body| serde_json::from_str::<Value>(&body).ok());
        let pods = list.as_ref().and_then(|list| list["items"].as_array());
        for pod in pods.into_iter().flatten() {
            let meta = &pod["metadata"];
            let _ = writeln!(text, "{}/{}: {:#}", meta["namespace"], meta["name"], pod["status"]);
        }
        let containerd = self.containerd.as_ref().map(Containerd::log).unwrap_or_default();
        format!("{text}\n{containerd}\n--- log of {}\n{}\n---", self.name, self.log())
    }

    /// What is left of its pods, a line each; of its agent too, if that runs.
    pub fn leaks(&mut self) -> Vec<String> {
        let mut left: Vec<String> =
            leaks::processes(&self.dir).into_iter().map(|(_, about)| about).collect();
        left.extend(leaks::mounts_and_sockets(&self.dir));
        left.extend(self.pod_leaks());
        left
    }

    /// The part of that which no agent has without pods.
    fn pod_leaks(&mut self) -> Vec<String> {
        let mut left = self.network.leaks();
        // An agent has its socket's path in its arguments.
        let running = self.agent.is_some() && self.ended().is_none();
        let client = running.then(|| self.pid());
        if let Some(containerd) = &mut self.containerd {
            left.extend(containerd.leaks(client));
        }
        left.extend(leaks::log_links(&self.dir).iter().map(|l| format!("link: {}", l.display())));
        left.extend(leaks::files(&self.dir, &[&self.file("root/pods"), &self.file("run/netns")]));
        // The groups of the QoS classes stay, as a kubelet's do; a pod's and what it holds do not.
        let pods = leaks::cgroups_below(&self.cgroup).into_iter().filter(|dir| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"))
        });
        left.extend(pods.map(|dir| format!("control group: {}", dir.display())));
        left
    }

    /// Ends its agent, takes it out of the cluster, and fails the test, naming each leak, if
    /// anything of its pods is left; they have to be deleted before.
    #[track_caller]
    pub fn finish(mut self) {
        self.check();
    }

    #[track_caller]
    fn check(&mut self) {
        self.finished = true;
        if self.ended().is_none() && self.agent.is_some() {
            // A pod is gone from the API server before the last of it is from the disk: that is
            // its agent's work, and would be the next agent's if this one ended now.
            leaks::settled(|| self.pod_leaks());
            self.stop();
        }
        self.plane.api().delete("nodes", "", &self.name);
        let left = leaks::settled(|| self.leaks());
        assert!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), self.log());
    }

    fn remove(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.kill();
        }
        leaks::remove_below(&self.dir);
        // With its shims; a container that goes on is killed in its control group.
        self.containerd = None;
        leaks::remove_log_links(&self.dir);
        leaks::remove_cgroups(&self.cgroup);
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let check = !self.finished && !std::thread::panicking();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if check {
                self.check();
            }
        }));
        if std::thread::panicking() {
            // Of a failed test much is left: said, since it may be what failed it.
            let left = self.leaks().join("\n");
            eprintln!("{}: left behind:\n{left}", self.name);
        }
        self.remove();
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A condition of an object by its type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Puts the fields of `from` into `into`, level by level.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
