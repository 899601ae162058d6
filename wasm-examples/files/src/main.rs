//! Works on the files it sees: shows volumes, and what is refused on a read-only one.
//!
//! Arguments: one or more steps, separated by `--`: `list DIR`, `read FILE`, `write FILE TEXT`,
//! `append FILE TEXT`, `mkdir DIR`, `rename FROM TO`, `remove PATH` (a file or an empty folder).
//! The first step that fails ends it with exit code 1 and the error's text on stderr.

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    for step in words.split(|word| word == "--") {
        let step: Vec<&str> = step.iter().map(String::as_str).collect();
        if let Err(error) = run(&step) {
            eprintln!("{}: {error}", step.join(" "));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(step: &[&str]) -> io::Result<()> {
    match *step {
        ["list", dir] => list(dir),
        ["read", file] => io::copy(&mut File::open(file)?, &mut io::stdout()).map(drop),
        ["write", file, text] => fs::write(file, format!("{text}\n")),
        ["append", file, text] => writeln!(File::options().append(true).open(file)?, "{text}"),
        ["mkdir", dir] => fs::create_dir(dir),
        ["rename", from, to] => fs::rename(from, to),
        ["remove", path] if fs::symlink_metadata(path)?.is_dir() => fs::remove_dir(path),
        ["remove", path] => fs::remove_file(path),
        _ => Err(io::Error::other(
            "expected list DIR | read FILE | write FILE TEXT | append FILE TEXT | mkdir DIR | \
             rename FROM TO | remove PATH",
        )),
    }
}

/// One line for each entry, sorted: its kind, its size in bytes, its name.
fn list(dir: &str) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let about = entry.metadata()?;
        let kind = match about.file_type() {
            t if t.is_dir() => "dir",
            t if t.is_symlink() => "link",
            _ => "file",
        };
        println!("{kind} {} {}", about.len(), entry.file_name().display());
    }
    Ok(())
}
