//! The only room that speaks to the API server.
//!
//! Owns: reviews of who calls the node's server ([`reviews`]).
//! In: a `kube::Client`. Out: the server's [`Reviewer`](crate::server::Reviewer).
//! Starts no task.

pub(crate) mod reviews;
