//! The node that is compared with: the kubelet of the same version, with a containerd, a network and
//! control groups of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::containerd::{Build, Containerd};
use crate::cluster::network::Network;
use crate::cluster::program::Program;
use crate::cluster::{ControlPlane, free_port, leaks};

/// How long it may take to end.
const SOON: Duration = Duration::from_secs(30);
/// Its number among the nodes of a run, beyond all of ours.
const NUMBER: u32 = 900;
/// The folder, in its directory, of pods that it takes from files.
const STATIC_PODS: &str = "static";
/// What a kubelet sets for the whole machine and never sets back.
const SYSCTLS: [&str; 4] =
    ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];

/// A running kubelet with its containerd. Both are ended with this value, and all that is left of
/// their pods is removed.
#[derive(Debug)]
pub struct Kubelet {
    // In the order of their ends.
    kubelet: Program,
    containerd: Option<Containerd>,
    network: Network,
    cgroup: String,
    dir: PathBuf,
    sysctls: Vec<(PathBuf, String)>,
    name: String,
}

impl Kubelet {
    /// Starts both as the node of this name, the kubelet once `prepare` has given containerd what
    /// its pods need beyond the usual images; its readiness is not waited for. One at a time.
    #[track_caller]
    pub fn start(plane: &ControlPlane, name: &str, prepare: impl FnOnce(&Containerd)) -> Self {
        // No name that another one begins with: what names it is killed at the end.
        let dir = plane.dir().join(format!("k{NUMBER}"));
        fs::create_dir_all(dir.join(STATIC_PODS)).expect("made");
        let cgroup = format!("{}{NUMBER}", leaks::prefix());
        let network = Network::new(&cgroup, NUMBER, &dir);
        network.configure();
        leaks::make_cgroups(&cgroup);
        let runtime = plane.dir().join(format!("c{NUMBER}"));
        let images = plane.dir().join("images");
        let containerd = Containerd::start(&runtime, &images, &network, Build::Usual);
        prepare(&containerd);
        let config = dir.join("config.yaml");
        let text = configuration(plane, &dir, &network, &cgroup, &containerd.endpoint());
        fs::write(&config, text.to_string()).expect("written");
        let args = [
            format!("--kubeconfig={}", plane.node_kubeconfig(name).display()),
            format!("--config={}", config.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", network.gateway()),
            format!("--cert-dir={}", dir.join("pki").display()),
            format!("--root-dir={}", dir.join("root").display()),
        ];
        let sysctls = SYSCTLS.map(|name| Path::new("/proc/sys").join(name));
        let sysctls = sysctls.into_iter().filter_map(|file| {
            let value = fs::read_to_string(&file).ok()?;
            Some((file, value))
        });
        let sysctls = sysctls.collect();
        let program = crate::variable("COPEPOD_KUBELET");
        let kubelet = Program::start("kubelet", &program, &args, &[], &dir.join("kubelet.log"));
        let containerd = Some(containerd);
        Self { kubelet, containerd, network, cgroup, dir, sysctls, name: name.into() }
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of pods that it takes from files.
    pub fn static_pods(&self) -> PathBuf {
        self.dir.join(STATIC_PODS)
    }

    /// Its own process and containerd's.
    #[track_caller]
    pub fn pids(&self) -> [u32; 2] {
        let containerd = self.containerd.as_ref().expect("until its end").pid();
        [self.kubelet.pid(), containerd].map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// The end of both logs.
    pub fn log(&self) -> String {
        let containerd = self.containerd.as_ref().map(Containerd::log).unwrap_or_default();
        format!("{}\n---\n{containerd}", self.kubelet.tail())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.kubelet.stop(SOON);
        leaks::remove_below(&self.dir);
        self.containerd = None;
        leaks::remove_cgroups(&self.cgroup);
        for (file, value) in &self.sysctls {
            let _ = fs::write(file, value);
        }
        leaks::remove_log_links(&self.dir);
        // The network is the last to go: what was killed held its interfaces.
        let _ = &self.network;
    }
}

fn configuration(
    plane: &ControlPlane,
    dir: &Path,
    network: &Network,
    cgroup: &str,
    endpoint: &str,
) -> Value {
    let ip = IpAddr::V4(network.gateway());
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ip,
        "port": free_port(ip),
        "healthzPort": free_port(Ipv4Addr::LOCALHOST.into()),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": plane.dir().join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "containerRuntimeEndpoint": endpoint,
        "clusterDomain": "cluster.local",
        "clusterDNS": ["10.96.0.10"],
        "staticPodPath": dir.join(STATIC_PODS),
        "fileCheckFrequency": "2s",
        "volumePluginDir": dir.join("volume-plugins"),
        "podLogsDir": dir.join("logs"),
        "maxPods": 250,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}
