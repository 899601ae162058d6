//! Who a container runs as and what it may do (upstream `security_context.go`,
//! `pkg/securitycontext`).

use copepod_cri::{
    Capability, IdMapping, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SeLinuxOption, SupplementalGroupsPolicy, UserNamespace,
};
use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, SELinuxOptions, SecurityContext};

use super::profile;
use super::{
    ConfigError, ContainerInput, IdRange, ImageUser, PodInput, says, security_context, text,
};

/// What containers must not see (upstream `defaultMaskedPaths`).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What containers must not write to (upstream `defaultReadonlyPaths`).
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The largest user id (upstream `IsValidUserID`).
const USER_MAX: i64 = i32::MAX as i64;

/// The sandbox's.
pub(super) fn of_sandbox(of: PodInput<'_>) -> Result<LinuxSandboxSecurityContext, ConfigError> {
    let context = security_context(of.pod);
    let number = |value: i64| Int64Value { value };
    Ok(LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(of)?),
        selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux),
        run_as_user: context.and_then(|c| c.run_as_user).map(number),
        run_as_group: context.and_then(|c| c.run_as_group).map(number),
        supplemental_groups: groups(of.pod),
        supplemental_groups_policy: groups_policy(of.pod)?,
        privileged: has_privileged(of.pod),
        // Its one process needs nothing that the profile refuses, whatever the containers have.
        seccomp: Some(profile::runtime_default()),
        ..LinuxSandboxSecurityContext::default()
    })
}

