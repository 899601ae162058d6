//! The only room that speaks to the API server.
//!
//! Owns: who we are to it ([`kubeconfig`]), the connections ([`client`]), the pods of this node
//! ([`pods`]), their statuses on the way back ([`status`], [`patch`]), what pods read besides their
//! own object ([`objects`]), the mirrors of static pods ([`mirror`]), the node object, its status and
//! its lease ([`node`]), events ([`events`]), RuntimeClasses ([`classes`]), reviews of who calls the node's server ([`reviews`]).
//! In: a kubeconfig, statuses. Out: a `kube::Client`, [`pods::PodChange`]s, objects.
//! Each says which tasks it starts: one for each connection, one that watches pods, one that makes
//! mirrors, one that writes statuses with a short one for each request, one that writes events, one for
//! each object that is watched, one for all services, one that renews tokens, three of the node's.

mod call;
pub(crate) mod classes;
pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod kubeconfig;
pub(crate) mod mirror;
pub(crate) mod node;
pub(crate) mod objects;
pub(crate) mod patch;
pub(crate) mod pods;
pub(crate) mod reviews;
pub(crate) mod status;

#[cfg(test)]
#[path = "client_test_server.rs"]
mod test_server;

use std::hash::{BuildHasher, RandomState};

/// A random number from 0 up to 1, for what not all nodes shall do at one time.
fn spread() -> f64 {
    // The standard library's random keys: no generator is worth having for this.
    let bits = RandomState::new().hash_one(()) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
