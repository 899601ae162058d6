//! What of a pod a host without a cluster does not do.
//!
//! Two lists. [`refusals`]: ignoring the field would change what the pod means, so it is not run.
//! [`notices`]: the pod means the same, but a cluster's node would do more; said once, by name.

use copepod_pod::{FieldError, volume_sources};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSpec, SeccompProfile, Volume, VolumeMount,
};

/// What this host can do for a pod.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostCapabilities {
    /// Guests may run as other users than the agent's.
    pub(crate) changes_user: bool,
    /// The agent may mount.
    pub(crate) mounts: bool,
    /// There is an API server behind it, and each pod has a network of its own.
    pub(crate) cluster: bool,
}

/// A field of which this host does less than a cluster's node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    /// The field, without the container it stands in: `resources.limits.cpu`.
    pub(crate) field: String,
    /// What happens instead.
    pub(crate) text: String,
}

/// Kinds of volumes that are served.
const VOLUMES: [&str; 6] =
    ["emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected"];

/// Fields for which the pod is not run, each by its path; none for a pod that can be. `is_wasm` says
/// which containers are: of the others, only what the agent itself has to do is looked at.
pub(crate) fn refusals(
    pod: &Pod,
    host: HostCapabilities,
    is_wasm: &dyn Fn(&str) -> bool,
) -> Vec<FieldError> {
    let mut refused = Refused(Vec::new());
    let Some(spec) = &pod.spec else { return refused.0 };
    let inits = spec.init_containers.iter().flatten();
    let any_wasm = inits.chain(&spec.containers).any(|one| is_wasm(&one.name));
    if any_wasm {
        pod_refusals(&mut refused, spec, host);
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        volume_refusals(&mut refused, &format!("spec.volumes[{i}]"), volume, host, any_wasm);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", &spec.containers[..])] {
        for (i, container) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            if is_wasm(&container.name) {
                container_refusals(&mut refused, &path, container, host);
                security_refusals(&mut refused, &format!("{path}.securityContext"), container);
            }
        }
    }
    refused.0
}

struct Refused(Vec<FieldError>);

impl Refused {
    fn when(&mut self, broken: bool, path: String, message: &str) {
        if broken {
            self.0.push(FieldError { path, message: message.into() });
        }
    }
}

const NO_PROCESSES: &str = "not possible: a Wasm container sees no processes";
const NO_PROFILES: &str = "not possible: the sandbox has its own profile, expected RuntimeDefault";
const NO_DEVICES: &str = "not possible: a Wasm container has no devices";

fn is_some<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

fn pod_refusals(refused: &mut Refused, spec: &PodSpec, host: HostCapabilities) {
    let mut when =
        |broken: bool, field: &str, text: &str| refused.when(broken, format!("spec.{field}"), text);
    when(spec.host_pid == Some(true), "hostPID", NO_PROCESSES);
    when(spec.host_ipc == Some(true), "hostIPC", NO_PROCESSES);
    when(spec.share_process_namespace == Some(true), "shareProcessNamespace", NO_PROCESSES);
    let os = spec.os.as_ref().is_some_and(|os| os.name != "linux");
    // The text of upstream's admission.
    when(os, "os.name", "Failed to admit pod as the OS field doesn't match node OS");
    let ephemeral = is_some(spec.ephemeral_containers.as_ref());
    // One that is added later must not keep the rest from being set up again.
    when(
        ephemeral && !host.cluster,
        "ephemeralContainers",
        "not possible: they are added to a pod that runs",
    );
    when(is_some(spec.resource_claims.as_ref()), "resourceClaims", NO_DEVICES);
    let Some(context) = &spec.security_context else { return };
    let sysctls = is_some(context.sysctls.as_ref());
    when(
        sysctls && !host.cluster,
        "securityContext.sysctls",
        "not served: guests share this host's network",
    );
    when(context.windows_options.is_some(), "securityContext.windowsOptions", "not Linux");
    let (seccomp, apparmor) =
        (context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref());
    when(local_seccomp(seccomp), "securityContext.seccompProfile.type", NO_PROFILES);
    when(local_apparmor(apparmor), "securityContext.appArmorProfile.type", NO_PROFILES);
}

