//! Seccomp and AppArmor profiles (upstream `getSeccompProfile`, `getAppArmorProfile`).

use std::path::{Component, Path};

use copepod_cri::SecurityProfile;
use copepod_cri::security_profile::ProfileType;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile};

use super::{ConfigError, NodeOptions, security_context};

/// What the old annotations of AppArmor begin with; the container's name follows.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// What an old name of a profile of the node's begins with.
const OLD_LOCALHOST: &str = "localhost/";

fn of(kind: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

/// The runtime's own.
pub(super) fn runtime_default() -> SecurityProfile {
    of(ProfileType::RuntimeDefault)
}

/// The container's seccomp profile, else the pod's, else the node's default.
pub(super) fn seccomp(
    pod: &Pod,
    container: &Container,
    node: &NodeOptions,
) -> Result<SecurityProfile, ConfigError> {
    let own = container.security_context.as_ref().and_then(|own| own.seccomp_profile.as_ref());
    let of_pod = || security_context(pod).and_then(|context| context.seccomp_profile.as_ref());
    let Some(profile) = own.or_else(of_pod) else {
        let default = ProfileType::RuntimeDefault;
        return Ok(of(if node.seccomp_default { default } else { ProfileType::Unconfined }));
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(runtime_default()),
        "Localhost" => localhost_seccomp(profile, node),
        // `Unconfined`; upstream takes anything else for it too.
        _ => Ok(of(ProfileType::Unconfined)),
    }
}

fn localhost_seccomp(
    profile: &SeccompProfile,
    node: &NodeOptions,
) -> Result<SecurityProfile, ConfigError> {
    let name = profile.localhost_profile.as_deref().filter(|name| !name.is_empty());
    let name = Path::new(name.ok_or(ConfigError::SeccompName)?);
    // The API server lets no name lead out of the directory; a file of pods may say anything.
    let mut path = node.seccomp_root.clone();
    path.extend(name.components().filter(|part| matches!(part, Component::Normal(_))));
    let localhost_ref = path.to_string_lossy().into_owned();
    Ok(SecurityProfile { localhost_ref, ..of(ProfileType::Localhost) })
}

/// The container's AppArmor profile: its own, else that of its annotation, else the pod's; `None`
/// leaves it to the runtime.
pub(super) fn apparmor(
    pod: &Pod,
    container: &Container,
) -> Result<Option<SecurityProfile>, ConfigError> {
    let own = container.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref());
    let of_pod = || security_context(pod).and_then(|context| context.app_armor_profile.clone());
    let annotated = || annotated(pod, &container.name);
    let Some(profile) = own.cloned().or_else(annotated).or_else(of_pod) else { return Ok(None) };
    let profile = match profile.type_.as_str() {
        "RuntimeDefault" => runtime_default(),
        "Unconfined" => of(ProfileType::Unconfined),
        "Localhost" => {
            let localhost_ref = profile.localhost_profile.ok_or(ConfigError::AppArmorName)?;
            SecurityProfile { localhost_ref, ..of(ProfileType::Localhost) }
        }
        other => return Err(ConfigError::AppArmorType(other.into())),
    };
    Ok(Some(profile))
}

fn annotated(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let value = pod.metadata.annotations.as_ref()?.get(&format!("{ANNOTATION}{container}"))?;
    let (kind, name) = match value.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix(OLD_LOCALHOST)?.to_owned())),
    };
    Some(AppArmorProfile { type_: kind.into(), localhost_profile: name })
}
