//! Container attempts, field by field.

use copepod_cri::{IdMapping, Image, ImageSpec, Int64Value, Mount, MountPropagation, Signal};
use serde_json::{Value, json};

use super::test_pods::{container_of, node, of, pod, spec_of};
use super::*;
use crate::volume::{Bind, Propagation};

fn bind(host_path: &str, container_path: &str) -> Bind {
    Bind {
        host_path: host_path.into(),
        container_path: container_path.into(),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::None,
        selinux_relabel: false,
    }
}

#[test]
fn what_is_resolved_is_passed_on() {
    let pod = pod(json!({}));
    let spec = spec_of(&json!({"workingDir": "/srv", "stdin": true, "tty": true}));
    let image = ImageFacts {
        reference: "sha256:1".into(),
        runtime_handler: "kata".into(),
        user: ImageUser::Id(7),
    };
    let found = container(&ContainerInput {
        of: of(&pod, &node()),
        container: &spec,
        attempt: 2,
        image: &image,
        command: &["sh".to_owned(), "-c".to_owned()],
        args: &["true".to_owned()],
        env: &[("B".to_owned(), "é".to_owned()), ("A".to_owned(), String::new())],
        binds: &[],
        target: None,
    });
    let found = found.expect("has one");
    let metadata = found.metadata.expect("has it");
    assert_eq!((metadata.name.as_str(), metadata.attempt), ("c", 2));
    let expected = ImageSpec {
        image: "sha256:1".into(),
        user_specified_image: "busybox:1".into(),
        runtime_handler: "kata".into(),
        ..ImageSpec::default()
    };
    assert_eq!(found.image, Some(expected));
    assert_eq!((found.command.join(" "), found.args.join(" ")), ("sh -c".into(), "true".into()));
    assert_eq!(found.working_dir, "/srv");
    let env: Vec<_> = found.envs.iter().map(|one| (&*one.key, one.value.as_slice())).collect();
    assert_eq!(env, [("B", "é".as_bytes()), ("A", b"")]);
    assert_eq!(
        (found.log_path.as_str(), found.stdin, found.stdin_once, found.tty),
        ("c/2.log", true, false, true)
    );
    assert_eq!(found.labels, labels::of(&pod, &spec));
    assert_eq!(found.annotations, labels::annotations(&pod, &spec, 2));
    let linux = found.linux.expect("is Linux");
    assert_eq!(linux.resources, Some(resources::of_container(&pod, &spec, &node())));
    let context = linux.security_context.expect("has one");
    assert_eq!(context.run_as_user, Some(Int64Value { value: 7 }));
    assert!(found.devices.is_empty() && found.cdi_devices.is_empty() && found.windows.is_none());
}

#[test]
fn binds_become_mounts() {
    let one = bind("/host/a", "/a");
    let both = Bind { propagation: Propagation::Bidirectional, ..bind("/host/b", "/b") };
    let read_only = Bind {
        read_only: true,
        recursive_read_only: true,
        propagation: Propagation::HostToContainer,
        selinux_relabel: true,
        ..bind("/host/c", "/c")
    };
    let range = IdMapping { host_id: 65536, container_id: 0, length: 65536 };
    let users = IdRange { first: 65536, length: 65536 };
    let (spec, image, node) = (spec_of(&json!({})), ImageFacts::default(), node());
    for apart in [false, true] {
        let pod = pod(json!({"hostUsers": !apart}));
        let found = container(&ContainerInput {
            of: PodInput { user_namespace: Some(users), ..of(&pod, &node) },
            container: &spec,
            attempt: 0,
            image: &image,
            command: &[],
            args: &[],
            env: &[],
            binds: &[one.clone(), both.clone(), read_only.clone()],
            target: None,
        });
        let found = found.expect("has one").mounts;
        let ids = if apart { vec![range] } else { Vec::new() };
        let mount = |host_path: &str, container_path: &str, propagation: MountPropagation| Mount {
            host_path: host_path.into(),
            container_path: container_path.into(),
            propagation: propagation.into(),
            uid_mappings: ids.clone(),
            gid_mappings: ids.clone(),
            ..Mount::default()
        };
        let expected = [
            mount("/host/a", "/a", MountPropagation::PropagationPrivate),
            mount("/host/b", "/b", MountPropagation::PropagationBidirectional),
            Mount {
                readonly: true,
                recursive_read_only: true,
                selinux_relabel: true,
                ..mount("/host/c", "/c", MountPropagation::PropagationHostToContainer)
            },
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn stop_signals() {
    for (signal, expected) in [
        (Value::Null, Signal::RuntimeDefault),
        (json!("SIGUSR1"), Signal::Sigusr1),
        (json!("SIGRTMIN+15"), Signal::Sigrtminplus15),
        (json!("SIGRTMAX-14"), Signal::Sigrtmaxminus14),
        (json!("SIGNONE"), Signal::RuntimeDefault),
    ] {
        let spec = json!({"lifecycle": {"stopSignal": signal}});
        let found = container_of(&pod(json!({})), &spec, ImageUser::default());
        assert_eq!(found.expect("has one").stop_signal(), expected, "{signal}");
    }
}

#[test]
fn the_users_of_images() {
    for (uid, username, expected) in [
        (None, "", ImageUser::Id(0)),
        (Some(0), "", ImageUser::Id(0)),
        (Some(5), "name", ImageUser::Id(5)),
        (None, "name", ImageUser::Name("name".into())),
    ] {
        let uid = uid.map(|value| Int64Value { value });
        let image = Image { uid, username: username.into(), ..Image::default() };
        assert_eq!(ImageUser::of(&image), expected);
    }
}
