//! How a guest's end is told: exit code, reason and message of the exit record.
//!
//! | end | code | reason |
//! |---|---|---|
//! | return, or `proc_exit 0` | 0 | Completed |
//! | `proc_exit n` | n | Error |
//! | `wasi:cli/run` returning an error | 1 | Error |
//! | trap: unreachable (a panic or abort), and what has no signal | 134, SIGABRT's | Error |
//! | trap: integer division or overflow | 136, SIGFPE's | Error |
//! | trap: memory, stack, table | 139, SIGSEGV's | Error |
//! | a trap after a refused growth of memory | 137 | OOMKilled |
//! | the guest cannot be started | 128, as containerd has it | StartError |

use copepod_wasm::state::{Exit, MESSAGE_MAX, Reason};
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::limit::Refused;
use crate::stamp;

/// 128 + SIGABRT.
const ABORTED: i32 = 134;
/// 128 + SIGFPE.
const ARITHMETIC: i32 = 136;
/// 128 + SIGKILL, which the kernel's own OOM killer sends.
const OOM_KILLED: i32 = 137;
/// 128 + SIGSEGV.
const MEMORY: i32 = 139;
/// containerd's exit code of a container that could not be started.
const START_ERROR: i32 = 128;

fn exit(code: i32, reason: Reason, mut message: String) -> Exit {
    message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    Exit { code, reason, message, finished_at_ns: stamp::now_ns() }
}

/// The end of a guest that returned or called `proc_exit`.
pub(crate) fn exited(code: i32) -> Exit {
    let reason = if code == 0 { Reason::Completed } else { Reason::Error };
    exit(code, reason, String::new())
}

/// The guest could not be started.
pub(crate) fn not_started(text: String) -> Exit {
    exit(START_ERROR, Reason::StartError, text)
}

/// The sandbox itself panicked; its process ends by SIGABRT.
pub(crate) fn panicked(text: String) -> Exit {
    exit(ABORTED, Reason::Error, text)
}

/// The end of a guest whose run failed with `error`; `refused` is the growth of memory that was
/// refused just before, if one was.
pub(crate) fn failed(error: &wasmtime::Error, refused: Option<Refused>) -> Exit {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return exited(*code);
    }
    let text = trap_text(error);
    match refused {
        Some(refused) => out_of_memory(refused, &text),
        None => exit(error.downcast_ref().map_or(ABORTED, trap_code), Reason::Error, text),
    }
}

/// A trap's text, then its Wasm backtrace, which may be cut.
pub(crate) fn trap_text(error: &wasmtime::Error) -> String {
    let mut causes: Vec<String> = error.chain().map(|cause| cause.to_string()).collect();
    // The engine has the trap as the innermost cause, after a backtrace of many lines.
    causes.rotate_right(1);
    let mut text = causes.join("\n");
    text.truncate(text.floor_char_boundary(MESSAGE_MAX));
    text
}

/// The container asked for more memory than its limit, and failed for it.
pub(crate) fn out_of_memory(Refused { wanted, limit }: Refused, text: &str) -> Exit {
    exit(
        OOM_KILLED,
        Reason::OomKilled,
        format!("memory limit exceeded: {wanted} bytes wanted, {limit} bytes allowed\n{text}"),
    )
}

/// The exit code of a process that dies of what the trap is.
#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's list of traps grows")]
fn trap_code(trap: &Trap) -> i32 {
    match trap {
        Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger => {
            ARITHMETIC
        }
        Trap::StackOverflow
        | Trap::MemoryOutOfBounds
        | Trap::HeapMisaligned
        | Trap::TableOutOfBounds
        | Trap::IndirectCallToNull
        | Trap::BadSignature
        | Trap::NullReference
        | Trap::ArrayOutOfBounds
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds
        | Trap::UnalignedPointer => MEMORY,
        // `unreachable`, and each other end by the engine, is an abort.
        _ => ABORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: impl Into<wasmtime::Error>) -> (i32, Reason) {
        let exit = failed(&error.into(), None);
        (exit.code, exit.reason)
    }

    #[test]
    fn codes_are_those_of_processes() {
        assert_eq!((exited(0).code, exited(0).reason), (0, Reason::Completed));
        assert_eq!(of(I32Exit(0)), (0, Reason::Completed));
        assert_eq!(of(I32Exit(3)), (3, Reason::Error));
        assert_eq!(of(Trap::UnreachableCodeReached), (134, Reason::Error));
        assert_eq!(of(Trap::IntegerDivisionByZero), (136, Reason::Error));
        assert_eq!(of(Trap::IntegerOverflow), (136, Reason::Error));
        assert_eq!(of(Trap::MemoryOutOfBounds), (139, Reason::Error));
        assert_eq!(of(Trap::StackOverflow), (139, Reason::Error));
        assert_eq!(of(Trap::IndirectCallToNull), (139, Reason::Error));
        assert_eq!(of(wasmtime::Error::msg("a host call failed")), (134, Reason::Error));
        assert_eq!(not_started(String::new()).code, 128);
        assert_eq!(panicked(String::new()).code, 134);
    }

    #[test]
    fn the_message_is_the_whole_chain_and_bounded() {
        let error = wasmtime::Error::from(Trap::MemoryOutOfBounds).context("é".repeat(4000));
        let exit = failed(&error, None);
        assert_eq!(exit.code, 139, "a context does not hide the trap");
        assert!(exit.message.len() <= MESSAGE_MAX && exit.message.len() > MESSAGE_MAX - 4);
        let error = wasmtime::Error::from(Trap::MemoryOutOfBounds).context("at frame 0");
        let message = failed(&error, None).message;
        assert_eq!(message, "wasm trap: out of bounds memory access\nat frame 0");
    }

    #[test]
    fn a_trap_after_a_refusal_is_for_want_of_memory_and_an_exit_is_not() {
        let refused = Some(Refused { wanted: 70_000_000, limit: 67_108_864 });
        let exit = failed(&Trap::UnreachableCodeReached.into(), refused);
        assert_eq!((exit.code, exit.reason), (137, Reason::OomKilled));
        assert!(exit.message.contains("70000000 bytes wanted, 67108864 bytes allowed"));
        let exit = failed(&I32Exit(3).into(), refused);
        assert_eq!((exit.code, exit.reason), (3, Reason::Error));
    }
}
