//! Acts as it is told: one program whose behaviour is the same as Wasm and as a Linux program of an
//! ordinary image, so that what a node makes of it can be compared.
//!
//! Arguments: one or more steps, separated by `--`. The first that fails ends it with exit code 1
//! and the error's text on stderr; after the last it ends with 0. As a Linux program it ends with
//! 143 at SIGTERM, as the Wasm one does.
//!
//! | step | what it does |
//! |---|---|
//! | `say TEXT`, `cry TEXT` | a line on stdout, on stderr |
//! | `write FILE TEXT`, `append FILE TEXT` | text into a new file; a line at a file's end |
//! | `fill FILE BYTES` | that many letters into a new file |
//! | `flood LINES` | so many numbered lines on stdout |
//! | `remove FILE` | |
//! | `sleep MS` | |
//! | `exit CODE` | ends |
//! | `turn FILE CODES` | counts itself in the file; ends with the code of its turn in `1,0,-`, whose last one stays; `-` goes on |
//! | `await FILE` | until the file is there |
//! | `wait` | until it is told to end |
//! | `deaf` | from now on SIGTERM does nothing (a Linux program; a Wasm one cannot hear of it) |
//! | `check FILE` | ends: 0 if the file is there, else 1 |
//! | `lines FILE COUNT` | ends: 0 if the file has so many lines, else 1 |
//! | `serve PORT` | HTTP (a Linux program; WASI 0.1 has no sockets): what the guest `http` serves as `/healthz` and `/files/PATH` |

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Between two looks at a file.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Until the end of the world.
const LONG: Duration = Duration::from_secs(24 * 3600);

fn main() -> ExitCode {
    signals::end_at_sigterm();
    let words: Vec<String> = std::env::args().skip(1).collect();
    for step in words.split(|word| word == "--") {
        let step: Vec<&str> = step.iter().map(String::as_str).collect();
        match run(&step) {
            Ok(None) => {}
            Ok(Some(code)) => return ExitCode::from(code),
            Err(error) => {
                eprintln!("{}: {error}", step.join(" "));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Does a step; the exit code of one that ends it.
fn run(step: &[&str]) -> io::Result<Option<u8>> {
    match *step {
        ["say", text] => println!("{text}"),
        ["cry", text] => eprintln!("{text}"),
        ["write", file, text] => fs::write(file, text)?,
        ["append", file, text] => append(file, text)?,
        ["fill", file, bytes] => fs::write(file, "x".repeat(number(bytes)?))?,
        ["flood", lines] => (0..number(lines)?).for_each(|line| println!("line {line}")),
        ["remove", file] => fs::remove_file(file)?,
        ["sleep", ms] => thread::sleep(Duration::from_millis(number(ms)? as u64)),
        ["exit", code] => return Ok(Some(u8::try_from(number(code)?).map_err(io::Error::other)?)),
        ["turn", file, codes] => return turn(file, codes),
        ["await", file] => {
            while !Path::new(file).exists() {
                thread::sleep(LOOK_EVERY);
            }
        }
        ["wait"] => loop {
            thread::sleep(LONG);
        },
        ["deaf"] => signals::ignore_sigterm(),
        ["check", file] => return Ok(Some(told(Path::new(file).exists(), file, "is not there"))),
        ["lines", file, count] => {
            let has = fs::read_to_string(file).unwrap_or_default().lines().count();
            return Ok(Some(told(has >= number(count)?, file, "has too few lines")));
        }
        ["serve", port] => serve(number(port)?)?,
        _ => return Err(io::Error::other("no such step")),
    }
    Ok(None)
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

/// One write, so that a line is whole or not there.
fn append(file: &str, text: &str) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(file)?;
    file.write_all(format!("{text}\n").as_bytes())
}

fn turn(file: &str, codes: &str) -> io::Result<Option<u8>> {
    append(file, "turn")?;
    let turn = fs::read_to_string(file)?.lines().count();
    let codes: Vec<&str> = codes.split(',').collect();
    match codes[turn.min(codes.len()) - 1] {
        "-" => Ok(None),
        code => run(&["exit", code]),
    }
}

fn told(holds: bool, file: &str, otherwise: &str) -> u8 {
    if !holds {
        println!("{file} {otherwise}");
    }
    u8::from(!holds)
}

fn serve(port: usize) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    for connection in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let connection = connection?;
        thread::spawn(move || answer(&connection));
    }
    Ok(())
}

/// Reads a request's head and answers it.
fn answer(mut connection: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let Some(Ok(request)) = lines.next() else {
        // What begins a TLS session is no text.
        return write!(connection, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    };
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path.strip_prefix("/files") {
        Some(file) => match fs::read_to_string(file) {
            Ok(text) => ("200 OK", text),
            Err(_) => ("404 Not Found", "not found\n".to_owned()),
        },
        None if path == "/healthz" => ("200 OK", "ok\n".to_owned()),
        None => ("404 Not Found", "not found\n".to_owned()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The first process of a container ignores SIGTERM unless it says otherwise.
#[cfg(unix)]
mod signals {
    const SIGTERM: i32 = 15;
    const IGNORE: usize = 1;

    #[expect(unsafe_code, reason = "std has no signals, and this guest has no dependencies")]
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        fn _exit(code: i32) -> !;
    }

    extern "C" fn end(_: i32) {
        #[expect(unsafe_code, reason = "see above")]
        // SAFETY: it is async-signal-safe and returns to nobody.
        unsafe {
            _exit(143)
        }
    }

    pub(super) fn end_at_sigterm() {
        set(end as extern "C" fn(i32) as usize);
    }

    pub(super) fn ignore_sigterm() {
        set(IGNORE);
    }

    fn set(handler: usize) {
        #[expect(unsafe_code, reason = "see above")]
        // SAFETY: the handler is `SIG_IGN` or a function that calls nothing but `_exit`.
        unsafe {
            signal(SIGTERM, handler);
        }
    }
}

#[cfg(not(unix))]
mod signals {
    pub(super) fn end_at_sigterm() {}
    pub(super) fn ignore_sigterm() {}
}