fn local_seccomp(profile: Option<&SeccompProfile>) -> bool {
    profile.is_some_and(|profile| profile.type_ == "Localhost")
}

fn local_apparmor(profile: Option<&AppArmorProfile>) -> bool {
    profile.is_some_and(|profile| profile.type_ == "Localhost")
}

fn volume_refusals(
    refused: &mut Refused,
    path: &str,
    volume: &Volume,
    host: HostCapabilities,
    any_wasm: bool,
) {
    for source in volume_sources(volume) {
        let text = format!("not served yet: expected one of {}", VOLUMES.join(", "));
        refused.when(!VOLUMES.contains(&source), format!("{path}.{source}"), &text);
    }
    if let Some(source) = &volume.host_path {
        let kind = source.type_.as_deref().unwrap_or_default();
        let device = ["CharDevice", "BlockDevice"].contains(&kind);
        refused.when(device && any_wasm, format!("{path}.hostPath.type"), NO_DEVICES);
        let text = "not possible: a Wasm container opens no Unix sockets";
        refused.when(kind == "Socket" && any_wasm, format!("{path}.hostPath.type"), text);
        let file = ["File", "FileOrCreate"].contains(&kind) && !host.mounts;
        let text = "a single file takes a mount: expected copepod to run as root";
        refused.when(file, format!("{path}.hostPath.type"), text);
        let absolute = source.path.starts_with('/');
        refused.when(!absolute, format!("{path}.hostPath.path"), "expected an absolute path");
    }
    let sources = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
    for (i, source) in sources.enumerate() {
        for (field, set) in [
            ("serviceAccountToken", source.service_account_token.is_some() && !host.cluster),
            ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
            ("podCertificate", source.pod_certificate.is_some()),
        ] {
            let path = format!("{path}.projected.sources[{i}].{field}");
            refused.when(set, path, "not possible: there is no API server to ask for it");
        }
    }
    let medium = volume.empty_dir.as_ref().and_then(|e| e.medium.as_deref()).unwrap_or_default();
    let huge = medium.starts_with("HugePages");
    refused.when(
        huge,
        format!("{path}.emptyDir.medium"),
        "not possible: a guest has no huge pages",
    );
}

fn container_refusals(refused: &mut Refused, path: &str, one: &Container, host: HostCapabilities) {
    let mut when = |broken: bool, field: &str, text: &str| {
        refused.when(broken, format!("{path}.{field}"), text)
    };
    for (i, env) in one.env.iter().flatten().enumerate() {
        let nul = env.value.as_deref().is_some_and(|value| value.contains('\0'));
        when(nul, &format!("env[{i}].value"), "must not contain a zero byte");
    }
    for (field, list) in [("command", &one.command), ("args", &one.args)] {
        for (i, text) in list.iter().flatten().enumerate() {
            let at = format!("{field}[{i}]");
            when(text.contains('\0'), &at, "must not contain a zero byte");
        }
    }
    when(is_some(one.volume_devices.as_ref()), "volumeDevices", NO_DEVICES);
    let dir = one.working_dir.as_deref().unwrap_or_default();
    when(!["", "/"].contains(&dir), "workingDir", "not served yet: a guest starts in /");
    for (i, mount) in one.volume_mounts.iter().flatten().enumerate() {
        mount_refusals(&mut when, i, mount);
    }
    let Some(needs) = &one.resources else { return };
    when(is_some(needs.claims.as_ref()), "resources.claims", NO_DEVICES);
    for (list, amounts) in [("limits", &needs.limits), ("requests", &needs.requests)] {
        for name in amounts.iter().flatten().map(|(name, _)| name) {
            let known = ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str());
            // A node's admission knows its resources.
            let known = known || host.cluster;
            when(!known, &format!("resources.{list}[{name}]"), "this host has no such resource");
        }
    }
}

