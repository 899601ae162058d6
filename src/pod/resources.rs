//! What a pod and its containers ask for, what they may have, and the kernel's numbers for it
//! (upstream `k8s.io/component-helpers/resource`, `pkg/kubelet/cm/helpers_linux.go`,
//! `pkg/kubelet/qos/policy.go`).
//!
//! A quantity that does not parse counts as not given: validation has refused it before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use crate::qos::{BEST_EFFORT, BURSTABLE, GUARANTEED, qos_class};
use crate::quantity::Quantity;
use crate::static_pod::{MIRROR_ANNOTATION, Source};

/// Quantities by the names of their resources.
pub type Amounts = BTreeMap<String, Quantity>;

/// What the names of huge pages begin with (upstream `ResourceHugePagesPrefix`); their size follows.
pub(crate) const HUGE_PAGES: &str = "hugepages-";
/// The period that a cpu quota counts over, in microseconds (upstream `QuotaPeriod`).
pub const QUOTA_PERIOD_US: u64 = 100_000;
/// The kernel's bounds of cpu shares (upstream `MinShares`, `MaxShares`).
const SHARES: (u64, u64) = (2, 262_144);
/// The kernel's smallest cpu quota in microseconds (upstream `MinQuotaPeriod`).
const QUOTA_MIN_US: u64 = 1000;
/// The kernel's bounds of cgroup v2's `cpu.weight`.
const WEIGHT: (u64, u64) = (1, 10_000);

/// `oom_score_adj` of Guaranteed pods and node-critical ones (upstream `guaranteedOOMScoreAdj`).
const GUARANTEED_OOM_SCORE: i64 = -997;
/// `oom_score_adj` of BestEffort pods (upstream `besteffortOOMScoreAdj`).
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// The priority from which a pod is critical (upstream `SystemCriticalPriority`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// The priority class of pods that the node cannot be without.
const NODE_CRITICAL: &str = "system-node-critical";
/// The condition of a pod whose resize waits, and its reason where nothing can make it possible (upstream
/// `PodResizePending`, `PodReasonInfeasible`).
const INFEASIBLE: (&str, &str) = ("PodResizePending", "Infeasible");

/// What the pod asks for as a whole: the larger of all main containers and sidecars together, and
/// each init container with the sidecars started before it; the pod's own requests in the place of
/// these; its overhead on top (upstream `PodRequests`).
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut requests = of_containers(spec, container_requests, |_| ());
    override_with(&mut requests, spec.resources.as_ref().and_then(|own| own.requests.as_ref()));
    add(&mut requests, &amounts(spec.overhead.as_ref()));
    requests
}

/// What the pod holds of its node, by the rule of [`pod_requests`]: each main container and sidecar, and
/// the pod's own requests, count as the most of what the spec says, what they have by the status and
/// what they were allocated by the status (upstream `PodRequests` with `UseStatusResources`). A resize
/// that is not done yet so gives nothing back. The spec's resources are those that are allocated.
///
/// A static pod counts by its spec: its status is that of another object, its mirror.
#[must_use]
pub fn requests_in_use(pod: &Pod) -> Amounts {
    let status = pod.status.as_ref().filter(|_| Source::of(pod).is_none());
    let (Some(spec), Some(status)) = (&pod.spec, status) else { return pod_requests(pod) };
    let counts_asked = !is_infeasible(status);
    let most = |asked: Amounts, has: Option<&ResourceRequirements>, allocated| {
        let Some(has) = has else { return asked };
        let mut most = if counts_asked { asked } else { Amounts::new() };
        raise(&mut most, amounts(has.requests.as_ref()));
        raise(&mut most, amounts(allocated));
        most
    };
    let of = |container: &Container| {
        let mut inits = spec.init_containers.iter().flatten();
        let ends = inits.any(|init| init.name == container.name && !is_sidecar(init));
        let (inits, mains) = (&status.init_container_statuses, &status.container_statuses);
        let mut told = inits.iter().chain(mains).flatten().filter(|_| !ends);
        let told = told.find(|told| told.name == container.name);
        let has = told.and_then(|told| told.resources.as_ref());
        most(container_requests(container), has, told.and_then(|t| t.allocated_resources.as_ref()))
    };
    let mut requests = of_containers(spec, of, |_| ());
    let own = amounts(spec.resources.as_ref().and_then(|own| own.requests.as_ref()));
    let held = most(own.clone(), status.resources.as_ref(), status.allocated_resources.as_ref());
    let none = Quantity::milli(0);
    let own = own.into_keys().filter(|name| counts_for_a_pod(name));
    requests.extend(own.map(|name| {
        let amount = held.get(&name).copied().unwrap_or(none);
        (name, amount)
    }));
    add(&mut requests, &amounts(spec.overhead.as_ref()));
    requests
}

