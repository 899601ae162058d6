//! `copepod image`: images of registries, there and in this host's store.

mod show;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;

use self::show::Show;
use super::compile::bar_or_quiet;
use super::registry::RegistryArgs;
use crate::image::{ImageRequest, Images, PullPolicy};
use crate::ledger::home;
use crate::telemetry;

/// The variable that fixes a build's time, so that the same input gives the same image.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Push, pull, list and remove images.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Push a Wasm file as an image (a CNCF Wasm artefact)
    Push {
        /// The Wasm file, a module or a component
        file: PathBuf,
        /// The image's name, with its registry: HOST/NAME[:TAG]
        image: String,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Pull images into this host's store
    Pull {
        /// Their names
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// List the images of this host's store
    Ls {
        #[command(flatten)]
        common: Common,
    },
    /// Remove images from this host's store
    Rm {
        /// Their names
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Remove every image that no running copepod uses
    Prune {
        #[command(flatten)]
        common: Common,
    },
}

/// What each of the commands takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// What to print: text for people, or a JSON object an image
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// Directory of images
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the command and gives its exit code: 1 if one of several images was not to be had.
///
/// # Errors
/// What keeps the command from doing anything, and a result that cannot be written.
pub(super) async fn run(args: Args) -> Result<u8> {
    match args.command {
        Command::Push { file, image, common, registry } => {
            let (images, show) = open(common, registry)?;
            show.pushed(&file, &images.push(&file, &image, created()?).await?)
        }
        Command::Pull { images: names, common, registry } => {
            let (images, show) = open(common, registry)?;
            pull(&images, &names, &show).await
        }
        Command::Ls { common } => {
            let (images, show) = open(common, RegistryArgs::default())?;
            show.listed(&images.list().await?)
        }
        Command::Rm { images: names, common } => {
            let (images, show) = open(common, RegistryArgs::default())?;
            let mut code = 0;
            for name in &names {
                let there = images.remove(name).await?;
                show.removed(name, there)?;
                code = if there { code } else { 1 };
            }
            Ok(code)
        }
        Command::Prune { common } => {
            let (images, show) = open(common, RegistryArgs::default())?;
            show.pruned(&images.prune().await?)
        }
    }
}

fn open(common: Common, registry: RegistryArgs) -> Result<(Images, Show)> {
    let cache = common.cache_dir.unwrap_or_else(home::cache);
    let images = Images::open(cache, "/proc/self/exe".into())?;
    let json = common.output == Output::Json;
    Ok((images.with_registries(registry.options()), Show { json }))
}

/// Pulls all of them, whatever became of those before.
async fn pull(images: &Images, names: &[String], show: &Show) -> Result<u8> {
    let progress = bar_or_quiet();
    let here = std::env::current_dir().context("cannot find the current directory")?;
    let mut code = 0;
    for name in names {
        let policy = PullPolicy::Always;
        let request =
            ImageRequest { image: name, base: &here, policy, command: None, secrets: None };
        match images.pull(request, &*progress).await {
            Ok(pulled) => show.pulled(&pulled)?,
            Err(error) => {
                code = 1;
                show.failed(name, error.reason(), &telemetry::chain(&error))?;
            }
        }
    }
    Ok(code)
}

/// Now, or what `SOURCE_DATE_EPOCH` says.
fn created() -> Result<Timestamp> {
    let Some(text) = std::env::var_os(EPOCH) else { return Ok(Timestamp::now()) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    match seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(created) => Ok(created),
        None => bail!("{EPOCH}: {text:?}, expected seconds since 1970"),
    }
}
