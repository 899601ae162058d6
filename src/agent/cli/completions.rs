//! `copepod completions`: what a shell reads to complete our command lines.

use anyhow::Result;
use clap_complete::Shell;

use super::print;

/// Print a script that completes copepod's command line.
///
/// For bash: copepod completions bash > ~/.local/share/bash-completion/completions/copepod
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell that reads it
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script for the whole of `command`.
///
/// # Errors
/// An output that cannot be written.
pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "copepod", &mut script);
    print(&script)?;
    Ok(0)
}
