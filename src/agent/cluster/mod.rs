//! The API server, as a node sees it: the only room that talks to it.
//!
//! Owns: what pods read besides their own object ([`objects`]).

pub(crate) mod objects;
