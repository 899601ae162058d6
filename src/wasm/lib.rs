//! What the agent and the sandbox share about Wasm.
//!
//! Owns: the one engine configuration ([`engine_config`]), the description of a sandbox
//! ([`Description`]), the frames both sides exchange ([`frame`]), the state file of a container
//! attempt ([`state`]) and, for the agent only, the look into a Wasm file before it is compiled
//! (`inspect`, behind the feature of that name).
//! Starts no task; does no I/O but on the state file it is given.

mod config;
mod describe;
pub mod frame;
#[cfg(feature = "inspect")]
pub mod inspect;
pub mod state;

pub use config::engine_config;
pub use describe::{Description, GuestKind, Mount, Preopen, Stdin, User};

/// Version of everything agent and sandbox say to each other: description, frames, state file.
///
/// An agent and a sandbox of different versions may meet after an upgrade, so each frame and each
/// state file carries it.
pub const PROTOCOL_VERSION: u8 = 3;
