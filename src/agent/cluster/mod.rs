//! The API server: the only room that speaks to it.
//!
//! Owns: the node object, its status and its lease ([`node`]); events ([`events`]). Each says which
//! tasks it starts.

mod call;
pub(crate) mod events;
pub(crate) mod node;

use std::hash::{BuildHasher, RandomState};

/// A random number from 0 up to 1, for what not all nodes shall do at one time.
fn spread() -> f64 {
    // The standard library's random keys: no generator is worth having for this.
    let bits = RandomState::new().hash_one(()) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
