//! `copepod check`: all that `run` does before the first start, and nothing else.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use copepod_wasm::GuestKind;
use serde_json::{Value, json};

use super::load::{self, Candidate, Module, Plan};
use crate::cli::compile::bar_or_quiet;
use crate::cli::print;
use crate::cli::registry::RegistryArgs;
use crate::image::Images;
use crate::ledger::home;
use crate::worker::Host;

/// Tell what of pod files would not run on this machine, and what would differ from a cluster.
///
/// Does what run does before the first start: images are pulled and compiled, the host's
/// directories and ports are looked at. Nothing is started. The exit code is 1 if anything would
/// not run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pod files (YAML of one or more documents, or JSON; - is standard input), or .wasm files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to print: lines for people, or one JSON object
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
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
    Text,
    Json,
}

/// Runs the command.
///
/// # Errors
/// A cache directory that cannot be used, or an output that cannot be written.
pub(crate) async fn run(args: Args) -> Result<u8> {
    let host = Host::alone(&home::state());
    let mut plan = Plan::read(&args.files, &[], &host);
    if let Err(error) = super::sandbox(args.sandbox) {
        plan.problems.push(format!("{error:#}"));
    }
    plan.look_at_host_paths();
    let images = Images::open(args.cache_dir.unwrap_or_else(home::cache), "/proc/self/exe".into())?;
    let images = images.with_registries(args.registry.options());
    plan.prepare(&images, &*bar_or_quiet()).await;
    plan.look_at_ports(&host.facts().addresses.pod_ips);
    let text = match args.output {
        Output::Text => text(&plan, &host),
        Output::Json => format!("{:#}\n", object(&plan, &host)),
    };
    print(text.as_bytes())?;
    Ok(u8::from(plan.all_problems().next().is_some()))
}

fn text(plan: &Plan, host: &Host) -> String {
    let mut text = String::new();
    for problem in &plan.problems {
        let _ = writeln!(text, "wrong: {problem}");
    }
    for pod in &plan.pods {
        let Candidate { loaded, problems, .. } = pod;
        let sound = if problems.is_empty() { "can run" } else { "cannot run" };
        let _ = writeln!(text, "pod {}: {sound}", loaded.name());
        for module in &loaded.modules {
            let Module { container, image, kind, .. } = module;
            let url = module.url().map(|url| format!(", {url}")).unwrap_or_default();
            let _ = writeln!(text, "  container {container}: {image}, {}{url}", kind_text(*kind));
        }
        for problem in problems {
            let _ = writeln!(text, "  wrong: {problem}");
        }
        for notice in load::notices(loaded, host) {
            let _ = writeln!(text, "  differs: {}: {}", notice.field, notice.text);
        }
    }
    text
}

fn object(plan: &Plan, host: &Host) -> Value {
    let pods = plan.pods.iter().map(|Candidate { loaded, source, problems }| {
        let notices = load::notices(loaded, host).into_iter();
        let containers = loaded.modules.iter().map(|module| {
            json!({
                "name": module.container,
                "image": module.image,
                "imageID": module.image_id,
                "kind": kind_text(module.kind),
                "url": module.url(),
            })
        });
        json!({
            "namespace": loaded.pod.metadata.namespace,
            "name": loaded.name(),
            "source": source,
            "problems": problems,
            "notices": notices
                .map(|notice| json!({"field": notice.field, "text": notice.text}))
                .collect::<Vec<_>>(),
            "containers": containers.collect::<Vec<_>>(),
        })
    });
    json!({
        "ok": plan.all_problems().next().is_none(),
        "problems": plan.problems,
        "pods": pods.collect::<Vec<_>>(),
    })
}

/// What a module is, as README's table has it.
fn kind_text(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::P1Command => "module of WASI 0.1",
        GuestKind::P2Command => "component of WASI 0.2",
        GuestKind::Http => "HTTP server (wasi:http)",
    }
}
