//! One request for one pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::Value;

/// What is asked of the API.
pub(super) enum Job {
    /// To take this as a change of the status.
    Patch(Value),
    /// To delete the pod now, if it is still this one.
    Delete,
}

/// What became of it.
pub(super) enum Done {
    /// The status is there; this is the pod with it.
    Written(Arc<Pod>),
    /// The pod is deleted, or will be by who still holds it.
    Deleted,
    /// There is no such pod, or it is a namesake.
    Gone,
    /// It did not work. `newest` is what the API has, where we had to look.
    Failed { error: kube::Error, newest: Option<Arc<Pod>> },
}

impl Job {
    /// Asks once.
    pub(super) async fn run(self, client: Client, pod: &Pod) -> Done {
        let (name, uid) = (pod.name_any(), pod.uid());
        let api: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
        let asked = match self {
            Job::Patch(patch) => {
                let patch = Patch::Strategic(patch);
                let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
                patched.map(|pod| Done::Written(slim(pod)))
            }
            Job::Delete => {
                let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                api.delete(&name, &params).await.map(|_| Done::Deleted)
            }
        };
        let error = match asked {
            Ok(done) => return done,
            Err(error) => error,
        };
        let kube::Error::Api(refusal) = &error else {
            return Done::Failed { error, newest: None };
        };
        match refusal.code {
            404 => Done::Gone,
            // Is it still the same pod? 409: of a DELETE's precondition; 422: a uid is not patched.
            409 | 422 => match api.get_opt(&name).await {
                Ok(Some(found)) if found.uid() == uid => {
                    Done::Failed { error, newest: Some(slim(found)) }
                }
                Ok(Some(_) | None) => Done::Gone,
                Err(_) => Done::Failed { error, newest: None },
            },
            _ => Done::Failed { error, newest: None },
        }
    }
}

fn slim(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}
