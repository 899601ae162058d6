//! Ends with the exit code it is told: shows exit codes, restart policies and back-off.
//!
//! Arguments: `CODE` (0 to 255), then `--after MS` to wait before it ends.

use std::env::args;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let words: Vec<String> = args().skip(1).collect();
    let (code, ms) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [code] => (code.parse::<u8>(), Ok(0)),
        [code, "--after", ms] => (code.parse(), ms.parse::<u64>()),
        _ => ("".parse(), Ok(0)),
    };
    let (Ok(code), Ok(ms)) = (code, ms) else {
        eprintln!("usage: exit CODE [--after MS]");
        return ExitCode::from(2);
    };
    std::thread::sleep(Duration::from_millis(ms));
    println!("exit {code}");
    ExitCode::from(code)
}
