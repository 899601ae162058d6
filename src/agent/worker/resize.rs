//! A resize in place: the pod's group is raised first and lowered last, so that no container may
//! have more than its pod at any time (upstream `doPodResizeAction`).

use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Actuated, Attempt, Failure, Resized, container_named};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::cgroup::{PodCgroups, class, uid};
use super::container::memory_limit;
use super::{Shared, blocking, failure};
use crate::linux::cgroup::{CgroupError, Held, Limits};
use crate::runtime::cri::config::{container_resources, sandbox_resources};
use crate::runtime::{Resources, Runtime};
use crate::telemetry::chain;

/// How often a group is tried to be lowered that still has one of a container in it that has just
/// ended and whose limit is above the new one; each try waits [`LOWER_EVERY`].
const LOWER_TRIES: u32 = 20;
/// See [`LOWER_TRIES`]: together a second, in which the kernel has let go of a process.
const LOWER_EVERY: Duration = Duration::from_millis(50);

/// One resize of a pod.
pub(super) struct ResizeJob<R> {
    pub(super) shared: Arc<Shared<R>>,
    /// With the resources that are allocated to it.
    pub(super) pod: Arc<Pod>,
    /// The containers that run and are to have theirs.
    pub(super) containers: Vec<Resized>,
}

impl<R: Runtime> ResizeJob<R> {
    /// Brings the pod's group and the containers to what the pod's spec says, and keeps that.
    ///
    /// # Errors
    /// Why not, in upstream's words where it has any; what is done stays so, and the next one goes on
    /// with it.
    pub(super) async fn run(self) -> Result<(), String> {
        let Self { shared, pod, containers } = self;
        let containers = Arc::new(containers);
        let first = (Arc::clone(&shared), Arc::clone(&pod), Arc::clone(&containers));
        let change = blocking(move || {
            let (shared, pod, containers) = first;
            let Some(groups) = &shared.host.cgroups else { return Ok(None) };
            groups.check_memory(&pod, &lowered(&shared, &pod, &containers))?;
            groups.to_raise(&pod).map_err(|error| chain(&error))
        })
        .await?;
        if let Some(change) = change {
            set(&shared, &pod, change, 1).await?;
        }
        for one in &*containers {
            let Some(spec) = container_named(&pod, &one.container) else { continue };
            let resources = of_container(&shared, &pod, &spec)?;
            shared.runtime.resize(&one.id, resources).await?;
        }
        let of_job = (Arc::clone(&shared), Arc::clone(&pod));
        let change = blocking(move || {
            let (shared, pod) = of_job;
            let groups = shared.host.cgroups.as_ref();
            groups.map_or(Ok(None), |groups| groups.to_lower(&pod)).map_err(|error| chain(&error))
        })
        .await?;
        if let Some(change) = change {
            set(&shared, &pod, change, LOWER_TRIES).await?;
        }
        blocking(move || {
            for Resized { container, attempt, id: _ } in &*containers {
                let Some(spec) = container_named(&pod, container) else { continue };
                let has = Actuated::of(&pod, &spec);
                let kept =
                    shared.ledger.keep_actuated((uid(&pod), container, *attempt), has, false);
                kept.map_err(|error| chain(&error))?;
            }
            Ok(())
        })
        .await
    }
}

impl<R: Runtime> Shared<R> {
    /// What is kept of the newest attempt of each container of a pod, for those that the runtime has;
    /// nothing of a pod of which it has none.
    pub(super) async fn actuated(
        self: &Arc<Self>,
        uid: &str,
        attempts: &[Attempt],
    ) -> Option<Vec<(String, u32, Actuated)>> {
        let mut names: Vec<_> = attempts.iter().map(|one| one.container.clone()).collect();
        names.dedup();
        if names.is_empty() {
            return None;
        }
        let (shared, uid) = (Arc::clone(self), uid.to_owned());
        let kept = move |name: String| {
            let (attempt, had) = shared.ledger.actuated(&uid, &name)?;
            Some((name, attempt, had))
        };
        Some(blocking(|| names.into_iter().filter_map(kept).collect()).await)
    }

