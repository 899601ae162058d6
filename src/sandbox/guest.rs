//! The guest: its code loaded and linked, and what its instances are made with.
//!
//! Owns: which imports each kind of guest is served, and the WASI context.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use copepod_wasm::{Description, GuestKind};
use hyper::Request;
use thiserror::Error;
use wasmtime::component::{Component, Linker as ComponentLinker, ResourceTable};
use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::agent::Agent;
use crate::attached::Input;
use crate::files::{FilesError, OpenDirectory};
use crate::inline::replace_file_streams;
use crate::limit::{Budget, Limiter};
use crate::log::{Log, Stream};
use crate::stdio::Output;
use crate::stream::Streams;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a guest cannot be run.
#[derive(Debug, Error)]
pub(crate) enum GuestError {
    #[error("cannot make the engine")]
    Engine(#[source] Source),
    #[error("cannot load the artefact {path}")]
    Load {
        path: String,
        #[source]
        source: Source,
    },
    #[error("cannot link the guest")]
    Link(#[source] Source),
    #[error("the guest has no exported function `_start`")]
    NoStart,
}

/// What the store of a preview 1 module holds.
pub(crate) struct ModuleState {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) limiter: Limiter,
}

/// What the store of a component holds.
pub(crate) struct ComponentState {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: NoOutgoing,
    pub(crate) limiter: Limiter,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// Outgoing HTTP is not served yet: each request is answered with `HTTP-request-denied`, which the
/// guest sees as an error of its own call.
struct NoOutgoing;

/// What [`WasiHttpHooks::send_request`] gives beside the response: the rest of the exchange.
type Rest = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;

impl WasiHttpHooks for NoOutgoing {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Rest,
    ) -> Box<
        dyn Future<Output = wasmtime_wasi_http::Result<(hyper::Response<WasiBody>, Rest)>> + Send,
    > {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}

/// A guest that is linked, ready to be instantiated.
pub(crate) enum Linked {
    P1(InstancePre<ModuleState>),
    P2(CommandPre<ComponentState>),
    Http(ProxyPre<ComponentState>),
}

/// Loads an artefact and links it with what its kind is served, and no more: linking costs memory.
pub(crate) fn link(kind: GuestKind, artefact: &Path, named: &Path) -> Result<Linked, GuestError> {
    let engine =
        Engine::new(&copepod_wasm::engine_config()).map_err(|e| GuestError::Engine(e.into()))?;
    // The causes between name the descriptor's path, which means nothing to anybody else.
    let load = |e: wasmtime::Error| GuestError::Load {
        path: named.display().to_string(),
        source: e.root_cause().to_string().into(),
    };
    let link = |e: wasmtime::Error| GuestError::Link(e.into());
    match kind {
        GuestKind::P1Command => {
            let module = load_module(&engine, artefact).map_err(load)?;
            let start = module.get_export("_start");
            if start.is_none_or(|export| export.func().is_none()) {
                return Err(GuestError::NoStart);
            }
            let mut linker = Linker::new(&engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut ModuleState| {
                &mut state.wasi
            })
            .map_err(link)?;
            Ok(Linked::P1(linker.instantiate_pre(&module).map_err(link)?))
        }
        GuestKind::P2Command => {
            let component = load_component(&engine, artefact).map_err(load)?;
            let linker = component_linker(&engine).map_err(link)?;
            let pre = linker.instantiate_pre(&component).and_then(CommandPre::new);
            Ok(Linked::P2(pre.map_err(link)?))
        }
        GuestKind::Http => {
            let component = load_component(&engine, artefact).map_err(load)?;
            let mut linker = component_linker(&engine).map_err(link)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(link)?;
            let pre = linker.instantiate_pre(&component).and_then(ProxyPre::new);
            Ok(Linked::Http(pre.map_err(link)?))
        }
    }
}

#[expect(unsafe_code, reason = "an artefact of the agent's own cache is trusted machine code")]
fn load_module(engine: &Engine, artefact: &Path) -> wasmtime::Result<Module> {
    // SAFETY: the agent names only artefacts that its own compiler made and that nobody else can
    // write (ARCHITECTURE.md, Invariants); wasmtime checks version and configuration.
    unsafe { Module::deserialize_file(engine, artefact) }
}

#[expect(unsafe_code, reason = "an artefact of the agent's own cache is trusted machine code")]
fn load_component(engine: &Engine, artefact: &Path) -> wasmtime::Result<Component> {
    // SAFETY: as for a module.
    unsafe { Component::deserialize_file(engine, artefact) }
}

fn component_linker(engine: &Engine) -> wasmtime::Result<ComponentLinker<ComponentState>> {
    let mut linker = ComponentLinker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    replace_file_streams(&mut linker)?;
    Ok(linker)
}

/// Where the standard streams of a guest lead.
pub(crate) enum Stdio {
    /// What attached clients send, if anything; each line written goes into the log.
    Log(Log, Option<Input>),
    /// An exec: to who asked for it.
    Streams(Streams),
}

/// What each instance of the guest is made with.
pub(crate) struct Template {
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The preopened directories: opened once, before the jail.
    files: WasiFilesystemCtx,
    stdio: Stdio,
    budget: Arc<Budget>,
}

impl Template {
    /// Opens the guest's directories by their descriptors and takes over the rest.
    pub(crate) fn new(
        description: &mut Description,
        directories: &[OpenDirectory],
        stdio: Stdio,
    ) -> Result<Self, FilesError> {
        let mut builder = WasiCtxBuilder::new();
        // The one thread has nothing else to do for a command, and starts no other.
        builder.allow_blocking_current_thread(true);
        for (preopen, directory) in description.preopens.iter().zip(directories) {
            let perms = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            builder
                .preopened_dir(directory.path(), &preopen.guest, perms)
                .map_err(|e| FilesError::directory(preopen, e))?;
        }
        Ok(Self {
            args: std::mem::take(&mut description.args),
            env: std::mem::take(&mut description.env),
            files: builder.build().filesystem().clone(),
            stdio,
            budget: Budget::new(description.memory_limit_bytes),
        })
    }

