//! Memory as a control group counts it, the kernel's share included: of idle sandboxes, and of one
//! that has answered many requests.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use copepod_tests::driver::{Sandbox, describe};
use copepod_tests::{Home, copepod, guest, wait_until};
use copepod_wasm::GuestKind;
use serde_json::Value;

use crate::program::Programs;
use crate::report::{Aim, Report, Row};
use crate::start::free_port;

/// Sandboxes measured together, so that what is counted in pages evens out.
const SANDBOXES: u32 = 100;
/// Requests before the first look and before the second, on so many connections.
const FEW: u32 = 1_000;
const MANY: u32 = 100_000;
const CONNECTIONS: usize = 16;
/// How much more an http sandbox may hold after many requests than after few.
const GROWTH_KIB: f64 = 256.0;
/// How long anything here may take to answer.
const SOON: Duration = Duration::from_secs(10);
/// Memory is at rest when it has not fallen for so long; how often that is looked at.
const REST: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

const KIB: f64 = 1024.0;

struct Guest {
    what: &'static str,
    name: &'static str,
    kind: GuestKind,
    args: &'static [&'static str],
    most_kib: f64,
}

const GUESTS: [Guest; 3] = [
    Guest {
        what: "hello, WASI 0.1",
        name: "hello",
        kind: GuestKind::P1Command,
        args: &["hello", "--every", "3600000"],
        most_kib: 410.0,
    },
    Guest {
        what: "hello, WASI 0.2",
        name: "hello-p2",
        kind: GuestKind::P2Command,
        args: &["hello", "--every", "3600000"],
        most_kib: 490.0,
    },
    Guest { what: "http", name: "http", kind: GuestKind::Http, args: &["http"], most_kib: 560.0 },
];

/// The rows of this part.
pub(crate) fn measure(_: &Programs, report: &mut Report) -> Result<()> {
    let home = Home::with_empty_cache();
    report.head(&format!("memory, each of {SANDBOXES} idle sandboxes"));
    for guest in &GUESTS {
        let artefact = compile(&home, guest.name)?;
        let (all, kernel) = idle(guest, &artefact)?;
        report.row(Row::alone(guest.what, "KiB", all, Aim::AtMost(guest.most_kib)));
        report.row(Row::alone(format!("{}, of the kernel", guest.what), "KiB", kernel, Aim::None));
    }
    report.head("memory of an http sandbox");
    let (few, many) = growth(&compile(&home, "http")?)?;
    report.row(Row::alone(format!("after {FEW} requests"), "KiB", few, Aim::None));
    let what = format!("growth from there to {MANY} requests");
    report.row(Row::alone(what, "KiB", many - few, Aim::AtMost(GROWTH_KIB)));
    Ok(())
}

/// Compiles through the agent, so that what is measured is what it runs.
fn compile(home: &Home, name: &str) -> Result<PathBuf> {
    let mut command: Command = home.command(copepod());
    let out = command.args(["compile", "--output", "json"]).arg(guest(name)).output();
    let out = out.context("run copepod compile")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line: Value = serde_json::from_slice(&out.stdout).context("read its JSON")?;
    Ok(line["artefact"].as_str().context("no artefact in its JSON")?.into())
}

/// KiB of each of [`SANDBOXES`], in all and of the kernel.
fn idle(guest: &Guest, artefact: &Path) -> Result<(f64, f64)> {
    let start = |procs| {
        let mut description = describe(artefact, guest.kind);
        description.args = guest.args.iter().map(ToString::to_string).collect();
        if guest.kind == GuestKind::Http {
            description.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        }
        let mut sandbox = Sandbox::start(description, procs)?;
        sandbox.started()?;
        anyhow::Ok(sandbox)
    };
    // One outside, so that the page cache of program and artefact is nobody's here.
    let _first = start(None)?;
    let group = Group::new()?;
    let procs = group.procs();
    let running =
        (0..SANDBOXES).map(|_| start(Some(procs.as_path()))).collect::<Result<Vec<_>>>()?;
    if guest.kind != GuestKind::Http {
        for sandbox in &running {
            let said = || fs::metadata(sandbox.log_path()).is_ok_and(|file| file.len() > 0);
            wait_until(SOON, "a first line", said);
        }
    }
    let (all, kernel) = group.usage()?;
    let threads = fs::read_dir(format!("/proc/{}/task", running[0].pid()))?.count();
    ensure!(threads == 1, "{} has {threads} threads", guest.name);
    let each = |bytes: f64| bytes / f64::from(SANDBOXES) / KIB;
    Ok((each(all), each(kernel)))
}

