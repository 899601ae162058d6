//! Mirror pods: the copies of static pods that the API server shows.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::phase::is_terminal;
use crate::static_pod::{HASH_ANNOTATION, MIRROR_ANNOTATION, annotation};

/// What is known of the life of a static pod, as far as its mirror is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It runs.
    Runs,
    /// It is to end.
    Ends,
}

/// What is to be done with a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorStep {
    /// Nothing.
    Keep,
    /// It is to be made.
    Create,
    /// The one of this uid is to be deleted; what follows is seen then.
    Delete {
        /// Its uid.
        uid: String,
    },
}

/// Whether a pod of the API server is a mirror: it is shown, and never run.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// The uid of the static pod that a mirror shows.
#[must_use]
pub fn mirrored(mirror: &Pod) -> Option<&str> {
    annotation(mirror, MIRROR_ANNOTATION)
}

/// Whether `mirror` shows this very static pod (upstream `IsMirrorPodOf`).
#[must_use]
pub fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    let (one, other) = (&mirror.metadata, &pod.metadata);
    let hash = annotation(pod, HASH_ANNOTATION);
    one.name == other.name
        && one.namespace == other.namespace
        && hash.is_some()
        && mirrored(mirror) == hash
}

/// The mirror of a static pod, to be created: owned by its node, which NodeRestriction asks for.
#[must_use]
pub fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let meta = &pod.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    let hash = annotation(pod, HASH_ANNOTATION).unwrap_or_default();
    annotations.insert(MIRROR_ANNOTATION.into(), hash.into());
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid: node_uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Pod {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            labels: meta.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

/// What is to be done for the static pod `wanted`, or where there is none of that name, with the
/// mirror that there is (upstream `tryReconcileMirrorPods` and the clean-up of orphans).
///
/// One that has ended in the API server's eyes while its pod runs is made anew as well: a terminal
/// phase is never left there (a static pod that was refused is asked again by a later agent).
///
/// While a pod ends its mirror is left as it is, there or not.
#[must_use]
pub fn mirror_step(wanted: Option<(&Pod, Life)>, mirror: Option<&Pod>) -> MirrorStep {
    if matches!(wanted, Some((_, Life::Ends))) {
        return MirrorStep::Keep;
    }
    let Some(mirror) = mirror else {
        return if wanted.is_some() { MirrorStep::Create } else { MirrorStep::Keep };
    };
    let is_good = wanted.is_some_and(|(pod, life)| {
        mirror.metadata.deletion_timestamp.is_none()
            && is_mirror_of(mirror, pod)
            && !(life == Life::Runs && is_terminal(mirror.status.as_ref()))
    });
    match is_good {
        true => MirrorStep::Keep,
        false => MirrorStep::Delete { uid: mirror.metadata.uid.clone().unwrap_or_default() },
    }
}

/// The static pod as a worker goes on from it: with what its mirror has told of it, so that an agent's
/// restart moves no time and loses no image's id (upstream's status manager asks the mirror, too). How
/// it ended is not taken over: that is the worker's to see.
#[must_use]
pub fn with_status_of(pod: &Pod, mirror: &Pod) -> Pod {
    let mut pod = pod.clone();
    if is_mirror_of(mirror, &pod)
        && let Some(shown) = &mirror.status
    {
        let phase = pod.status.take().and_then(|status| status.phase);
        pod.status = Some(PodStatus { phase, reason: None, message: None, ..shown.clone() });
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::static_pod::{Origin, static_pod};

    fn pod(image: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        static_pod(pod, Origin::File("/etc/m/web.yaml"), "n1").expect("a static pod")
    }

    fn shown(pod: &Pod) -> Pod {
        let mut mirror = mirror_of(pod, "n1", "node-uid");
        mirror.metadata.uid = Some("m1".into());
        mirror
    }

    fn ended(mut mirror: Pod, phase: &str) -> Pod {
        mirror.status = Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() });
        mirror
    }

    #[test]
    fn a_mirror_is_the_pod_owned_by_its_node() {
        let pod = pod("a");
        let mirror = mirror_of(&pod, "n1", "node-uid");
        assert_eq!(mirror.metadata.uid, None);
        assert_eq!(mirror.spec, pod.spec);
        assert_eq!(mirror.metadata.labels, pod.metadata.labels);
        assert_eq!(mirrored(&mirror), pod.metadata.uid.as_deref());
        let owner = serde_json::to_value(&mirror.metadata.owner_references).expect("JSON");
        let whole = json!([{
            "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": true,
        }]);
        assert_eq!(owner, whole);
        assert!(is_mirror(&mirror) && !is_mirror(&pod) && is_mirror_of(&mirror, &pod));
    }

    #[test]
    fn a_mirror_is_made_kept_and_deleted_as_its_pod_is() {
        let (old, new) = (pod("a"), pod("b"));
        let mirror = shown(&old);
        let delete = MirrorStep::Delete { uid: "m1".into() };
        let step = |pod: &Pod, mirror: &Pod| mirror_step(Some((pod, Life::Unknown)), Some(mirror));
        assert_eq!(mirror_step(Some((&old, Life::Unknown)), None), MirrorStep::Create);
        assert_eq!(mirror_step(None, None), MirrorStep::Keep);
        assert_eq!(step(&old, &mirror), MirrorStep::Keep);
        assert_eq!(step(&new, &mirror), delete, "of another hash");
        assert_eq!(mirror_step(None, Some(&mirror)), delete, "an orphan");
        let mut leaving = mirror.clone();
        leaving.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        assert_eq!(step(&old, &leaving), delete, "being deleted");
        let runs = ended(mirror.clone(), "Running");
        assert_eq!(mirror_step(Some((&old, Life::Runs)), Some(&runs)), MirrorStep::Keep);
        let failed = ended(mirror, "Failed");
        assert_eq!(step(&old, &failed), MirrorStep::Keep, "it may have failed");
        assert_eq!(mirror_step(Some((&old, Life::Runs)), Some(&failed)), delete);
        for mirror in [None, Some(&failed), Some(&leaving)] {
            assert_eq!(mirror_step(Some((&old, Life::Ends)), mirror), MirrorStep::Keep);
        }
    }

    #[test]
    fn what_was_told_is_taken_over_from_the_mirror_of_the_same_pod_alone() {
        let (old, new) = (pod("a"), pod("b"));
        let mut mirror = shown(&old);
        let status = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "much",
            "startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": []});
        mirror.status = serde_json::from_value(status).expect("a status");
        let status = with_status_of(&old, &mirror).status.expect("a status");
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!((status.reason, status.message), (None, None));
        assert!(status.start_time.is_some() && status.conditions.is_some());
        assert!(status.container_statuses.is_some());
        assert_eq!(with_status_of(&new, &mirror), new);
    }
}
