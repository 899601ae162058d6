//! The control groups of pods: what each may have, by its spec.

use std::sync::Arc;

use copepod_pod::Failure;
use copepod_pod::qos::{BEST_EFFORT, GUARANTEED, qos_class};
use copepod_pod::quantity::Quantity;
use copepod_pod::resources::{self, Amounts, CgroupLimits, QuotaPolicy};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::linux::cgroup::{CgroupError, Cgroups, Class, HugePages, LeafSpec, Limits};
use crate::telemetry::chain;

/// What starts the names of resources that are huge pages of a size.
const HUGE_PAGES: &str = "hugepages-";
/// The resource that processes and threads are (upstream `pidlimit.PIDs`).
pub(crate) const PIDS: &str = "pid";

/// The host's control groups, and how pods are limited in them.
#[derive(Clone, Debug)]
pub(crate) struct PodCgroups {
    /// Where.
    pub(crate) cgroups: Arc<Cgroups>,
    /// How cpu limits are enforced.
    pub(crate) quota: QuotaPolicy,
    /// Processes and threads of one pod (KubeletConfiguration `podPidsLimit`); `None` is no limit.
    pub(crate) pod_pids: Option<u64>,
}

impl PodCgroups {
    /// Makes the pod's group, or sets the limits of the one that is there as far as what runs in it
    /// lets them be set. Blocks for some file operations.
    ///
    /// # Errors
    /// A [`Failure`] with upstream's reason and words.
    pub(crate) fn set_up(&self, pod: &Pod) -> Result<(), Failure> {
        self.make_or_raise(pod).map_err(|error| Failure {
            reason: "FailedCreatePodContainer".into(),
            message: format!("unable to ensure pod container exists: {}", chain(&error)),
        })
    }

    /// The pod's group as CRI's `cgroup_parent` names it; empty: the runtime's own place.
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub(crate) fn parent(&self, pod: &Pod) -> Result<String, CgroupError> {
        self.cgroups.parent(class(pod), uid(pod))
    }

    /// Removes the pod's group; what still runs in it is killed, and waited for.
    ///
    /// # Errors
    /// [`CgroupError`]; the next call goes on with what is left.
    pub(crate) fn tear_down(&self, pod_uid: &str) -> Result<(), CgroupError> {
        self.cgroups.remove_pod(pod_uid)
    }

    /// Shares the cpus between the classes by what `pods`, all that run here, ask for (upstream
    /// `UpdateCgroups`, each minute and with each new pod). Blocks for a file operation.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(crate) fn update_classes<'a>(
        &self,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Result<(), CgroupError> {
        let shares = resources::burstable_cpu_shares(pods);
        let weight = resources::pod_cpu_weight(shares);
        self.cgroups.set_class_cpu(Class::Burstable, shares, weight)
    }

    /// The group of a container of the pod.
    pub(super) fn leaf(&self, pod: &Pod, container: &Container) -> LeafSpec {
        LeafSpec {
            cgroups: Arc::clone(&self.cgroups),
            class: class(pod),
            limits: self.limits(resources::container_cgroup(pod, container, self.quota)),
        }
    }

    /// What the pod's group is to have.
    pub(super) fn pod_limits(&self, pod: &Pod) -> Limits {
        let limits = self.limits(resources::pod_cgroup(pod, self.quota));
        let huge_pages = Some(huge_pages(&resources::pod_requests(pod)));
        Limits { pids: self.pod_pids, huge_pages, ..limits }
    }

    fn limits(&self, of: CgroupLimits) -> Limits {
        let CgroupLimits { cpu_shares, cpu_weight, cpu_quota_us, cpu_period_us, memory_bytes } = of;
        Limits {
            cpu_shares: Some(cpu_shares),
            cpu_weight: Some(cpu_weight),
            cpu_quota_us,
            cpu_period_us,
            memory_bytes,
            pids: None,
            huge_pages: None,
        }
    }
}

/// What of the amounts a group may have: all of it, but of what is `compressible` only its part of
/// the cpus (upstream `getCgroupConfigInternal`).
pub(crate) fn limits_of(amounts: &Amounts, compressible: bool) -> Limits {
    let cpu = amounts.get("cpu").map(|cpu| resources::cpu_shares(cpu.milli_value()));
    let mut limits = Limits {
        cpu_shares: cpu,
        cpu_weight: cpu.map(resources::pod_cpu_weight),
        ..Limits::default()
    };
    if !compressible {
        let value = |name: &str| u64::try_from(amounts.get(name)?.value()).ok();
        limits.memory_bytes = value("memory");
        limits.pids = value(PIDS);
        limits.huge_pages = Some(huge_pages(amounts));
    }
    limits
}

