//! What a node is configured to do: the flags of `copepod node` and the file of `--config`, a
//! `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`, joined into one validated [`Config`].
//!
//! In: [`NodeFlags`], as clap read them; the file; three facts of the machine. Out: a [`Config`]
//! with [`Warning`]s, one for each field or flag that is known and not (wholly) honoured, or
//! [`ConfigErrors`], everything wrong at once. Starts no task.
//!
//! Rules: flags win over the file. The file is read strictly: a field that is unknown or stands
//! twice is an error, where a kubelet logs it and goes on. A relative path in the file starts at
//! the file's directory, as upstream (`resolveRelativePaths`). Texts of refusals are upstream's
//! (`pkg/kubelet/apis/config/validation`) where it has any, after the name of the field or flag.
//!
//! Without `--config` the defaults are those of an empty file: bearer tokens and permissions are
//! asked of the API server, nobody is let in without a name, and there is no read-only port. A
//! kubelet without a file takes defaults of its own past (`applyLegacyDefaults`: anonymous,
//! `AlwaysAllow`, port 10255); those are insecure, so a warning says that they are not taken.

mod check;
mod credential_provider;
mod duration;
mod findings;
mod flags;
mod images;
mod labels;
mod machine;
mod not_yet;
mod reserve;
mod resolve;
mod server;
mod static_pods;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use copepod_pod::quantity::Quantity;
use copepod_pod::resources::QuotaPolicy;
use k8s_openapi::api::core::v1::Taint;

pub(crate) use findings::{ConfigError, ConfigErrors, Warning};
pub(crate) use flags::NodeFlags;
pub(crate) use images::ImageConfig;
pub(crate) use reserve::{Reserved, Signal, Threshold};
pub(crate) use server::{Authorization, ServerConfig, TlsVersion};
pub(crate) use static_pods::StaticPodConfig;

use findings::Findings;
use machine::Machine;
use types::KubeletConfiguration;

/// Largest configuration file, in bytes: one with every field set has some 10 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that a node is told by its flags and its file, valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// How the API server is reached.
    pub(crate) kubeconfig: PathBuf,
    /// The node's identity and its object.
    pub(crate) node: NodeConfig,
    /// Where things lie on disk.
    pub(crate) dirs: Dirs,
    /// The sandbox program; `None`: `copepod-sandbox` beside this program.
    pub(crate) sandbox: Option<PathBuf>,
    /// The two servers.
    pub(crate) server: ServerConfig,
    /// The runtime of ordinary images.
    pub(crate) runtime: RuntimeConfig,
    /// Name resolution of pods.
    pub(crate) dns: DnsConfig,
    /// Bounds on pods.
    pub(crate) pods: PodLimits,
    /// What of the machine is not for pods.
    pub(crate) reserved: Reserved,
    /// Control groups.
    pub(crate) cgroups: CgroupConfig,
    /// Containers' logs.
    pub(crate) logs: LogConfig,
    /// Images: their pulls and their end.
    pub(crate) images: ImageConfig,
    /// Pods that come from elsewhere than the API server.
    pub(crate) static_pods: StaticPodConfig,
    /// Most events sent.
    pub(crate) events: Rate,
    /// The agent's own `oom_score_adj`.
    pub(crate) oom_score_adj: i32,
    /// Most verbose diagnostics, 0 to 10 as klog has them.
    pub(crate) verbosity: u8,
}

/// The node's identity and its object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeConfig {
    /// Its name: `--hostname-override`, else the machine's host name; in lower case.
    pub(crate) name: String,
    /// Its addresses as given, one of a family; empty: to be found. `0.0.0.0` or `::` alone asks
    /// for the default address of that family.
    pub(crate) ips: Vec<IpAddr>,
    /// Labels beside those that every node has.
    pub(crate) labels: BTreeMap<String, String>,
    /// Taints at its registration.
    pub(crate) taints: Vec<Taint>,
    /// The object is created where it is missing.
    pub(crate) register: bool,
    /// `spec.providerID`; empty: none.
    pub(crate) provider_id: String,
    /// A cloud's controller initialises the node (`--cloud-provider=external`).
    pub(crate) external_cloud: bool,
    /// The attach-detach controller manages this node's volumes (its annotation).
    pub(crate) controller_attach_detach: bool,
    /// How often the status is computed.
    pub(crate) status_update: Duration,
    /// How often a status without change is written.
    pub(crate) status_report: Duration,
    /// `leaseDurationSeconds`; renewed each quarter of it.
    pub(crate) lease: Duration,
    /// Most images named in the status; `None`: all.
    pub(crate) max_images: Option<usize>,
}

/// Where things lie on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// The state: `--root-dir`.
    pub(crate) root: PathBuf,
    /// Certificates: `--cert-dir`.
    pub(crate) cert: PathBuf,
    /// Sockets and what is kept off disks: `--run-dir`.
    pub(crate) run: PathBuf,
    /// Pulled and compiled images: `--cache-dir`; `None`: the usual place.
    pub(crate) cache: Option<PathBuf>,
    /// Logs of containers: `podLogsDir`.
    pub(crate) pod_logs: PathBuf,
    /// Configuration of the network: `--cni-conf-dir`.
    pub(crate) cni_conf: PathBuf,
    /// Programs of the network, in this order: `--cni-bin-dir`.
    pub(crate) cni_bins: Vec<PathBuf>,
}

