//! Takes memory and touches every page of it: shows memory limits.
//!
//! Arguments: `MIB`, then `--try` (a refused growth is handled: exit code 3; without it the guest
//! traps, as most programs do), `--hold MS` (keeps the memory so long before it ends).

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    let (mut wanted, mut soft, mut hold) = (None, false, Some(0));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--try" => soft = true,
            "--hold" => hold = words.next().and_then(|ms| ms.parse().ok()),
            mib => wanted = mib.parse::<usize>().ok(),
        }
    }
    let (Some(wanted), Some(hold)) = (wanted, hold) else {
        eprintln!("usage: hog MIB [--try] [--hold MS]");
        return ExitCode::from(2);
    };

    let mut held: Vec<Vec<u8>> = Vec::new();
    while held.len() < wanted {
        let mut chunk = Vec::new();
        if soft && let Err(refused) = chunk.try_reserve_exact(MIB) {
            eprintln!("refused after {} MiB: {refused}", held.len());
            return ExitCode::from(3);
        }
        chunk.resize(MIB, 7);
        held.push(black_box(chunk));
        if held.len().is_multiple_of(16) {
            println!("took {} MiB", held.len());
        }
    }
    println!("holding {wanted} MiB");
    std::thread::sleep(Duration::from_millis(hold));
    drop(black_box(held));
    ExitCode::SUCCESS
}
