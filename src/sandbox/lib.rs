//! What runs inside the process of one Wasm container.
//!
//! Owns: the jail ([`jail`]), the engine without a compiler, the guest's stdio as CRI log lines, its
//! limits, its http server and its exit record. In: three descriptors and a description
//! (`copepod_wasm::Description`) from the agent; out: log lines, the state file, few frames
//! (`copepod_wasm::frame`). One thread and one event loop, always: nothing here may start a thread
//! (the jail refuses it) and no other process is ever made.
//!
//! The process panics as an abort: what is a trap of a guest is an error here, so a panic is a
//! fault of the sandbox, recorded with its text as exit code 134.

mod agent;
mod attached;
mod command;
mod enter;
mod exit;
mod files;
mod guest;
mod http;
mod inline;
pub mod jail;
mod limit;
mod linux;
#[doc(hidden)] // for the bench of its speed alone
pub mod log;
mod mounts;
mod request;
mod stamp;
mod start;
mod stdio;
mod stream;
mod timer;

pub use start::run;
