//! The compile job, seen from the agent: one child process with a file in, a file out, a text back.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::compiler::{EXIT_REFUSED, Report};
use crate::linux::compile_jail::{CPU_SECONDS, MEMORY_BYTES};

/// Most bytes of the job's text that are read: an error of wasmtime is a few lines.
const TEXT_MAX: u64 = 64 << 10;
/// Most bytes of it that an error shows.
const SHOWN_MAX: usize = 2 << 10;
/// Longest run of a job: ten times its CPU time, for a machine that is busy with ten others.
const WALL_MAX: Duration = Duration::from_secs(600);
/// Threads of the compiler: each costs address space, of which a job has little, and more than
/// this do not help a file of one guest.
const THREADS_MAX: usize = 4;

/// Why a compile job gave no artefact.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    /// It could not be started or waited for.
    #[error("cannot {0} the compile job")]
    Run(&'static str, #[source] io::Error),
    /// What it was given is not a guest that can be run.
    #[error("{0}")]
    Refused(String),
    /// The compiler's own error, with its causes.
    #[error("{0}")]
    Failed(String),
    /// It used up its CPU time.
    #[error("took more than {CPU_SECONDS} s of CPU time")]
    CpuTime,
    /// It used up its address space.
    #[error("needs more than {} GiB of memory", gib(MEMORY_BYTES))]
    Memory,
    /// It was too slow for another reason than its own work.
    #[error("took longer than {} s", WALL_MAX.as_secs())]
    Time,
    /// Something else ended it.
    #[error("the compile job ended by {status}{}", after(.text))]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it wrote before.
        text: String,
    },
    /// It ended well and did not say what it made.
    #[error("the compile job gave no report")]
    NoReport,
}

/// What a job is to do.
pub(super) enum Job {
    /// To write an artefact into this file.
    Compile(File),
    /// To say what a guest imports and exports.
    Inspect,
}

/// Runs `program compile --job` on the Wasm in `wasm`, from its present position, and gives what it
/// says about it.
///
/// The child is killed when this future is dropped and when the calling thread ends.
pub(super) async fn run(program: &Path, wasm: File, job: Job) -> Result<Report, JobError> {
    let (args, stdout) = match job {
        Job::Compile(artefact) => (vec!["compile", "--job"], Stdio::from(artefact)),
        Job::Inspect => (vec!["compile", "--job", "--inspect"], Stdio::null()),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        // glibc reserves 64 MiB of address space an arena, and has eight arenas a processor.
        .env("MALLOC_ARENA_MAX", threads.to_string())
        .stdin(wasm)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| JobError::Run("start", e))?;
    match timeout(WALL_MAX, outcome(&mut child)).await {
        Ok(outcome) => outcome.and_then(|(status, text)| judge(status, &text)),
        Err(_) => {
            child.kill().await.map_err(|e| JobError::Run("kill", e))?;
            Err(JobError::Time)
        }
    }
}

async fn outcome(child: &mut Child) -> Result<(ExitStatus, String), JobError> {
    let mut text = Vec::new();
    if let Some(pipe) = child.stderr.take() {
        let read = pipe.take(TEXT_MAX).read_to_end(&mut text).await;
        read.map_err(|e| JobError::Run("hear", e))?;
    }
    let status = child.wait().await.map_err(|e| JobError::Run("wait for", e))?;
    Ok((status, plain(&text)))
}

fn judge(status: ExitStatus, text: &str) -> Result<Report, JobError> {
    let shown = || text[..text.floor_char_boundary(SHOWN_MAX)].to_owned();
    let signal = |wanted: Signal| status.signal() == Some(wanted.as_raw());
    if status.success() {
        return serde_json::from_str(text).map_err(|_| JobError::NoReport);
    }
    if signal(Signal::XCPU) {
        return Err(JobError::CpuTime);
    }
    // What Rust's allocator says before it aborts.
    if signal(Signal::ABORT) && text.contains("memory allocation of") {
        return Err(JobError::Memory);
    }
    match status.code() {
        Some(code) if code == i32::from(EXIT_REFUSED) => Err(JobError::Refused(shown())),
        Some(1) if !text.is_empty() => Err(JobError::Failed(shown())),
        Some(_) | None => Err(JobError::Ended { status, text: shown() }),
    }
}

/// The job's text for a terminal: names of a module stand in it, which may hold anything.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().replace(|c: char| c.is_control() && c != '\n', " ")
}

fn after(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_own_text() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let kill = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        let text = |status, text| judge(status, text).unwrap_err().to_string();
        assert_eq!(text(kill(Signal::XCPU), ""), "took more than 60 s of CPU time");
        let no_memory = "memory allocation of 4096 bytes failed";
        assert_eq!(text(kill(Signal::ABORT), no_memory), "needs more than 1.5 GiB of memory");
        assert_eq!(text(exit(1), "a: b"), "a: b");
        assert_eq!(plain(b" no \x1b[31m\xff\nimport \r "), "no  [31m\u{fffd}\nimport");
        assert_eq!(text(exit(EXIT_REFUSED.into()), "not a Wasm binary"), "not a Wasm binary");
        assert_eq!(text(exit(0), "hello"), "the compile job gave no report");
        let killed = text(kill(Signal::KILL), "");
        assert_eq!(killed, "the compile job ended by signal: 9 (SIGKILL)");
        assert!(text(exit(101), "panicked").ends_with("exit status: 101: panicked"));
        assert!(text(exit(1), &"ü".repeat(40_000)).len() <= SHOWN_MAX);
    }
}