/// Whether a newer object of the pod holds less cpu or memory than the one `before` (upstream
/// `HandlePodReconcile`): there may be room for a resize that waits. Both as [`requests_in_use`] has
/// them.
#[must_use]
pub fn holds_less(before: &Pod, now: &Pod) -> bool {
    let [before, now] = [before, now].map(requests_in_use);
    let none = Quantity::milli(0);
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(none);
    ["cpu", "memory"].iter().any(|name| of(&now, name) < of(&before, name))
}

fn is_infeasible(status: &PodStatus) -> bool {
    let (kind, reason) = INFEASIBLE;
    let mut conditions = status.conditions.iter().flatten();
    let pending = conditions.find(|condition| condition.type_ == kind);
    pending.is_some_and(|pending| pending.reason.as_deref() == Some(reason))
}

/// What the pod may have as a whole, by the rule of [`pod_requests`]; the overhead goes on top of
/// limits above zero alone (upstream `PodLimits`).
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    limits_of(spec, |_| ())
}

fn limits_of(spec: &PodSpec, each: impl FnMut(&Amounts)) -> Amounts {
    let mut limits = of_containers(spec, container_limits, each);
    override_with(&mut limits, spec.resources.as_ref().and_then(|own| own.limits.as_ref()));
    for (name, overhead) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = limits.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(overhead);
        }
    }
    limits
}

/// What the container asks for.
#[must_use]
pub fn container_requests(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What the container may have at most.
#[must_use]
pub fn container_limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// Whether the init container is a sidecar: started in its turn, and running beside the rest.
fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The pod's sum over its containers (upstream `AggregateContainerRequests`). `each` is told what
/// a main container counts, and what is in use while an init container starts.
pub(crate) fn of_containers(
    spec: &PodSpec,
    of: impl Fn(&Container) -> Amounts,
    mut each: impl FnMut(&Amounts),
) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        let own = of(container);
        each(&own);
        add(&mut total, &own);
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut in_use = of(container);
        if is_sidecar(container) {
            add(&mut total, &in_use);
            add(&mut sidecars, &in_use);
            in_use.clone_from(&sidecars);
        } else {
            add(&mut in_use, &sidecars);
        }
        each(&in_use);
        raise(&mut init, in_use);
    }
    raise(&mut total, init);
    total
}

/// What of a list parses.
pub(crate) fn amounts(list: Option<&BTreeMap<String, Raw>>) -> Amounts {
    let parsed = |(name, raw): (&String, &Raw)| Some((name.clone(), raw.0.parse().ok()?));
    list.into_iter().flatten().filter_map(parsed).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        to.entry(name.clone()).and_modify(|sum| *sum = sum.plus(*amount)).or_insert(*amount);
    }
}

/// Raises each resource to the amount of `other` where that is larger.
fn raise(to: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let held = to.entry(name).or_insert(amount);
        *held = amount.max(*held);
    }
}

/// Puts the pod's own amounts in the place of its containers' sums.
fn override_with(sums: &mut Amounts, own: Option<&BTreeMap<String, Raw>>) {
    sums.extend(amounts(own).into_iter().filter(|(name, _)| counts_for_a_pod(name)));
}

/// Whether a pod's own `resources` may name the resource (upstream `IsSupportedPodLevelResource`).
pub(crate) fn counts_for_a_pod(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

/// Whether the resource is pages of a size that its name says (upstream `IsHugePageResourceName`).
pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Cpu shares, cgroup v1's measure of what a group gets of a busy cpu, for milli cpus (upstream
/// `MilliCPUToShares`).
#[must_use]
pub fn cpu_shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1)
}

/// Microseconds of cpu time in each `period_us` for milli cpus; `None`, which is no limit, for none
/// (upstream `MilliCPUToQuota`).
#[must_use]
pub fn cpu_quota_us(milli: i64, period_us: u64) -> Option<u64> {
    let milli = u64::try_from(milli).ok().filter(|milli| *milli > 0)?;
    Some((milli.saturating_mul(period_us) / 1000).max(QUOTA_MIN_US))
}

