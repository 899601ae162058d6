//! The resize of pods in place (KEP-1287): what they ask for now, what is allocated to them, what
//! their control groups have.
//!
//! Owns: the allocation and who gets one ([`decide`], [`first`]; upstream `pkg/kubelet/allocation`),
//! what of an allocation is to be brought to running containers (`plan`; upstream
//! `computePodResizeAction`), the conditions and events of it (`state`), and what of it the status
//! shows (`show`). A pod's state holds the pod *as allocated*: its spec's resources are never those
//! that it asks for and has not got.

mod allocation;
mod decide;
mod message;
mod numbers;
mod plan;
mod show;
mod state;

pub use allocation::Allocation;
pub use decide::{Decision, Request, decide, first};
pub use numbers::Actuated;
pub(crate) use plan::wanted_actuation;
pub(crate) use show::{show_container, show_pod};
pub(crate) use state::Resizing;

/// The reason of a resize that nothing can make possible (upstream `PodReasonInfeasible`).
pub(crate) const INFEASIBLE: &str = "Infeasible";
/// The reason of a resize that waits (upstream `PodReasonDeferred`).
pub(crate) const DEFERRED: &str = "Deferred";
/// The reason of a resize that could not be brought to the containers (upstream `PodReasonError`).
pub(crate) const ERROR: &str = "Error";
