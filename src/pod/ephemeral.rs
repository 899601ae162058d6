//! Ephemeral containers in the shape of the others (upstream: `EphemeralContainerCommon` has the
//! fields of a container).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// The fields of a container that an ephemeral one has as well: all of them.
macro_rules! with_fields {
    ($then:ident) => {
        $then! {
            args, command, env, env_from, image, image_pull_policy, lifecycle, liveness_probe, name,
            ports, readiness_probe, resize_policy, resources, restart_policy, restart_policy_rules,
            security_context, startup_probe, stdin, stdin_once, termination_message_path,
            termination_message_policy, tty, volume_devices, volume_mounts, working_dir
        }
    };
}

/// The container of this name: an init, a main or an ephemeral one, the last in a container's shape.
#[must_use]
pub fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    if let Some(found) = all.find(|container| container.name == name) {
        return Some(Cow::Borrowed(found));
    }
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    let found = ephemeral.find(|container| container.name == name)?;
    Some(Cow::Owned(as_container(found)))
}

/// An ephemeral container in a container's shape, without its target.
pub(crate) fn as_container(ephemeral: &EphemeralContainer) -> Container {
    // Each field by name on both sides: one that is added to either is an error here.
    macro_rules! convert {
        ($($field:ident),*) => {{
            let EphemeralContainer { target_container_name: _, $($field),* } = ephemeral.clone();
            Container { $($field),* }
        }};
    }
    with_fields!(convert)
}

/// The other way, with its target.
pub(crate) fn as_ephemeral(
    container: Container,
    target_container_name: Option<String>,
) -> EphemeralContainer {
    macro_rules! convert {
        ($($field:ident),*) => {{
            let Container { $($field),* } = container;
            EphemeralContainer { target_container_name, $($field),* }
        }};
    }
    with_fields!(convert)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_found_whatever_it_is() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "image": "x"}],
            "ephemeralContainers": [{"name": "e", "image": "y", "targetContainerName": "c",
                "stdin": true, "env": [{"name": "A", "value": "1"}]}],
        }});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let shown =
            |name| container_named(&pod, name).map(|c| serde_json::to_value(c.as_ref()).unwrap());
        assert_eq!(shown("i"), Some(json!({"name": "i"})));
        assert_eq!(shown("c"), Some(json!({"name": "c", "image": "x"})));
        let env = json!([{"name": "A", "value": "1"}]);
        let ephemeral = json!({"name": "e", "image": "y", "stdin": true, "env": env});
        assert_eq!(shown("e"), Some(ephemeral));
        assert_eq!(shown("x"), None);
        let given = &pod.spec.as_ref().unwrap().ephemeral_containers.as_ref().unwrap()[0];
        assert_eq!(as_ephemeral(as_container(given), Some("c".to_owned())), *given);
    }
}