/// cgroup v2's `cpu.weight` for the shares of a pod or class, as the kubelet converts them
/// (upstream `getCPUWeight`).
#[must_use]
pub fn pod_cpu_weight(shares: u64) -> u64 {
    let above = shares.clamp(SHARES.0, SHARES.1) - SHARES.0;
    WEIGHT.0 + above * (WEIGHT.1 - WEIGHT.0) / (SHARES.1 - SHARES.0)
}

/// cgroup v2's `cpu.weight` for the shares of a container, as runc converts them since 1.3.2: a
/// curve through both ends and through the two defaults (1024 shares, weight 100).
#[must_use]
pub fn container_cpu_weight(shares: u64) -> u64 {
    if shares <= SHARES.0 {
        return WEIGHT.0;
    }
    if shares >= SHARES.1 {
        return WEIGHT.1;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10,000")]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight.clamp(WEIGHT.0, WEIGHT.1)
}

/// What a cgroup of a pod or container may have, in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLimits {
    /// `cpu.shares` of cgroup v1.
    pub cpu_shares: u64,
    /// `cpu.weight` of cgroup v2.
    pub cpu_weight: u64,
    /// Microseconds of cpu time in each period; `None` is no limit.
    pub cpu_quota_us: Option<u64>,
    /// The period of the quota.
    pub cpu_period_us: u64,
    /// Bytes of memory; `None` is no limit.
    pub memory_bytes: Option<u64>,
}

/// How cpu limits are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaPolicy {
    /// Whether they are (KubeletConfiguration `cpuCFSQuota`).
    pub enforced: bool,
    /// Microseconds (KubeletConfiguration `cpuCFSQuotaPeriod`).
    pub period_us: u64,
}

impl Default for QuotaPolicy {
    fn default() -> Self {
        Self { enforced: true, period_us: QUOTA_PERIOD_US }
    }
}

impl QuotaPolicy {
    fn quota_us(self, milli: i64) -> Option<u64> {
        cpu_quota_us(milli, self.period_us).filter(|_| self.enforced)
    }
}

fn milli(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, Quantity::milli_value)
}