/// What amounts say of huge pages, by the size of a page (upstream `HugePageLimits`).
fn huge_pages(amounts: &Amounts) -> HugePages {
    let of = |(name, amount): (&String, &Quantity)| {
        let size = Quantity::parse(name.strip_prefix(HUGE_PAGES)?).ok()?.value();
        Some((u64::try_from(size).ok()?, u64::try_from(amount.value()).ok()?))
    };
    HugePages::Only(amounts.iter().filter_map(of).collect())
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn class(pod: &Pod) -> Class {
    match qos_class(pod) {
        GUARANTEED => Class::Guaranteed,
        BEST_EFFORT => Class::BestEffort,
        // The only other one.
        _ => Class::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::linux::cgroup::Options;

    #[test]
    fn what_is_reserved_is_a_limit() {
        let amount = |text: &str| Quantity::parse(text).expect("a quantity");
        let amounts: Amounts = [("cpu", "500m"), ("memory", "1Gi"), (PIDS, "100"), ("x", "1")]
            .map(|(name, text)| (name.to_owned(), amount(text)))
            .into();
        let limits = limits_of(&amounts, false);
        assert_eq!((limits.cpu_shares, limits.cpu_weight), (Some(512), Some(20)));
        assert_eq!((limits.memory_bytes, limits.pids), (Some(1 << 30), Some(100)));
        assert_eq!(limits.huge_pages, Some(HugePages::Only([].into())));
        let part = limits_of(&amounts, true);
        assert_eq!(
            part,
            Limits { cpu_shares: Some(512), cpu_weight: Some(20), ..Limits::default() }
        );
    }

    #[test]
    fn a_pods_groups_are_made_and_removed_by_its_spec() {
        let root = format!("copepod-test-{}", uuid::Uuid::new_v4().simple());
        let options = Options { cgroup_root: root, ..Options::default() };
        let cgroups = match Cgroups::open(&options) {
            Ok(cgroups) => Arc::new(cgroups),
            // Only root may make groups, and all that run as root are to have them.
            Err(_) if !rustix::process::geteuid().is_root() => return,
            Err(error) => panic!("{}", chain(&error)),
        };
        let groups = PodCgroups {
            cgroups: Arc::clone(&cgroups),
            quota: QuotaPolicy::default(),
            pod_pids: Some(100),
        };
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": {
                "requests": {"cpu": "1", "memory": "512Mi", "hugepages-2Mi": "4Mi"},
                "limits": {"memory": "512Mi", "hugepages-2Mi": "4Mi"}}}]}}))
            .expect("a pod");
        let pages = huge_pages(&resources::pod_requests(&pod));
        assert_eq!(pages, HugePages::Only([(2 << 20, 4 << 20)].into()));
        assert!(groups.parent(&pod).expect("a name").ends_with("/kubepods/burstable/podu"));
        groups.set_up(&pod).expect("makes");
        groups.set_up(&pod).expect("is there");
        groups.update_classes([&pod]).expect("sets");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let spec = groups.leaf(&pod, container);
        assert_eq!((spec.class, spec.limits.memory_bytes), (Class::Burstable, Some(512 << 20)));
        assert_eq!((spec.limits.cpu_shares, spec.limits.cpu_weight), (Some(1024), Some(100)));
        let leaf = spec.make("u", "0123").expect("makes");
        let in_place = |file: &std::path::PathBuf| {
            file.parent().is_some_and(|dir| dir.ends_with("kubepods/burstable/podu/0123"))
        };
        assert!(leaf.entries().iter().all(in_place), "{leaf:?}");
        groups.tear_down("u").expect("removes");
        groups.tear_down("u").expect("is gone");
        assert_eq!(cgroups.find_leaf("u", "0123").expect("looks"), None);
        cgroups.remove_all().expect("removes");

        let odd: Pod = serde_json::from_value(json!({"metadata": {"uid": "a/b"}})).expect("a pod");
        let failure = groups.set_up(&odd).expect_err("no name");
        assert_eq!(failure.reason, "FailedCreatePodContainer");
        assert!(failure.message.starts_with("unable to ensure pod container exists: "));
    }
}
