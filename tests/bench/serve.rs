//! Requests per second, their 99th percentile, and the processor time of each, by `wrk`.
//!
//! A sandbox serves on one thread, `wasmtime serve` on as many as there are processors. So both are
//! measured twice: as they come, and each on a processor of its own with `wrk` on another. The
//! processor time of a request hardly depends on what else the machine does.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use copepod_tests::Home;

use crate::measure::Sample;
use crate::program::{Programs, Server};
use crate::report::{Aim, Report, Row};
use crate::start::{free_port, http_pod, wait_answer};

/// Connections that ask at once.
const CONNECTIONS: [u32; 3] = [1, 16, 128];
/// Rounds of each, in turn with the others.
const ROUNDS: usize = 3;
/// Seconds of each.
const SECONDS: u32 = 3;
/// What is asked for: a short answer, a line of text.
const PATH: &str = "/hello";
/// Where a server and `wrk` run when each has a processor of its own.
const SERVER: usize = 0;
const CLIENT: usize = 1;

/// A server that is up.
struct Contender {
    server: Server,
    port: u16,
    pinned: bool,
}

/// What one run of `wrk` found.
struct Round {
    per_second: f64,
    p99_ms: f64,
    cpu_us: f64,
}

/// The rows of this part.
pub(crate) fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    ensure!(std::thread::available_parallelism()?.get() > CLIENT, "this takes two processors");
    let home = Home::with_empty_cache();
    for pinned in [true, false] {
        report.head(if pinned { "http, on one processor" } else { "http, on all processors" });
        let mut contenders = [
            start(programs, &home, true, pinned).context("copepod")?,
            start(programs, &home, false, pinned).context("wasmtime serve")?,
        ];
        for connections in CONNECTIONS {
            let mut rounds = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (contender, rounds) in contenders.iter_mut().zip(&mut rounds) {
                    rounds.push(round(programs, contender, connections)?);
                }
            }
            let sample = |of: fn(&Round) -> f64| {
                let [ours, theirs] =
                    rounds.each_ref().map(|rounds| Sample::new(rounds.iter().map(of).collect()));
                (ours, Some(theirs))
            };
            let n = format!("{connections} connection{}", if connections == 1 { "" } else { "s" });
            let (copepod, other) = sample(|round| round.per_second);
            let aim = Aim::NotLess;
            report.row(Row { what: n.clone(), unit: "1/s", copepod, other, aim });
            let (copepod, other) = sample(|round| round.p99_ms);
            let what = format!("{n}, 99th percentile");
            report.row(Row { what, unit: "ms", copepod, other, aim: Aim::None });
            let (copepod, other) = sample(|round| round.cpu_us);
            let what = format!("{n}, processor time of each");
            report.row(Row { what, unit: "us", copepod, other, aim: Aim::None });
        }
    }
    Ok(())
}

fn start(programs: &Programs, home: &Home, ours: bool, pinned: bool) -> Result<Contender> {
    let port = free_port()?;
    let mut command = if ours {
        programs.copepod_run(home, &http_pod(home, port)?)
    } else {
        programs.wasmtime_serve(home, port)
    };
    if pinned {
        command = programs.pinned(&command, SERVER);
    }
    let mut server = Server::start(command)?;
    wait_answer(&mut server, port)?;
    Ok(Contender { server, port, pinned })
}

fn round(programs: &Programs, contender: &mut Contender, connections: u32) -> Result<Round> {
    contender.server.lives()?;
    let mut command = Command::new(&programs.wrk);
    command.args(["--threads", "1", "--latency"]);
    command.args(["--connections", &connections.to_string(), "--duration", &format!("{SECONDS}s")]);
    command.arg(format!("http://127.0.0.1:{}{PATH}", contender.port));
    if contender.pinned {
        command = programs.pinned(&command, CLIENT);
    }
    let before = processor_time(contender.server.pid())?;
    let out = command.output().context("run wrk")?;
    let used = processor_time(contender.server.pid())? - before;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "wrk failed: {text}{}", String::from_utf8_lossy(&out.stderr));
    for wrong in ["Non-2xx", "Socket errors"] {
        ensure!(!text.contains(wrong), "not all requests were answered well:\n{text}");
    }
    let [per_second, p99_ms, requests] = read(&text).with_context(|| text.into_owned())?;
    Ok(Round { per_second, p99_ms, cpu_us: used * 1e6 / requests })
}

/// Requests per second, the 99th percentile in milliseconds and the count of requests, out of what
/// `wrk` prints.
fn read(text: &str) -> Option<[f64; 3]> {
    let after = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    let per_second = after("Requests/sec:")?.parse().ok()?;
    let p99 = after("99%")?;
    let unit = p99.find(|c: char| c.is_ascii_alphabetic())?;
    let ms = match &p99[unit..] {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    let p99 = p99[..unit].parse::<f64>().ok()? * ms;
    let total = text.lines().find_map(|line| line.trim().split_once(" requests in "))?;
    Some([per_second, p99, total.0.parse().ok()?])
}

/// Seconds of processor time that a process and its children have used.
fn processor_time(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        // Of those that end meanwhile nothing is left to be read; none of ours does.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name, which may hold anything: state, parent, …
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = tail.split(' ').collect();
        let is_it = head.split(' ').next() == Some(&pid.to_string());
        if is_it || fields.get(1) == Some(&pid.to_string().as_str()) {
            let used = fields.iter().skip(11).take(2).flat_map(|n| n.parse::<u64>());
            ticks += used.sum::<u64>();
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