fn mount_refusals(when: &mut impl FnMut(bool, &str, &str), i: usize, mount: &VolumeMount) {
    let at = |field: &str| format!("volumeMounts[{i}].{field}");
    let whole = mount.mount_path.split('/').all(|part| ["", "."].contains(&part));
    let text = "not possible: a volume lies below the container's own /";
    when(whole && !mount.mount_path.is_empty(), &at("mountPath"), text);
    let recursive = mount.recursive_read_only.as_deref() == Some("Enabled");
    when(recursive, &at("recursiveReadOnly"), "not served yet: expected IfPossible or Disabled");
}

fn security_refusals(refused: &mut Refused, path: &str, one: &Container) {
    let Some(context) = &one.security_context else { return };
    let mut when = |broken: bool, field: &str, text: &str| {
        refused.when(broken, format!("{path}.{field}"), text)
    };
    let text = "not possible: a Wasm container has no privileges to give";
    when(context.privileged == Some(true), "privileged", text);
    let add = context.capabilities.as_ref().and_then(|all| all.add.as_ref());
    when(is_some(add), "capabilities.add", text);
    let proc_mount = context.proc_mount.as_deref().unwrap_or("Default");
    when(proc_mount != "Default", "procMount", "not possible: a Wasm container has no /proc");
    when(local_seccomp(context.seccomp_profile.as_ref()), "seccompProfile.type", NO_PROFILES);
    when(local_apparmor(context.app_armor_profile.as_ref()), "appArmorProfile.type", NO_PROFILES);
    when(context.windows_options.is_some(), "windowsOptions", "not Linux");
}

/// What a cluster's node would do for this pod and this host does not, each field once, in the
/// order of the spec. For pods with defaults applied, and without [`refusals`].
pub(crate) fn notices(pod: &Pod, host: HostCapabilities) -> Vec<Notice> {
    let mut said = Said(Vec::new());
    let Some(spec) = &pod.spec else { return said.0 };
    pod_notices(&mut said, spec);
    scheduling_notices(&mut said, spec);
    let context = spec.security_context.clone().unwrap_or_default();
    user_notices(&mut said, host, context.run_as_user.is_some(), context.run_as_group.is_some());
    let group = context.fs_group.is_some() && !host.changes_user;
    said.when(group, "fsGroup", "volumes keep the owner they have");
    let groups = context.supplemental_groups.is_some() && !host.changes_user;
    said.when(groups, "supplementalGroups", "guests run as the user who started copepod");
    let selinux = context.se_linux_options.is_some();
    for volume in spec.volumes.iter().flatten() {
        let Some(empty) = &volume.empty_dir else { continue };
        let memory = empty.medium.as_deref() == Some("Memory") && !host.mounts;
        let text = "the volume has no memory of its own: it lies in the run directory";
        said.when(memory, "emptyDir.medium", text);
    }
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        container_notices(&mut said, container);
        let Some(own) = &container.security_context else { continue };
        user_notices(&mut said, host, own.run_as_user.is_some(), own.run_as_group.is_some());
        said.when(own.se_linux_options.is_some() || selinux, "seLinuxOptions", "not applied");
    }
    said.0
}

struct Said(Vec<Notice>);

impl Said {
    fn when(&mut self, holds: bool, field: &str, text: &str) {
        if holds && !self.0.iter().any(|notice| notice.field == field) {
            self.0.push(Notice { field: field.into(), text: text.into() });
        }
    }
}

