//! What a sandbox costs: real memory, kernel memory included, and time to the first line.
//!
//! `make bench` (or `cargo bench --workspace --bench sandboxes`, with what tests/lib.rs asks for)
//! prints a table and, as its last line, the same as JSON. Times are medians, with the start of
//! `/bin/true` in the same run as their reference, since machines differ.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use copepod_tests::driver::{Sandbox, describe};
use copepod_tests::{copepod, guest, sandbox};
use copepod_wasm::GuestKind;
use serde_json::{Value, json};

/// Sandboxes measured together, so that what is counted in pages evens out.
const SANDBOXES: u32 = 20;
/// Starts measured, after [`WARM_UP`] that are not.
const STARTS: usize = 41;
const WARM_UP: usize = 3;

struct Guest {
    name: &'static str,
    kind: GuestKind,
    args: &'static [&'static str],
    aim_kib: f64,
}

const GUESTS: [Guest; 3] = [
    Guest {
        name: "hello",
        kind: GuestKind::P1Command,
        args: &["hello", "--every", "3600000"],
        aim_kib: 0.4 * 1024.0,
    },
    Guest {
        name: "hello-p2",
        kind: GuestKind::P2Command,
        args: &["hello", "--every", "3600000"],
        aim_kib: 0.55 * 1024.0,
    },
    Guest { name: "http", kind: GuestKind::Http, args: &["http"], aim_kib: 0.65 * 1024.0 },
];

fn main() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let mut rows = Vec::new();
    println!(
        "{:10} {:>12} {:>10} {:>10} {:>8}",
        "guest", "KiB/sandbox", "of kernel", "aim KiB", "threads"
    );
    for guest in &GUESTS {
        let artefact = compile(guest.name, cache.path())?;
        let row = memory(guest, &artefact)?;
        println!(
            "{:10} {:>12.0} {:>10.0} {:>10.0} {:>8}",
            guest.name,
            row["kib"].as_f64().unwrap_or(0.0),
            row["kernel_kib"].as_f64().unwrap_or(0.0),
            guest.aim_kib,
            row["threads"],
        );
        rows.push(row);
    }
    let reference = median(|| timed(&mut Command::new("/bin/true")))?;
    println!("\n{:34} {:>9} {:>9} {:>9}", "from command to", "ms", "aim ms", "x true");
    let mut times = vec![json!({"what": "/bin/true", "ms": reference})];
    let mut show = |what: &str, ms: f64| {
        println!("{what:34} {ms:>9.2} {:>9} {:>9.1}", 15, ms / reference);
        times.push(json!({"what": what, "ms": ms, "ratio_to_true": ms / reference}));
    };
    show("first line of hello, p1", median(|| first_line("hello", cache.path()))?);
    show("first line of hello, p2", median(|| first_line("hello-p2", cache.path()))?);
    show("first answer of http", median(|| first_answer(cache.path()))?);
    println!("{}", json!({"sandboxes": SANDBOXES, "memory": rows, "times": times}));
    Ok(())
}

/// Compiles through the agent, so that what is measured is what it runs.
fn compile(name: &str, cache: &Path) -> Result<PathBuf> {
    let out = Command::new(copepod())
        .args(["compile", "--output", "json", "--cache-dir"])
        .args([cache, &guest(name)])
        .output()
        .context("run copepod compile")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line: Value = serde_json::from_slice(&out.stdout).context("read its JSON")?;
    Ok(line["artefact"].as_str().context("no artefact in its JSON")?.into())
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

    /// Bytes in all, kernel memory included, and bytes of kernel memory.
    fn usage(&self) -> Result<(f64, f64)> {
        let read = |name: &str| -> Result<f64> {
            let path = self.0.join(name);
            Ok(fs::read_to_string(&path)
                .with_context(|| path.display().to_string())?
                .trim()
                .parse()?)
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
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn memory(guest: &Guest, artefact: &Path) -> Result<Value> {
    let describe = || {
        let mut description = describe(artefact, guest.kind);
        description.args = guest.args.iter().map(ToString::to_string).collect();
        if guest.kind == GuestKind::Http {
            description.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        }
        description
    };
    // One outside, so that the page cache of program and artefact is nobody's here.
    let mut first = Sandbox::start(describe(), None)?;
    first.started()?;
    let group = Group::new()?;
    let mut running = Vec::new();
    for _ in 0..SANDBOXES {
        let mut sandbox = Sandbox::start(describe(), Some(&group.procs()))?;
        sandbox.started()?;
        running.push(sandbox);
    }
    if guest.kind != GuestKind::Http {
        for sandbox in &running {
            let said = || fs::metadata(sandbox.log_path()).is_ok_and(|file| file.len() > 0);
            copepod_tests::wait_until(Duration::from_secs(10), "a first line", said);
        }
    }
    let (all, kernel) = group.usage()?;
    let threads = fs::read_dir(format!("/proc/{}/task", running[0].pid()))?.count();
    drop(running);
    let each = |bytes: f64| bytes / f64::from(SANDBOXES) / 1024.0;
    Ok(json!({
        "guest": guest.name,
        "kib": each(all),
        "kernel_kib": each(kernel),
        "aim_kib": guest.aim_kib,
        "threads": threads,
    }))
}

fn median(mut once: impl FnMut() -> Result<Duration>) -> Result<f64> {
    for _ in 0..WARM_UP {
        once()?;
    }
    let mut times = (0..STARTS).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[STARTS / 2].as_secs_f64() * 1e3)
}

fn timed(command: &mut Command) -> Result<Duration> {
    let begin = Instant::now();
    ensure!(command.status()?.success(), "the reference failed");
    Ok(begin.elapsed())
}

fn run(file: &Path, cache: &Path) -> Command {
    let mut command = Command::new(copepod());
    command.args(["run", "--cache-dir"]).arg(cache).arg("--sandbox").arg(sandbox()).arg(file);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn first_line(name: &str, cache: &Path) -> Result<Duration> {
    let mut command = run(&guest(name), cache);
    command.args(["--", "--count", "1", "--every", "1"]);
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("no standard output")?);
    let mut line = String::new();
    ensure!(out.read_line(&mut line)? > 0, "no line");
    let took = begin.elapsed();
    std::io::copy(&mut out, &mut std::io::sink())?;
    ensure!(child.wait()?.success(), "{name} failed");
    Ok(took)
}

fn first_answer(cache: &Path) -> Result<Duration> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let dir = tempfile::tempdir()?;
    let pod = dir.path().join("pod.yaml");
    fs::write(
        &pod,
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: http}}\nspec:\n  containers:\n  - name: http\n    image: {}\n    ports: [{{containerPort: {port}}}]\n",
            guest("http").display(),
        ),
    )?;
    let begin = Instant::now();
    let mut child = run(&pod, cache).spawn()?;
    let answered = loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            break begin.elapsed();
        }
        ensure!(begin.elapsed() < Duration::from_secs(10), "no answer");
        std::thread::yield_now();
    };
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    child.wait()?;
    Ok(answered)
}
