//! AppArmor: a profile that the kernel does not enforce is no protection, so its pod is refused
//! (upstream `pkg/security/apparmor`).

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec};

use super::{NodeFacts, Rejection};

/// What the old annotations begin with; the container's name follows.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The profile that is none.
const UNCONFINED: &str = "Unconfined";
/// Its old name.
const OLD_UNCONFINED: &str = "unconfined";
/// What an old name of a profile on the node begins with.
const OLD_LOCALHOST: &str = "localhost/";

/// Refuses a pod whose profile cannot be enforced. Pods that once ran are not looked at again.
pub(super) fn check(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase.is_some_and(|phase| phase != "Pending") || !is_required(pod, spec) {
        return Ok(());
    }
    let refuse =
        |why: &str| Err(Rejection::new("AppArmor", format!("Cannot enforce AppArmor: {why}")));
    if !node.apparmor {
        return refuse("AppArmor is not enabled on the host");
    }
    if contexts(spec).any(|(name, own)| is_nameless(pod, spec, name, own)) {
        return refuse("invalid empty AppArmor profile name: \"\"");
    }
    Ok(())
}

/// Each container's name and profile.
fn contexts(spec: &PodSpec) -> impl Iterator<Item = (&str, Option<&AppArmorProfile>)> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers = containers.map(|c| (c.name.as_str(), c.security_context.as_ref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (c.name.as_str(), c.security_context.as_ref()));
    containers.chain(ephemeral).map(|(name, context)| {
        (name, context.and_then(|context| context.app_armor_profile.as_ref()))
    })
}

/// Some container is to be confined.
fn is_required(pod: &Pod, spec: &PodSpec) -> bool {
    let own = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let profiles = own.into_iter().chain(contexts(spec).filter_map(|(_, profile)| profile));
    let mut annotations = pod.metadata.annotations.iter().flatten();
    profiles.map(|profile| profile.type_.as_str()).any(|kind| kind != UNCONFINED)
        || annotations.any(|(key, value)| key.starts_with(ANNOTATION) && value != OLD_UNCONFINED)
}

/// The container's profile is one of the node's, without its name.
fn is_nameless(pod: &Pod, spec: &PodSpec, name: &str, own: Option<&AppArmorProfile>) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let old = annotations.and_then(|list| list.get(&format!("{ANNOTATION}{name}")));
    let old = old.map(String::as_str).filter(|old| {
        *old == "runtime/default" || *old == OLD_UNCONFINED || old.starts_with(OLD_LOCALHOST)
    });
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let is_blank = |profile: &AppArmorProfile| {
        let name = profile.localhost_profile.as_deref().unwrap_or_default();
        profile.type_ == "Localhost" && name.trim().is_empty()
    };
    match (own, old) {
        (Some(own), _) => is_blank(own),
        (None, Some(old)) => old.strip_prefix(OLD_LOCALHOST).is_some_and(|n| n.trim().is_empty()),
        (None, None) => of_pod.is_some_and(is_blank),
    }
}
