//! The node that is compared with: the kubelet of the same version on a containerd of its own, with
//! directories, a network and control groups of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use copepod_tests::cluster::network::Network;
use copepod_tests::cluster::program::Program;
use copepod_tests::cluster::{Build, Containerd, ControlPlane, free_port, leaks};
use serde_json::{Value, json};

/// How long it may take to end.
const SOON: Duration = Duration::from_secs(30);
/// What a kubelet sets for the whole machine and never sets back.
const SYSCTLS: [&str; 4] =
    ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];

/// A running kubelet with its containerd, both ended with this value.
pub(super) struct Kubelet {
    // In the order of their ends.
    kubelet: Program,
    containerd: Containerd,
    network: Network,
    cgroup: String,
    dir: PathBuf,
    sysctls: Vec<(PathBuf, String)>,
    pub(super) name: String,
}

impl Kubelet {
    /// Starts both; the images are there when this returns, the node's readiness is not waited for.
    pub(super) fn start(plane: &ControlPlane, number: u32) -> Result<Self> {
        let name = format!("kubelet-{number}");
        let dir = plane.dir().join(&name);
        fs::create_dir(&dir)?;
        // Beyond the numbers of nodes in one run.
        let number = number + 100;
        let cgroup = format!("{}{number}", leaks::prefix());
        let network = Network::new(&cgroup, number, &dir);
        network.configure();
        leaks::make_cgroups(&cgroup);
        let images = plane.dir().join("images");
        let containerd = Containerd::start(&dir.join("c"), &images, &network, Build::Usual);
        let program = std::env::var_os("COPEPOD_KUBELET").context("COPEPOD_KUBELET is not set")?;
        let config = dir.join("config.yaml");
        fs::write(&config, configuration(plane, &dir, &containerd, &network, &cgroup).to_string())?;
        let args = [
            format!("--kubeconfig={}", plane.node_kubeconfig(&name).display()),
            format!("--config={}", config.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", network.gateway()),
            format!("--cert-dir={}", dir.join("pki").display()),
            format!("--root-dir={}", dir.join("root").display()),
        ];
        let log = dir.join("kubelet.log");
        let sysctls = SYSCTLS.map(|name| Path::new("/proc/sys").join(name));
        let sysctls = sysctls.into_iter().filter_map(|file| {
            let value = fs::read_to_string(&file).ok()?;
            Some((file, value))
        });
        let sysctls = sysctls.collect();
        let kubelet = Program::start("kubelet", Path::new(&program), &args, &[], &log);
        Ok(Self { kubelet, containerd, network, cgroup, dir, sysctls, name })
    }

    /// Its own process and containerd's.
    pub(super) fn pids(&self) -> [u32; 2] {
        [self.kubelet.pid(), self.containerd.pid()]
            .map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// The end of both logs.
    pub(super) fn log(&self) -> String {
        format!("{}\n---\n{}", self.kubelet.tail(), self.containerd.log())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.kubelet.stop(SOON);
        self.containerd.stop();
        leaks::remove_below(&self.dir);
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
    containerd: &Containerd,
    network: &Network,
    cgroup: &str,
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
        "containerRuntimeEndpoint": containerd.endpoint(),
        "volumePluginDir": dir.join("volume-plugins"),
        "podLogsDir": dir.join("logs"),
        "maxPods": 250,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}