    /// Keeps what an attempt is about to be made with. Blocks for a file operation.
    ///
    /// # Errors
    /// A [`Failure`] of its start.
    pub(super) fn keep_made(&self, pod: &Pod, name: &str, attempt: u32) -> Result<(), Failure> {
        // A run's pods are not resized.
        let Some(spec) = container_named(pod, name).filter(|_| !self.host.die_with_agent) else {
            return Ok(());
        };
        let made = Actuated::of(pod, &spec);
        let kept = self.ledger.keep_actuated((uid(pod), name, attempt), made, true);
        kept.map_err(|error| failure("CreateContainerError", &error))
    }
}

/// The containers whose memory limit is less now, and how many bytes it is.
fn lowered<'a, R>(
    shared: &Shared<R>,
    pod: &Pod,
    containers: &'a [Resized],
) -> Vec<(&'a Resized, u64)> {
    let of = |one: &'a Resized| {
        let spec = container_named(pod, &one.container)?;
        let to = u64::try_from(Actuated::of(pod, &spec).memory_limit).ok().filter(|to| *to > 0)?;
        let kept = shared.ledger.actuated(uid(pod), &one.container);
        let from = kept.and_then(|(_, had)| u64::try_from(had.memory_limit).ok());
        from.is_none_or(|from| from == 0 || to < from).then_some((one, to))
    };
    containers.iter().filter_map(of).collect()
}

/// What a container of the pod is to have, for whichever runtime it is of.
fn of_container<R>(shared: &Shared<R>, pod: &Pod, spec: &Container) -> Result<Resources, String> {
    let host = &shared.host;
    Ok(Resources {
        cgroup: host.cgroups.as_ref().map(|groups| groups.leaf(pod, spec)),
        memory_limit_bytes: memory_limit(spec).map_err(|error| chain(&error))?,
        ordinary: container_resources(pod, spec, &host.ordinary),
    })
}

impl PodCgroups {
    /// Makes the pod's group, or brings the one that is there to its limits: what runs in it keeps
    /// what it has where that is more, until its own resize has been gone on with.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(super) fn make_or_raise(&self, pod: &Pod) -> Result<(), CgroupError> {
        let limits = self.pod_limits(pod);
        let Some(held) = self.cgroups.held(uid(pod), class(pod))? else {
            return self.cgroups.make_pod(uid(pod), class(pod), &limits);
        };
        let raised = raised(&limits, held);
        self.cgroups.make_pod(uid(pod), class(pod), &raised)?;
        let is_room = limits.memory_bytes.zip(held.memory_used).is_none_or(|(to, used)| used < to);
        if raised != limits
            && is_room
            && let Err(error) = self.cgroups.make_pod(uid(pod), class(pod), &limits)
        {
            let (uid, error) = (uid(pod), chain(&error));
            tracing::info!(pod = uid, error, "a pod's group keeps more than it is to have");
            return self.cgroups.make_pod(uid, class(pod), &raised);
        }
        Ok(())
    }

    /// Refuses less memory than is in use (upstream `validateMemoryResizeAction`), of the pod and of
    /// those containers whose limits are `lowered` to so many bytes.
    fn check_memory(&self, pod: &Pod, lowered: &[(&Resized, u64)]) -> Result<(), String> {
        let mut errors = Vec::new();
        let failed = |error: CgroupError| chain(&error);
        let held = self.cgroups.held(uid(pod), class(pod)).map_err(failed)?.unwrap_or_default();
        if let (Some(to), Some(used)) = (self.pod_limits(pod).memory_bytes, held.memory_used)
            && held.memory_bytes.is_none_or(|from| to < from)
            && used >= to
        {
            errors.push(format!(
                "attempting to set pod memory limit ({to}) below current usage ({used})"
            ));
        }
        for &(one, to) in lowered {
            let id = one.id.split_once("://").map_or(&*one.id, |(_, id)| id);
            let used = self.cgroups.memory_used(uid(pod), class(pod), id).map_err(failed)?;
            if let Some(used) = used.filter(|used| *used >= to) {
                let name = &one.container;
                errors.push(format!(
                    "attempting to set container \"{name}\" memory limit ({to}) below current \
                     usage ({used})"
                ));
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(format!("cannot decrease memory limits: {}", errors.concat())),
            _ => Err(format!("cannot decrease memory limits: [{}]", errors.join(", "))),
        }
    }

    /// How the pod's group is raised to what is more than it has; `None` where there is no group.
    fn to_raise(&self, pod: &Pod) -> Result<Option<Change>, CgroupError> {
        let held = self.cgroups.held(uid(pod), class(pod))?;
        Ok(held.map(|held| Change { from: held, to: raised(&self.pod_limits(pod), held) }))
    }

    /// How the pod's group is lowered to what it is to have; `None` where it has no more than that.
    fn to_lower(&self, pod: &Pod) -> Result<Option<Change>, CgroupError> {
        let to = self.pod_limits(pod);
        let held = self.cgroups.held(uid(pod), class(pod))?;
        let more = held.filter(|held| raised(&to, *held) != to);
        Ok(more.map(|from| Change { from, to }))
    }
}

