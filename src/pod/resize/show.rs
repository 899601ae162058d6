//! What a pod's status shows of resources (upstream `convertContainerStatusResources`,
//! `convertToAPIPodLevelResourcesStatus`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use super::Actuated;
use crate::container::Container;
use crate::container_named;
use crate::known::Known;
use crate::phase::Phase;
use crate::quantity::Quantity;
use crate::resources::{Amounts, pod_limits, pod_requests};
use crate::state::State;

/// Cpu requests up to here are not told apart by the kernel, in thousandths of cores (upstream
/// `MinShares`).
const MIN_REQUEST: i64 = 2;
/// The same of limits (upstream `MinMilliCPULimit`).
const MIN_LIMIT: i64 = 10;

type List = BTreeMap<String, Raw>;

/// The resources that a container has and those that it was allocated. One of which the runtime has
/// nothing shows none.
pub(crate) fn show_container(
    state: &State,
    container: &Container,
    newest: Option<(u32, &Known)>,
    status: &mut ContainerStatus,
) {
    let Some((attempt, known)) = newest else { return };
    let Some(spec) = container_named(&state.pod, &container.name) else { return };
    let mut resources = spec.resources.clone().unwrap_or_default();
    status.allocated_resources = resources.requests.clone().filter(|list| !list.is_empty());
    let had = state.resize.attempts.get(&(container.name.clone(), attempt));
    if let Some(had) = had.filter(|_| known.is_alive()) {
        let allocated = Actuated::of(&state.pod, &spec);
        let cpu = |list: &mut Option<List>, had: i64, allocated: i64, least: i64| {
            if had != allocated && had.max(allocated) > least {
                set(list, "cpu", had, Quantity::milli);
            }
        };
        cpu(&mut resources.limits, had.cpu_limit, allocated.cpu_limit, MIN_LIMIT);
        cpu(&mut resources.requests, had.cpu_request, allocated.cpu_request, MIN_REQUEST);
        if had.memory_limit != allocated.memory_limit {
            set(&mut resources.limits, "memory", had.memory_limit, Quantity::binary);
        }
        if had.memory_request != allocated.memory_request {
            set(&mut resources.requests, "memory", had.memory_request, Quantity::binary);
        }
    }
    status.resources = Some(resources);
}

/// Puts what is above zero into a list that is there.
fn set(list: &mut Option<List>, name: &str, amount: i64, quantity: fn(u64) -> Quantity) {
    if let (Some(list), Ok(amount @ 1..)) = (list, u64::try_from(amount)) {
        list.insert(name.to_owned(), Raw(quantity(amount).to_string()));
    }
}

/// The resources of the pod as a whole.
pub(crate) fn show_pod(state: &State, status: &mut PodStatus) {
    let pod = &state.pod;
    let requests = raw(pod_requests(pod));
    status.resources = Some(if state.phase() == Phase::Running {
        running(state, &requests)
    } else {
        let own = pod.spec.as_ref().and_then(|spec| spec.resources.clone()).unwrap_or_default();
        let some = |list: List| Some(list).filter(|list| !list.is_empty());
        let limits = some(raw(pod_limits(pod)));
        ResourceRequirements { requests: some(requests.clone()), limits, ..own }
    });
    status.allocated_resources = Some(requests).filter(|list| !list.is_empty());
}

/// Those of a running pod: what its group has.
fn running(state: &State, aggregated: &List) -> ResourceRequirements {
    let pod = &state.pod;
    let had = state.resize.pod.unwrap_or_else(|| Actuated::of_pod(pod));
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.clone()).unwrap_or_default();
    let mut requests = Some(own.requests.unwrap_or_default());
    let mut limits = Some(own.limits.unwrap_or_default());
    if had.cpu_request > MIN_REQUEST {
        set(&mut requests, "cpu", had.cpu_request, Quantity::milli);
    }
    if let (Some(requests), Some(memory)) = (&mut requests, aggregated.get("memory")) {
        requests.entry("memory".to_owned()).or_insert_with(|| memory.clone());
    }
    if had.cpu_limit > MIN_LIMIT {
        set(&mut limits, "cpu", had.cpu_limit, Quantity::milli);
    }
    set(&mut limits, "memory", had.memory_limit, Quantity::binary);
    let some = |list: Option<List>| list.filter(|list| !list.is_empty());
    ResourceRequirements { requests: some(requests), limits: some(limits), claims: own.claims }
}

fn raw(amounts: Amounts) -> List {
    amounts.into_iter().map(|(name, amount)| (name, Raw(amount.to_string()))).collect()
}