/// Whole units of what is above zero.
fn value(amounts: &Amounts, name: &str) -> Option<u64> {
    let value = amounts.get(name).map_or(0, Quantity::value);
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// The pod's cgroup (upstream `ResourceConfigForPod`): a resource is limited only if every
/// container has a limit of it, or the pod itself.
#[must_use]
pub fn pod_cgroup(pod: &Pod, quota: QuotaPolicy) -> CgroupLimits {
    let (cpu_request, cpu_limit, memory_limit) = pod_cgroup_amounts(pod);
    let cpu_shares = cpu_shares(cpu_request);
    CgroupLimits {
        cpu_shares,
        cpu_weight: pod_cpu_weight(cpu_shares),
        cpu_quota_us: quota.quota_us(cpu_limit),
        cpu_period_us: quota.period_us,
        memory_bytes: u64::try_from(memory_limit).ok().filter(|bytes| *bytes > 0),
    }
}

/// What the pod's cgroup is made from: milli cpus asked for, milli cpus and bytes at most; zero is
/// none.
pub(crate) fn pod_cgroup_amounts(pod: &Pod) -> (i64, i64, i64) {
    let spec = pod.spec.clone().unwrap_or_default();
    let (mut cpu_limited, mut memory_limited) = (true, true);
    let limits = limits_of(&spec, |amounts| {
        cpu_limited &= milli(amounts, "cpu") > 0;
        memory_limited &= value(amounts, "memory").is_some();
    });
    let own = spec.resources.as_ref().and_then(|own| own.limits.as_ref());
    let own = amounts(own);
    cpu_limited |= milli(&own, "cpu") > 0;
    memory_limited |= value(&own, "memory").is_some();
    let class = qos_class(pod);
    let (guaranteed, best_effort) = (class == GUARANTEED, class == BEST_EFFORT);
    let cpu_request = if best_effort { 0 } else { milli(&pod_requests(pod), "cpu") };
    let limited = |declared: bool| !best_effort && (guaranteed || declared);
    let cpu_limit = if limited(cpu_limited) { milli(&limits, "cpu") } else { 0 };
    let memory_limit = value(&limits, "memory").filter(|_| limited(memory_limited));
    let memory_limit = memory_limit.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    (cpu_request, cpu_limit, memory_limit)
}

/// A container's cgroup (upstream `calculateLinuxResources`): a request that is not given is the
/// limit, a limit that is not given the pod's own.
#[must_use]
pub fn container_cgroup(pod: &Pod, container: &Container, quota: QuotaPolicy) -> CgroupLimits {
    let requests = container_requests(container);
    let limits = container_limits(container);
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let own = amounts(own.and_then(|own| own.limits.as_ref()));
    let cpu_limit = Some(milli(&limits, "cpu")).filter(|milli| *milli > 0);
    let cpu_limit = cpu_limit.unwrap_or_else(|| milli(&own, "cpu"));
    let cpu_request = requests.get("cpu").map_or(cpu_limit, Quantity::milli_value);
    let cpu_shares = cpu_shares(cpu_request);
    CgroupLimits {
        cpu_shares,
        cpu_weight: container_cpu_weight(cpu_shares),
        cpu_quota_us: quota.quota_us(cpu_limit),
        cpu_period_us: quota.period_us,
        memory_bytes: value(&limits, "memory").or_else(|| value(&own, "memory")),
    }
}

/// The `cpu.shares` of all Burstable pods together, from what `pods` ask for (upstream
/// `setCPUCgroupConfig`); pods of the other classes do not count.
pub fn burstable_cpu_shares<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> u64 {
    let burstable = pods.into_iter().filter(|pod| qos_class(pod) == BURSTABLE);
    cpu_shares(burstable.map(|pod| milli(&pod_requests(pod), "cpu")).fold(0, i64::saturating_add))
}

/// The `oom_score_adj` of a container's processes on a node of so much memory (upstream
/// `GetContainerOOMScoreAdjust`).
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i32 {
    let score = if is_node_critical(pod) {
        GUARANTEED_OOM_SCORE
    } else {
        match qos_class(pod) {
            GUARANTEED => GUARANTEED_OOM_SCORE,
            BEST_EFFORT => BEST_EFFORT_OOM_SCORE,
            _ => burstable_score(pod, container, node_memory_bytes),
        }
    };
    // All of them lie within -1000 and 1000.
    i32::try_from(score).unwrap_or(0)
}

/// The more memory a container asks for, the later it is killed, between the other two classes.
fn burstable_score(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i64 {
    let spec = pod.spec.clone().unwrap_or_default();
    let capacity = i128::from(node_memory_bytes.max(1));
    let asked = |container: &Container| {
        container_requests(container).get("memory").map_or(0, Quantity::value)
    };
    // What the pod asks for beyond its containers is theirs in equal parts.
    let rest = rest_for_each(&spec);
    let score = |bytes: i64| 1000 - 1000 * i128::from(bytes.saturating_add(rest)) / capacity;
    let mut adjusted = score(asked(container));
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if is_sidecar(container) && init.iter().any(|other| other.name == container.name) {
        let least = spec.containers.iter().map(asked).min().unwrap_or(0);
        adjusted = adjusted.min(score(least));
    }
    let (low, high) = (1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1);
    i64::try_from(adjusted.clamp(low.into(), high.into())).unwrap_or(high)
}

/// Upstream `remainingPodMemReqPerContainer`; zero without memory requests of the pod's own.
fn rest_for_each(spec: &PodSpec) -> i64 {
    let own = spec.resources.as_ref().and_then(|own| own.requests.as_ref());
    let Some(own) = value(&amounts(own), "memory") else { return 0 };
    let all = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let containers = of_containers(spec, container_requests, |_| ());
    let containers = containers.get("memory").map_or(0, Quantity::value);
    let rest = i64::try_from(own).unwrap_or(i64::MAX).saturating_sub(containers);
    rest / i64::try_from(all).unwrap_or(i64::MAX).max(1)
}

/// Upstream `IsNodeCriticalPod`: a static pod counts as critical whatever its priority.
fn is_node_critical(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let annotations = pod.metadata.annotations.as_ref();
    let is_mirror = annotations.is_some_and(|all| all.contains_key(MIRROR_ANNOTATION));
    let is_static = Source::of(pod).is_some() || is_mirror;
    let critical = is_static || spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY);
    critical && spec.priority_class_name.as_deref() == Some(NODE_CRITICAL)
}

#[cfg(test)]
#[path = "resources_test.rs"]
mod tests;