/// A change of a pod's group.
struct Change {
    from: Held,
    to: Limits,
}

impl Change {
    /// The resource whose limit changes, in upstream's order: memory comes first.
    fn resource(&self) -> &'static str {
        if self.from.memory_bytes == self.to.memory_bytes { "cpu" } else { "memory" }
    }

    /// What the group has before it.
    fn before(&self) -> Limits {
        let Held { cpu_quota_us, cpu_period_us, memory_bytes, memory_used: _ } = self.from;
        Limits { cpu_quota_us, cpu_period_us, memory_bytes, ..self.to.clone() }
    }
}

/// Changes the pod's group, when the kernel lets that be within so many `tries`. The runtime of ordinary
/// images is told before, so that it may refuse, and that nothing comes of it where nothing does
/// (upstream `setPodCgroupConfig`).
async fn set<R: Runtime>(
    shared: &Arc<Shared<R>>,
    pod: &Arc<Pod>,
    change: Change,
    tries: u32,
) -> Result<(), String> {
    let tell = |limits: &Limits| {
        let resources = sandbox_resources(pod, limits, &shared.host.ordinary);
        shared.runtime.resize_sandbox(uid(pod), resources)
    };
    tell(&change.to).await.map_err(|error| {
        let resource = change.resource();
        format!(
            "failed to notify runtime for UpdatePodSandboxResources (resource={resource}); resize \
             rejected: {error}"
        )
    })?;
    let mut tried = 0;
    let failed = loop {
        tried += 1;
        let (of_try, pod, to) = (Arc::clone(shared), Arc::clone(pod), change.to.clone());
        let make = move || {
            let make = |all: &PodCgroups| all.cgroups.make_pod(uid(&pod), class(&pod), &to);
            of_try.host.cgroups.as_ref().map_or(Ok(()), make)
        };
        match blocking(make).await {
            Ok(()) => return Ok(()),
            Err(_) if tried < tries => tokio::time::sleep(LOWER_EVERY).await,
            Err(error) => break error,
        }
    };
    if let Err(error) = tell(&change.before()).await {
        tracing::warn!(pod = uid(pod), error, "the runtime does not take a resize back");
    }
    Err(chain(&failed))
}

/// The limits, but of each the present one where that is more.
fn raised(limits: &Limits, held: Held) -> Limits {
    let period = limits.cpu_period_us.max(1);
    let quota = limits.cpu_quota_us.zip(held.cpu_quota_us).map(|(to, from)| {
        // Of another period, as much in this one.
        to.max(from.saturating_mul(period) / held.cpu_period_us.max(1))
    });
    let memory = limits.memory_bytes.zip(held.memory_bytes).map(|(to, from)| to.max(from));
    Limits { cpu_quota_us: quota, memory_bytes: memory, ..limits.clone() }
}
