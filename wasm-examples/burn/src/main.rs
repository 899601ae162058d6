//! Burns CPU time: shows cpu limits, and that a guest which never yields can be stopped.
//!
//! Arguments: `--ms N` ends after N milliseconds (without it: never). Prints the iterations done,
//! each second and at the end.

use std::env::args;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Iterations between two looks at the clock: under a millisecond.
const BATCH: u64 = 100_000;

fn main() -> ExitCode {
    let words: Vec<String> = args().skip(1).collect();
    let end = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(Duration::MAX),
        ["--ms", ms] => ms.parse().ok().map(Duration::from_millis),
        _ => None,
    };
    let Some(end) = end else {
        eprintln!("usage: burn [--ms N]");
        return ExitCode::from(2);
    };

    println!("burning");
    let start = Instant::now();
    let mut line = Duration::from_secs(1);
    let (mut iterations, mut state) = (0_u64, 1_u64);
    while start.elapsed() < end {
        for _ in 0..BATCH {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) | 1);
        }
        iterations += BATCH;
        if start.elapsed() >= line {
            println!("iterations {iterations}");
            line += Duration::from_secs(1);
        }
    }
    println!("done iterations {iterations}");
    ExitCode::SUCCESS
}