/// KiB of one http sandbox after [`FEW`] and after [`MANY`] requests.
fn growth(artefact: &Path) -> Result<(f64, f64)> {
    let serve = |procs| {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut description = describe(artefact, GuestKind::Http);
        description.listen = vec![address];
        let mut sandbox = Sandbox::start(description, procs)?;
        sandbox.started()?;
        let clients = (0..CONNECTIONS).map(|_| Client::connect(address));
        anyhow::Ok((sandbox, clients.collect::<Result<Vec<_>>>()?))
    };
    // As in `idle`; requests read more of the files than a start does.
    let (_first, mut clients) = serve(None)?;
    ask(&mut clients, FEW)?;
    let group = Group::new()?;
    let (_sandbox, mut clients) = serve(Some(group.procs().as_path()))?;
    ask(&mut clients, FEW)?;
    let few = group.at_rest()? / KIB;
    ask(&mut clients, MANY - FEW)?;
    Ok((few, group.at_rest()? / KIB))
}

/// Asks so many times, on all connections at once.
fn ask(clients: &mut [Client], requests: u32) -> Result<()> {
    let mut left = requests as usize;
    while left > 0 {
        let asked = clients.len().min(left);
        for client in &mut clients[..asked] {
            client.send()?;
        }
        for client in &mut clients[..asked] {
            client.receive()?;
        }
        left -= asked;
    }
    Ok(())
}

/// A connection that asks for one thing after the other.
struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self { stream, answer: Vec::new() })
    }

    fn send(&mut self) -> Result<()> {
        self.stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").context("ask")
    }

    fn receive(&mut self) -> Result<()> {
        self.answer.clear();
        let mut piece = [0; 1024];
        // The guest gives no length, so its answer comes in chunks.
        while !self.answer.ends_with(b"\r\n0\r\n\r\n") {
            let n = self.stream.read(&mut piece).context("wait for an answer")?;
            ensure!(n > 0, "the connection was closed in an answer");
            self.answer.extend_from_slice(&piece[..n]);
        }
        let text = String::from_utf8_lossy(&self.answer);
        ensure!(text.starts_with("HTTP/1.1 200"), "it answered {text:?}");
        Ok(())
    }
}

/// A memory control group of ours, removed at the end.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let path = root.join(format!("copepod-bench-{}", std::process::id()));
        fs::create_dir(&path).context("make a memory control group (needs root)")?;
        Ok(Self(path))
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Bytes in all once they fall no more: the kernel gives some of its own memory back late, and
    /// what each processor holds in advance for this group only when it is asked to. Version 1 of
    /// control groups has a file for that; there is no page cache here that would go as well.
    fn at_rest(&self) -> Result<f64> {
        let force = self.0.join("memory.force_empty");
        let (mut least, mut since) = (f64::INFINITY, Instant::now());
        let deadline = Instant::now() + SOON;
        while since.elapsed() < REST && Instant::now() < deadline {
            if force.exists() {
                // It fails when not all is gone, which is always so while a process lives.
                let _ = fs::write(&force, "0");
            }
            let (all, _) = self.usage()?;
            if all < least {
                (least, since) = (all, Instant::now());
            }
            thread::park_timeout(LOOK_EVERY);
        }
        Ok(least)
    }

    /// Bytes in all, kernel memory included, and bytes of kernel memory.
    fn usage(&self) -> Result<(f64, f64)> {
        let read = |name: &str| -> Result<f64> {
            let path = self.0.join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.trim().parse()?)
        };
        if self.0.join("memory.usage_in_bytes").exists() {
            return Ok((read("memory.usage_in_bytes")?, read("memory.kmem.usage_in_bytes")?));
        }
        let stat = fs::read_to_string(self.0.join("memory.stat"))?;
        let kernel = stat.lines().find_map(|line| line.strip_prefix("kernel ")).unwrap_or("0");
        Ok((read("memory.current")?, kernel.parse()?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + SOON;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            thread::yield_now();
        }
    }
}
