//! Works on the files it sees: shows volumes, and what is refused on a read-only one.
//!
//! Arguments: one or more steps, separated by `--`: `list DIR`, `read FILE`, `write FILE TEXT`,
//! `append FILE TEXT`, `mkdir DIR`, `rename FROM TO`, `remove PATH` (a file or an empty folder),
//! `link TARGET PATH`, `fill FILE KIB`, `nest DIR TIMES` (a thousand folders in one another each
//! time), `env`, `wait MILLISECONDS`. The first step that fails ends it with exit code 1 and the
//! error's text on stderr.

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

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
        ["link", target, path] => link(target, path),
        ["fill", file, kib] => fill(file, number(kib)?),
        ["nest", dir, times] => nest(dir, number(times)?),
        ["env"] => {
            let mut all: Vec<_> = std::env::vars().collect();
            all.sort();
            all.iter().for_each(|(name, value)| println!("{name}={value}"));
            Ok(())
        }
        ["wait", milliseconds] => {
            std::thread::sleep(Duration::from_millis(number(milliseconds)?));
            Ok(())
        }
        _ => Err(io::Error::other(
            "expected list DIR | read FILE | write FILE TEXT | append FILE TEXT | mkdir DIR | \
             rename FROM TO | remove PATH | link TARGET PATH | fill FILE KIB | nest DIR TIMES | env \
             | wait MILLISECONDS",
        )),
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

fn link(target: &str, path: &str) -> io::Result<()> {
    #[expect(deprecated, reason = "the one name that stable std has for it here")]
    fs::soft_link(target, path)
}

/// Writes so many KiB.
fn fill(file: &str, kib: u64) -> io::Result<()> {
    let mut file = File::create(file)?;
    for _ in 0..kib {
        file.write_all(&[b'x'; 1024])?;
    }
    file.sync_all()
}

/// Deeper than any path: what is there already goes below the next thousand.
fn nest(dir: &str, times: u64) -> io::Result<()> {
    let (top, below) = (format!("{dir}/top"), format!("{dir}/below"));
    fs::create_dir(&below)?;
    for _ in 0..times {
        let bottom = format!("{top}{}", "/d".repeat(1000));
        fs::create_dir_all(&bottom)?;
        fs::rename(&below, format!("{bottom}/d"))?;
        fs::rename(&top, &below)?;
    }
    Ok(())
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
