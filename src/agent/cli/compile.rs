//! `copepod compile`: fills the cache of compiled images, and is the compile job itself.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;

use crate::image::{
    ImageError, ImageRequest, Images, NameError, Prepared, Progress, PullPolicy, Quiet, Spinner,
    compiler,
};
use crate::ledger::home;
use crate::telemetry;

/// Compile Wasm files into the cache, so that their first start waits for nothing.
///
/// All files are tried; the exit code is 1 if one of them could not be compiled.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wasm files
    #[arg(required_unless_present = "job", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to print: a line for people, or a JSON object a file
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// Directory of compiled images
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Be the compile job: Wasm on descriptor 0, artefact to 1, one text to 2
    #[arg(long, hide = true, conflicts_with_all = ["files", "output", "cache_dir"])]
    job: bool,
    /// As a job, say what the Wasm imports and exports, and compile nothing
    #[arg(long, hide = true, requires = "job")]
    inspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the command and gives its exit code.
///
/// # Errors
/// A cache directory that cannot be used, or an output that cannot be written.
pub(super) fn run(args: Args) -> Result<u8> {
    if args.job {
        return Ok(compiler::job(args.inspect));
    }
    super::on_one_thread(files(args))
}

async fn files(args: Args) -> Result<u8> {
    let cache = args.cache_dir.unwrap_or_else(home::cache);
    let images = Images::open(cache, "/proc/self/exe".into())?;
    let here = std::env::current_dir().context("cannot find the current directory")?;
    let progress = bar_or_quiet();
    let mut code = 0;
    for file in &args.files {
        let begin = Instant::now();
        let result = prepare(&images, file, &here, &*progress).await;
        if result.is_err() {
            code = 1;
        }
        show(args.output, file, result.as_ref(), begin.elapsed())
            .context("cannot write the result")?;
    }
    Ok(code)
}

/// Prepares a file, which is a path however it is written, unlike an image of a pod.
async fn prepare(
    images: &Images,
    file: &Path,
    here: &Path,
    progress: &dyn Progress,
) -> Result<Prepared, ImageError> {
    let name = file
        .to_str()
        .ok_or_else(|| ImageError::name(&file.display().to_string(), NameError::Format))?;
    let bare = !["/", "./", "../", "file://"].iter().any(|start| name.starts_with(start));
    let name = if bare { format!("./{name}") } else { name.to_owned() };
    let policy = PullPolicy::IfNotPresent;
    let request = ImageRequest { image: &name, base: here, policy, command: None, secrets: None };
    images.prepare(request, progress).await
}

fn show(
    output: Output,
    file: &Path,
    result: Result<&Prepared, &ImageError>,
    took: Duration,
) -> io::Result<()> {
    let file = file.display().to_string();
    let milliseconds = (took.as_secs_f64() * 1e4).round() / 10.0;
    match (output, result) {
        (Output::Json, Ok(made)) => {
            let line = json!({
                "file": file,
                "image_id": made.image_id,
                "artefact": made.artefact,
                "kind": made.kind,
                "bytes": made.bytes,
                "cached": made.cached,
                "milliseconds": milliseconds,
            });
            writeln!(io::stdout(), "{line}")
        }
        (Output::Json, Err(error)) => {
            let line = json!({
                "file": file,
                "error": telemetry::chain(error),
                "reason": error.reason(),
                "milliseconds": milliseconds,
            });
            writeln!(io::stdout(), "{line}")
        }
        (Output::Text, Ok(made)) => {
            let how = if made.cached { "found" } else { "compiled" };
            let artefact = made.artefact.display();
            writeln!(io::stdout(), "{file}: {how} in {milliseconds} ms: {artefact}")
        }
        (Output::Text, Err(error)) => {
            writeln!(io::stderr(), "copepod: {}", telemetry::chain(error))
        }
    }
}

/// A spinner where standard error is a terminal, else nothing.
pub(super) fn bar_or_quiet() -> Box<dyn Progress> {
    if io::stderr().is_terminal() { Box::new(Spinner::default()) } else { Box::new(Quiet) }
}
