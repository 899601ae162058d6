//! Copies its standard input to its standard output: shows what an exec reads and writes. Built for
//! both WASI versions.
//!
//! Arguments: none to copy; `tty` says which of its streams are terminals; `flood BYTES` writes that
//! many bytes; `wait` waits until it is stopped. An output that nobody reads any more ends it with
//! exit code 1 and the error's text on stderr.

use std::env::args;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Written at once.
const PIECE: [u8; 4096] = [b'.'; 4096];

fn main() -> ExitCode {
    let words: Vec<String> = args().skip(1).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => io::copy(&mut io::stdin(), &mut io::stdout()).map(drop),
        ["tty"] => tty(),
        ["flood", bytes] => flood(bytes.parse().unwrap_or(0)),
        ["wait"] => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => {
            eprintln!("usage: cat [tty | flood BYTES | wait]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tty() -> io::Result<()> {
    let terminals = [
        ("stdin", io::stdin().is_terminal()),
        ("stdout", io::stdout().is_terminal()),
        ("stderr", io::stderr().is_terminal()),
    ];
    for (name, is_terminal) in terminals {
        writeln!(io::stdout(), "{name}: {}", if is_terminal { "terminal" } else { "no terminal" })?;
    }
    Ok(())
}

fn flood(bytes: usize) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let piece = &PIECE[..left.min(PIECE.len())];
        io::stdout().write_all(piece)?;
        left -= piece.len();
    }
    io::stdout().flush()
}
