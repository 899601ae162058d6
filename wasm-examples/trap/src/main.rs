//! Breaks in the way it is told: shows how a trap becomes an exit code and a message.
//!
//! Arguments: one of `panic`, `oob` (reads outside its memory), `stack` (recurses without end),
//! `div N D` (prints N / D, with the engine's own checks), `unreachable`.

use std::hint::black_box;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["panic"] => panic!("on purpose"),
        ["oob"] => println!("{}", out_of_bounds()),
        ["stack"] => println!("{}", deeper(0)),
        ["div", n, d] => match (n.parse(), d.parse()) {
            (Ok(n), Ok(d)) => println!("{}", divide(n, d)),
            _ => return usage(),
        },
        ["unreachable"] => core::arch::wasm32::unreachable(),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: trap panic | oob | stack | div N D | unreachable");
    ExitCode::from(2)
}

#[expect(unsafe_code, reason = "safe Rust cannot leave its memory")]
fn out_of_bounds() -> u8 {
    let last_page = black_box(0xffff_fff0_u32 as *const u8);
    // SAFETY: not sound, on purpose: the memory never grows to 4 GiB, so the engine must trap.
    unsafe { last_page.read_volatile() }
}

fn deeper(depth: u64) -> u64 {
    black_box(deeper as fn(u64) -> u64)(depth + 1) + black_box(depth)
}

#[expect(unsafe_code, reason = "Rust's own check would panic before the engine sees the division")]
fn divide(n: i32, d: i32) -> i32 {
    // SAFETY: not sound for 0 (and MIN / -1), on purpose: what is left is Wasm's `i32.div_s`, which
    // traps on both. No optimisation can see D, which comes from the arguments.
    unsafe { n.checked_div(d).unwrap_unchecked() }
}
