//! The command line: what was typed, handed to the command that it means, and the one place
//! where an error is printed.
//!
//! Owns: the arguments, the exit code, everything shown on the terminal. Each command is a module;
//! it alone joins the rooms that it needs.

pub(crate) mod compile;
mod run;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Compile(compile::Args),
}

/// Reads the command line, runs the command and gives the process's exit code: 0, 1 for an error
/// of ours (printed here, once), 2 for a wrong command line (clap), else what the command says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init();
    // A half-dead agent is worse than one that is started again: a panic of any task ends it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    linux::raise_descriptor_limit();
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Compile(args) => compile::run(args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Where nobody listens, the exit code is all there is.
            let _ = writeln!(io::stderr(), "copepod: {error:#}");
            ExitCode::FAILURE
        }
    }
}
