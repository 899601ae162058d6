//! The only room that speaks to the API server.
//!
//! Owns: who we are to it ([`kubeconfig`]), the connections ([`client`]), the pods of this node
//! ([`pods`]), their statuses on the way back ([`status`], [`patch`]).
//! In: a kubeconfig, statuses. Out: a `kube::Client`, [`pods::PodChange`]s.
//! Starts one task for each connection ([`client`]), one that watches pods ([`pods::watch`]), one
//! that writes statuses ([`status::StatusWriter::start`]) with a short one for each request.

pub(crate) mod client;
pub(crate) mod kubeconfig;
pub(crate) mod patch;
pub(crate) mod pods;
pub(crate) mod status;

#[cfg(test)]
#[path = "client_test_server.rs"]
mod test_server;
