//! What a refused pod shows.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Rejection, class};
use crate::status::whole_seconds;

/// The status that a node writes for a pod that it does not take (upstream `rejectPod`,
/// `SetPodStatus`): no container's status and no condition of its own; whoever writes it leaves
/// others' conditions as they are. The start time is the first one that was ever told.
#[must_use]
pub fn rejected_status(pod: &Pod, why: &Rejection, now: Timestamp) -> PodStatus {
    let told = pod.status.as_ref();
    let start = told.and_then(|status| status.start_time.clone());
    let seen = told.and_then(|status| status.observed_generation);
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(why.reason.clone()),
        message: Some(format!("Pod was rejected: {}", why.message)),
        qos_class: Some(class(pod)),
        start_time: Some(start.unwrap_or_else(|| Time(whole_seconds(now)))),
        observed_generation: pod.metadata.generation.max(seen),
        ..PodStatus::default()
    }
}
