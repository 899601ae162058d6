//! The life of a sandbox process, in its order (ARCHITECTURE.md, "Start of a sandbox").
//!
//! Description, parent-death signal, control groups and network, files and listeners, engine and event loop, jail, `launched`,
//! the guest, exit record. What fails before the guest ends in a `StartError` that the agent is
//! told; nothing of the guest has run then.

use std::error::Error as StdError;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use copepod_wasm::frame::FromSandbox;
use copepod_wasm::state::{Exit, Launch, StateError, StateFile};
use copepod_wasm::{Description, GuestKind, Stdin};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{
    Resource, Rlimit, Signal, getpid, set_parent_process_death_signal, setrlimit,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use wasmtime::{InstancePre, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::agent::{Accepted, Agent, AgentError, attend};
use crate::attached::Input;
use crate::command::{Run, run_component, run_module};
use crate::enter::{self, EnterError};
use crate::exit;
use crate::files::{FilesError, OpenDirectory, open_artefact, proc_path};
use crate::guest::{ComponentState, GuestError, Linked, ModuleState, Stdio, Template, link};
use crate::http::Server;
use crate::jail::{self, Jail, JailError};
use crate::log::Log;
use crate::mounts::{self, MountError};
use crate::stamp;
use crate::stream::Streams;

/// Exit code of a sandbox that was not started by an agent, as of a wrong command line.
const USAGE: i32 = 2;
/// Exit code of a sandbox whose artefact cannot be loaded; no record goes with it.
const UNLOADABLE: i32 = 1;
/// Connections that may wait to be accepted: as many as are served at once.
const BACKLOG: i32 = crate::http::CONNECTIONS as i32;
/// The first number for the inherited descriptors, past the standard ones.
const FIRST_FD: i32 = 3;

/// Why the guest was not started.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("cannot ask for a signal at the agent's death")]
    ParentDeath(#[source] Errno),
    #[error("cannot forbid core dumps")]
    CoreDumps(#[source] Errno),
    #[error(transparent)]
    Enter(#[from] EnterError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the event loop")]
    EventLoop(#[source] io::Error),
    #[error("cannot wait for the guest's standard streams")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("cannot write that the guest is launched")]
    Launched(#[source] StateError),
}

impl StartError {
    /// Whether the artefact is at fault, which the agent makes anew.
    fn is_of_the_artefact(&self) -> bool {
        match self {
            Self::Files(FilesError::Artefact { source, .. }) => {
                source.kind() == io::ErrorKind::NotFound
            }
            Self::Guest(GuestError::Load { .. }) => true,
            Self::Guest(GuestError::Engine(_) | GuestError::Link(_) | GuestError::NoStart)
            | Self::Agent(_)
            | Self::ParentDeath(_)
            | Self::CoreDumps(_)
            | Self::Enter(_)
            | Self::Mount(_)
            | Self::Files(FilesError::Directory { .. })
            | Self::Listen { .. }
            | Self::EventLoop(_)
            | Self::Streams(_)
            | Self::Jail(_)
            | Self::Launched(_) => false,
        }
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}

/// The three descriptors of a sandbox, moved out of the way of stray reads and writes.
struct Inherited {
    listener: OwnedFd,
    state: StateFile,
    log: OwnedFd,
}

impl Inherited {
    /// Takes descriptors 0, 1 and 2 to other numbers and leaves `/dev/null` in their places: no
    /// print of any library may hit the state file, nor come into the log as half a line.
    fn take() -> Result<Self, Box<dyn StdError>> {
        let listener = fcntl_dupfd_cloexec(stdin(), FIRST_FD)?;
        let state = StateFile::from_fd(fcntl_dupfd_cloexec(stdout(), FIRST_FD)?)?;
        let log = fcntl_dupfd_cloexec(stderr(), FIRST_FD)?;
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(Self { listener, state, log })
    }
}

/// Runs one guest as the agent describes it, and ends the process.
///
/// Takes what it needs from three descriptors: 0 is a listening Unix socket to which the agent has
/// connected, 1 the locked state file of the container attempt, 2 its log, open for appending.
/// The process's exit code is that of the exit record.
pub fn run() -> ! {
    let code = match Inherited::take() {
        Ok(inherited) => run_with(inherited),
        Err(e) => {
            let text = format!(
                "copepod-sandbox runs a container for copepod and is started by it, with a state \
                 file as its standard output: {}\n",
                chain(&*e)
            );
            // Nobody is left to be told if this fails as well.
            let _ = rustix::io::write(stderr(), text.as_bytes());
            USAGE
        }
    };
    std::process::exit(code)
}

fn run_with(Inherited { listener, state, log }: Inherited) -> i32 {
    let state = Arc::new(state);
    let of_panics = state.clone();
    std::panic::set_hook(Box::new(move |panic| {
        // The process is about to abort: its wait status is all that is left if this fails.
        let _ = of_panics.set_exit(&exit::panicked(panic.to_string()));
    }));
    let accepted = match Agent::accept(listener) {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return 0,
        Err(e) => return record(&state, &exit::not_started(chain(&e))),
    };
    let agent = accepted.agent.clone();
    let log = Log::new(log, accepted.description.log_limit_bytes, agent.clone());
    match prepare(accepted, &log) {
        Ok(Some(ready)) => run_guest(ready, &state, &agent, &log),
        Ok(None) => 0,
        Err(e) if e.is_of_the_artefact() => {
            agent.tell(&FromSandbox::Unloadable(chain(&e)));
            UNLOADABLE
        }
        Err(e) => not_started(chain(&e), &state, &agent),
    }
}

fn not_started(text: String, state: &StateFile, agent: &Agent) -> i32 {
    let code = record(state, &exit::not_started(text.clone()));
    agent.tell(&FromSandbox::Failed(text));
    code
}

/// Writes the exit record. Without it (a full disk) the agent still has the process's exit code.
fn record(state: &StateFile, exit: &Exit) -> i32 {
    let _ = state.set_exit(exit);
    exit.code
}

/// A guest that only has to be instantiated.
struct Ready {
    runtime: Runtime,
    entry: Entry,
    streams: Option<Streams>,
}

enum Entry {
    Module(Store<ModuleState>, InstancePre<ModuleState>),
    Component(Store<ComponentState>, CommandPre<ComponentState>),
    Http(Server),
}

/// All that comes before the guest, up to and with the jail. `None`: the agent has gone, and its
/// sandboxes are to go with it.
fn prepare(accepted: Accepted, log: &Log) -> Result<Option<Ready>, StartError> {
    let Accepted { agent, mut description, streams } = accepted;
    let with_agent = description.die_with_agent;
    if with_agent {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(StartError::ParentDeath)?;
        // An agent that died before sends no signal any more.
        if agent.gone() {
            return Ok(None);
        }
    }
    enter::enter(&description)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(StartError::CoreDumps)?;
    mounts::make(&description.mounts, &description.preopens)?;
    let directories =
        description.preopens.iter().map(OpenDirectory::open).collect::<Result<Vec<_>, _>>()?;
    let artefact = open_artefact(&description.artefact)?;
    let linked = link(description.kind, &proc_path(&artefact), &description.artefact)?;
    drop(artefact);
    let listeners = description.listen.iter().map(listen).collect::<Result<Vec<_>, _>>()?;

    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::EventLoop)?;
    let entered = runtime.enter();
    let streams = streams.map(Streams::new).transpose().map_err(StartError::Streams)?;
    let stdio = match &streams {
        Some(streams) => Stdio::Streams(streams.clone()),
        None => stdio(&agent, log, &description),
    };
    let template = Template::new(&mut description, &directories, stdio)?;
    template.follow(&agent);
    let entry = match linked {
        Linked::P1(pre) => Entry::Module(template.module_store(pre.module().engine()), pre),
        Linked::P2(pre) => Entry::Component(template.component_store(pre.engine()), pre),
        Linked::Http(pre) => {
            let grace = description.grace_seconds;
            let server = Server::new(pre, template, log.clone(), listeners, grace);
            Entry::Http(server.map_err(StartError::EventLoop)?)
        }
    };
    drop(entered);
    let kept: Vec<_> = directories.iter().map(OpenDirectory::kept).collect();
    jail::enter(&Jail {
        user: description.user.as_ref(),
        directories: &kept,
        die_with_parent: with_agent,
    })?;
    // A change of credentials has cleared the signal for a moment.
    if with_agent && agent.gone() {
        return Ok(None);
    }
    Ok(Some(Ready { runtime, entry, streams }))
}

/// The streams of a container: its log, and the clients that the agent attaches. To be called within
/// the event loop's context.
fn stdio(agent: &Agent, log: &Log, description: &Description) -> Stdio {
    // A server's guests are many, and none of them is who a client means.
    let reads = description.stdin != Stdin::Closed && description.kind != GuestKind::Http;
    let input = reads.then(|| Input::new(description.stdin));
    if let Some(input) = &input {
        agent.set_input(input.clone());
    }
    tokio::spawn(attend(agent.clone(), log.clone()));
    Stdio::Log(log.clone(), input)
}

/// Binds one address; std asks for `SO_REUSEADDR`, so that a restart has its port at once.
fn listen(address: &SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Listen { address: *address, source })
}

/// Runs the guest to its end and records it; gives the process's exit code.
fn run_guest(ready: Ready, state: &StateFile, agent: &Agent, log: &Log) -> i32 {
    let launch =
        Launch { pid: getpid().as_raw_nonzero().get().cast_unsigned(), at_ns: stamp::now_ns() };
    if let Err(e) = state.set_launched(&launch) {
        return not_started(chain(&StartError::Launched(e)), state, agent);
    }
    let Ready { runtime, entry, streams } = ready;
    let started = || agent.tell(&FromSandbox::Started);
    let run = match entry {
        Entry::Module(store, pre) => runtime.block_on(run_module(store, pre, started)),
        Entry::Component(store, pre) => runtime.block_on(run_component(store, pre, started)),
        Entry::Http(server) => {
            started();
            Run::Ended(runtime.block_on(server.serve()))
        }
    };
    if let Some(mut streams) = streams {
        runtime.block_on(streams.finish());
    }
    log.finish();
    match run {
        Run::Ended(exit) => record(state, &exit),
        Run::NotStarted(text) => not_started(text, state, agent),
    }
}