/// A container's.
pub(super) fn of_container(
    input: &ContainerInput<'_>,
) -> Result<LinuxContainerSecurityContext, ConfigError> {
    let (pod, container) = (input.of.pod, input.container);
    verify_non_root(input)?;
    let own = container.security_context.as_ref();
    let context = security_context(pod);
    let number = |value: i64| Int64Value { value };
    let user = own.and_then(|own| own.run_as_user).or(context.and_then(|c| c.run_as_user));
    let group = own.and_then(|own| own.run_as_group).or(context.and_then(|c| c.run_as_group));
    let (run_as_user, run_as_username) = match (user, &input.image.user) {
        (Some(user), _) | (None, &ImageUser::Id(user)) => (Some(number(user)), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let labels = own.and_then(|own| own.se_linux_options.as_ref());
    let labels = labels.or(context.and_then(|c| c.se_linux_options.as_ref()));
    let is = |field: fn(&SecurityContext) -> Option<bool>| own.and_then(field);
    let mut namespace_options = namespaces(input.of)?;
    if let Some(target) = input.target
        && namespace_options.pid() == NamespaceMode::Container
    {
        namespace_options.set_pid(NamespaceMode::Target);
        namespace_options.target_id = target.into();
    }
    let unmasked = own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked");
    let (mut masked_paths, mut readonly_paths) = (Vec::new(), Vec::new());
    if !unmasked {
        masked_paths.extend(MASKED.map(str::to_owned));
        masked_paths.extend(input.of.node.masked_paths.iter().cloned());
        readonly_paths.extend(READ_ONLY.map(str::to_owned));
    }
    Ok(LinuxContainerSecurityContext {
        capabilities: own.and_then(|own| own.capabilities.as_ref()).map(capabilities),
        privileged: is(|own| own.privileged) == Some(true),
        namespace_options: Some(namespace_options),
        selinux_options: labels.map(selinux),
        run_as_user,
        run_as_group: group.map(number),
        run_as_username,
        readonly_rootfs: is(|own| own.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod)?,
        no_new_privs: is(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths,
        readonly_paths,
        seccomp: Some(profile::seccomp(pod, container, input.of.node)?),
        apparmor: profile::apparmor(pod, container)?,
        ..LinuxContainerSecurityContext::default()
    })
}

/// Refuses a container that must not run as root and would, or may (upstream `verifyRunAsNonRoot`).
fn verify_non_root(input: &ContainerInput<'_>) -> Result<(), ConfigError> {
    let pod = input.of.pod;
    let own = input.container.security_context.as_ref();
    let context = security_context(pod);
    let must = own.and_then(|own| own.run_as_non_root);
    if must.or(context.and_then(|c| c.run_as_non_root)) != Some(true) {
        return Ok(());
    }
    let user = own.and_then(|own| own.run_as_user).or(context.and_then(|c| c.run_as_user));
    let container = input.container.name.clone();
    let pod = pod_name(pod);
    match (user, &input.image.user) {
        (Some(0), _) => Err(ConfigError::RootUser { pod, container }),
        (None, ImageUser::Id(0)) => Err(ConfigError::RootImage { pod, container }),
        (None, ImageUser::Id(user)) if !(0..=USER_MAX).contains(user) => {
            Err(ConfigError::InvalidUser { user: *user, pod, container })
        }
        (None, ImageUser::Name(user)) => {
            Err(ConfigError::NamedUser { user: user.clone(), pod, container })
        }
        (Some(_), _) | (None, ImageUser::Id(_)) => Ok(()),
    }
}

/// A pod as upstream names it in messages (`format.Pod`).
fn pod_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let [name, namespace, uid] =
        [&meta.name, &meta.namespace, &meta.uid].map(|field| text(field.as_ref()));
    format!("{name}_{namespace}({uid})")
}

/// The namespaces that the pod has of its own, or shares with the host (upstream
/// `NamespacesForPod`).
fn namespaces(of: PodInput<'_>) -> Result<NamespaceOption, ConfigError> {
    let pod = of.pod;
    let or_host = |on_host| if on_host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if says(pod, |spec| spec.host_pid) {
        NamespaceMode::Node
    } else if says(pod, |spec| spec.share_process_namespace) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    Ok(NamespaceOption {
        network: or_host(says(pod, |spec| spec.host_network)).into(),
        pid: pid.into(),
        ipc: or_host(says(pod, |spec| spec.host_ipc)).into(),
        target_id: String::new(),
        userns_options: Some(user_namespace(of)?),
    })
}

/// The ids of the pod: the host's, unless it wants none of them (upstream
/// `GetOrCreateUserNamespaceMappings`).
pub(super) fn user_namespace(of: PodInput<'_>) -> Result<UserNamespace, ConfigError> {
    let hosts = of.pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false);
    match of.user_namespace {
        _ if hosts => {
            let mode = NamespaceMode::Node.into();
            Ok(UserNamespace { mode, ..UserNamespace::default() })
        }
        Some(IdRange { first, length }) => {
            let ids = vec![IdMapping { host_id: first, container_id: 0, length }];
            Ok(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids })
        }
        None if of.handler.is_empty() => Err(ConfigError::UserNamespace),
        None => Err(ConfigError::HandlerUserNamespace(of.handler.into())),
    }
}

/// Groups beside the user's own.
fn groups(pod: &Pod) -> Vec<i64> {
    let Some(context) = security_context(pod) else { return Vec::new() };
    let more = context.supplemental_groups.iter().flatten().copied();
    context.fs_group.into_iter().chain(more).collect()
}

fn groups_policy(pod: &Pod) -> Result<i32, ConfigError> {
    let policy = security_context(pod).and_then(|c| c.supplemental_groups_policy.as_deref());
    let Some(policy) = policy else { return Ok(SupplementalGroupsPolicy::default().into()) };
    SupplementalGroupsPolicy::from_str_name(policy)
        .map(Into::into)
        .ok_or_else(|| ConfigError::GroupsPolicy(policy.into()))
}

/// Whether any container of the pod, of whatever kind, is privileged.
fn has_privileged(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let of = |container: &Container| container.security_context.as_ref()?.privileged;
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| c.security_context.as_ref()?.privileged);
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers).map(of);
    all.any(|it| it == Some(true)) || ephemeral.into_iter().any(|it| it == Some(true))
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: text(options.user.as_ref()),
        role: text(options.role.as_ref()),
        r#type: text(options.type_.as_ref()),
        level: text(options.level.as_ref()),
    }
}

fn capabilities(own: &Capabilities) -> Capability {
    Capability {
        add_capabilities: own.add.clone().unwrap_or_default(),
        drop_capabilities: own.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    }
}
