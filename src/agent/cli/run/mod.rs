//! `copepod run`: pods of files on this machine, with no cluster.
//!
//! [`load`] makes pods of the files, [`session`] runs them to their end, [`screen`] shows them,
//! [`board`] is where others ask about them. [`check`] stops after the first.

mod board;
pub(super) mod check;
mod display;
mod load;
mod ports;
mod report;
mod screen;
mod session;
mod watch;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::net::UnixListener;

use self::board::Board;
use self::load::{Loaded, Plan};
use self::screen::Screen;
use self::session::Session;
use super::compile::bar_or_quiet;
use super::registry::RegistryArgs;
use crate::image::Images;
use crate::ledger::{self, Ledger, home};
use crate::linux;
use crate::metrics::Metrics;
use crate::runtime::wasm::{Wasm, end_leftovers};
use crate::server::Server;
use crate::telemetry::chain;
use crate::worker::{Host, Shared, Silent, Workers};

/// Run the pods of files on this machine, with no cluster.
///
/// Images are references, or paths: ./FILE.wasm (from the pod file's folder), an absolute path or
/// file://.
/// Ends when every pod has: with the first exit code that is not 0, in the order of the files.
/// Ctrl-C stops the pods within their grace periods, a second one at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Pod files (YAML of one or more documents, or JSON; - is standard input), or a .wasm file
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Arguments of a bare .wasm file
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    /// What to print: logs, or a JSON line with the pod's status at each change (logs then go to
    /// standard error)
    #[arg(long, short, value_enum, default_value = "logs")]
    output: Output,
    /// Restart a container when its Wasm file changes, and run until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// Directory of the pods' state, kept by one copepod at a time [default: a new one]
    #[arg(long, value_name = "DIR")]
    root_dir: Option<PathBuf>,
    /// Directory of compiled images
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The sandbox program [default: copepod-sandbox beside this program]
    #[arg(long, value_name = "FILE", env = "COPEPOD_SANDBOX")]
    sandbox: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Logs,
    Json,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the pods from being started; nothing is left behind then.
pub(super) async fn run(args: Args) -> Result<u8> {
    let sandbox = sandbox(args.sandbox)?;
    let host = Host::alone(&home::state());
    let mut plan = Plan::read(&args.files, &args.args, &host);
    plan.sound()?;
    let cache = args.cache_dir.unwrap_or_else(home::cache);
    let images = Images::open(cache, "/proc/self/exe".into())?;
    let images = images.with_registries(args.registry.options());
    plan.look_at_host_paths();
    plan.sound()?;
    plan.prepare(&images, &*bar_or_quiet()).await;
    plan.sound()?;
    plan.look_at_ports(&host.facts().addresses.pod_ips);
    plan.sound()?;
    let loaded = plan.into_pods();

    let (screen, failed) =
        Screen::new(args.output == Output::Json).context("cannot start a thread")?;
    for notice in notices(&loaded, &host) {
        screen.note(&notice);
    }
    if !linux::has_landlock() {
        screen
            .note("this kernel has no landlock: wasmtime and seccomp alone keep guests off files");
    }
    let ledger = Arc::new(open_ledger(args.root_dir)?);
    let (wasm, happenings) = Wasm::open(Arc::clone(&ledger), sandbox);
    let listener = listen(&ledger)?;
    let metrics = Metrics::new()?;
    let shared = Shared { runtime: wasm, images, ledger: Arc::clone(&ledger), host, metrics };
    let shared = Arc::new(shared);
    let board = Board::new(Arc::clone(&shared));
    let server = Server::start(listener, board.clone(), Arc::clone(&shared.metrics));
    let server = server.context("cannot serve this run's pods")?;
    let changes = args.watch.then(|| watch::start(&loaded, Arc::clone(&shared)));
    let changes = changes.transpose().context("cannot watch the Wasm files")?;
    let workers = Workers::new(shared, happenings, Arc::new(Silent));
    let session = Session::new(workers, Arc::clone(&ledger), board, (screen, failed), changes);
    let code = match session.and_then(|session| session.start(loaded)) {
        Ok(session) => session.run().await,
        Err(error) => Err(error),
    };
    server.end().await;
    // What became of the pods counts; the next run removes what this one could not.
    if let Err(error) = ledger.remove() {
        tracing::warn!(error = chain(&error), "cannot clean up");
    }
    code
}

/// What a cluster's node would do and this host does not, each field once.
fn notices(loaded: &[Loaded], host: &Host) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = loaded.iter().flat_map(|pod| load::notices(pod, host));
    all.filter(|notice| seen.insert(notice.field.clone()))
        .map(|notice| format!("{}: {}", notice.field, notice.text))
        .collect()
}

/// The sandbox program: as given, else beside this one.
pub(super) fn sandbox(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()
            .context("cannot find this program's own path")?
            .with_file_name("copepod-sandbox"),
    };
    path.canonicalize().with_context(|| {
        format!(
            "cannot find the sandbox program {}: expected it beside copepod, or --sandbox FILE",
            path.display()
        )
    })
}

/// The socket on which `copepod ps` and the like find this run.
fn listen(ledger: &Ledger) -> Result<UnixListener> {
    let path = ledger.api_socket();
    // Left by an earlier agent of this root directory, which nobody else has now.
    let _ = fs::remove_file(&path);
    let private = || {
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok::<_, io::Error>(listener)
    };
    private().with_context(|| format!("cannot listen on {}", path.display()))
}

/// The root directory of this run, after whatever ended runs left was ended and removed.
fn open_ledger(root: Option<PathBuf>) -> Result<Ledger> {
    let run = home::run();
    let Some(root) = root else {
        let base = home::state();
        let ledger = Ledger::fresh(&base, &run)?;
        for old in ledger::abandoned(&base, &run)? {
            // What cannot be ended or removed now is found again by the next run.
            let done = end_leftovers(&old).map_err(anyhow::Error::from);
            if let Err(error) = done.and_then(|()| Ok(old.remove()?)) {
                tracing::warn!("cannot remove what an ended run left: {error:#}");
            }
        }
        return Ok(ledger);
    };
    let ledger = Ledger::open(&root, &run)?;
    end_leftovers(&ledger)?;
    ledger.clear()?;
    Ok(ledger)
}
