//! The flags of `copepod node`: a kubelet's, as far as a cluster's installer passes them, and a
//! few of our own. Values are read as text and checked later, so that all errors come at once.

use std::path::{Path, PathBuf};

use super::findings::Findings;

/// Where a kubelet keeps its state.
const ROOT_DIR: &str = "/var/lib/kubelet";
/// Where we keep sockets and what stays off disks.
const RUN_DIR: &str = "/run/copepod";
/// Where the network's configuration lies by convention.
const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Where the network's programs lie: by convention, and Debian's.
pub(super) const CNI_BIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Flags of a node. They win over the file of `--config`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct NodeFlags {
    /// The kubeconfig file of this node's user, system:node:NAME
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A KubeletConfiguration (kubelet.config.k8s.io/v1beta1), YAML or JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's name [default: the host name, in lower case]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// The node's address, or one of each family with a comma between [default: found]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<String>,
    /// Labels to register the node with: key=value,...
    #[arg(long, value_name = "LABELS")]
    pub(crate) node_labels: Vec<String>,
    /// Taints to register the node with: key=value:Effect,...
    #[arg(long, value_name = "TAINTS")]
    pub(crate) register_with_taints: Option<String>,
    /// Register the node with the API server [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) register_node: Option<String>,
    /// Directory of the node's state
    #[arg(long, value_name = "DIR", default_value = ROOT_DIR)]
    pub(crate) root_dir: PathBuf,
    /// Directory of certificates [default: pki in the root directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// How much is logged, 0 to 10 as klog counts: 2 is information, 4 debugging
    #[arg(long = "v", short = 'v', value_name = "N")]
    pub(crate) v: Option<String>,
    /// external: a cloud's controller initialises the node
    #[arg(long, value_name = "NAME")]
    pub(crate) cloud_provider: Option<String>,
    /// The machine's identity at its provider
    #[arg(long, value_name = "ID")]
    pub(crate) provider_id: Option<String>,
    /// Directory of sockets, and of what is kept off disks
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Directory of images, pulled and compiled
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The sandbox program [default: copepod-sandbox beside this program]
    #[arg(long, value_name = "FILE", env = "COPEPOD_SANDBOX")]
    pub(crate) sandbox: Option<PathBuf>,
    /// Directory of the network's configuration
    #[arg(long, value_name = "DIR", default_value = CNI_CONF_DIR)]
    pub(crate) cni_conf_dir: PathBuf,
    /// Directory of the network's programs, may be repeated [default: /opt/cni/bin, /usr/lib/cni]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// A CredentialProviderConfig, or a directory of them: programs that know registries' credentials
    #[arg(long, value_name = "PATH")]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Directory of those programs
    #[arg(long, value_name = "DIR")]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// A file of a static pod, or a directory of them
    #[arg(long, value_name = "PATH")]
    pub(crate) pod_manifest_path: Option<String>,
    /// How often those files are looked at, beside whenever they change [default: 20s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) file_check_frequency: Option<String>,
    /// An address of static pods: a Pod or a PodList
    #[arg(long, value_name = "URL")]
    pub(crate) manifest_url: Option<String>,
    /// Headers to ask it with: name:value,... may be repeated
    #[arg(long, value_name = "HEADERS")]
    pub(crate) manifest_url_header: Vec<String>,
    /// How often it is asked [default: 20s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) http_check_frequency: Option<String>,
    /// Refused: TLS bootstrap is a later step
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) bootstrap_kubeconfig: Option<String>,
    /// Refused: drop-in files are a later step
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) config_dir: Option<String>,
    /// The container runtime of ordinary images: unix:///PATH [default: none, pods are Wasm]
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// The runtime's image service, if it is another one: unix:///PATH
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) image_service_endpoint: Option<String>,
    /// Accepted for kubeadm's sake: the container runtime knows its pause image
    #[arg(long, value_name = "IMAGE", hide = true)]
    pub(crate) pod_infra_container_image: Option<String>,
}

impl NodeFlags {
    /// The flags of an empty command line, below another root directory and beside it.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: NodeFlags,
        }
        <Line as clap::Parser>::parse_from(["node", "--kubeconfig=/etc/kubernetes/kubelet.conf"])
            .flags
    }

    /// Refuses what is a later step, and names what has no effect.
    pub(super) fn refuse(&self, findings: &mut Findings) {
        if self.config.is_none() {
            findings.warn(
                "--config",
                "not given: the defaults are those of an empty file, and not the insecure ones \
                 (anonymous requests, AlwaysAllow, port 10255) that a kubelet then has",
            );
        }
        if self.kubeconfig.is_none() {
            findings.flag(
                "--kubeconfig",
                "missing: expected a kubeconfig file (a node without an API server is `copepod run`)",
            );
        }
        if self.bootstrap_kubeconfig.as_ref().is_some_and(|file| !file.is_empty()) {
            findings.flag(
                "--bootstrap-kubeconfig",
                "TLS bootstrap is a later step: expected --kubeconfig with this node's own \
                 certificate, and this flag left out",
            );
        }
        if self.config_dir.as_ref().is_some_and(|dir| !dir.is_empty()) {
            findings.flag("--config-dir", "drop-in files are a later step: expected one --config");
        }
        match self.cloud_provider.as_deref() {
            None | Some("" | "external") => {}
            Some(other) => findings.flag(
                "--cloud-provider",
                format!("{other:?} is none: expected \"external\", or the flag left out"),
            ),
        }
        if self.pod_infra_container_image.is_some() {
            let text = "without effect: the container runtime knows its pause image";
            findings.warn("--pod-infra-container-image", text);
        }
    }

    /// Whether this flag, one of the two endpoints, is given.
    pub(super) fn has_endpoint(&self, flag: &str) -> bool {
        let value = match flag {
            "--container-runtime-endpoint" => &self.container_runtime_endpoint,
            _ => &self.image_service_endpoint,
        };
        value.is_some()
    }

    /// The directory of certificates.
    pub(super) fn certificates(&self) -> PathBuf {
        self.cert_dir.clone().unwrap_or_else(|| self.root_dir.join("pki"))
    }

    /// The directories of the network's programs.
    pub(super) fn cni_bins(&self) -> Vec<PathBuf> {
        let given = self.cni_bin_dir.iter().map(PathBuf::as_path);
        match self.cni_bin_dir.is_empty() {
            true => CNI_BIN_DIRS.iter().map(|dir| Path::new(dir).to_owned()).collect(),
            false => given.map(Path::to_owned).collect(),
        }
    }
}
