//! The command line: what was typed, handed to the command that it means, and the one place
//! where an error is printed.
//!
//! Owns: the arguments, the exit code, everything shown on the terminal. Each command is a module;
//! it alone joins the rooms that it needs.

mod api;
pub(crate) mod compile;
mod completions;
mod exec;
mod find;
mod image;
mod logs;
mod node;
mod ps;
mod registry;
mod run;
mod stop;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};

use crate::{linux, telemetry};

/// A lightweight Kubernetes node agent that runs pods as Wasm.
#[derive(Debug, Parser)]
#[command(name = "copepod", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Node(Box<node::Args>),
    Check(run::check::Args),
    Ps(ps::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Stop(stop::Args),
    Compile(compile::Args),
    Completions(completions::Args),
    Image(image::Args),
}

/// Reads the command line, runs the command and gives the process's exit code: 0, 1 for an error
/// of ours (printed here, once), 2 for a wrong command line (clap), else what the command says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // A node's configuration says how much it logs.
    if !matches!(cli.command, Command::Node(_)) {
        telemetry::init(None);
    }
    // A half-dead agent is worse than one that is started again: a panic of any task ends it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    linux::raise_descriptor_limit();
    let result = match cli.command {
        Command::Run(args) => on_one_thread(run::run(args)),
        Command::Node(args) => on_one_thread(node::run(*args)),
        Command::Check(args) => on_one_thread(run::check::run(args)),
        Command::Ps(args) => on_one_thread(ps::run(args)),
        Command::Logs(args) => on_one_thread(logs::run(args)),
        Command::Exec(args) => on_one_thread(exec::run(args)),
        Command::Stop(args) => on_one_thread(stop::run(args)),
        Command::Compile(args) => compile::run(args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Image(args) => on_one_thread(image::run(args)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Threads for what waits for a disk, at most: each costs memory, and more of them than this only
/// wait for the same disk.
const BLOCKING_THREADS: usize = 8;

/// Runs a command on one thread, which waits; the processes that it starts end with that thread.
fn on_one_thread(command: impl Future<Output = Result<u8>>) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the event loop")?;
    let code = runtime.block_on(command);
    // Without waiting for a read of standard input, a display whose reader stalls, a look-up.
    runtime.shutdown_background();
    code
}

/// A line of our own, on standard error.
fn note(text: &str) {
    // Where nobody listens, the exit code is all there is.
    let _ = writeln!(io::stderr(), "copepod: {text}");
}

/// Writes to standard output; `false` when nobody reads any more, as in `copepod ps | head -1`.
///
/// # Errors
/// Any other reason why it could not be written.
fn print(text: &[u8]) -> Result<bool> {
    let mut out = io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("cannot write to standard output"),
    }
}