fn pod_notices(said: &mut Said, spec: &PodSpec) {
    let own_network = spec.host_network != Some(true);
    said.when(
        own_network,
        "hostNetwork",
        "the pod has no network of its own: its guests use this host's",
    );
    let account = spec.service_account_name.is_some() || spec.service_account.is_some();
    said.when(account, "serviceAccountName", "no API server, so no token");
    let token = spec.automount_service_account_token == Some(true);
    said.when(token, "automountServiceAccountToken", "no API server, so no token");
    let class = spec.runtime_class_name.is_some();
    said.when(class, "runtimeClassName", "every container runs as Wasm");
    let text = "written into /etc/hosts, but guests cannot look up names yet";
    said.when(spec.host_aliases.is_some(), "hostAliases", text);
    let dns =
        ["ClusterFirst", "Default"].contains(&spec.dns_policy.as_deref().unwrap_or("Default"));
    let text = "written into /etc/resolv.conf, but guests cannot look up names yet";
    said.when(spec.dns_config.is_some(), "dnsConfig", text);
    said.when(!dns, "dnsPolicy", text);
    let gates = spec.readiness_gates.is_some();
    said.when(gates, "readinessGates", "no controller sets them, so the pod does not become ready");
    let secrets = spec.image_pull_secrets.is_some();
    said.when(secrets, "imagePullSecrets", "not used: registries' credentials are this user's own");
    let users = spec.host_users == Some(false);
    said.when(users, "hostUsers", "no user namespace");
    said.when(spec.overhead.is_some(), "overhead", "not accounted for");
    said.when(spec.resources.is_some(), "spec.resources", "no cgroup for the pod, so not enforced");
}

fn scheduling_notices(said: &mut Said, spec: &PodSpec) {
    let scheduler = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    let priority = spec.priority.is_some() || spec.priority_class_name.is_some();
    for (field, set) in [
        ("nodeName", spec.node_name.is_some()),
        ("nodeSelector", spec.node_selector.is_some()),
        ("affinity", spec.affinity.is_some()),
        ("tolerations", spec.tolerations.is_some()),
        ("topologySpreadConstraints", spec.topology_spread_constraints.is_some()),
        ("schedulerName", scheduler != "default-scheduler"),
        ("schedulingGates", spec.scheduling_gates.is_some()),
        ("schedulingGroup", spec.scheduling_group.is_some()),
        ("priorityClassName", priority),
    ] {
        said.when(set, field, "no scheduler: the pod runs on this host");
    }
}

fn user_notices(said: &mut Said, host: HostCapabilities, user: bool, group: bool) {
    let text = "guests run as the user who started copepod";
    said.when(user && !host.changes_user, "runAsUser", text);
    said.when(group && !host.changes_user, "runAsGroup", text);
}

fn container_notices(said: &mut Said, one: &Container) {
    let resource = |list: &str, name: &str| {
        let needs = one.resources.as_ref();
        let amounts = needs.and_then(|needs| match list {
            "limits" => needs.limits.as_ref(),
            _ => needs.requests.as_ref(),
        });
        amounts.is_some_and(|amounts| amounts.contains_key(name))
    };
    // A request that defaults to its limit has nothing to say of its own.
    let request = |name: &str| resource("requests", name) && !resource("limits", name);
    let disk = resource("limits", "ephemeral-storage") || resource("requests", "ephemeral-storage");
    let other = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        port.host_port.is_some_and(|host| host != 0 && host != port.container_port)
    };
    let host_port = one.ports.iter().flatten().any(other);
    let no_cgroup = "no cgroup, so not enforced";
    let memory = "enforced inside the engine, on the guest's own memory; no cgroup around it";
    for (field, holds, text) in [
        ("hostPort", host_port, "guests listen on containerPort itself"),
        ("resources.limits.cpu", resource("limits", "cpu"), no_cgroup),
        ("resources.requests.cpu", request("cpu"), no_cgroup),
        ("resources.limits.memory", resource("limits", "memory"), memory),
        ("resources.requests.memory", request("memory"), "not reserved"),
        ("resources.ephemeral-storage", disk, "not enforced"),
        ("stdin", one.stdin == Some(true), "not connected yet: guests read end of file"),
        ("tty", one.tty == Some(true), "no terminal for a Wasm container"),
    ] {
        said.when(holds, field, text);
    }
}

#[cfg(test)]
#[path = "support_test.rs"]
mod tests;
