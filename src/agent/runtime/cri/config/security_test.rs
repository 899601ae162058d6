//! Who containers run as and what they may do.

use copepod_cri::security_profile::ProfileType;
use copepod_cri::{
    ContainerConfig, Int64Value, LinuxContainerSecurityContext, NamespaceMode, SecurityProfile,
};
use serde_json::{Value, json};

use super::test_pods::{container_of, node, of, pod, spec_of};
use super::*;

fn context(found: ContainerConfig) -> LinuxContainerSecurityContext {
    found.linux.expect("is Linux").security_context.expect("has one")
}

/// Of a pod's and a container's `securityContext`.
fn both(of_pod: Value, own: Value) -> Result<LinuxContainerSecurityContext, ConfigError> {
    let pod = pod(json!({"securityContext": of_pod}));
    let spec = json!({"securityContext": own});
    container_of(&pod, &spec, ImageUser::Id(0)).map(context)
}

fn id(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

#[test]
fn users_of_container_pod_and_image() {
    for (of_pod, own, image, expected) in [
        (json!({}), json!({}), ImageUser::default(), (id(0), None, "")),
        (json!({}), json!({}), ImageUser::Id(5), (id(5), None, "")),
        (json!({}), json!({}), ImageUser::Name("www".into()), (None, None, "www")),
        (json!({"runAsGroup": 9}), json!({}), ImageUser::Id(5), (id(5), id(9), "")),
        (
            json!({"runAsUser": 1, "runAsGroup": 2}),
            json!({}),
            ImageUser::Name("www".into()),
            (id(1), id(2), ""),
        ),
        (
            json!({"runAsUser": 1, "runAsGroup": 2}),
            json!({"runAsUser": 3, "runAsGroup": 4}),
            ImageUser::Id(5),
            (id(3), id(4), ""),
        ),
        (json!({"runAsUser": 1}), json!({"runAsUser": 0}), ImageUser::Id(5), (id(0), None, "")),
    ] {
        let what = format!("{of_pod} {own} {image:?}");
        let pod = pod(json!({"securityContext": of_pod}));
        let found = container_of(&pod, &json!({"securityContext": own}), image);
        let found = context(found.expect("has one"));
        let (user, group, name) = (found.run_as_user, found.run_as_group, found.run_as_username);
        assert_eq!((user, group, name.as_str()), expected, "{what}");
    }
}

#[test]
fn who_must_not_be_root_is_not() {
    // Upstream's TestVerifyRunAsNonRoot.
    let must = json!({"runAsNonRoot": true});
    let name = |user: &str| ImageUser::Name(user.into());
    let by_user = "container's runAsUser breaks non-root policy \
                   (pod: \"web-0_ns(u-1)\", container: c)";
    let by_image = "container has runAsNonRoot and image will run as root \
                    (pod: \"web-0_ns(u-1)\", container: c)";
    let by_name = "container has runAsNonRoot and image has non-numeric user (root), cannot verify \
                   user is non-root (pod: \"web-0_ns(u-1)\", container: c)";
    let invalid = "container has runAsNonRoot and image has an invalid user id (2147483648). (Must \
                   be 1-(2147483647)): must be between 0 and 2147483647, inclusive \
                   (pod: \"web-0_ns(u-1)\", container: c)";
    for (of_pod, own, image, expected) in [
        (json!({}), json!({}), ImageUser::Id(0), Ok(())),
        (json!({}), json!({"runAsUser": 0}), ImageUser::Id(0), Ok(())),
        (must.clone(), json!({"runAsNonRoot": false}), ImageUser::Id(0), Ok(())),
        (must.clone(), json!({"runAsUser": 1}), ImageUser::Id(0), Ok(())),
        (json!({"runAsUser": 1}), must.clone(), name("root"), Ok(())),
        (json!({}), must.clone(), ImageUser::Id(1), Ok(())),
        (json!({}), json!({"runAsNonRoot": true, "runAsUser": 0}), ImageUser::Id(1), Err(by_user)),
        (json!({"runAsNonRoot": true, "runAsUser": 0}), json!({}), ImageUser::Id(1), Err(by_user)),
        (must.clone(), json!({}), ImageUser::Id(0), Err(by_image)),
        (json!({}), must.clone(), name("root"), Err(by_name)),
        (must.clone(), json!({}), ImageUser::Id(1 << 31), Err(invalid)),
    ] {
        let what = format!("{of_pod} {own} {image:?}");
        let pod = pod(json!({"securityContext": of_pod}));
        let found = container_of(&pod, &json!({"securityContext": own}), image);
        let found = found.map(drop).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{what}");
    }
}

#[test]
fn what_a_container_may_do() {
    let plain = both(json!({}), json!({})).expect("has one");
    assert_eq!(plain.capabilities, None);
    assert!(!plain.privileged && !plain.readonly_rootfs && !plain.no_new_privs);
    let found = both(
        json!({}),
        json!({"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "privileged": true,
            "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false}),
    );
    let found = found.expect("has one");
    let capabilities = found.capabilities.expect("has some");
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
    assert!(found.privileged && found.readonly_rootfs && found.no_new_privs);
    let may = both(json!({}), json!({"allowPrivilegeEscalation": true})).expect("has one");
    assert!(!may.no_new_privs);
}

#[test]
fn masked_paths() {
    let pod = pod(json!({}));
    let mut node = node();
    node.masked_paths = vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()];
    let find = |mount: Value| {
        let image = ImageFacts::default();
        let spec = spec_of(&json!({"securityContext": {"procMount": mount}}));
        let input = ContainerInput {
            of: of(&pod, &node),
            container: &spec,
            attempt: 0,
            image: &image,
            command: &[],
            args: &[],
            env: &[],
            binds: &[],
            target: None,
        };
        context(container(&input).expect("has one"))
    };
    for mount in [Value::Null, json!("Default")] {
        let found = find(mount);
        assert_eq!((found.masked_paths.len(), found.readonly_paths.len()), (13, 5));
        assert_eq!(found.masked_paths[3], "/proc/kcore");
        assert_eq!(found.masked_paths.last(), node.masked_paths.last());
        assert_eq!(found.readonly_paths[3], "/proc/sys");
    }
    let found = find(json!("Unmasked"));
    assert!(found.masked_paths.is_empty() && found.readonly_paths.is_empty());
}

fn profile(profile_type: ProfileType, localhost_ref: &str) -> SecurityProfile {
    SecurityProfile { profile_type: profile_type.into(), localhost_ref: localhost_ref.into() }
}

#[test]
fn seccomp_profiles() {
    use ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let of_type = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let local =
        |name: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
    let path = "/var/lib/kubelet/seccomp/profiles/a.json";
    for (of_pod, own, expected) in [
        (json!({}), json!({}), profile(Unconfined, "")),
        (of_type("RuntimeDefault"), json!({}), profile(RuntimeDefault, "")),
        (of_type("RuntimeDefault"), of_type("Unconfined"), profile(Unconfined, "")),
        (of_type("Unconfined"), of_type("RuntimeDefault"), profile(RuntimeDefault, "")),
        (local("profiles/a.json"), json!({}), profile(Localhost, path)),
        (json!({}), local("/../profiles//./a.json"), profile(Localhost, path)),
    ] {
        let found = both(of_pod.clone(), own.clone()).expect("has one").seccomp;
        assert_eq!(found, Some(expected), "{of_pod} {own}");
    }
    for nameless in [of_type("Localhost"), local("")] {
        assert_eq!(both(json!({}), nameless), Err(ConfigError::SeccompName));
    }
    let by_default = NodeOptions { seccomp_default: true, ..node() };
    let (pod, spec) = (pod(json!({})), spec_of(&json!({})));
    let found = super::profile::seccomp(&pod, &spec, &by_default).expect("has one");
    assert_eq!(found, profile(RuntimeDefault, ""));
    let spec = spec_of(&json!({"securityContext": of_type("Unconfined")}));
    let found = super::profile::seccomp(&pod, &spec, &by_default).expect("has one");
    assert_eq!(found, profile(Unconfined, ""));
}

#[test]
fn apparmor_profiles() {
    use ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let of_type = |kind: &str| json!({"appArmorProfile": {"type": kind}});
    let local = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
    for (of_pod, annotation, own, expected) in [
        (json!({}), "", json!({}), None),
        (of_type("RuntimeDefault"), "", json!({}), Some(profile(RuntimeDefault, ""))),
        (of_type("RuntimeDefault"), "", local.clone(), Some(profile(Localhost, "mine"))),
        (local.clone(), "", of_type("Unconfined"), Some(profile(Unconfined, ""))),
        (local.clone(), "unconfined", json!({}), Some(profile(Unconfined, ""))),
        (local.clone(), "runtime/default", json!({}), Some(profile(RuntimeDefault, ""))),
        (json!({}), "localhost/old", json!({}), Some(profile(Localhost, "old"))),
        (local, "nonsense", json!({}), Some(profile(Localhost, "mine"))),
    ] {
        let mut pod = pod(json!({"securityContext": of_pod}));
        let key = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
        if !annotation.is_empty() {
            pod.metadata.annotations = Some([(key, annotation.to_owned())].into());
        }
        let found = container_of(&pod, &json!({"securityContext": own}), ImageUser::default());
        assert_eq!(context(found.expect("has one")).apparmor, expected, "{of_pod} {annotation}");
    }
    assert_eq!(both(json!({}), of_type("Localhost")), Err(ConfigError::AppArmorName));
    let error = both(json!({}), of_type("Some")).expect_err("is none");
    assert_eq!(error.to_string(), "unknown apparmor profile type: \"Some\"");
}

#[test]
fn groups_labels_and_namespaces() {
    let found = both(
        json!({"fsGroup": 3, "supplementalGroups": [4, 5], "supplementalGroupsPolicy": "Merge",
            "seLinuxOptions": {"level": "of the pod"}}),
        json!({"seLinuxOptions": {"level": "s0:c1"}}),
    );
    let found = found.expect("has one");
    assert_eq!(found.supplemental_groups, [3, 4, 5]);
    assert_eq!(found.supplemental_groups_policy().as_str_name(), "Merge");
    assert_eq!(found.selinux_options.expect("has them").level, "s0:c1");
    let of_pod = json!({"seLinuxOptions": {"level": "of the pod"}});
    let found = both(of_pod, json!({})).expect("has one");
    assert_eq!(found.selinux_options.expect("has them").level, "of the pod");
    let error = both(json!({"supplementalGroupsPolicy": "x"}), json!({})).expect_err("is none");
    assert_eq!(error, ConfigError::GroupsPolicy("x".into()));

    let node = node();
    let image = ImageFacts::default();
    for (spec, (pid, target)) in [
        (json!({}), (NamespaceMode::Target, "main-id")),
        (json!({"shareProcessNamespace": true}), (NamespaceMode::Pod, "")),
        (json!({"hostPID": true}), (NamespaceMode::Node, "")),
    ] {
        let pod = pod(spec);
        let spec = spec_of(&json!({"name": "debugger"}));
        let input = ContainerInput {
            of: of(&pod, &node),
            container: &spec,
            attempt: 0,
            image: &image,
            command: &[],
            args: &[],
            env: &[],
            binds: &[],
            target: Some("main-id"),
        };
        let found = context(container(&input).expect("has one"));
        let found = found.namespace_options.expect("has them");
        assert_eq!((found.pid(), found.target_id.as_str()), (pid, target));
    }
}