/// The runtime of ordinary images. It is there where an endpoint is given: the default that a kubelet
/// has is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeConfig {
    /// `containerRuntimeEndpoint`: `unix:///PATH`; `None`: pods are Wasm.
    pub(crate) endpoint: Option<String>,
    /// `imageServiceEndpoint`, where it is another one.
    pub(crate) images: Option<String>,
    /// `runtimeRequestTimeout`: how long a call may take that waits for nothing by itself.
    pub(crate) patience: Duration,
}

/// Name resolution of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsConfig {
    /// The cluster's name servers.
    pub(crate) servers: Vec<IpAddr>,
    /// The cluster's domain; empty: none.
    pub(crate) domain: String,
    /// The host's resolver file that pods' are made from; `None`: pods get nothing of the host's.
    pub(crate) resolv_conf: Option<PathBuf>,
}

/// Bounds on pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodLimits {
    /// `syncFrequency`: by it alone goes when the loop over the pods is taken to be stuck.
    pub(crate) sync_every: Duration,
    /// The longest wait between two restarts (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub(crate) restart_max: Duration,
    /// Most pods, however many cores there are.
    pub(crate) max_pods: u32,
    /// Most pods for each core; 0: no such bound.
    pub(crate) pods_per_core: u32,
    /// Most processes and threads of a pod; `None`: no bound of its own.
    pub(crate) pids: Option<u64>,
    /// Ids of the host that a pod with a user namespace of its own has (`userNamespaces.idsPerPod`).
    pub(crate) ids_per_pod: u32,
    /// An ordinary container without a seccomp profile has the runtime's (`seccompDefault`). Guests
    /// have a filter of their own anyway.
    pub(crate) seccomp_default: bool,
    /// Sysctls (or prefixes ending in `*`) that pods may set beside the safe ones.
    pub(crate) unsafe_sysctls: Vec<String>,
}

/// Control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupConfig {
    /// Who makes them, unless the runtime says otherwise (`cgroupDriver`).
    pub(crate) driver: CgroupDriver,
    /// Below which `kubepods` lies; `/` is the top.
    pub(crate) root: String,
    /// Pods and classes have groups (`cgroupsPerQOS`).
    pub(crate) per_class: bool,
    /// How cpu limits are enforced (`cpuCFSQuota`, `cpuCFSQuotaPeriod`).
    pub(crate) quota: QuotaPolicy,
    /// An OOM kill takes all of a container, where the kernel can (`singleProcessOOMKill: false`).
    pub(crate) oom_kills_all: bool,
    /// All pods together are held to what is allocatable (`enforceNodeAllocatable: [pods]`).
    pub(crate) enforce_pods: bool,
    /// The group that the system is held to its reservation in (`system-reserved` and
    /// `systemReservedCgroup`); `None`: it is not.
    pub(crate) system: Option<ReservedGroup>,
    /// The same of the cluster's programs (`kube-reserved` and `kubeReservedCgroup`).
    pub(crate) kube: Option<ReservedGroup>,
}

/// Who makes control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupDriver {
    /// The agent, in their file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// A group of the host's own that is held to what is reserved for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReservedGroup {
    /// Its name, in the driver's way.
    pub(crate) name: String,
    /// Only to its part of the cpus (`-compressible`).
    pub(crate) compressible: bool,
}

/// Containers' logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// Bytes of a file before it is rotated; `None`: no bound (a negative quantity).
    pub(crate) max_size: Option<u64>,
    /// Files of a container, the one written to included.
    pub(crate) max_files: u32,
}

/// A rate with bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// A second; 0: no bound.
    pub(crate) per_second: u32,
    /// At once.
    pub(crate) burst: u32,
}

impl Config {
    /// Reads the file that the flags name, and joins both.
    ///
    /// # Errors
    /// All that is wrong in flags and file. A file that cannot be decoded hides only what would
    /// be wrong in its values.
    pub(crate) fn load(flags: &NodeFlags) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let machine = Machine::look();
        match flags.config.as_deref().map(read) {
            Some(Ok(file)) => join(flags, &file, &machine),
            // The flags are still checked, with a file's defaults.
            Some(Err(error)) => {
                let rest = join(flags, &KubeletConfiguration::default(), &machine);
                let rest = rest.err().map(|errors| errors.0).unwrap_or_default();
                Err(ConfigErrors(std::iter::once(error).chain(rest).collect()))
            }
            None => join(flags, &KubeletConfiguration::default(), &machine),
        }
    }
}

/// Joins flags and a file that could be decoded.
fn join(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    machine: &Machine,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let mut findings = Findings::new(flags.config.as_deref());
    flags.refuse(&mut findings);
    check::check(file, machine, &mut findings);
    let config = resolve::resolve(flags, file, machine, &mut findings);
    not_yet::name(file, machine, &mut findings);
    findings.into_result(config)
}

/// Reads and decodes the file, within its bound.
fn read(path: &Path) -> Result<KubeletConfiguration, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong(path.into()));
    }
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText(path.into()))?;
    decode(&path.display().to_string(), &text)
}

/// Decodes a file's text, strictly.
fn decode(name: &str, text: &str) -> Result<KubeletConfiguration, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    crate::sources::single(name, text, (types::API_VERSION, types::KIND))
        .map_err(ConfigError::Decode)
}

/// The value of a field whose zero stands for its default.
fn non_zero(given: Option<i32>, default: i32) -> i32 {
    given.filter(|number| *number != 0).unwrap_or(default)
}

/// A quantity, or upstream's reason why it is none.
fn quantity(text: &str) -> Result<Quantity, String> {
    Quantity::parse(text).map_err(|e| format!("{text:?} is no quantity: {e}"))
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
