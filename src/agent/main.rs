//! `copepod`: a kubelet-compatible, lightweight Kubernetes node agent.
//!
//! This file holds the rooms and the exit code; what each room owns stands in its `mod.rs`, what
//! each may use in ARCHITECTURE.md.

mod cli;
mod cluster;
mod config;
mod image;
mod ledger;
mod linux;
mod logs;
mod metrics;
mod network;
mod node;
mod probe;
mod runtime;
mod server;
mod sources;
mod telemetry;
mod volume;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
