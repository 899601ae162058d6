//! A command: instantiated once, run to its end.

use copepod_wasm::state::Exit;
use wasmtime::{InstancePre, Store, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::exit;
use crate::guest::{ComponentState, ModuleState};
use crate::limit::Refused;

/// How a command went.
pub(crate) enum Run {
    /// It ran, and ended so.
    Ended(Exit),
    /// It could not be instantiated: nothing of it ran. The text says why.
    NotStarted(String),
}

/// Runs a preview 1 module; `started` is called once it is instantiated.
pub(crate) async fn run_module(
    mut store: Store<ModuleState>,
    pre: InstancePre<ModuleState>,
    started: impl FnOnce(),
) -> Run {
    let instance = match pre.instantiate_async(&mut store).await {
        Ok(instance) => instance,
        Err(e) => return not_instantiated(&e, store.data().limiter.refused(), started),
    };
    started();
    let result = match instance.get_typed_func::<(), ()>(&mut store, "_start") {
        Ok(start) => start.call_async(&mut store, ()).await,
        Err(e) => Err(e),
    };
    Run::Ended(match result {
        Ok(()) => exit::exited(0),
        Err(e) => exit::failed(&e, store.data().limiter.refused()),
    })
}

/// Runs a component's `wasi:cli/run`; `started` is called once it is instantiated.
pub(crate) async fn run_component(
    mut store: Store<ComponentState>,
    pre: CommandPre<ComponentState>,
    started: impl FnOnce(),
) -> Run {
    let command = match pre.instantiate_async(&mut store).await {
        Ok(command) => command,
        Err(e) => return not_instantiated(&e, store.data().limiter.refused(), started),
    };
    started();
    Run::Ended(match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => exit::exited(0),
        // The component model's own way to say that a command failed.
        Ok(Err(())) => exit::exited(1),
        Err(e) => exit::failed(&e, store.data().limiter.refused()),
    })
}

/// A start function that traps or exits is a guest that ran; all else is the guest's making.
fn not_instantiated(
    error: &wasmtime::Error,
    refused: Option<Refused>,
    started: impl FnOnce(),
) -> Run {
    if error.is::<Trap>() || error.is::<I32Exit>() {
        started();
        return Run::Ended(exit::failed(error, refused));
    }
    let mut text = format!("cannot instantiate the guest: {error:#}");
    if let Some(Refused { wanted, limit }) = refused {
        text += &format!(" (memory limit too low: {wanted} bytes wanted, {limit} bytes allowed)");
    }
    Run::NotStarted(text)
}
