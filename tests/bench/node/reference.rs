//! The node that is compared with: the kubelet of the same version on Debian's containerd and runc,
//! each with directories, a network and control groups of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::network::{Network, PLUGINS};
use copepod_tests::cluster::program::Program;
use copepod_tests::cluster::{ControlPlane, free_port, leaks};
use copepod_tests::holds_within;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long containerd may take to start or to end.
const SOON: Duration = Duration::from_secs(30);
/// What the pods run, and what holds their namespaces.
pub(super) const BUSYBOX: &str = "docker.io/library/busybox:bench";
const PAUSE: &str = "registry.k8s.io/pause:bench";
/// Waits until it is told to end; also for children that nobody else waits for.
const PAUSE_C: &str = "#include <signal.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n#include \
                       <unistd.h>\nstatic void down(int s){(void)s;exit(0);}\nstatic void reap(int \
                       s){(void)s;while(waitpid(-1,0,WNOHANG)>0);}\nint main(void){signal(SIGINT,down);\
                       signal(SIGTERM,down);signal(SIGCHLD,reap);for(;;)pause();}\n";

/// What a kubelet sets for the whole machine and never sets back.
const SYSCTLS: [&str; 4] =
    ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];

/// A running kubelet with its containerd, both ended with this value.
pub(super) struct Kubelet {
    // In the order of their ends.
    kubelet: Program,
    containerd: Program,
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
        let containerd = containerd(&dir, &network)?;
        let socket = dir.join("containerd.sock");
        for (image, files) in [(PAUSE, pause(&dir)?), (BUSYBOX, busybox(&dir)?)] {
            import(&dir, &socket, image, &files)?;
        }
        let program = std::env::var_os("COPEPOD_KUBELET").context("COPEPOD_KUBELET is not set")?;
        let config = dir.join("config.yaml");
        fs::write(&config, configuration(plane, &dir, &network, &cgroup).to_string())?;
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
        [&self.kubelet, &self.containerd]
            .map(|program| program.pid().as_raw_nonzero().get().cast_unsigned())
    }

    /// The end of both logs.
    pub(super) fn log(&self) -> String {
        format!("{}\n---\n{}", self.kubelet.tail(), self.containerd.tail())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.kubelet.stop(SOON);
        self.containerd.stop(SOON);
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

fn containerd(dir: &Path, network: &Network) -> Result<Program> {
    let config = format!(
        "version = 2
root = '{dir}/containerd'
state = '{dir}/state'
[grpc]
  address = '{dir}/containerd.sock'
[ttrpc]
  address = '{dir}/ttrpc.sock'
[plugins.'io.containerd.internal.v1.opt']
  path = '{dir}/opt'
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = '{PAUSE}'
  restrict_oom_score_adj = true
  [plugins.'io.containerd.grpc.v1.cri'.cni]
    bin_dir = '{PLUGINS}'
    conf_dir = '{conf}'
  [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
",
        dir = dir.display(),
        conf = network.conf().display(),
    );
    let file = dir.join("containerd.toml");
    fs::write(&file, config)?;
    let args = [format!("--config={}", file.display())];
    let log = dir.join("containerd.log");
    let mut program = Program::start("containerd", Path::new("containerd"), &args, &[], &log);
    let socket = dir.join("containerd.sock");
    let up = holds_within(SOON, || {
        std::thread::park_timeout(Duration::from_millis(100));
        program.ended().is_some() || ctr(&socket, &["version"]).is_ok()
    });
    ensure!(up && program.ended().is_none(), "containerd does not serve:\n{}", program.tail());
    Ok(program)
}

fn configuration(plane: &ControlPlane, dir: &Path, network: &Network, cgroup: &str) -> Value {
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
        "containerRuntimeEndpoint": format!("unix://{}", dir.join("containerd.sock").display()),
        "volumePluginDir": dir.join("volume-plugins"),
        "podLogsDir": dir.join("logs"),
        "maxPods": 250,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}

fn ctr(socket: &Path, args: &[&str]) -> Result<()> {
    run(Command::new("ctr").arg("--address").arg(socket).args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A root directory with nothing but `/pause`.
fn pause(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("pause");
    fs::create_dir(&root)?;
    let source = dir.join("pause.c");
    fs::write(&source, PAUSE_C)?;
    run(Command::new("gcc")
        .args(["-Os", "-static", "-s", "-o"])
        .arg(root.join("pause"))
        .arg(&source))?;
    Ok(root)
}

/// A root directory with nothing but Debian's static busybox.
fn busybox(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("busybox");
    fs::create_dir_all(root.join("bin"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("busybox")).find(|f| f.is_file());
    let program = found.context("busybox is missing: `make bench` installs it")?;
    fs::copy(program, root.join("bin/busybox"))?;
    Ok(root)
}

/// Packs the files below `root` as an image of one layer, whose entry point is their only program,
/// and hands it to containerd.
fn import(dir: &Path, socket: &Path, image: &str, root: &Path) -> Result<()> {
    let work = dir.join("image");
    fs::create_dir(&work)?;
    let tar = |from: &Path, to: &Path| {
        run(Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-C"])
            .arg(from)
            .arg("-cf")
            .arg(to)
            .arg("."))
    };
    tar(root, &work.join("layer.tar"))?;
    let hex = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let layer = hex(&fs::read(work.join("layer.tar"))?);
    let entry = if image == PAUSE { "/pause" } else { "/bin/busybox" };
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": [entry], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{}],
    });
    let config = config.to_string();
    let config_file = format!("{}.json", hex(config.as_bytes()));
    fs::write(work.join(&config_file), config)?;
    let manifest = json!([{"Config": config_file, "RepoTags": [image], "Layers": ["layer.tar"]}]);
    fs::write(work.join("manifest.json"), manifest.to_string())?;
    let archive = dir.join("image.tar");
    run(Command::new("tar").arg("-C").arg(&work).arg("-cf").arg(&archive).args([
        "manifest.json",
        &config_file,
        "layer.tar",
    ]))?;
    let archive = archive.to_str().context("a path in UTF-8")?;
    ctr(socket, &["--namespace=k8s.io", "images", "import", archive])?;
    fs::remove_dir_all(work)?;
    Ok(())
}
