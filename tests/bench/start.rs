//! From command to first line, or to first answer: cold with nothing compiled yet, warm with all.
//!
//! `copepod run` does more than `wasmtime run` on that way: an agent, a process in a jail, and a
//! log file that the line comes from.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use copepod_tests::{Home, guest};

use crate::measure::{Measure, in_turn};
use crate::program::{Programs, Server};
use crate::report::{Aim, Report, Row};

/// Measured starts: a cold one compiles, which takes its time and varies little.
const COLD: usize = 7;
const WARM: usize = 31;
/// Starts that come before and do not count.
const WARM_UP: usize = 3;
/// How long a server may take to answer first, and between two tries to be answered.
const ANSWER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_micros(100);

const MS: f64 = 1e3;

/// The rows of this part.
pub(crate) fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    report.head("from command to first line or answer");
    let quick = || {
        let begin = Instant::now();
        ensure!(Command::new("/bin/true").status()?.success(), "/bin/true failed");
        Ok(begin.elapsed().as_secs_f64() * MS)
    };
    let [reference] = in_turn(WARM_UP, WARM, &mut [Box::new(quick)])?.try_into().expect("one");
    let row = Row { copepod: reference, ..Row::alone("/bin/true, its end", "ms", 0.0, Aim::None) };
    report.row(row);
    for (temperature, warm) in [("warm", true), ("cold", false)] {
        for (name, what) in [("hello", "hello, WASI 0.1"), ("hello-p2", "hello, WASI 0.2")] {
            let row = pair(format!("{temperature}, {what}"), warm, &|home, ours| {
                let file = guest(name);
                let run = if ours { Programs::copepod_run } else { Programs::wasmtime_run };
                let mut command = run(programs, home, &file);
                if ours {
                    command.arg("--");
                }
                command.args(["--count", "1", "--every", "1"]);
                first_line(command)
            })?;
            report.row(row);
        }
        let row = pair(format!("{temperature}, http"), warm, &|home, ours| {
            let port = free_port()?;
            if ours {
                first_answer(programs.copepod_run(home, &http_pod(home, port)?), port)
            } else {
                first_answer(programs.wasmtime_serve(home, port), port)
            }
        })?;
        report.row(row);
    }
    Ok(())
}

/// Measures `once(home, whether it is Copepod's turn)` for both in turn: all with one home, whose
/// caches are full after the warm-up, or each with an empty one.
fn pair(what: String, warm: bool, once: &dyn Fn(&Home, bool) -> Result<Duration>) -> Result<Row> {
    let shared = Home::with_empty_cache();
    let measure = |ours| -> Measure<'_> {
        let shared = &shared;
        Box::new(move || {
            let fresh;
            let home = if warm {
                shared
            } else {
                fresh = Home::with_empty_cache();
                &fresh
            };
            let name = if ours { "copepod" } else { "wasmtime" };
            Ok(once(home, ours).with_context(|| name.to_owned())?.as_secs_f64() * MS)
        })
    };
    let (warm_up, rounds) = if warm { (WARM_UP, WARM) } else { (1, COLD) };
    let [copepod, wasmtime] = in_turn(warm_up, rounds, &mut [measure(true), measure(false)])?
        .try_into()
        .expect("as many samples as measures");
    let aim = if warm { Aim::NotMore } else { Aim::None };
    Ok(Row { what, unit: "ms", copepod, other: Some(wasmtime), aim })
}

fn first_line(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("no standard output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    let took = begin.elapsed();
    io::copy(&mut out, &mut io::sink())?;
    let status = child.wait()?;
    ensure!(status.success() && !line.is_empty(), "{status} after the line {line:?}");
    Ok(took)
}

fn first_answer(command: Command, port: u16) -> Result<Duration> {
    let begin = Instant::now();
    let mut server = Server::start(command)?;
    wait_answer(&mut server, port)?;
    Ok(begin.elapsed())
}

/// Waits until the server answers.
pub(crate) fn wait_answer(server: &mut Server, port: u16) -> Result<()> {
    let begin = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_read_timeout(Some(ANSWER))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "it answered {answer:?}");
            return Ok(());
        }
        server.lives()?;
        ensure!(begin.elapsed() < ANSWER, "no answer within {ANSWER:?}");
        thread::park_timeout(RETRY);
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The file of a pod that serves the http guest on a port.
pub(crate) fn http_pod(home: &Home, port: u16) -> Result<Box<Path>> {
    let file = home.path().join(format!("http-{port}.yaml"));
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: http}}\nspec:\n  containers:\n  - name: http\n    image: {}\n    ports: [{{containerPort: {port}}}]\n",
        guest("http").display(),
    );
    fs::write(&file, text)?;
    Ok(file.into())
}
