//! The engine configuration, the same for the compiler and for the sandbox.

use wasmtime::{Config, WasmFeatures};

/// The configuration that every engine of Copepod is made with.
///
/// An artefact loads only in an engine that agrees with its compiler on all of this, and crate
/// features of wasmtime change some defaults; what they change is therefore pinned here.
/// Garbage collection, exceptions, threads and component-model-async are off: no guest kind that
/// is served needs them yet. There is no epoch and no fuel: a guest is a process, so the kernel's
/// scheduler and SIGKILL bound it at no cost.
#[must_use]
pub fn engine_config() -> Config {
    let mut config = Config::new();
    config.gc_support(false);
    config.concurrency_support(false);
    config.wasm_features(WasmFeatures::THREADS | WasmFeatures::EXCEPTIONS, false);
    config
}