    /// The memory limit may be changed by the agent from now on.
    pub(crate) fn follow(&self, agent: &Agent) {
        self.budget.follow(agent);
    }

    fn builder(&self) -> WasiCtxBuilder {
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&self.args)
            .envs(&self.env)
            // The pod's network is the guest's, as for any container. Names are not looked up:
            // that would need a thread and the host's files.
            .inherit_network()
            .allow_tcp(true)
            .allow_udp(true)
            .allow_ip_name_lookup(false);
        match &self.stdio {
            Stdio::Log(log, input) => {
                if let Some(input) = input {
                    builder.stdin(input.clone());
                }
                builder
                    .stdout(Output::new(log.clone(), Stream::Stdout))
                    .stderr(Output::new(log.clone(), Stream::Stderr))
            }
            Stdio::Streams(Streams { input, output, error }) => {
                builder.stdin(input.clone()).stdout(output.clone()).stderr(error.clone())
            }
        };
        builder
    }

    /// A store for an instance of a module.
    pub(crate) fn module_store(&self, engine: &Engine) -> Store<ModuleState> {
        let mut wasi = self.builder().build_p1();
        *wasi.ctx().ctx.filesystem() = self.files.clone();
        let limiter = Limiter::new(self.budget.clone());
        let mut store = Store::new(engine, ModuleState { wasi, limiter });
        store.limiter(|state| &mut state.limiter);
        store
    }

    /// A store for an instance of a component.
    pub(crate) fn component_store(&self, engine: &Engine) -> Store<ComponentState> {
        let mut wasi = self.builder().build();
        *wasi.filesystem() = self.files.clone();
        let mut store = Store::new(
            engine,
            ComponentState {
                wasi,
                table: ResourceTable::new(),
                http: WasiHttpCtx::new(),
                outgoing: NoOutgoing,
                limiter: Limiter::new(self.budget.clone()),
            },
        );
        store.limiter(|state| &mut state.limiter);
        store
    }
}
