//! Prints its arguments and environment, then a counter line each second: shows that arguments,
//! environment, log and clock reach a guest. Built for both WASI versions.
//!
//! Arguments: `--count N` ends after N lines (without it: never), `--every MS` is the time between
//! two lines (1000).

use std::env::args;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

fn main() -> ExitCode {
    let (mut count, mut every) = (u64::MAX, Duration::from_secs(1));
    let mut words = args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|text| text.parse().ok());
        match (word.as_str(), number) {
            ("--count", Some(n)) => count = n,
            ("--every", Some(ms)) => every = Duration::from_millis(ms),
            _ => {
                eprintln!("usage: hello [--count N] [--every MS]");
                return ExitCode::from(2);
            }
        }
    }

    println!("args: {}", args().skip(1).collect::<Vec<_>>().join(" "));
    let mut env: Vec<_> = std::env::vars().collect();
    env.sort();
    for (name, value) in env {
        println!("env: {name}={value}");
    }
    for n in 1..=count {
        println!("count {n}");
        if n < count {
            sleep(every);
        }
    }
    ExitCode::SUCCESS
}
