//! The compile job, seen from inside: Wasm on descriptor 0, its artefact to descriptor 1, one text
//! to descriptor 2. The only place that compiles, and the only one that parses Wasm.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use copepod_wasm::inspect::{InspectError, World, inspect, world};
use copepod_wasm::{GuestKind, engine_config};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::input::{BYTES_MAX, hex};
use crate::linux::compile_jail::{self, JailError, Limits};

/// Exit code of a job that was given something else than a guest.
pub(super) const EXIT_REFUSED: u8 = 3;

/// What a job says about what it read and made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// sha256 of the Wasm it compiled, in hex digits.
    pub(super) digest: String,
    /// How the guest is entered.
    pub(super) kind: GuestKind,
    /// What it imports and exports, of a job that was asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) world: Option<World>,
}

/// Why there is no artefact.
#[derive(Debug, Error)]
pub(super) enum CompileError {
    #[error("cannot confine the compile job")]
    Jail(#[source] JailError),
    #[error("cannot {0}")]
    Io(&'static str, #[source] io::Error),
    #[error(transparent)]
    Refused(#[from] InspectError),
    #[error("cannot compile")]
    Compile(#[source] Box<dyn Error + Send + Sync>),
}

/// Is the compile job: confines this process, reads, compiles, writes. Gives its exit code.
///
/// Call it before this process has a second thread, since the confinement holds for the calling
/// thread and those it starts.
///
/// `inspect`: compiles nothing, and says what the guest imports and exports.
pub(crate) fn job(inspect: bool) -> u8 {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    match (own(io::stdin().as_fd()), own(io::stdout().as_fd())) {
        (Ok(wasm), Ok(_)) if inspect => confined(&Limits::JOB, wasm, None),
        (Ok(wasm), Ok(artefact)) => confined(&Limits::JOB, wasm, Some(artefact)),
        (Err(e), _) | (_, Err(e)) => tell(Err(CompileError::Io("open the descriptors", e))),
    }
}

/// The job from `wasm` to `artefact` within `limits`; only a look at it without one.
pub(super) fn confined(limits: &Limits, wasm: File, artefact: Option<File>) -> u8 {
    let jail = compile_jail::enter(limits, io::stderr().as_fd());
    tell(jail.map_err(CompileError::Jail).and_then(|()| translate(wasm, artefact)))
}

/// Says on standard error how it ended, and gives the exit code.
fn tell(result: Result<Report, CompileError>) -> u8 {
    let (text, code) = match result {
        Ok(report) => (serde_json::to_string(&report).unwrap_or_default(), 0),
        Err(error @ CompileError::Refused(_)) => (chain(&error), EXIT_REFUSED),
        Err(error) => (chain(&error), 1),
    };
    // Who does not hear it is gone, and then so are we.
    let _ = io::stderr().write_all(text.as_bytes());
    code
}

fn translate(mut wasm: impl Read, artefact: Option<File>) -> Result<Report, CompileError> {
    let mut bytes = Vec::new();
    let read = wasm.by_ref().take(BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|e| CompileError::Io("read the Wasm file", e))?;
    let kind = inspect(&bytes)?;
    let digest = hex(&Sha256::digest(&bytes));
    let Some(mut artefact) = artefact else {
        return Ok(Report { digest, kind, world: Some(world(&bytes)?) });
    };
    let failed = |e: wasmtime::Error| CompileError::Compile(e.into());
    let engine = wasmtime::Engine::new(&engine_config()).map_err(failed)?;
    let code = match kind {
        GuestKind::P1Command => engine.precompile_module(&bytes),
        GuestKind::P2Command | GuestKind::Http => engine.precompile_component(&bytes),
    };
    let code = code.map_err(failed)?;
    artefact.write_all(&code).map_err(|e| CompileError::Io("write the artefact", e))?;
    // Under its final name after a power loss it must be whole.
    artefact.sync_all().map_err(|e| CompileError::Io("write the artefact", e))?;
    Ok(Report { digest, kind, world: None })
}

/// The error and its causes in one line; our own first words only where they say something.
fn chain(error: &CompileError) -> String {
    let mut cause = match error {
        CompileError::Compile(source) => Some(&**source as &dyn Error),
        CompileError::Jail(_) | CompileError::Io(..) | CompileError::Refused(_) => {
            Some(error as &dyn Error)
        }
    };
    let mut text = String::new();
    while let Some(error) = cause {
        let separator = if text.is_empty() { "" } else { ": " };
        // Into a String it cannot fail.
        let _ = write!(text, "{separator}{error}");
        cause = error.source();
    }
    text
}
